# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Commands that convert checkpoints: convert, export."""

from typing import Annotated

import typer

from ..conversion import convert_official_checkpoint
from . import options
from .loading import console, load_model, quiet_libraries


def convert(
    source: Annotated[str, typer.Argument(help="The authors' checkpoint: folder or repository.", show_default=False)],
    target: options.NewFolder,
    dtype: options.Dtype = "auto",
    num_attention_heads: Annotated[
        int, typer.Option(min=1, help="Heads of the visual parts, which the weights do not tell.")
    ] = 16,
    without: Annotated[
        list[options.Decoder] | None, typer.Option(help="Leave out a pixel decoder that was not downloaded.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse weights that the model does not have.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a repository.")] = None,
) -> None:
    """
    Convert the authors' checkpoint into one folder that transformers and diffusers load.

    Downloads the files that are needed from a repository, and goes on with an interrupted download. Reads shard by
    shard, never runs the code of a pickle, and writes nothing if a weight is missing or has a wrong shape. Weights
    that the model does not have are left out and listed in the model card.
    """
    quiet_libraries()
    convert_official_checkpoint(
        source,
        target,
        dtype=None if dtype == "auto" else dtype,
        num_attention_heads=num_attention_heads,
        pixel_decoders=tuple(decoder.value for decoder in options.Decoder if decoder not in (without or [])),
        strict=strict,
        revision=revision,
    )
    console.print(f"{target} is ready: try `lavit-hf caption photo.jpg --model {target}`.", soft_wrap=True)
    console.print(
        f"Assumed: {num_attention_heads} attention heads, and what {target}/README.md lists.", soft_wrap=True
    )


def export(target: options.NewFolder, model: options.RequiredModel, dtype: options.Dtype = "auto") -> None:
    """
    Write the language model alone, as an ordinary text model for vLLM, SGLang and llama.cpp. It draws by codes.
    """
    loaded, processor = load_model(model, "cpu", dtype)
    loaded.export_language_model(target, processor.tokenizer)
    first, last = processor.visual_token_offset, processor.visual_token_offset + processor.codebook_size - 1
    console.print(
        f"{target}: a {loaded.config.text_config.model_type} of {loaded.config.image_token_id} tokens. "
        f"[IMG] is {processor.image_start_token_id}, [/IMG] {processor.image_end_token_id}, codes {first} to {last}.",
        soft_wrap=True,
    )
