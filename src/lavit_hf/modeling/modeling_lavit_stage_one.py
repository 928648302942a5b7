# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Stage 1 (arXiv 2309.04669, section 3.1): the visual tokenizer learns with the feature decoder, from images alone."""

from dataclasses import dataclass
from typing import Unpack

import torch
from torch import nn
from transformers import initialization as init
from transformers.utils import ModelOutput, TransformersKwargs, can_return_tuple

from .arguments_lavit import check_keyword_arguments
from .backbones_lavit import Backbone, load_vision_backbone, load_visual_tokenizer
from .codebook_lavit import LavitCodebookUpdater
from .configuration_lavit import LavitFeatureDecoderConfig, LavitVisualTokenizerConfig
from .distributed_lavit import batch_mean
from .merger_lavit import PatchPartition
from .modeling_lavit_feature_decoder import LavitFeatureDecoder
from .modeling_lavit_visual_tokenizer import LavitVisualTokenizer, LavitVisualTokenizerOutput, make_output
from .pretrained_lavit import LavitPreTrainedModel
from .selector_lavit import sample_policy


@dataclass
class LavitVisualTokenizerForPreTrainingOutput(ModelOutput):
    """
    Output of [`LavitVisualTokenizerForPreTraining`].

    Args:
        loss (`torch.FloatTensor`): Reconstruction loss, plus the weighted keep-ratio and commitment losses.
        reconstruction_loss (`torch.FloatTensor`):
            Mean over patches of 1 - cosine(rebuilt feature, original feature), with the weights that
            `reconstruction_norm_power` of the configuration gives.
        keep_ratio_loss (`torch.FloatTensor`): Squared difference of the kept fraction of the batch and `keep_ratio`.
        commitment_loss (`torch.FloatTensor`, *optional*):
            Mean squared distance of vectors to the codebook rows of their codes. None if `quantize` is False.
        rebuilt_features (`torch.FloatTensor` of shape `(B, N, hidden_size)`): The features rebuilt from the codes.
        tokenizer_output ([`LavitVisualTokenizerOutput`]):
            The output of the visual tokenizer. It has hidden states and attentions only if patches are not sampled.
        hidden_states, attentions, cross_attentions (`tuple[torch.FloatTensor]`, *optional*):
            The hidden states and attentions of the feature decoder, see [`LavitFeatureDecoderOutput`].
    """

    loss: torch.FloatTensor | None = None
    reconstruction_loss: torch.FloatTensor | None = None
    keep_ratio_loss: torch.FloatTensor | None = None
    commitment_loss: torch.FloatTensor | None = None
    rebuilt_features: torch.FloatTensor | None = None
    tokenizer_output: LavitVisualTokenizerOutput | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
    cross_attentions: tuple[torch.FloatTensor, ...] | None = None


