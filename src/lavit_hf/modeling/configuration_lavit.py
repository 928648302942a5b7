# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Configurations of LaVIT (arXiv 2309.04669): the visual tokenizer, its feature decoder, and the whole model."""

from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec


Selection = Literal["topk", "sample", "argmax"]
ImageInputs = Literal["features", "codes"]

# The width of the merger's MLP against its hidden size in the released model (EVA-CLIP's own ratio).
MLP_RATIO = 4.3637


def _require_positive(config: PreTrainedConfig, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None and value <= 0:
            raise ValueError(f"{type(config).__name__}.{name} must be positive, got {value}.")


def _require_divisible(config: PreTrainedConfig, hidden_size: int) -> None:
    if hidden_size % config.num_attention_heads:
        raise ValueError(
            f"{type(config).__name__}.num_attention_heads must divide the hidden size {hidden_size}, "
            f"got {config.num_attention_heads}."
        )


class _OwnTypeConfig(PreTrainedConfig):
    """A configuration that is made from those of its own `model_type` alone, where transformers just warns."""

    @classmethod
    def from_dict(cls, config_dict, **kwargs):
        """Same as in `PreTrainedConfig`. Raises a `ValueError` for the configuration of another type of model."""
        model_type = config_dict.get("model_type", cls.model_type)
        if model_type != cls.model_type:
            raise ValueError(f"{cls.__name__} describes models of type {cls.model_type!r}, got one of {model_type!r}.")
        return super().from_dict(config_dict, **kwargs)


def check_vision_config(config: PreTrainedConfig) -> None:
    """Raises a `ValueError` for a configuration that describes no vision transformer of square images and patches."""
    for name in ("hidden_size", "num_attention_heads", "image_size", "patch_size"):
        try:
            value = getattr(config, name, None)
        except RuntimeError as error:  # what transformers raises for values that differ from layer to layer
            value = error
        if not isinstance(value, int):
            raise ValueError(
                f"vision_config must describe a vision transformer with an integer `{name}`, got "
                f"{type(config).__name__} with {name}={value!r}. Of a model with several towers, pass its "
                "vision_config."
            )


@strict
class LavitVisualTokenizerConfig(_OwnTypeConfig):
    r"""
    Configuration of a [`LavitVisualTokenizer`]. The defaults are the released model's.

    Args:
        vision_config (`dict` or `PreTrainedConfig`, *optional*):
            Any vision transformer of transformers with one square `image_size` and one `patch_size` (CLIP, SigLIP,
            DINOv2, DINOv3, ViT, ...). Default: the 40 layers of EVA-CLIP ViT-g/14 as a `Blip2VisionConfig`.
        selection (`"topk"`, `"sample"` or `"argmax"`, *optional*, defaults to `"topk"`):
            How patches are kept at inference. `"topk"`: the k patches of highest keep probability, where k is the
            rounded sum of the probabilities. `"sample"`: Gumbel noise, as the authors do. `"argmax"`: each on its own.
        num_merger_layers (`int`, *optional*, defaults to 12): Blocks of the merger.
        num_attention_heads (`int`, *optional*): Heads of the merger. Default: the vision tower's.
        intermediate_size (`int`, *optional*):
            Width of the merger's MLP. Default: `int(4.3637 * hidden_size)`, as in the release.
        hidden_act (`str`, *optional*, defaults to `"gelu"`): Activation of selector and merger.
        layer_norm_eps (`float`, *optional*, defaults to 1e-5): Epsilon of every LayerNorm outside of the vision tower.
        attention_smoothing (`float`, *optional*, defaults to 0.0):
            Smooths the merger's masked softmax while the selector trains: `(exp(a - m) * mask + eps / N) /
            (sum(exp(a - m) * mask) + eps)`, where `m` is the largest score of all N keys. The released model was
            trained with 1e-6. With 0.0 the softmax is exact, and training computes what inference computes. Inference
            is always exact, since it does not compute the keys that are not seen: with 1e-6 it differs from the
            smoothed softmax where such a key leads by far.
        codebook_size (`int`, *optional*, defaults to 16384): Number of codes.
        code_dim (`int`, *optional*, defaults to 32): Width of a code.
        keep_ratio (`float`, *optional*, defaults to 1/3): Fraction of patches that training aims to keep.
        keep_ratio_loss_weight (`float`, *optional*, defaults to 2.0): Its weight in the loss (paper, section 3.1).
        commitment_loss_weight (`float`, *optional*, defaults to 0.25): Weight of the pull of features to their codes.
        gumbel_temperature (`float`, *optional*, defaults to 1.0):
            The temperature of the relaxed keep decision in training, before any schedule.
        encode_positions (`bool`, *optional*, defaults to False):
            Adds a learned position to a kept patch's features before they become a code, and before a language model
            reads them. Small towers trained from nothing need it: without, they tell what is there, but not where.
            The release has none.
        feature_whitening (`float`, *optional*):
            Whitens the tower's features, so that what varies little counts as well. The share of their total variance
            that is added to that of every direction: with 0.002, what has much less fades. Small towers trained from
            nothing need it: nearly all that their features tell is how bright the whole image is. Default: features
            as they are, as in the release.
        reconstruction_norm_power (`float`, *optional*, defaults to 0.0):
            Power of the norm of its feature by which a patch weighs in the reconstruction loss. The norm of a whitened
            feature says how unusual it is: with 2, few patches of objects count as much as many of background.
            Default: all patches alike, as in the paper.
        codebook_decay (`float`, *optional*, defaults to 0.99):
            Decay of the moving averages that are the codebook's rows.
        dead_code_threshold (`float`, *optional*, defaults to 0.05):
            Codes used less than this share of the mean use start again beside those that err most.
        initializer_range (`float`, *optional*, defaults to 0.02): Standard deviation of new weights.

    Raises:
        StrictDataclassError, ValueError: a value out of its range, by name.
    """

    model_type = "lavit_visual_tokenizer"
    base_config_key = "visual_tokenizer_config"
    sub_configs_defaults = {
        "vision_config": SubConfigSpec(
            config_class=AutoConfig, model_type="blip_2_vision_model", init_kwargs={"num_hidden_layers": 40}
        )
    }

    vision_config: dict | PreTrainedConfig | None = None
    selection: Selection = "topk"
    num_merger_layers: int = 12
    num_attention_heads: int | None = None
    intermediate_size: int | None = None
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-5
    attention_smoothing: float | int = 0.0
    codebook_size: int = 16384
    code_dim: int = 32
    keep_ratio: float = 1 / 3
    keep_ratio_loss_weight: float | int = 2.0
    commitment_loss_weight: float | int = 0.25
    gumbel_temperature: float | int = 1.0
    encode_positions: bool = False
    feature_whitening: float | None = None
    reconstruction_norm_power: float | int = 0.0
    codebook_decay: float = 0.99
    dead_code_threshold: float | int = 0.05
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        check_vision_config(self.vision_config)
        if self.num_attention_heads is None:
            self.num_attention_heads = self.vision_config.num_attention_heads
        if self.intermediate_size is None:
            self.intermediate_size = int(MLP_RATIO * self.hidden_size)

    def to_dict(self) -> dict:
        values = super().to_dict()
        # transformers takes any class with "Tokenizer" in its name for one of text, which has a slow and a fast form.
        for auto_class, name in (values.get("auto_map") or {}).items():
            values["auto_map"][auto_class] = name if isinstance(name, str) else next(filter(None, name))
        return values

    @property
    def hidden_size(self) -> int:
        """Width of the vision features, the selector and the merger."""
        return self.vision_config.hidden_size

    @property
    def num_patches(self) -> int:
        """Patches per image, the most codes an image can have."""
        return (self.vision_config.image_size // self.vision_config.patch_size) ** 2

    def validate_values(self):
        """Raises `ValueError` for values that fit no model; transformers calls it on every configuration."""
        _require_positive(self, "num_merger_layers", "num_attention_heads", "intermediate_size", "layer_norm_eps")
        _require_positive(self, "codebook_size", "code_dim", "gumbel_temperature", "initializer_range")
        _require_divisible(self, self.hidden_size)
        if self.hidden_size % 4:
            raise ValueError(f"vision_config.hidden_size must be a multiple of 4, got {self.hidden_size}.")
        if not 0 < self.keep_ratio <= 1:
            raise ValueError(f"keep_ratio must be in (0, 1], got {self.keep_ratio}.")
        for name in ("keep_ratio_loss_weight", "commitment_loss_weight", "reconstruction_norm_power"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}.")
        if self.feature_whitening is not None and not 0 < self.feature_whitening < 1:
            raise ValueError(f"feature_whitening must be in (0, 1), got {self.feature_whitening}.")
        for name in ("attention_smoothing", "codebook_decay", "dead_code_threshold"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}.")


@strict
class LavitFeatureDecoderConfig(_OwnTypeConfig):
    r"""
    Configuration of a [`LavitFeatureDecoder`], which rebuilds the vision features of an image from its codes. The
    defaults are the released model's, without an output head: that of stage 1 training.

    Args:
        hidden_size (`int`, *optional*, defaults to 1408): Width of the blocks.
        num_hidden_layers (`int`, *optional*, defaults to 12): Blocks over the learned queries.
        num_attention_heads (`int`, *optional*, defaults to 16): Heads of every attention.
        intermediate_size (`int`, *optional*): Width of the MLP. Default: `int(4.3637 * hidden_size)`.
        hidden_act (`str`, *optional*, defaults to `"gelu"`): Activation of the MLP.
        layer_norm_eps (`float`, *optional*, defaults to 1e-5): Epsilon of every LayerNorm.
        feature_size (`int`, *optional*, defaults to 1408): Width of the vision features that are rebuilt.
        num_patches (`int`, *optional*, defaults to 256): Number of queries, and the most codes an image may have.
        codebook_size (`int`, *optional*, defaults to 16384): Number of codes.
        code_dim (`int`, *optional*, defaults to 32): Width of a code.
        condition_dims (`list[int]`, *optional*):
            Widths of the projections whose concatenation conditions the U-Net's cross-attention: `[768]` for the
            SD 1.5 kind, `[768, 1280]` for the SDXL kind, none in stage 1 training.
        pooled_condition_dim (`int`, *optional*): Width of the attention-pooled condition (1280 for the SDXL kind).
        num_unconditional_tokens (`int`, *optional*, defaults to 0):
            Length of the stored embeddings of the unconditional branch (77 for the SD 1.5 kind); 0: zeros are used.
        initializer_range (`float`, *optional*, defaults to 0.02): Standard deviation of new weights.

    Raises:
        StrictDataclassError, ValueError: a value out of its range, by name.
    """

    model_type = "lavit_feature_decoder"

    hidden_size: int = 1408
    num_hidden_layers: int = 12
    num_attention_heads: int = 16
    intermediate_size: int | None = None
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-5
    feature_size: int = 1408
    num_patches: int = 256
    codebook_size: int = 16384
    code_dim: int = 32
    condition_dims: list[int] | None = None
    pooled_condition_dim: int | None = None
    num_unconditional_tokens: int = 0
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if self.intermediate_size is None:
            self.intermediate_size = int(MLP_RATIO * self.hidden_size)

    def validate_values(self):
        """Raises `ValueError` for values that fit no model; transformers calls it on every configuration."""
        _require_positive(self, "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        _require_positive(self, "feature_size", "num_patches", "codebook_size", "code_dim", "pooled_condition_dim")
        _require_divisible(self, self.hidden_size)
        if self.condition_dims is not None and (not self.condition_dims or min(self.condition_dims) <= 0):
            raise ValueError(f"condition_dims must be positive widths or None, got {self.condition_dims}.")
        if self.pooled_condition_dim is not None and self.condition_dims is None:
            raise ValueError("pooled_condition_dim needs condition_dims, got None.")
        if self.num_unconditional_tokens < 0:
            raise ValueError(f"num_unconditional_tokens must not be negative, got {self.num_unconditional_tokens}.")

    @classmethod
    def from_visual_tokenizer_config(cls, config: LavitVisualTokenizerConfig, **kwargs) -> "LavitFeatureDecoderConfig":
        """A decoder shaped after `config`, the tokenizer whose codes it reads; `kwargs` override single values."""
        shape = {
            "hidden_size": config.hidden_size,
            "num_hidden_layers": config.num_merger_layers,
            "num_attention_heads": config.num_attention_heads,
            "intermediate_size": config.intermediate_size,
            "hidden_act": config.hidden_act,
            "layer_norm_eps": config.layer_norm_eps,
            "feature_size": config.hidden_size,
            "num_patches": config.num_patches,
            "codebook_size": config.codebook_size,
            "code_dim": config.code_dim,
        }
        return cls(**(shape | kwargs))


@strict
class LavitConfig(_OwnTypeConfig):
    r"""
    Configuration of a [`LavitForCausalLM`]: one language model over text and the codes of images.

    The vocabulary is text, then `[IMG]`, `[/IMG]`, the codes, and the image placeholder, which is never generated and
    never a label. One number, `image_start_token_id`, says where they lie; the other ids are properties. Rows behind
    the placeholder are padding.

    Args:
        text_config (`dict` or `PreTrainedConfig`, *optional*):
            Any causal language model of transformers, its `vocab_size` with all image ids. Default: Llama.
        visual_tokenizer_config (`dict` or `LavitVisualTokenizerConfig`, *optional*): The visual tokenizer.
        image_start_token_id (`int`, *optional*): Id of `[IMG]`. Default: `vocab_size - codebook_size - 3`.
        image_inputs (`"features"` or `"codes"`, *optional*, defaults to `"features"`):
            How images enter the language model where the call does not say it: as continuous features (to be read) or
            as their codes (in a drawing prompt).
        supervise_images (`bool`, *optional*, defaults to `True`): Whether the codes of given images are labels.
        tie_word_embeddings (`bool`, *optional*): Default: as in `text_config`.
        lm_head_bias (`bool`, *optional*, defaults to `False`): Whether the language model's head has a bias.
        initializer_range (`float`, *optional*, defaults to 0.02): Standard deviation of new weights.

    Raises:
        StrictDataclassError, ValueError: image ids that do not fit the vocabulary, by name.
    """

    model_type = "lavit"
    keys_to_ignore_at_inference = ["cache", "sequences", "labels"]
    sub_configs_defaults = {
        "text_config": SubConfigSpec(
            config_class=AutoConfig, model_type="llama", init_kwargs={"vocab_size": 32000 + 2 + 16384 + 1}
        ),
        "visual_tokenizer_config": SubConfigSpec(config_class=LavitVisualTokenizerConfig),
    }

    text_config: dict | PreTrainedConfig | None = None
    visual_tokenizer_config: dict | PreTrainedConfig | None = None
    image_start_token_id: int | None = None
    image_inputs: ImageInputs = "features"
    supervise_images: bool = True
    tie_word_embeddings: bool | None = None
    lm_head_bias: bool = False
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if self.image_start_token_id is None:
            self.image_start_token_id = self.text_config.vocab_size - self.codebook_size - 3
        if self.tie_word_embeddings is None:
            self.tie_word_embeddings = bool(getattr(self.text_config, "tie_word_embeddings", False))

    @property
    def vocab_size(self) -> int:
        """Rows of the vocabulary: text, `[IMG]`, `[/IMG]`, codes, placeholder, and padding if any."""
        return self.text_config.vocab_size

    @vocab_size.setter
    def vocab_size(self, value: int) -> None:
        self.text_config.vocab_size = value

    @property
    def codebook_size(self) -> int:
        """Number of codes."""
        return self.visual_tokenizer_config.codebook_size

    @property
    def num_patches(self) -> int:
        """Patches per image, the most codes an image can have."""
        return self.visual_tokenizer_config.num_patches

    @property
    def image_end_token_id(self) -> int:
        """Id of `[/IMG]`."""
        return self.image_start_token_id + 1

    @property
    def visual_token_offset(self) -> int:
        """Id of code 0; code k is token `visual_token_offset + k`."""
        return self.image_start_token_id + 2

    @property
    def image_token_id(self) -> int:
        """Id of the image placeholder."""
        return self.visual_token_offset + self.codebook_size

    def validate_values(self):
        """Raises `ValueError` for values that fit no model; transformers calls it on every configuration."""
        if self.image_start_token_id < 0 or self.image_token_id >= self.text_config.vocab_size:
            raise ValueError(
                f"text_config.vocab_size must hold [IMG], [/IMG], {self.codebook_size} codes and the image placeholder"
                f" from image_start_token_id={self.image_start_token_id} on, got {self.text_config.vocab_size}."
            )


__all__ = ["LavitConfig", "LavitFeatureDecoderConfig", "LavitVisualTokenizerConfig"]
