# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Files of the Hub that the suites ask for, made here."""

from pathlib import PurePosixPath
from urllib.parse import urlparse

import numpy as np
from PIL import Image

from ..sources import CACHE


def url_to_local_path(url: str) -> str:
    """An image of noise in place of an image's URL; other URLs as they are."""
    name = PurePosixPath(urlparse(url).path).name
    if not name.endswith((".png", ".jpg", ".jpeg")):
        return url
    path = CACHE / name
    if not path.exists():
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(path)
    return str(path)
