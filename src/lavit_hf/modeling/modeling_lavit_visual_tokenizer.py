# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""LaVIT's dynamic visual tokenizer (arXiv 2309.04669, section 3.1): an image becomes a varying number of codes."""

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Unpack

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.utils import ModelOutput, TransformersKwargs
from transformers.utils.loading_report import LoadStateDictInfo
from transformers.utils.output_capturing import capture_outputs, recursively_install_hooks

from .arguments_lavit import check_keyword_arguments
from .codebook_lavit import POSITIONS_STD, LavitQuantizer, init_codebook
from .configuration_lavit import LavitVisualTokenizerConfig
from .freezing_lavit import evaluation_mode, gradients_where_trained
from .merger_lavit import LavitMerger, PatchPartition, recorded_outputs
from .pretrained_lavit import LavitPreTrainedModel
from .selector_lavit import Counts, LavitSelector, select_patches
from .vision_tower_lavit import LavitFeatureWhitening, build_vision_tower, check_vision_tower


@dataclass
class LavitVisualTokenizerOutput(ModelOutput):
    """
    Output of a [`LavitVisualTokenizer`] for B images of N patches, of which T in all are kept.

    Args:
        codes (`torch.LongTensor` of shape `(T,)`): Codes of all images, one after the other, 0..codebook_size-1.
        num_codes (`torch.LongTensor` of shape `(B,)`): Number of codes of each image, at least 1.
        keep_mask (`torch.BoolTensor` of shape `(B, N)`): The kept patches, in raster order.
        selector_log_probs (`torch.FloatTensor` of shape `(B, N, 2)`):
            Log-probabilities of keeping (index 0) and dropping each patch.
        merged_features (`torch.FloatTensor` of shape `(T, hidden_size)`): The output of the merger.
        vectors (`torch.FloatTensor` of shape `(T, code_dim)`): The float32 unit vectors before quantization.
        quantized (`torch.FloatTensor` of shape `(T, code_dim)`): The float32 rows of the codebook nearest to them.
        vision_features (`torch.FloatTensor` of shape `(B, N, hidden_size)`): The input of selector and merger.
        partition ([`PatchPartition`]): The kept and the dropped patches in the layout that the merger takes.
        hidden_states (`tuple[torch.FloatTensor]`, *optional*, with `output_hidden_states=True`):
            The merger's input and the output of each of its blocks, of shape `(T, hidden_size)`.
        attentions, cross_attentions (`tuple[torch.FloatTensor]`, *optional*, with `output_attentions=True`):
            The attention weights of each block, of kept patches to each other and of kept to dropped patches, of
            shape `(B, num_attention_heads, Lq, Lk)`, padded on the right.
    """

    # A `ModelOutput` needs defaults. Those without "| None" are always given.
    codes: torch.LongTensor = None
    num_codes: torch.LongTensor = None
    keep_mask: torch.BoolTensor = None
    selector_log_probs: torch.FloatTensor = None
    merged_features: torch.FloatTensor = None
    vectors: torch.FloatTensor = None
    quantized: torch.FloatTensor = None
    vision_features: torch.FloatTensor = None
    partition: PatchPartition = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
    cross_attentions: tuple[torch.FloatTensor, ...] | None = None

    def split(self) -> tuple[torch.LongTensor, ...]:
        """Returns the codes of each image."""
        return self.codes.split(self.num_codes.tolist())


def make_output(
    vision_features: torch.Tensor,
    log_probs: torch.Tensor,
    partition: PatchPartition,
    merged_features: torch.Tensor,
    codes: torch.Tensor,
    vectors: torch.Tensor,
    quantized: torch.Tensor,
) -> LavitVisualTokenizerOutput:
    """Returns the output of a visual tokenizer for the kept patches of a `partition`."""
    return LavitVisualTokenizerOutput(
        codes=codes,
        num_codes=partition.kept.counts,
        keep_mask=partition.keep_mask,
        selector_log_probs=log_probs,
        merged_features=merged_features,
        vectors=vectors,
        quantized=quantized,
        vision_features=vision_features,
        partition=partition,
    )


