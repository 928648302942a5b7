# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
Writes the words of `lavit_hf.data.shapes`, from 20,000 rows, for `examples/assemble.py --domain`.

    python model_cards/shapes_domain.py model_cards/shapes_domain.json
"""

import json
import re
import sys
import textwrap
from pathlib import Path

from lavit_hf.data.shapes.loading import make_row


NUM_ROWS = 20_000
DESCRIPTION = "scenes of colored shapes, such as “a small blue star on the right”"
MAX_IMAGES = 1  # it has learned no conversations about several images
COLUMNS = ("captions", "prompts", "questions", "answers", "edited_captions")


def list_words(num_rows: int = NUM_ROWS) -> list[str]:
    """Lists the words of all texts of the first rows of the training split."""
    words: set[str] = set()
    for row in map(make_row, range(num_rows)):
        texts = [row["instruction"], *(part["text"] for part in row["planned_prompts"])]
        texts += [text for column in COLUMNS for text in row[column]]
        words.update(*(re.findall(r"[^\W\d_]+", text) for text in texts))
    return sorted(words)


if __name__ == "__main__":
    words = textwrap.fill(", ".join(map(json.dumps, list_words())), 118)
    head = f'"description": {json.dumps(DESCRIPTION, ensure_ascii=False)}, "max_images": {MAX_IMAGES}'
    text = f'{{{head}, "words": [\n{words}\n]}}\n'
    Path(sys.argv[1]).write_text(text, encoding="utf-8")
