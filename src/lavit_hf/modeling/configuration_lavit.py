# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Configurations of LaVIT (arXiv 2309.04669): the visual tokenizer, its feature decoder, and the whole model."""

from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .arguments_lavit import check_fields, check_number, check_vision_config


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
    """
    A configuration that refuses the values of another `model_type`, about which transformers only warns, and leaves
    the kernels of its parts, which a model may use already.
    """

    def __post_init__(self, **kwargs):
        # transformers gives one value to all parts, and of a dict only what it has.
        super().__post_init__(**{"attn_implementation": {}, "experts_implementation": {}} | kwargs)

    @classmethod
    def from_dict(cls, config_dict, **kwargs):
        """
        Same as in `PreTrainedConfig`. Raises a `ValueError` for the configuration of another type of model, and for
        values in `kwargs` that fit no model, which transformers sets unchecked.
        """
        model_type = config_dict.get("model_type", cls.model_type)
        if model_type != cls.model_type:
            raise ValueError(f"{cls.__name__} describes models of type {cls.model_type!r}, got one of {model_type!r}.")
        parts = {name: value for name, value in kwargs.items() if name in cls.sub_configs and isinstance(value, dict)}
        loaded = super().from_dict(config_dict, **kwargs)
        config = loaded[0] if isinstance(loaded, tuple) else loaded
        for name, fields in parts.items():
            check_fields(name, fields, type(getattr(config, name)))
        config.validate_values()
        return loaded