class LavitVisualTokenizerForPreTraining(LavitPreTrainedModel):
    """
    The visual tokenizer and the feature decoder with the loss of stage 1, which trains them on images without text
    (paper, section 3.1).

    In training, the codebook follows the vectors that are mapped to it, from the rows that [`~.start_codebook`] sets,
    or from those of a trained visual tokenizer. Each forward in training mode updates it, so that `codebook_decay`
    counts the batches of gradient accumulation.

    `from_pretrained` also takes the folder or repository of a visual tokenizer or of a whole LaVIT. The feature
    decoder, which they lack, is new then.

    Args:
        config ([`LavitVisualTokenizerConfig`]): The configuration, which also gives the feature decoder its shape.
        visual_tokenizer ([`LavitVisualTokenizer`], *optional*): An existing visual tokenizer. By default, a new one.

    Attributes:
        quantize (`bool`): Whether features are rebuilt from codebook rows, or from the vectors before quantization.
        freeze_selector (`bool`):
            Whether the selector is left unchanged. Patches are then kept as at inference.
        gumbel_temperature (`float`):
            The temperature of the relaxed decision of the selector. It starts as the value of the configuration, and
            a schedule may change it.
    """

    config: LavitVisualTokenizerConfig
    base_model_prefix = "visual_tokenizer"
    _keep_in_fp32_modules_strict = [
        *LavitPreTrainedModel._keep_in_fp32_modules_strict,
        "codebook_updater.counts$",
        "codebook_updater.sums$",
    ]
    # The loss is a mean over the batch, so that `Trainer` divides it by the number of accumulated batches.
    accepts_loss_kwargs = False

    def __init__(self, config: LavitVisualTokenizerConfig, visual_tokenizer: LavitVisualTokenizer | None = None):
        super().__init__(config)
        self.visual_tokenizer = visual_tokenizer or LavitVisualTokenizer(config)
        attention = {"attn_implementation": config._attn_implementation}
        decoder_config = LavitFeatureDecoderConfig.from_visual_tokenizer_config(config, **attention)
        self.feature_decoder = LavitFeatureDecoder(decoder_config)
        self.codebook_updater = LavitCodebookUpdater(config)
        self.quantize = True
        self.freeze_selector = False
        self.gumbel_temperature = config.gumbel_temperature
        self.post_init()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, key_mapping=None, **kwargs):
        key_mapping = key_mapping or {r"^model\.visual_tokenizer\.": "visual_tokenizer."}
        wants_info = kwargs.pop("output_loading_info", False)
        model, info = super().from_pretrained(
            pretrained_model_name_or_path, *args, key_mapping=key_mapping, output_loading_info=True, **kwargs
        )
        if "codebook_updater.num_updates" in info["missing_keys"]:
            model.keep_codebook()
        return (model, info) if wants_info else model

    @classmethod
    def from_vision_tower(cls, vision: Backbone, **kwargs) -> "LavitVisualTokenizerForPreTraining":
        """
        Builds a visual tokenizer to train around a vision model, in float32.

        Args:
            vision (`str`, `PreTrainedConfig` or `PreTrainedModel`):
                A folder or repository with pretrained weights, a configuration of a new tower, or the tower itself. A
                visual tokenizer, or that of a LaVIT, is trained further.
            kwargs: Arguments of [`LavitVisualTokenizerConfig`], such as `codebook_size` or `num_merger_layers`.

        Returns:
            [`LavitVisualTokenizerForPreTraining`]

        Raises:
            ValueError: If `vision` is no vision model, or does not fit, see [`check_vision_tower`]. Also if arguments
                are given for an existing visual tokenizer.
            TypeError: If one of `kwargs` is unknown.
        """
        vision = load_vision_backbone(vision)
        visual_tokenizer = load_visual_tokenizer(vision, {}, kwargs)
        model = cls(visual_tokenizer.config, visual_tokenizer).float()
        if visual_tokenizer is vision:
            model.keep_codebook()
        return model

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, LavitCodebookUpdater):
            for buffer in module.buffers():
                init.zeros_(buffer)

    @torch.no_grad()
    def start_codebook(self, vectors: torch.Tensor) -> None:
        """Sets the codebook to the k-means of unit `vectors` (T, code_dim), which all processes must have alike."""
        self.codebook_updater.start(self.visual_tokenizer.quantizer.codebook, vectors)
        self.feature_decoder.codebook.copy_(self.visual_tokenizer.quantizer.codebook)

    @torch.no_grad()
    def keep_codebook(self) -> None:
        """Goes on with the codebook of a trained visual tokenizer, in place of one that starts from data."""
        self.codebook_updater.keep()
        self.feature_decoder.codebook.copy_(self.visual_tokenizer.quantizer.codebook)

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.FloatTensor,
        generator: torch.Generator | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> LavitVisualTokenizerForPreTrainingOutput:
        """
        Args:
            pixel_values (`torch.FloatTensor` of shape `(B, 3, image_size, image_size)`): Images.
            generator (`torch.Generator`, *optional*): Random numbers of the selection in evaluation mode.

        Returns:
            [`LavitVisualTokenizerForPreTrainingOutput`]

        Raises:
            ValueError: If the images have another shape.
            TypeError: If an argument is unknown.
        """
        check_keyword_arguments(self, kwargs)
        asked = {name: getattr(self.config, name) for name in ("output_hidden_states", "output_attentions")}
        asked |= kwargs | {"return_dict": True}
        vision_features = self.visual_tokenizer.encode_vision(pixel_values)
        if self.training and not self.freeze_selector:
            tokens, mask, vectors, quantized = self._sample(vision_features)
        else:
            tokens = self.visual_tokenizer(vision_features=vision_features, generator=generator, **asked)
            layout = tokens.partition.kept
            mask, vectors, quantized = layout.mask, layout.pad(tokens.vectors), layout.pad(tokens.quantized)
        code_embeds = quantized if self.quantize else vectors
        decoded = self.feature_decoder(code_embeds=code_embeds, attention_mask=mask, **asked)

        # Detached, so that a vision tower that is trained as well does not make its features easier to rebuild.
        targets = vision_features.detach().float()
        distances = 1 - nn.functional.cosine_similarity(decoded.features.float(), targets, dim=-1)
        weights = targets.norm(dim=-1) ** self.config.reconstruction_norm_power
        # Processes train in step, but evaluate at their own pace.
        reconstruction_loss = batch_mean(distances, weights, over_processes=self.training)
        # The mean is over the batch, so that a complex image may keep more patches than a simple one.
        kept = tokens.keep_mask if mask.dtype == torch.bool else mask
        keep_ratio_loss = (self.config.keep_ratio - batch_mean(kept, over_processes=self.training)).square()
        loss = reconstruction_loss + self.config.keep_ratio_loss_weight * keep_ratio_loss
        quantizer, commitment_loss = self.visual_tokenizer.quantizer, None
        if self.quantize:
            errors = (tokens.vectors - quantizer.lookup(tokens.codes)).square().sum(-1)
            commitment_loss = batch_mean(errors, over_processes=self.training)
            loss = loss + self.config.commitment_loss_weight * commitment_loss
        if self.training and self.freeze_selector:
            # Distributed training waits for a gradient of every parameter that requires one.
            loss = loss + 0.0 * tokens.selector_log_probs.sum()
        if self.training and self.quantize:
            self.codebook_updater(quantizer.codebook, tokens.vectors.detach(), tokens.codes)
            self.feature_decoder.codebook.copy_(quantizer.codebook)
        return LavitVisualTokenizerForPreTrainingOutput(
            loss=loss,
            reconstruction_loss=reconstruction_loss,
            keep_ratio_loss=keep_ratio_loss,
            commitment_loss=commitment_loss,
            rebuilt_features=decoded.features,
            tokenizer_output=tokens,
            hidden_states=decoded.hidden_states,
            attentions=decoded.attentions,
            cross_attentions=decoded.cross_attentions,
        )

    def _sample(
        self, vision_features: torch.Tensor
    ) -> tuple[LavitVisualTokenizerOutput, torch.Tensor, torch.Tensor, torch.Tensor]:
        """
        Samples which patches are kept, with a gradient to the selector. Vectors are computed for all patches, since
        the gradient at a dropped patch is what it would contribute if it were kept.

        Returns:
            The output of the visual tokenizer for the kept patches, the policy (B, N), which is the decision as 1.0
            and 0.0 with a gradient, and the vectors and the codebook rows (B, N, code_dim) of all patches.
        """
        tokenizer, shape = self.visual_tokenizer, vision_features.shape[:2]
        log_probs = tokenizer.selector(vision_features)
        policy = sample_policy(log_probs, self.gumbel_temperature)
        partition = PatchPartition(policy > 0.5)
        merged_features = tokenizer.merger(vision_features, policy=policy).flatten(0, 1)
        positions = torch.arange(shape[1], device=policy.device).repeat(shape[0])
        every = tokenizer.quantizer(merged_features, positions)
        kept = (values.index_select(0, partition.kept_index) for values in (merged_features, *every))
        tokens = make_output(vision_features, log_probs, partition, *kept)
        return tokens, policy, every[1].unflatten(0, shape), every[2].unflatten(0, shape)
