# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""LaVIT's dynamic visual tokenizer (arXiv 2309.04669, section 3.1): an image becomes a varying number of codes."""

from dataclasses import dataclass
from functools import cached_property
from typing import Unpack

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.utils import ModelOutput, TransformersKwargs
from transformers.utils.output_capturing import capture_outputs, recursively_install_hooks

from .arguments_lavit import check_keyword_arguments
from .codebook_lavit import POSITIONS_STD, LavitQuantizer
from .configuration_lavit import LavitVisualTokenizerConfig
from .freezing_lavit import LavitFreezingMixin, evaluation_mode, gradients_where_trained
from .library_lavit import LavitPublishingMixin
from .merger_lavit import LavitMerger, LavitVisualAdapter, PatchPartition, recorded_outputs
from .precision_lavit import LavitFloat32Mixin
from .selector_lavit import LavitSelector, select_patches
from .vision_tower_lavit import build_vision_tower, check_vision_tower
from .whitening_lavit import LavitFeatureWhitening


@dataclass
class LavitVisualTokenizerOutput(ModelOutput):
    """
    Output of a [`LavitVisualTokenizer`] for B images of N patches, of which T in all are kept.

    Args:
        codes (`torch.LongTensor` of shape `(T,)`): Codes of all images, one after the other, 0..codebook_size-1.
        num_codes (`torch.LongTensor` of shape `(B,)`): How many codes each image has, at least 1.
        keep_mask (`torch.BoolTensor` of shape `(B, N)`): The kept patches, in raster order.
        selector_log_probs (`torch.FloatTensor` of shape `(B, N, 2)`):
            Log-probabilities of keeping (index 0) and dropping each patch.
        merged_features (`torch.FloatTensor` of shape `(T, hidden_size)`): Kept patches with the others folded in.
        vectors (`torch.FloatTensor` of shape `(T, code_dim)`): The unit vectors that the codes name, float32.
        quantized (`torch.FloatTensor` of shape `(T, code_dim)`): The codebook's rows, float32.
        vision_features (`torch.FloatTensor` of shape `(B, N, hidden_size)`): The input of selector and merger.
        partition ([`PatchPartition`]): The kept and the dropped patches, as the merger takes them.
        hidden_states (`tuple[torch.FloatTensor]`, *optional*, with `output_hidden_states=True`):
            The merger's input and the output of each of its blocks, of shape `(T, hidden_size)`.
        attentions, cross_attentions (`tuple[torch.FloatTensor]`, *optional*, with `output_attentions=True`):
            The weights with which each block's kept patches attend to each other and to the dropped ones, of shape
            `(B, num_attention_heads, Lq, Lk)`, padded on the right.
    """

    codes: torch.LongTensor | None = None
    num_codes: torch.LongTensor | None = None
    keep_mask: torch.BoolTensor | None = None
    selector_log_probs: torch.FloatTensor | None = None
    merged_features: torch.FloatTensor | None = None
    vectors: torch.FloatTensor | None = None
    quantized: torch.FloatTensor | None = None
    vision_features: torch.FloatTensor | None = None
    partition: PatchPartition | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
    cross_attentions: tuple[torch.FloatTensor, ...] | None = None

    def split(self) -> tuple[torch.LongTensor, ...]:
        """Returns the codes of each image."""
        return self.codes.split(self.num_codes.tolist())


class LavitTokenizerPreTrainedModel(LavitPublishingMixin, LavitFreezingMixin, LavitFloat32Mixin, PreTrainedModel):
    """Weight initialisation and loading shared by the models of LaVIT's tokenizer."""

    base_model_prefix = "visual_tokenizer"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _no_split_modules = ["LavitBlock"]
    _keep_in_fp32_modules_strict = ["codebook$", "feature_mean$", "feature_transform$"]

    @classmethod
    def is_custom_code(cls) -> bool:
        """False, as in transformers' own models, since `_init_weights` leaves loaded weights as they are."""
        # Where it is True, buffers that a backbone's module fills in its children (Falcon-H1) stay uninitialised.
        return False

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, LavitQuantizer):
            # Unit rows, as the vectors that they name are.
            init.copy_(module.codebook, nn.functional.normalize(torch.randn_like(module.codebook), dim=-1))
            if module.position_embeddings is not None:
                init.normal_(module.position_embeddings, std=POSITIONS_STD)
        elif isinstance(module, LavitVisualAdapter) and module.position_embeddings is not None:
            init.normal_(module.position_embeddings, std=POSITIONS_STD)
        elif isinstance(module, LavitFeatureWhitening):
            init.zeros_(module.feature_mean)
            init.copy_(module.feature_transform, torch.eye(self.config.hidden_size))


