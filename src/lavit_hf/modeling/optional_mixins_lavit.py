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

        def save_pretrained(self, *args, processor=None, image_decoder=None, **kwargs):
            """Same arguments as `PreTrainedModel.save_pretrained`. Raises an `ImportError` for other parts."""
            if processor is not None or image_decoder is not None:
                raise ImportError("processor and image_decoder are saved with a model by lavit_hf: install it.")
            super().save_pretrained(*args, **kwargs)
