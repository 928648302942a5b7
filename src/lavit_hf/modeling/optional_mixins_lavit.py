# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The methods of models that need the whole library. Code that travels with a checkpoint goes without them."""

try:
    from lavit_hf.publishing import LavitExportMixin, LavitPublishingMixin
except ModuleNotFoundError as error:
    if error.name not in ("lavit_hf", "lavit_hf.publishing"):
        raise

    class LavitExportMixin:  # type: ignore[no-redef]
        """Stands for the mixin of the same name where lavit_hf is not installed."""

    class LavitPublishingMixin:  # type: ignore[no-redef]
        """Stands for the mixin of the same name where lavit_hf is not installed."""