class LavitVisualTokenizer(LavitTokenizerPreTrainedModel):
    """
    Turns images into codes: a frozen vision tower, a selector that keeps the patches that matter, a merger that folds
    the others into them, a codebook that names them. A tower whose parameters are made to require gradients is
    trained.

    `from_pretrained` also takes the folder or repository of a whole LaVIT and loads just this part of it.

    Args:
        config ([`LavitVisualTokenizerConfig`]): Its shape and the default way of selection.
        vision_tower (`PreTrainedModel`, *optional*):
            A tower that exists already, instead of a new one. The other parts take its dtype.

    Raises:
        ValueError: a vision model that does not fit, see [`check_vision_tower`].
    """

    config: LavitVisualTokenizerConfig
    _frozen_parts = ("vision_tower",)
    _can_record_outputs = recorded_outputs("num_merger_layers")
    _keys_to_ignore_on_load_unexpected = [r"^model\.", r"^lm_head\.", r"^feature_decoder\.", r"^codebook_updater\."]

    def __init__(self, config: LavitVisualTokenizerConfig, vision_tower: PreTrainedModel | None = None):
        super().__init__(config)
        self.vision_tower = vision_tower or build_vision_tower(config.vision_config)
        # A model that is being loaded was checked when it was made, and DeepSpeed may have divided this one.
        if self.vision_tower.device.type != "meta" and not is_deepspeed_zero3_enabled():
            check_vision_tower(self.vision_tower)
        self.whitening = LavitFeatureWhitening(config) if config.feature_whitening is not None else None
        self.selector = LavitSelector(config)
        self.merger = LavitMerger(config)
        self.quantizer = LavitQuantizer(config)
        self.post_init()
        if vision_tower is not None:
            self.to(vision_tower.dtype)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, key_mapping=None, **kwargs):
        key_mapping = key_mapping or {r"^model\.visual_tokenizer\.": ""}
        return super().from_pretrained(pretrained_model_name_or_path, *args, key_mapping=key_mapping, **kwargs)

    @cached_property
    def _output_capturing_hooks_installed(self) -> bool:
        # `capture_outputs` asks for this before it hooks every submodule. A vision tower that has given hidden states
        # before has hooks already, and would give each of them twice: only the merger is hooked here.
        recursively_install_hooks(self.merger, "merger", list(self._can_record_outputs.items()))
        return True

    def encode_vision(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """
        The tower's last hidden states before its final norm, patches only, whitened if the configuration says so.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(B, 3, image_size, image_size)`): As the processor makes them.

        Returns:
            `torch.FloatTensor` of shape `(B, num_patches, hidden_size)`.

        Raises:
            ValueError: images of another shape.
        """
        size = self.config.vision_config.image_size
        if pixel_values.ndim != 4 or pixel_values.shape[2:] != (size, size):
            raise ValueError(
                f"pixel_values must be of shape (num_images, 3, {size}, {size}), got {tuple(pixel_values.shape)}."
            )
        with gradients_where_trained(self.vision_tower):
            outputs = self.vision_tower(pixel_values.to(self.dtype), output_hidden_states=[-1], return_dict=True)
        # CLS and register tokens stand before the patches
        features = outputs.hidden_states[-1][:, -self.config.num_patches :]
        return features if self.whitening is None else self.whitening(features)

    def tokenize_images(
        self,
        pixel_values: torch.FloatTensor | None = None,
        vision_features: torch.FloatTensor | None = None,
        keep_mask: torch.BoolTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> LavitVisualTokenizerOutput:
        """
        Runs the visual tokenizer as at inference, so that an image has the same codes wherever they are made: with the
        configuration's selection, in the precision of its weights also under autocast, in evaluation mode also where
        it is trained (a trained vision tower then has neither dropout nor gradient checkpointing), and without waiting
        for other processes. Gradients are recorded where something in it is trained.

        Same arguments, outputs and errors as [`~LavitVisualTokenizer.forward`].
        """
        images = pixel_values if vision_features is None else vision_features
        device_type = self.device.type if images is None else images.device.type
        given = {"vision_features": vision_features, "keep_mask": keep_mask, "selection": self.config.selection}
        given |= kwargs | {"return_dict": True}
        with torch.autocast(device_type, enabled=False), gradients_where_trained(self), evaluation_mode(self):
            return self(pixel_values, **given)

    def select_patches(self, pixel_values: torch.FloatTensor) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Runs the vision tower and the selector alone, as [`~LavitVisualTokenizer.tokenize_images`] does: enough to know
        how many codes each image has.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(B, 3, image_size, image_size)`): Images.

        Returns:
            The `vision_features` (B, N, hidden_size) and the `keep_mask` (B, N) that `forward` takes.
        """
        with torch.autocast(pixel_values.device.type, enabled=False), evaluation_mode(self):
            vision_features = self.encode_vision(pixel_values)
            return vision_features, select_patches(self.selector(vision_features), self.config.selection)

    def forward(
        self,
        pixel_values: torch.FloatTensor | None = None,
        keep_mask: torch.BoolTensor | None = None,
        selection: str | None = None,
        generator: torch.Generator | None = None,
        vision_features: torch.FloatTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> LavitVisualTokenizerOutput:
        """
        Args:
            pixel_values (`torch.FloatTensor` of shape `(B, 3, image_size, image_size)`): Images.
            keep_mask (`torch.BoolTensor` of shape `(B, N)`, *optional*):
                The patches to keep, at least one of each image, in place of the selector's decision.
            selection (`str`, *optional*): Overrides the configuration's way of selection.
            generator (`torch.Generator`, *optional*): Makes `"sample"` reproducible.
            vision_features (`torch.FloatTensor` of shape `(B, N, hidden_size)`, *optional*):
                From [`~LavitVisualTokenizer.encode_vision`], instead of `pixel_values`.

        Returns:
            [`LavitVisualTokenizerOutput`]

        Raises:
            ValueError: neither or both of images and features; images or a mask of the wrong shape; a mask that keeps
                nothing of an image; an unknown selection.
            TypeError: an unknown argument.
        """
        check_keyword_arguments(self, kwargs)
        if (pixel_values is None) == (vision_features is None):
            raise ValueError("Give either pixel_values or vision_features.")
        if vision_features is None:
            vision_features = self.encode_vision(pixel_values)
        # A processor's own visual tokenizer may compute them in another dtype.
        return self._tokenize(vision_features.to(self.dtype), keep_mask, selection, generator, **kwargs)

    @capture_outputs(tie_last_hidden_states=False)
    def _tokenize(
        self,
        vision_features: torch.Tensor,
        keep_mask: torch.Tensor | None,
        selection: str | None,
        generator: torch.Generator | None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> LavitVisualTokenizerOutput:
        """Features to codes, without the vision tower, whose forward captures hidden states of its own."""
        log_probs = self.selector(vision_features)
        if keep_mask is None:
            keep_mask = select_patches(log_probs, selection or self.config.selection, generator)
        else:
            self._check_keep_mask(keep_mask, vision_features)
        partition = PatchPartition(keep_mask)
        merged_features = self.merger(vision_features, partition, **kwargs)
        codes, vectors, quantized = self.quantizer(merged_features, partition.kept_index % self.config.num_patches)
        return LavitVisualTokenizerOutput(
            codes=codes,
            num_codes=partition.kept.counts,
            keep_mask=keep_mask,
            selector_log_probs=log_probs,
            merged_features=merged_features,
            vectors=vectors,
            quantized=quantized,
            vision_features=vision_features,
            partition=partition,
        )

    def _check_keep_mask(self, keep_mask: torch.Tensor, vision_features: torch.Tensor) -> None:
        if keep_mask.dtype != torch.bool or keep_mask.shape != vision_features.shape[:2]:
            raise ValueError(
                f"keep_mask must be bool of shape {tuple(vision_features.shape[:2])}, got {keep_mask.dtype} of shape "
                f"{tuple(keep_mask.shape)}."
            )
        if not keep_mask.any(dim=-1).all():
            empty = (~keep_mask.any(dim=-1)).nonzero().flatten().tolist()
            raise ValueError(f"keep_mask must keep at least one patch of each image, none is kept of {empty}.")

    def get_input_embeddings(self) -> nn.Module:
        return self.vision_tower.get_input_embeddings()


__all__ = ["LavitVisualTokenizer", "LavitVisualTokenizerOutput"]
