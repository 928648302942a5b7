# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The code that stands in the README and the guides."""

import re
from pathlib import Path


ROOT = Path(__file__).parent.parent
PAGES = {path.stem: path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}


def blocks_of(page: str, language: str = "python", heading: str = "") -> list[str]:
    """The blocks of a language in a page, or under one of its headings, one after the other."""
    text = PAGES[page].read_text(encoding="utf-8")
    if heading:
        text = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


def pages_with(language: str) -> list[str]:
    return [page for page in PAGES if blocks_of(page, language)]
