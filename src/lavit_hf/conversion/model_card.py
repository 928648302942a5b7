# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The model card of converted weights, with the licences and the notice that these ask for."""

import re
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from huggingface_hub import ModelCard, ModelCardData

from ..modeling import LavitConfig
from .release import LICENCES


TEMPLATE = Path(__file__).with_name("model_card.md")
NOTICE = (
    "LaVIT is licensed under the LaVIT Community License, Copyright (c) LaVIT authors, Inc. All Rights Reserved.\n"
    "Llama 2 is licensed under the LLAMA 2 Community License, "
    "Copyright (c) Meta Platforms, Inc. All Rights Reserved.\n"
)


def write_release_card(
    folder: Path,
    source: Path,
    config: LavitConfig,
    pixel_decoders: Sequence[str],
    dtype: torch.dtype | None,
    unknown: Iterable[str],
) -> None:
    """
    Writes `README.md` and `NOTICE` to a folder, and copies the licences.

    Args:
        folder (`Path`): The folder.
        source (`Path`): The authors' folder, which may hold licences.
        config ([`LavitConfig`]): The configuration of the converted model.
        pixel_decoders (`Sequence[str]`): The pixel decoders in the folder, `"highres"` and `"lowres"`.
        dtype (`torch.dtype`, *optional*): The dtype to which the weights were rounded.
        unknown (`Iterable[str]`): The names of stored tensors that were left out.
    """
    licences = sorted({path for pattern in LICENCES for path in source.glob(pattern) if path.is_file()})
    for path in licences:
        shutil.copyfile(path, folder / path.name)
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="any-to-any",
        license="other",
        license_name="lavit-community-license",
        tags=["lavit"],
    )
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        config=config,
        pixel_decoders=pixel_decoders,
        dtype=dtype and str(dtype).removeprefix("torch."),
        unknown=summarize(unknown),
        notice=NOTICE.splitlines(),
        licences=[path.name for path in licences],
    )
    card.save(folder / "README.md")
    (folder / "NOTICE").write_text(NOTICE, encoding="utf-8")


def summarize(names: Iterable[str]) -> list[str]:
    """Returns descriptions of names. Names that differ only in a number are one, with `*` for it and their count."""
    counts = Counter(re.sub(r"(?<=\.)\d+(?=\.)", "*", name) for name in names)
    return [f"`{name}`" + (f", {count} times" if count > 1 else "") for name, count in counts.items()]
