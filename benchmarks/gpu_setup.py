# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The models that `benchmarks/gpu.py` measures, with random weights: at the release's sizes, and at toy size."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from timing import synchronize, time_in_turns
from torch import nn
from transformers import Blip2VisionConfig, LlamaConfig

from lavit_hf import (
    LavitConfig,
    LavitFeatureDecoder,
    LavitFeatureDecoderConfig,
    LavitForCausalLM,
    LavitImageDecoderPipeline,
    LavitVisualTokenizerConfig,
)


# The dense peak of the data sheets in FLOP/s, in bfloat16, by a part of the name of the GPU.
PEAKS = {"H200": 989e12, "H100 80GB HBM3": 989e12, "A100": 312e12}
NUM_TEXT_TOKENS = 32000


@dataclass(frozen=True)
class Sizes:
    """The sizes of the measured models and inputs. The defaults are those of the release."""

    vision: dict = field(default_factory=lambda: {"num_hidden_layers": 40})
    merger: dict = field(default_factory=lambda: {"num_merger_layers": 12})
    # Llama-2-7B, and a model whose optimizer states fit beside it on one GPU.
    text: dict = field(default_factory=dict)
    trained_text: dict = field(
        default_factory=lambda: {
            "hidden_size": 2048,
            "intermediate_size": 5504,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
        }
    )
    # The U-Net of SDXL.
    unet: dict = field(
        default_factory=lambda: {
            "sample_size": 128,
            "block_out_channels": (320, 640, 1280),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": (1, 2, 10),
            "attention_head_dim": (5, 10, 20),
            "cross_attention_dim": 2048,
            "use_linear_projection": True,
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        }
    )
    vae: dict = field(
        default_factory=lambda: {
            "sample_size": 1024,
            "block_out_channels": (128, 256, 512, 512),
            "down_block_types": ("DownEncoderBlock2D",) * 4,
            "up_block_types": ("UpDecoderBlock2D",) * 4,
            "layers_per_block": 2,
        }
    )
    conditions: tuple[int, int] = (768, 1280)
    pixels: int = 1024
    steps: int = 25
    codes: int = 85  # the average of an image
    tokenizer_batch: int = 64
    drawing_batches: tuple[int, ...] = (8, 32)
    reading_tokens: int = 64
    training_batch: int = 48  # images of stage 1; 64 do not fit into 80 GB
    training_tokens: tuple[int, int] = (8, 1024)  # sequences of stage 2, and their length
    decoder_batch: int = 4
    decoder_pixels: int = 512
    runs: int = 3


TOY = Sizes(
    vision={
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 28,
    },
    merger={"num_merger_layers": 1, "intermediate_size": 64, "codebook_size": 64},
    text={"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2},
    trained_text={"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2},
    unet={
        "sample_size": 8,
        "block_out_channels": (8, 16),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "attention_head_dim": 2,
        "cross_attention_dim": 16,
        "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": 36,
    },
    vae={
        "sample_size": 16,
        "block_out_channels": (8, 8),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "norm_num_groups": 4,
    },
    conditions=(4, 12),
    pixels=16,
    steps=2,
    codes=3,
    tokenizer_batch=2,
    drawing_batches=(2,),
    reading_tokens=3,
    training_batch=2,
    training_tokens=(2, 16),
    decoder_batch=2,
    decoder_pixels=16,
    runs=1,
)


@dataclass(frozen=True)
class Setup:
    """The sizes, and the device that a part runs on."""

    sizes: Sizes
    device: str

    @property
    def on_gpu(self) -> bool:
        return self.device.startswith("cuda")

    @property
    def backend(self) -> str:
        """The backend of compilation. Without a GPU, only the graph is captured."""
        return "inductor" if self.on_gpu else "eager"

    def new_model(self, model_class: type[nn.Module], config, dtype: torch.dtype = torch.bfloat16) -> nn.Module:
        """Makes a model with random weights on the device."""
        with torch.device(self.device):
            return model_class(config).to(dtype).eval()

    def tokenizer_config(self) -> LavitVisualTokenizerConfig:
        vision = Blip2VisionConfig(**self.sizes.vision, initializer_range=0.02)
        return LavitVisualTokenizerConfig(vision_config=vision, **self.sizes.merger)

    def new_lavit(self, text: dict) -> LavitForCausalLM:
        tokenizer = self.tokenizer_config()
        vocab_size = NUM_TEXT_TOKENS + tokenizer.codebook_size + 3
        config = LlamaConfig(vocab_size=vocab_size, max_position_embeddings=4096, **text)
        return self.new_model(LavitForCausalLM, LavitConfig(text_config=config, visual_tokenizer_config=tokenizer))

    def new_pipeline(self) -> LavitImageDecoderPipeline:
        sizes, pooled = self.sizes, self.sizes.conditions[-1]
        assert sum(sizes.conditions) == sizes.unet["cross_attention_dim"]
        decoder = LavitFeatureDecoderConfig.from_visual_tokenizer_config(
            self.tokenizer_config(), condition_dims=list(sizes.conditions), pooled_condition_dim=pooled
        )
        with torch.device(self.device):
            unet = UNet2DConditionModel(addition_embed_type="text_time", **sizes.unet).to(torch.bfloat16)
            vae = AutoencoderKL(scaling_factor=0.13025, **sizes.vae).to(torch.bfloat16)
        feature_decoder = self.new_model(LavitFeatureDecoder, decoder)
        pipeline = LavitImageDecoderPipeline(feature_decoder, unet, vae, DDIMScheduler())
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def random_pixels(self, batch_size: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        side = self.tokenizer_config().vision_config.image_size
        return torch.randn(batch_size, 3, side, side, device=self.device, dtype=dtype)

    def time(self, functions: dict[str, Callable]) -> dict[str, list[float]]:
        """Returns the seconds of each run of functions that take turns."""
        return time_in_turns(functions, self.sizes.runs, self.device)

    def peak_memory(self, function: Callable) -> float | None:
        """Returns the largest GB on the GPU while a function runs."""
        if not self.on_gpu:
            function()
            return None
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        function()
        synchronize(self.device)
        return torch.cuda.max_memory_allocated() / 1e9

    def peak_flops(self) -> float | None:
        """Returns the FLOP/s of the data sheet, if the GPU is a known one."""
        name = torch.cuda.get_device_name() if self.on_gpu else ""
        return next((peak for part, peak in PEAKS.items() if part in name), None)
