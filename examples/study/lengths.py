# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Numbers of tokens that the selector does not decide: the same for all images, or random ones in training."""

import torch
from torch import nn

from lavit_hf import LavitForCausalLM
from lavit_hf.modeling import LavitConfig, LavitVisualTokenizerConfig


def set_num_codes(config: LavitVisualTokenizerConfig, num_codes: str | None) -> None:
    """Sets the number of codes of all images to `num_codes`, a number or "all"; leaves it as it is for None."""
    if num_codes is not None:
        config.num_codes = config.num_patches if num_codes == "all" else int(num_codes)


def draw_budgets(model: nn.Module) -> None:
    """
    Makes the visual tokenizer of a model keep a random number of each image's patches, from 1 to all of them, while
    the model is in training mode: nested dropout (Rippel et al., arXiv 1402.0915) over the patches in the order in
    which the selector ranks them. While stage 1 trains the selector, the decisions of the selector hold, since stage 1
    then calls the parts of the visual tokenizer.

    Args:
        model (`nn.Module`): A model of stage 1, or the inner model of stage 2.
    """

    def draw(tokenizer: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        if not model.training or kwargs.get("keep_mask") is not None:
            return None
        features = kwargs.get("vision_features")
        num_images = len(args[0] if features is None else features)
        return args, kwargs | {"num_codes": torch.randint(1, tokenizer.config.num_patches + 1, (num_images,))}

    model.visual_tokenizer.register_forward_pre_hook(draw, with_kwargs=True)


class AnyLengthForCausalLM(LavitForCausalLM):
    """
    Learns from images of random numbers of tokens, so that no number is new to it, and none tells what is in an image.

    Args:
        config ([`LavitConfig`]): The configuration.
        args: Same as in [`LavitForCausalLM`].
    """

    def __init__(self, config: LavitConfig, *args):
        super().__init__(config, *args)
        draw_budgets(self.model)