class LavitVisualTokenizer(LavitPreTrainedModel):
    """
    Turns images into codes. A frozen vision tower computes features of patches, a selector keeps the patches that
    matter, a merger folds the other patches into them, and a codebook names the result. A vision tower whose
    parameters are set to require gradients is trained.

    `from_pretrained` also takes the folder or repository of a whole LaVIT, and loads only its visual tokenizer.

    Args:
        config ([`LavitVisualTokenizerConfig`]): The configuration.
        vision_tower (`PreTrainedModel`, *optional*):
            An existing vision tower, whose dtype the other parts take. By default, a new one.

    Raises:
        ValueError: If the vision model does not fit, see [`check_vision_tower`].
    """

    config: LavitVisualTokenizerConfig
    base_model_prefix = "visual_tokenizer"
    _frozen_parts = ("vision_tower",)
    _can_record_outputs = recorded_outputs("num_merger_layers")
    _keys_to_ignore_on_load_unexpected = [r"^model\.", r"^lm_head\.", r"^feature_decoder\.", r"^codebook_updater\."]

    def __init__(self, config: LavitVisualTokenizerConfig, vision_tower: PreTrainedModel | None = None):
        super().__init__(config)
        self.vision_tower = vision_tower or build_vision_tower(config.vision_config)
        # Weights on the meta device are about to be loaded, and the model was checked when it was made. DeepSpeed may
        # have partitioned the weights.
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

    def load_adapter(self, *args, load_config=None, **kwargs) -> LoadStateDictInfo:
        """
        Refuses adapters, which would change codes. `from_pretrained` of the folder of an adapter loads the visual
        tokenizer of the base model, which has none.

        Args:
            load_config (*optional*): Given by `from_pretrained` alone.

        Raises:
            ValueError: In any other call.
        """
        if load_config is None:
            raise ValueError("A visual tokenizer takes no adapters: they would change the codes of images.")
        return LoadStateDictInfo(**{field.name: set() for field in fields(LoadStateDictInfo)})  # nothing is missing

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, LavitQuantizer):
            init_codebook(module.codebook)
            if module.position_embeddings is not None:
                init.normal_(module.position_embeddings, std=POSITIONS_STD)
        elif isinstance(module, LavitFeatureWhitening):
            init.zeros_(module.feature_mean)
            init.copy_(module.feature_transform, torch.eye(self.config.hidden_size))

    @cached_property
    def _output_capturing_hooks_installed(self) -> bool:
        # `capture_outputs` reads this attribute before it hooks every submodule. A vision tower that has returned
        # hidden states before has hooks already, and would return each of them twice. Only the merger is hooked here.
        recursively_install_hooks(self.merger, "merger", list(self._can_record_outputs.items()))
        return True

    def encode_vision(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """
        Computes the last hidden states of the vision tower before its final norm, without CLS and register tokens.
        They are whitened if the configuration says so.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(B, 3, image_size, image_size)`): Images from the processor.

        Returns:
            `torch.FloatTensor` of shape `(B, num_patches, hidden_size)`.

        Raises:
            ValueError: If the images have another shape.
        """
        size = self.config.vision_config.image_size
        if pixel_values.ndim != 4 or pixel_values.shape[2:] != (size, size):
            raise ValueError(
                f"pixel_values must be of shape (num_images, 3, {size}, {size}), got {tuple(pixel_values.shape)}."
            )
        with gradients_where_trained(self.vision_tower):
            outputs = self.vision_tower(pixel_values.to(self.dtype), output_hidden_states=[-1], return_dict=True)
        # CLS and register tokens precede the patches.
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
        Runs the visual tokenizer as at inference, so that an image has the same codes wherever they are computed. The
        selection is that of the configuration, autocast is off, and all parts are in evaluation mode, also while the
        vision tower is trained: it then has neither dropout nor gradient checkpointing. Gradients are recorded if a
        part of the visual tokenizer is trained.

        Same arguments, outputs and errors as [`~LavitVisualTokenizer.forward`].
        """
        images = pixel_values if vision_features is None else vision_features
        device_type = self.device.type if images is None else images.device.type
        given = {"vision_features": vision_features, "keep_mask": keep_mask} | kwargs | {"return_dict": True}
        with torch.autocast(device_type, enabled=False), gradients_where_trained(self), evaluation_mode(self):
            return self(pixel_values, **given)

    def select_patches(self, pixel_values: torch.FloatTensor, **kwargs) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Runs only the vision tower and the selector, as [`~LavitVisualTokenizer.tokenize_images`] does. Their result
        tells how many codes each image has.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(B, 3, image_size, image_size)`): Images.
            kwargs: `selection`, `generator`, `num_codes`, `max_codes` and `keep_scale`, as in `forward`.

        Returns:
            The `vision_features` (B, N, hidden_size) and the `keep_mask` (B, N) that `forward` takes.
        """
        with torch.autocast(pixel_values.device.type, enabled=False), evaluation_mode(self):
            vision_features = self.encode_vision(pixel_values)
            return vision_features, self._select(self.selector(vision_features), **kwargs)

    def _select(self, log_probs: torch.Tensor, generator: torch.Generator | None = None, **kwargs) -> torch.Tensor:
        """Decides which patches are kept, by the configuration where nothing is given."""
        given = {name: value for name, value in kwargs.items() if value is not None}
        settings: dict[str, Any] = {"selection": self.config.selection}
        if not {"num_codes", "keep_scale"} & given.keys():  # one displaces the other
            settings |= {"num_codes": self.config.num_codes, "keep_scale": self.config.keep_scale}
        if "num_codes" not in given:  # a number that is given is no decision of the configuration
            settings["max_codes"] = self.config.max_codes
        return select_patches(log_probs, generator=generator, **settings | given)

    def forward(
        self,
        pixel_values: torch.FloatTensor | None = None,
        keep_mask: torch.BoolTensor | None = None,
        selection: str | None = None,
        generator: torch.Generator | None = None,
        vision_features: torch.FloatTensor | None = None,
        num_codes: Counts | None = None,
        max_codes: Counts | None = None,
        keep_scale: float | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> LavitVisualTokenizerOutput:
        """
        Args:
            pixel_values (`torch.FloatTensor` of shape `(B, 3, image_size, image_size)`): Images.
            keep_mask (`torch.BoolTensor` of shape `(B, N)`, *optional*):
                The patches to keep, at least one of each image, instead of the decision of the selector.
            selection (`str`, *optional*): How patches are selected. By default, as the configuration says.
            generator (`torch.Generator`, *optional*): Random numbers of the selection `"sample"`.
            num_codes (`int`, or `list[int]` or `torch.LongTensor` of shape `(B,)`, *optional*):
                The number of codes of all images or of each, instead of the one that the selection decides.
            max_codes (`int`, or `list[int]` or `torch.LongTensor` of shape `(B,)`, *optional*):
                The largest number of codes. By default, as the configuration says.
            keep_scale (`float`, *optional*):
                Factor of the number of codes that the selection decides. By default, as the configuration says.
            vision_features (`torch.FloatTensor` of shape `(B, N, hidden_size)`, *optional*):
                Output of [`~LavitVisualTokenizer.encode_vision`], instead of `pixel_values`.

        Returns:
            [`LavitVisualTokenizerOutput`]

        Raises:
            ValueError: If not exactly one of `pixel_values` and `vision_features` is given, if one of the arguments
                has a wrong shape, if no patch of an image is kept, or as in [`select_patches`].
            TypeError: If an argument is unknown.
        """
        check_keyword_arguments(self, kwargs)
        if (pixel_values is None) == (vision_features is None):
            raise ValueError("Give either pixel_values or vision_features.")
        if vision_features is None:
            vision_features = self.encode_vision(pixel_values)
        # The visual tokenizer of a processor may have computed the features in another dtype.
        vision_features = vision_features.to(self.dtype)
        log_probs = self.selector(vision_features)
        decision = {"selection": selection, "num_codes": num_codes, "max_codes": max_codes, "keep_scale": keep_scale}
        if keep_mask is None:
            keep_mask = self._select(log_probs, generator, **decision)
        elif given := [name for name, value in decision.items() if value is not None]:
            raise ValueError(f"keep_mask is the decision which patches are kept: it does not go with {given[0]}.")
        elif keep_mask.dtype != torch.bool or keep_mask.shape != vision_features.shape[:2]:
            raise ValueError(
                f"keep_mask must be bool of shape {tuple(vision_features.shape[:2])}, got {keep_mask.dtype} of shape "
                f"{tuple(keep_mask.shape)}."
            )
        return self._tokenize(vision_features, log_probs, keep_mask, **kwargs)

    @capture_outputs(tie_last_hidden_states=False)
    def _tokenize(
        self,
        vision_features: torch.Tensor,
        log_probs: torch.Tensor,
        keep_mask: torch.Tensor,
        **kwargs: Unpack[TransformersKwargs],
    ) -> LavitVisualTokenizerOutput:
        """Turns features into codes, apart from the vision tower, whose forward captures hidden states of its own."""
        partition = PatchPartition(keep_mask)
        merged_features = self.merger(vision_features, partition, **kwargs)
        quantizer_outputs = self.quantizer(merged_features, partition.positions)
        return make_output(vision_features, log_probs, partition, merged_features, *quantizer_outputs)

    def get_input_embeddings(self) -> nn.Module:
        return self.vision_tower.get_input_embeddings()
