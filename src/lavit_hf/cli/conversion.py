# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The authors' checkpoint to ours, and ours to what other engines load."""

from pathlib import Path
from typing import Annotated

import typer

from .common import Decoder, Dtype, DtypeOption, RequiredModelOption, app, console, load_model, quiet_libraries


@app.command()
def convert(
    source: Annotated[
        str,
        typer.Argument(help="The authors' checkpoint: a folder, or a repository as owner/name.", show_default=False),
    ],
    target: Annotated[Path, typer.Argument(help="New folder to write.", show_default=False)],
    dtype: Annotated[Dtype, typer.Option(help="Of the written weights; auto: as the authors'.")] = Dtype.auto,
    max_shard_size: Annotated[str, typer.Option(help="Largest file of weights.")] = "5GB",
    num_attention_heads: Annotated[
        int, typer.Option(help="Heads of vision tower, merger and feature decoders; not told by the weights.")
    ] = 16,
    without: Annotated[
        list[Decoder] | None, typer.Option(help="Leave out a pixel decoder that was not downloaded.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse weights that the model does not have.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a repository.")] = None,
) -> None:
    """
    Convert the authors' checkpoint into one folder that transformers and diffusers load.

    Of a repository, downloads what is needed; once more, what is left of it. Reads shard by shard, never runs what a
    pickle says, and writes nothing if anything is missing or of the wrong shape. What has no place in the model is
    left out and named in the model card.
    """
    from ..conversion import convert_official_checkpoint

    quiet_libraries()
    decoders = tuple(decoder.value for decoder in Decoder if decoder not in (without or []))
    convert_official_checkpoint(
        source,
        target,
        dtype=None if dtype is Dtype.auto else dtype.value,
        max_shard_size=max_shard_size,
        num_attention_heads=num_attention_heads,
        pixel_decoders=decoders,
        strict=strict,
        revision=revision,
    )
    assumed = f"Assumed: {num_attention_heads} attention heads, and what else README.md in there lists."
    console.print(f"{target} is ready: try `lavit-hf caption PICTURE --model {target}`.\n{assumed}", soft_wrap=True)


@app.command()
def export(
    target: Annotated[Path, typer.Argument(help="New folder to write.", show_default=False)],
    model: RequiredModelOption,
    dtype: DtypeOption = Dtype.auto,
) -> None:
    """
    Write the language model alone, as vLLM, SGLang and llama.cpp load an ordinary text model; it draws by codes.
    """
    if target.exists() and any(target.iterdir()):
        raise ValueError(f"The folder to write must be new or empty, {target} is not.")
    loaded, processor = load_model(model, "cpu", dtype)
    loaded.export_language_model(target, processor.tokenizer)
    first, last = processor.visual_token_offset, processor.visual_token_offset + processor.codebook_size - 1
    console.print(
        f"{target}: a {loaded.config.text_config.model_type} of {loaded.config.text_config.vocab_size} tokens. "
        f"[IMG] is {processor.image_start_token_id}, [/IMG] {processor.image_end_token_id}, codes {first} to {last}.",
        soft_wrap=True,
        markup=False,
    )
