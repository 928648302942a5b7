# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""`transformers serve`, which knows LaVIT."""

import sys

import torch
import typer
from transformers import AutoModelForMultimodalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES
from transformers.utils.import_utils import is_serve_available

from ..modeling import LavitConfig, LavitForCausalLM
from .common import app


class ServedLavit(LavitForCausalLM):
    """A LaVIT whose `generate` repeats prompts as they were given: the server cuts off as many ids as it sent."""

    def generate(self, inputs=None, *args, streamer=None, **kwargs):
        prompt = kwargs.get("input_ids") if inputs is None else inputs
        new_ids = super().generate(inputs, *args, streamer=streamer, return_full_text=False, **kwargs)
        return torch.cat([prompt, new_ids], dim=1)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def serve(context: typer.Context) -> None:
    """
    Run `transformers serve`, a server for OpenAI's clients: pictures and text in, text out. `lavit-hf serve MODEL`;
    all arguments are its own, `lavit-hf serve --help` lists them.
    """
    if not is_serve_available():
        raise ImportError("Serving needs more packages: pip install 'lavit-hf[serve]'.")
    from transformers.cli.transformers import main

    AutoModelForMultimodalLM.register(LavitConfig, ServedLavit, exist_ok=True)
    MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES[LavitConfig.model_type] = ServedLavit.__name__
    sys.argv = ["transformers", "serve", *context.args]
    main()
