# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
The vision tower of a visual tokenizer, which can be any vision transformer of transformers that fits, and the
whitening of its features.
"""

import torch
from torch import nn
from transformers import (
    MODEL_MAPPING,
    AutoModel,
    Blip2VisionConfig,
    Blip2VisionModel,
    PreTrainedConfig,
    PreTrainedModel,
)

from .configuration_lavit import LavitVisualTokenizerConfig
from .freezing_lavit import evaluation_mode
from .precision_lavit import require_float32


def model_class(config: PreTrainedConfig) -> type[PreTrainedModel]:
    """
    Returns the class of the vision model that `AutoModel` builds from a configuration.

    Raises:
        ValueError: If `AutoModel` builds no model from the configuration, so that a saved model could not be loaded.
    """
    # transformers has the vision tower of the release, but does not register it with AutoModel.
    if isinstance(config, Blip2VisionConfig):
        return Blip2VisionModel
    if type(config) not in MODEL_MAPPING:
        raise ValueError(f"vision_config must be one of which AutoModel makes a model, got {type(config).__name__}.")
    return MODEL_MAPPING[type(config)]


def build_vision_tower(config: PreTrainedConfig) -> PreTrainedModel:
    """Returns a new vision model. Same errors as [`model_class`]."""
    if model_class(config) is Blip2VisionModel:
        return Blip2VisionModel(config)
    # The dtype that was asked for the whole model holds, not the one that the configuration was saved with.
    return AutoModel.from_config(config, dtype=torch.get_default_dtype())


def _random_states(device: torch.device) -> list[torch.Tensor]:
    """Returns the states of the random number generators of the CPU and of a device."""
    if device.type == "cpu":
        return [torch.get_rng_state()]
    place = () if device.type == "mps" else (device,)  # torch.mps has one device alone
    return [torch.get_rng_state(), torch.get_device_module(device).get_rng_state(*place)]


@torch.no_grad()
def check_vision_tower(vision_tower: PreTrainedModel) -> None:
    """
    Checks whether a vision model fits, by running it once on two blank images.

    Args:
        vision_tower (`PreTrainedModel`): A model with integers as `image_size` and `patch_size` of its configuration.

    Raises:
        ValueError:
            A model that takes something else than square images, does not give one vector per patch as its last
            hidden states, draws random numbers, or is none that `AutoModel` makes of its configuration.
    """
    config = vision_tower.config
    name, expected_class = type(config).__name__, model_class(config)
    if not isinstance(vision_tower, expected_class):
        raise ValueError(
            f"The vision model must be a {expected_class.__name__}, which AutoModel makes of a {name} when a saved "
            f"visual tokenizer is loaded, got {type(vision_tower).__name__}."
        )
    expected, size = "vision_config must describe a vision transformer that fits, got", config.image_size
    # The model itself runs, and no copy on the meta device, since some models keep tensors for later calls.
    pixel_values = torch.zeros(2, 3, size, size, device=vision_tower.device, dtype=vision_tower.dtype)
    states = _random_states(vision_tower.device)
    try:
        with evaluation_mode(vision_tower):
            outputs = vision_tower(pixel_values, output_hidden_states=[-1], return_dict=True)
            shape = outputs.hidden_states[-1].shape
    except Exception as error:
        reason = f"it does not make hidden states of images of shape (B, 3, {size}, {size}) alone: {error}"
        raise ValueError(f"{expected} {name}: {reason}") from error
    if not all(map(torch.equal, states, _random_states(vision_tower.device))):
        raise ValueError(
            f"{expected} {name}: it draws random numbers at inference, so that an image would get other codes at each "
            "call."
        )
    num_patches = (size // config.patch_size) ** 2
    if len(shape) != 3 or shape[0] != 2 or shape[1] < num_patches or shape[2] != config.hidden_size:
        raise ValueError(
            f"{expected} {name}: its last hidden states of 2 images have shape {tuple(shape)}, and not "
            f"(2, {num_patches} or more, {config.hidden_size}), one vector for each patch."
        )


class LavitFeatureWhitening(nn.Module):
    """
    Transforms vision features linearly, so that all directions have about the same variance, with a mean of one.

    Args:
        config ([`LavitVisualTokenizerConfig`]): `hidden_size` and `feature_whitening` are used.
    """

    def __init__(self, config: LavitVisualTokenizerConfig):
        super().__init__()
        self.added_share = config.feature_whitening
        self.register_buffer("feature_mean", torch.zeros(config.hidden_size, dtype=torch.float32))
        self.register_buffer("feature_transform", torch.eye(config.hidden_size, dtype=torch.float32))

    @torch.no_grad()
    def fit(self, features: torch.Tensor) -> None:
        """Sets the transformation by the mean and the covariance of `features` (T, hidden_size)."""
        features = features.double()
        variances, directions = torch.linalg.eigh(torch.cov(features.T))
        scales = (variances.clamp(min=0) + self.added_share * variances.sum()).rsqrt()
        scales = scales * (len(scales) / (variances * scales.square()).sum()).sqrt()
        self.feature_mean.copy_(features.mean(dim=0))
        self.feature_transform.copy_(directions @ torch.diag(scales) @ directions.T)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Whitens features (..., hidden_size) in float32, and returns them in their own dtype."""
        for name, buffer in self.named_buffers():
            require_float32(name, buffer)
        with torch.autocast(device_type=features.device.type, enabled=False):
            return ((features.float() - self.feature_mean) @ self.feature_transform).to(features.dtype)
