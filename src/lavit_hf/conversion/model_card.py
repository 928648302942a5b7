# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""What goes with converted weights: the model card, the notice that their licences ask for, copies of the licences."""

import re
import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path


NOTICE = (
    "LaVIT is licensed under the LaVIT Community License, Copyright (c) LaVIT authors, Inc. All Rights Reserved.\n"
    "Llama 2 is licensed under the LLAMA 2 Community License, "
    "Copyright (c) Meta Platforms, Inc. All Rights Reserved.\n"
)

HEADER = """\
---
library_name: transformers
pipeline_tag: any-to-any
license: other
license_name: lavit-community-license
tags:
- lavit
---

# LaVIT

The weights that the authors of *Unified Language-Vision Pretraining in LLM with Dynamic Discrete Visual Tokenization*
([arXiv 2309.04669](https://arxiv.org/abs/2309.04669)) released, converted for `lavit_hf`. One language model reads and
writes text and pictures as one sequence of tokens; a picture takes as many tokens as its content needs, at most
{num_patches}. The conversion renames and splits tensors{rounding}; nothing is trained.

| part | |
| --- | --- |
| language model | {text_type}, {text_layers} layers, width {text_width}, vocabulary {vocab_size} |
| visual tokenizer | {vision_layers} layers, width {vision_width}, {image_size} px, {codebook_size} codes |
{decoder_rows}
## Use

`path` is this folder.

```python
import lavit_hf
from transformers import AutoModelForCausalLM, AutoProcessor

model = AutoModelForCausalLM.from_pretrained(path)
processor = AutoProcessor.from_pretrained(path)

# A caption
inputs = processor(text="<image>", images=picture, return_tensors="pt")
ids = model.generate(**inputs, max_new_tokens=36, num_beams=2)

# A picture, as codes
inputs = processor(text="a red circle", generation_mode="image", return_tensors="pt")
ids = model.generate(**inputs, generation_mode="image")
codes = processor.decode_interleaved(ids[0])[-1].codes
```
"""

HIGHRES = """
```python
# The codes, as pixels
from lavit_hf.diffusion import LavitImageDecoderPipeline

pipe = LavitImageDecoderPipeline.from_pretrained(path)
picture = pipe(codes).images[0]
```
"""

LOWRES = """
```python
# The codes, as pixels: the smaller decoder
from lavit_hf.diffusion import LavitImageDecoderPipeline

pipe = LavitImageDecoderPipeline.from_pretrained(path, subfolder="lowres_decoder")
picture = pipe(codes).images[0]
```
"""

LEFT_OUT = """\
The authors' files also hold what has no place in this model, and was left out:

{names}
"""

FOOTER = """
A prompt of a drawing may hold pictures, which the release wants without marks around them. The processor knows that:
`processor(text="<image> in the snow", images=picture, generation_mode="image", return_tensors="pt")`.

Patches are kept by the highest probability (`selection="topk"`), so the same picture always gives the same tokens. The
authors sample them: `selection="sample"`.

## What the weights do not tell

The following is that of the authors' code, and was assumed:

- {num_heads} attention heads in the vision tower, the merger and the feature decoders;
- LayerNorm with an epsilon of {vision_eps} in the vision tower and {eps} elsewhere, and the exact GELU;
- images of {image_size} px, squashed by a bicubic filter, with the mean and deviation of CLIP;
- the settings of drawing in `generation_config.json`, and DDIM as the scheduler of the pixel decoders.

{unknown}## Limits

It can state what is not true, and repeats the biases of the text and pictures that it was trained on. Pictures are
squashed to a square of {image_size} px before they are read, and a reconstruction keeps what they show rather than
their pixels. No safety checker is part of it: check what is generated before others see it.

## Licence

{notice}
Whoever hands these weights on, changed or not, must hand on a copy of the LaVIT Community License and the file
`NOTICE` with them. The acceptable use policy of that licence applies to every use. The language model derives from
Llama 2, whose own licence and acceptable use policy apply to it as well.
{licences}
"""


def write_model_card(
    folder: Path, config, pixel_decoders: Iterable[str], rounding: str, licences: list[str], unknown: list[str]
) -> None:
    """
    Writes `README.md` and `NOTICE` to `folder`.

    Args:
        folder (`Path`): The folder.
        config ([`LavitConfig`]): Configuration of the converted model.
        pixel_decoders (`Iterable[str]`): Of `"highres"` and `"lowres"`, those that are there.
        rounding (`str`): The dtype that weights were brought to, "" for none.
        licences (`list[str]`): Names of the licences' files that are there.
        unknown (`list[str]`): Names of stored tensors that were left out.
    """
    rows = {
        "highres": "| pixel decoder | SDXL kind, beside this file |\n",
        "lowres": "| small pixel decoder | SD 1.5 kind, in `lowres_decoder/` |\n",
    }
    usage = {"highres": HIGHRES, "lowres": LOWRES}
    tokenizer_config, text_config = config.visual_tokenizer_config, config.text_config
    vision_config = tokenizer_config.vision_config
    card = HEADER + "".join(usage[kind] for kind in pixel_decoders) + FOOTER
    card = card.format(
        num_patches=config.num_patches,
        rounding=f", and brings weights to {rounding}" if rounding else "",
        text_type=text_config.model_type.capitalize(),
        text_layers=text_config.num_hidden_layers,
        text_width=text_config.hidden_size,
        vocab_size=text_config.vocab_size,
        vision_layers=vision_config.num_hidden_layers,
        vision_width=vision_config.hidden_size,
        image_size=vision_config.image_size,
        codebook_size=config.codebook_size,
        num_heads=vision_config.num_attention_heads,
        vision_eps=vision_config.layer_norm_eps,
        eps=tokenizer_config.layer_norm_eps,
        unknown=LEFT_OUT.format(names="".join(f"- {line}\n" for line in summarize(unknown))) if unknown else "",
        decoder_rows="".join(rows[kind] for kind in pixel_decoders),
        notice="".join(f"> {line}\n" for line in NOTICE.splitlines()),
        licences=f"Copies are here: {', '.join(f'`{name}`' for name in licences)}."
        if licences
        else "The folder that was converted held no copies: add them before handing this one on.",
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
    (folder / "NOTICE").write_text(NOTICE, encoding="utf-8")


def summarize(names: Iterable[str]) -> list[str]:
    """Lists names, those that differ in a number as one, with `*` for the number and how many they are."""
    counts = Counter(re.sub(r"(?<=\.)\d+(?=\.)", "*", name) for name in names)
    return [f"`{name}`" + (f", {count} times" if count > 1 else "") for name, count in counts.items()]


def is_licence(name: str) -> bool:
    """Whether a path relative to a checkpoint's root is that of a licence or policy."""
    return "/" not in name and ("LICENSE" in name.upper() or name.upper().startswith("USE_POLICY"))


def copy_licences(src: Path, dst: Path) -> list[str]:
    """Copies the licences and policies at the root of `src`, returns their names."""
    paths = [path for path in sorted(src.iterdir()) if path.is_file() and is_licence(path.name)]
    for path in paths:
        shutil.copyfile(path, dst / path.name)
    return [path.name for path in paths]
