# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The vision tower that a visual tokenizer is built around: any vision transformer of transformers that fits."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode  # documented, but not imported by torch.utils
from transformers import (
    MODEL_MAPPING,
    AutoModel,
    Blip2VisionConfig,
    Blip2VisionModel,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.initialization import no_init_weights


def check_model_type(config: PreTrainedConfig) -> None:
    """Raises a `ValueError` for a configuration of which a saved visual tokenizer could not build its tower."""
    # The release's tower is the one that transformers has but does not list with AutoModel.
    if not isinstance(config, Blip2VisionConfig) and type(config) not in MODEL_MAPPING:
        raise ValueError(f"vision_config must be one of which AutoModel makes a model, got {type(config).__name__}.")


def build_vision_tower(config: PreTrainedConfig) -> PreTrainedModel:
    """A new vision model. Raises the `ValueError` of [`check_model_type`]."""
    check_model_type(config)
    if isinstance(config, Blip2VisionConfig):
        return Blip2VisionModel(config)
    # Not in the dtype that its configuration was saved with: a whole LaVIT may be asked for in another.
    return AutoModel.from_config(config, dtype=torch.get_default_dtype())


class _RandomOperations(TorchDispatchMode):
    """Notes by name the operations that draw random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        # Attention has the tag because of its dropout, of which there is none at inference.
        if torch.Tag.nondeterministic_seeded in func.tags and "attention" not in func.name():
            self.names.append(func.name())
        return func(*args, **(kwargs or {}))


def _run_without_weights(config: PreTrainedConfig, device: str) -> tuple[PreTrainedModel, torch.Size, list[str]]:
    """A tower of `config`, the shape of its last hidden states for two images, and its random operations."""
    with torch.device(device), torch.no_grad(), no_init_weights():
        tower = build_vision_tower(config).eval()
        pixel_values = torch.zeros(2, 3, config.image_size, config.image_size)
        with _RandomOperations() as random_operations:
            outputs = tower(pixel_values, output_hidden_states=[-1], return_dict=True)
    return tower, outputs.hidden_states[-1].shape, random_operations.names


def check_vision_tower(config: PreTrainedConfig, vision_tower: PreTrainedModel | None = None) -> None:
    """
    Finds out whether a kind of vision model fits, from a model of `config` whose weights take no memory.

    Args:
        config (`PreTrainedConfig`): The vision model's, with integers as `image_size` and `patch_size`.
        vision_tower (`PreTrainedModel`, *optional*): The model itself, where it exists already.

    Raises:
        ValueError:
            A model that takes something else than square images, does not give one vector per patch as its last
            hidden states, draws random numbers, or is none that `AutoModel` makes of its configuration.
    """
    name = type(config).__name__
    expected = "vision_config must describe a vision transformer that fits, got"
    try:
        try:
            built, shape, random_operations = _run_without_weights(config, "meta")
        except RuntimeError as error:
            if "meta" not in str(error).lower():
                raise
            # Its forward looks at values, which meta tensors do not have.
            built, shape, random_operations = _run_without_weights(config, "cpu")
    except Exception as error:
        size = config.image_size
        reason = f"it does not make hidden states of images of shape (B, 3, {size}, {size}) alone: {error}"
        raise ValueError(f"{expected} {name}: {reason}") from error
    if random_operations:
        raise ValueError(
            f"{expected} {name}: it draws random numbers at inference ({random_operations[0]}), so that an image "
            "would get other codes at each call."
        )
    num_patches = (config.image_size // config.patch_size) ** 2
    if len(shape) != 3 or shape[0] != 2 or shape[1] < num_patches or shape[2] != config.hidden_size:
        raise ValueError(
            f"{expected} {name}: its last hidden states of 2 images have shape {tuple(shape)}, and not "
            f"(2, {num_patches} or more, {config.hidden_size}), one vector for each patch."
        )
    if vision_tower is not None and not isinstance(vision_tower, type(built)):
        raise ValueError(
            f"The vision model must be a {type(built).__name__}, which AutoModel makes of a {name} when a saved "
            f"visual tokenizer is loaded, got {type(vision_tower).__name__}."
        )
