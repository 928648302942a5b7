# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
import pytest

from lavit_hf.data.shapes.loading import make_row


@pytest.fixture(scope="session")
def rows() -> list[dict]:
    """Rows of the test split of the shapes."""
    return [make_row(index, "test") for index in range(40)]
