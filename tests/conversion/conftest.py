# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from .official import CHECKPOINT


@pytest.fixture
def source(tmp_path) -> Iterator[Path]:
    """A copy of the authors' folder, to be changed."""
    yield shutil.copytree(CHECKPOINT, tmp_path / "official")
    shutil.rmtree(tmp_path)  # 30 MB that pytest would keep
