# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The base class of all models of LaVIT."""

from transformers import PreTrainedModel

from .freezing_lavit import LavitFreezingMixin
from .optional_mixins_lavit import LavitPublishingMixin
from .precision_lavit import LavitFloat32Mixin


class LavitPreTrainedModel(LavitPublishingMixin, LavitFreezingMixin, LavitFloat32Mixin, PreTrainedModel):
    """Base class of all models of LaVIT: frozen parts, float32 tensors, saving and publishing."""

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
        """Returns False, as for the models of transformers, since `_init_weights` leaves loaded weights alone."""
        # If it were True, transformers would not initialize the buffers that a backbone fills in its children, as
        # Falcon-H1 does.
        return False
