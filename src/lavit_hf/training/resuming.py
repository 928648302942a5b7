# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Checkpoints back into the model that is trained: completely, or not at all."""

import copy
import os
from collections.abc import Iterable

import torch
from peft import PeftModel, get_peft_model_state_dict, load_peft_weights
from transformers import PreTrainedModel, TrainerCallback
from transformers.utils import logging


logger = logging.get_logger(__name__)


def check_keys(missing: Iterable[str], unexpected: Iterable[str] = (), folder: str | os.PathLike = "") -> None:
    """Raises the ValueError of a checkpoint that lacks weights of the model, or has weights that it does not have."""
    for keys, problem in ((sorted(missing), "lacks"), (sorted(unexpected), "has, unlike the model,")):
        if keys:
            shown = ", ".join(keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")
            where = f" {os.fspath(folder)!r}" if folder else ""
            raise ValueError(f"The checkpoint{where} does not fit the model: it {problem} {shown}.")


@torch.no_grad()
def load_weights(model: PreTrainedModel, folder: str | os.PathLike) -> None:
    """
    Loads a checkpoint into a model as `from_pretrained` does, which knows how weights are named and laid out in files.
    The parameters stay the same objects.

    Args:
        model (`PreTrainedModel`): A model whose class makes one from its configuration alone.
        folder (`str` or `os.PathLike`): What `save_pretrained` wrote.

    Raises:
        ValueError: weights that are missing or unexpected.
    """
    dtypes = {value.dtype for value in model.state_dict().values() if value.is_floating_point()}
    # Float32 holds every value of half precisions: copied into a model of several dtypes, none is rounded.
    dtype = dtypes.pop() if len(dtypes) == 1 else torch.float32
    result: tuple[PreTrainedModel, dict[str, list[str]]] = type(model).from_pretrained(
        folder, config=copy.deepcopy(model.config), dtype=dtype, output_loading_info=True
    )
    loaded, info = result
    check_keys(info["missing_keys"], info["unexpected_keys"], folder)
    model.load_state_dict(loaded.state_dict())


def check_adapter(model: PeftModel, folder: str | os.PathLike) -> None:
    """Raises the ValueError of a folder that lacks weights of a model's active adapter, which peft only warns of."""
    name = model.active_adapters[0]
    inside = os.path.join(folder, name)
    saved = load_peft_weights(inside if os.path.isdir(inside) else os.fspath(folder), device="cpu")
    expected = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    check_keys(expected.keys() - saved.keys(), folder=folder)


class ResumeCallback(TrainerCallback):
    """Says at which step a run goes on."""

    def on_train_begin(self, args, state, control, **kwargs):
        if state.global_step and state.is_world_process_zero:
            # A warning, since transformers shows no information by default.
            logger.warning(f"Resuming at step {state.global_step} of {state.max_steps}.")


__all__ = ["ResumeCallback", "check_adapter", "check_keys", "load_weights"]
