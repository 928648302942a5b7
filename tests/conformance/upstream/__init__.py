# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
The common test suites of the installed transformers as one package.

Their modules come from the source distribution, which has those at the top of the folder `tests` only. Anything
that they import from elsewhere is written anew in this folder, as far as the suites need it.
"""

import sys
from importlib import import_module, metadata

from ..sources import fetch_sdist


__path__.append(str(fetch_sdist("transformers", metadata.version("transformers")) / "tests"))

# The suites look for this module at the top of `sys.path`.
sys.modules["fetch_hub_objects_for_ci"] = import_module(".local_files", __name__)