@strict
class LavitVisualTokenizerConfig(_OwnTypeConfig):
    r"""
    Configuration of a [`LavitVisualTokenizer`]. The defaults are the released model's.

    Args:
        vision_config (`dict` or `PreTrainedConfig`, *optional*):
            Any vision transformer of transformers with one square `image_size` and one `patch_size` (CLIP, SigLIP,
            DINOv2, DINOv3, ViT, ...). Default: the 40 layers of EVA-CLIP ViT-g/14 as a `Blip2VisionConfig`.
        selection (`"topk"`, `"sample"` or `"argmax"`, *optional*, defaults to `"topk"`):
            How patches are kept at inference. `"topk"` keeps the k patches with the highest keep probabilities, where
            k is the rounded sum of all probabilities. `"sample"` adds Gumbel noise, as the authors do. `"argmax"`
            decides each patch by its own probability.
        num_codes (`int`, *optional*):
            A number of codes that all images have, instead of one that follows the content: the patches that the
            selection ranks highest.
        max_codes (`int`, *optional*): The largest number of codes of an image.
        keep_scale (`float`, *optional*, defaults to 1.0):
            Factor of the number of patches that the selection keeps. With 0.5, images have about half as many codes.
        num_merger_layers (`int`, *optional*, defaults to 12): Number of blocks of the merger.
        num_attention_heads (`int`, *optional*): Number of heads of the merger. By default, that of the vision tower.
        intermediate_size (`int`, *optional*):
            Width of the MLPs of the merger. By default, `int(4.3637 * hidden_size)`, as in the release.
        hidden_act (`str`, *optional*, defaults to `"gelu"`): Activation of selector and merger.
        layer_norm_eps (`float`, *optional*, defaults to 1e-5): Epsilon of all LayerNorms outside of the vision tower.
        attention_smoothing (`float`, *optional*, defaults to 0.0):
            Smoothing of the masked softmax of the merger while the selector is trained, which is `(exp(a - m) * mask +
            eps / N) / (sum(exp(a - m) * mask) + eps)`, where `m` is the largest of all N scores. The released model
            was trained with 1e-6. With 0.0, the softmax is exact, and training and inference compute the same.
            Inference is always exact, since it does not compute invisible keys: with 1e-6, it differs from training if
            the score of an invisible key is far larger than others.
        codebook_size (`int`, *optional*, defaults to 16384): Number of codes.
        code_dim (`int`, *optional*, defaults to 32): Width of the rows of the codebook.
        keep_ratio (`float`, *optional*, defaults to 1/3): Fraction of patches that training aims to keep.
        keep_ratio_loss_weight (`float`, *optional*, defaults to 2.0):
            Weight of the loss of the kept fraction (paper, section 3.1).
        commitment_loss_weight (`float`, *optional*, defaults to 0.25):
            Weight of the loss that pulls vectors to the codebook rows of their codes.
        gumbel_temperature (`float`, *optional*, defaults to 1.0):
            Temperature of the relaxed decision of the selector in training, at the start of any schedule.
        codebook_decay (`float`, *optional*, defaults to 0.99):
            Decay of the moving averages that are the rows of the codebook.
        dead_code_threshold (`float`, *optional*, defaults to 0.05):
            Codes that are used less than this share of the mean use restart beside codes with large errors.
        initializer_range (`float`, *optional*, defaults to 0.02): Standard deviation of new weights.

        > Values for vision towers that are trained from nothing. They are not in the paper, and off in the release.

        encode_positions (`bool`, *optional*, defaults to `False`):
            Whether learned position embeddings are added to the features of kept patches before quantization and
            before the projection for the language model. Without them, codes of a small vision tower tell what a
            patch shows, but not where it is.
        feature_whitening (`float`, *optional*):
            Share of the total variance that is added to the variance of each direction when the features of the
            vision tower are whitened. With 0.002, directions with much less variance than that fade. Without
            whitening, the features of a small vision tower tell little more than the brightness of the image. By
            default, features are not whitened.
        reconstruction_norm_power (`float`, *optional*, defaults to 0.0):
            Power of the norm of the feature of a patch by which the patch is weighted in the reconstruction loss. A
            whitened feature has a large norm if it is unusual: with 2, a few patches of objects count as much as many
            patches of background. With 0.0, all patches have equal weights.

    Raises:
        StrictDataclassError, ValueError: If a value is out of its range.
    """

    model_type = "lavit_visual_tokenizer"
    keys_to_ignore_at_inference = ["tokenizer_output"]
    base_config_key = "visual_tokenizer_config"
    sub_configs_defaults = {
        "vision_config": SubConfigSpec(
            config_class=AutoConfig, model_type="blip_2_vision_model", init_kwargs={"num_hidden_layers": 40}
        )
    }

    vision_config: dict | PreTrainedConfig | None = None
    selection: Selection = "topk"
    num_codes: int | None = None
    max_codes: int | None = None
    keep_scale: float | int = 1.0
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
    codebook_decay: float = 0.99
    dead_code_threshold: float | int = 0.05
    initializer_range: float = 0.02
    # For vision towers that are trained from nothing.
    encode_positions: bool = False
    feature_whitening: float | None = None
    reconstruction_norm_power: float | int = 0.0

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        check_vision_config(self.vision_config)
        if self.num_attention_heads is None:
            self.num_attention_heads = self.vision_config.num_attention_heads
        if self.intermediate_size is None:
            self.intermediate_size = int(MLP_RATIO * self.hidden_size)

    def to_dict(self) -> dict:
        values = super().to_dict()
        # transformers takes any class with "Tokenizer" in its name for a tokenizer of text, for which it writes a pair
        # of a slow and a fast class.
        for auto_class, name in (values.get("auto_map") or {}).items():
            values["auto_map"][auto_class] = name if isinstance(name, str) else next(filter(None, name))
        return values

    @property
    def hidden_size(self) -> int:
        """Width of vision features, selector and merger."""
        return self.vision_config.hidden_size

    @property
    def num_patches(self) -> int:
        """Number of patches of an image, which is the largest number of codes."""
        return (self.vision_config.image_size // self.vision_config.patch_size) ** 2

    def validate_values(self):
        """Raises a `ValueError` for values that fit no model. transformers calls it for every new configuration."""
        _require_positive(self, "num_merger_layers", "num_attention_heads", "intermediate_size", "layer_norm_eps")
        _require_positive(self, "codebook_size", "code_dim", "gumbel_temperature", "initializer_range")
        _require_divisible(self, self.hidden_size)
        if self.hidden_size % 4:
            raise ValueError(f"vision_config.hidden_size must be a multiple of 4, got {self.hidden_size}.")
        if not 0 < self.keep_ratio <= 1:
            raise ValueError(f"keep_ratio must be in (0, 1], got {self.keep_ratio}.")
        for name in ("num_codes", "max_codes"):
            if (value := getattr(self, name)) is not None and not 1 <= value <= self.num_patches:
                raise ValueError(f"{name} must be 1 to the number of patches, {self.num_patches}, got {value}.")
        if self.num_codes is not None and self.keep_scale != 1:
            raise ValueError(f"num_codes={self.num_codes} does not go with keep_scale={self.keep_scale}: set either.")
        if self.num_codes is not None and self.max_codes is not None:
            raise ValueError(f"num_codes={self.num_codes} does not go with max_codes={self.max_codes}: set either.")
        for name in ("keep_scale", "keep_ratio_loss_weight", "commitment_loss_weight", "reconstruction_norm_power"):
            check_number(name, getattr(self, name), 0)
        if self.feature_whitening is not None and not 0 < self.feature_whitening < 1:
            raise ValueError(f"feature_whitening must be in (0, 1), got {self.feature_whitening}.")
        for name in ("attention_smoothing", "codebook_decay", "dead_code_threshold"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}.")


@strict
class LavitFeatureDecoderConfig(_OwnTypeConfig):
    r"""
    Configuration of a [`LavitFeatureDecoder`], which rebuilds the vision features of an image from its codes. The
    defaults are those of stage 1 of the released model, without an output head.

    Args:
        hidden_size (`int`, *optional*, defaults to 1408): Width of the blocks.
        num_hidden_layers (`int`, *optional*, defaults to 12): Number of blocks.
        num_attention_heads (`int`, *optional*, defaults to 16): Number of heads of all attentions.
        intermediate_size (`int`, *optional*): Width of the MLPs. By default, `int(4.3637 * hidden_size)`.
        hidden_act (`str`, *optional*, defaults to `"gelu"`): Activation of the MLPs.
        layer_norm_eps (`float`, *optional*, defaults to 1e-5): Epsilon of all LayerNorms.
        feature_size (`int`, *optional*, defaults to 1408): Width of the rebuilt vision features.
        num_patches (`int`, *optional*, defaults to 256):
            Number of learned queries, which is the largest number of codes of an image.
        codebook_size (`int`, *optional*, defaults to 16384): Number of codes.
        code_dim (`int`, *optional*, defaults to 32): Width of the rows of the codebook.
        condition_dims (`list[int]`, *optional*):
            Widths of the projections whose concatenation conditions the cross-attention of the U-Net, `[768]` for the
            SD 1.5 kind and `[768, 1280]` for the SDXL kind. None in stage 1.
        pooled_condition_dim (`int`, *optional*): Width of the attention-pooled condition, 1280 for the SDXL kind.
        num_unconditional_tokens (`int`, *optional*, defaults to 0):
            Length of the stored embeddings of the unconditional branch, 77 for the SD 1.5 kind. With 0, the
            unconditional branch gets zeros.
        initializer_range (`float`, *optional*, defaults to 0.02): Standard deviation of new weights.

    Raises:
        StrictDataclassError, ValueError: If a value is out of its range.
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
        """Raises a `ValueError` for values that fit no model. transformers calls it for every new configuration."""
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
        """Returns a configuration that fits the `config` of a visual tokenizer. `kwargs` override single values."""
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
    Configuration of a [`LavitForCausalLM`], a language model over text and the codes of images.

    The vocabulary consists of text, `[IMG]`, `[/IMG]`, the codes, and the image placeholder, which is never generated
    and never a label. `image_start_token_id` says where `[IMG]` is, and the other ids follow from it. Rows behind the
    placeholder are padding.

    Args:
        text_config (`dict` or `PreTrainedConfig`, *optional*):
            Any causal language model of transformers, with a `vocab_size` that includes all ids of images. By
            default, a Llama.
        visual_tokenizer_config (`dict` or `LavitVisualTokenizerConfig`, *optional*): The visual tokenizer.
        image_start_token_id (`int`, *optional*): Id of `[IMG]`. By default, `vocab_size - codebook_size - 3`.
        image_inputs (`"features"` or `"codes"`, *optional*, defaults to `"features"`):
            How images enter the language model by default: as continuous features, to be read, or as their codes, in
            the prompt of a drawing.
        supervise_images (`bool`, *optional*, defaults to `True`): Whether the codes of given images are labels.
        tie_word_embeddings (`bool`, *optional*): Whether the head has the weights of the embeddings. By default, as in
            `text_config`.
        lm_head_bias (`bool`, *optional*, defaults to `False`): Whether the head has a bias.
        initializer_range (`float`, *optional*, defaults to 0.02): Standard deviation of new weights.

    Raises:
        StrictDataclassError, ValueError: If the ids of images do not fit the vocabulary.
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
        """Number of rows of the vocabulary: text, `[IMG]`, `[/IMG]`, codes, placeholder, and padding if any."""
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
        """Number of patches of an image, which is the largest number of codes."""
        return self.visual_tokenizer_config.num_patches

    @property
    def image_end_token_id(self) -> int:
        """Id of `[/IMG]`."""
        return self.image_start_token_id + 1

    @property
    def visual_token_offset(self) -> int:
        """Id of code 0. Code k has the id `visual_token_offset + k`."""
        return self.image_start_token_id + 2

    @property
    def image_token_id(self) -> int:
        """Id of the image placeholder."""
        return self.visual_token_offset + self.codebook_size

    def validate_values(self):
        """Raises a `ValueError` for values that fit no model. transformers calls it for every new configuration."""
        if self.image_start_token_id < 0 or self.image_token_id >= self.text_config.vocab_size:
            raise ValueError(
                f"text_config.vocab_size must hold [IMG], [/IMG], {self.codebook_size} codes and the image placeholder"
                f" from image_start_token_id={self.image_start_token_id} on, got {self.text_config.vocab_size}."
            )
