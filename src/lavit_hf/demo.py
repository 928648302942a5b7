# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""A small LaVIT with seeded random weights, and a picture to try it on: every part is real, none is trained."""

from importlib import resources

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, PreTrainedTokenizerFast, ViTConfig

from .diffusion import LavitImageDecoderPipeline
from .modeling import LavitFeatureDecoder, LavitFeatureDecoderConfig, LavitForCausalLM
from .processing import LavitImageProcessorPil, LavitProcessor, extend_tokenizer


IMAGE_SIZE = 64
# Several times the usual: with less, a small random model is nearly blind to what it is shown.
INITIALIZER_RANGE = 0.15
WORDS = """a an and the of on in is are to at left right above below between middle corner red green blue yellow
orange purple black white pink grey small large circle square triangle star cross ring background plain with no one
two three four picture shows there how many what which colour shape where yes question answer : ? . ,""".split()


def load_demo_image() -> Image.Image:
    """The embedded picture: four coloured shapes, RGB, 128 x 128."""
    with resources.files(__package__).joinpath("assets/scene.png").open("rb") as file:
        return Image.open(file).convert("RGB")


def _build_processor(codebook_size: int) -> LavitProcessor:
    vocabulary = {word: index for index, word in enumerate(["<unk>", "<s>", "</s>", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<unk>"
    )
    image_processor = LavitImageProcessorPil(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE})
    return LavitProcessor(image_processor, extend_tokenizer(tokenizer, codebook_size))


def _build_pipeline(model: LavitForCausalLM) -> LavitImageDecoderPipeline:
    width = 64
    config = LavitFeatureDecoderConfig.from_visual_tokenizer_config(
        model.config.visual_tokenizer_config,
        condition_dims=[width],
        num_unconditional_tokens=1,
        initializer_range=INITIALIZER_RANGE,
    )
    feature_decoder = LavitFeatureDecoder(config).eval()
    feature_decoder.codebook.copy_(model.model.visual_tokenizer.quantizer.codebook)
    unet = UNet2DConditionModel(
        sample_size=IMAGE_SIZE // 4,
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=width,
        attention_head_dim=8,
        norm_num_groups=8,
        layers_per_block=1,
    )
    vae = AutoencoderKL(
        block_out_channels=(16, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=8,
    )
    return LavitImageDecoderPipeline(feature_decoder, unet.eval(), vae.eval(), DDIMScheduler())


@torch.no_grad()
def build_demo(seed: int = 0) -> tuple[LavitForCausalLM, LavitProcessor, LavitImageDecoderPipeline]:
    """
    A whole LaVIT of about three million parameters: model, processor and pixel decoder, with random weights.

    Args:
        seed (`int`, *optional*, defaults to 0): The same seed gives the same weights.
    """
    codebook_size = 256
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        processor = _build_processor(codebook_size)
        vision = ViTConfig(
            hidden_size=96,
            intermediate_size=192,
            num_hidden_layers=3,
            num_attention_heads=6,
            image_size=IMAGE_SIZE,
            patch_size=8,
            initializer_range=INITIALIZER_RANGE,
        )
        text = LlamaConfig(
            vocab_size=processor.image_start_token_id,
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=512,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
            initializer_range=INITIALIZER_RANGE,
        )
        model = LavitForCausalLM.from_backbones(
            vision,
            text,
            codebook_size=codebook_size,
            num_merger_layers=2,
            initializer_range=INITIALIZER_RANGE,
        )
        # About a third of the patches kept, as training would have it.
        model.model.visual_tokenizer.selector.out_proj.bias[1] = 1.5
        return model.eval(), processor, _build_pipeline(model)


__all__ = ["build_demo", "load_demo_image"]
