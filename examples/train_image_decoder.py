# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
Stage 3: trains a pixel decoder, which draws images from the codes of a visual tokenizer that stage 1 has trained.

    python examples/train_image_decoder.py examples/recipes/shapes/image_decoder.yaml
    python examples/train_image_decoder.py --visual_tokenizer my-tokenizer --output_dir my-decoder --max_steps 50000 \\
        --stable_diffusion stable-diffusion-v1-5/stable-diffusion-v1-5 \\
        --dataset_name imagefolder --data_dir images

The loss is in `lavit_hf/training/image_decoder.py`; `lavit_hf/training/image_decoder_trainer.py` averages the weights.
"""

from dataclasses import dataclass, field
from typing import Literal

from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from transformers import AutoImageProcessor, TrainingArguments, set_seed

from lavit_hf import LavitImageDecoderPipeline, LavitVisualTokenizer
from lavit_hf.data.code_files import codes_column
from lavit_hf.data.loading import column_names
from lavit_hf.modeling.arguments_lavit import check_integer, check_number
from lavit_hf.processing import new_image_processor
from lavit_hf.training import (
    DataArguments,
    ImageCollator,
    LavitImageDecoderForTraining,
    LavitImageDecoderTrainer,
    SamplesCallback,
    last_checkpoint,
    load_stage_one,
    new_image_decoder,
    parse_recipe,
    read_fields,
    run_script,
    show_image_decoder,
    spread_rows,
    write_model_card,
)


USAGE = """\
from lavit_hf import LavitImageDecoderPipeline

pipe = LavitImageDecoderPipeline.from_pretrained(path)
image = pipe(codes).images[0]
"""


@dataclass
class ModelArguments:
    visual_tokenizer: str = field(metadata={"help": "Folder or repository that stage 1 has written."})
    image_decoder: str | None = field(default=None, metadata={"help": "A trained pixel decoder to start from."})
    stable_diffusion: str | None = field(
        default=None, metadata={"help": "Stable Diffusion (XL), to start from its U-Net, VAE and scheduler."}
    )
    vae: str | None = field(default=None, metadata={"help": "Folder or repository of an AutoencoderKL."})
    unet: str = field(
        default="{}", metadata={"help": "JSON with fields of UNet2DConditionModel, for a new U-Net or to change it."}
    )
    scheduler: str = field(
        default="{}", metadata={"help": "JSON with fields of DDIMScheduler, for a new scheduler or to change it."}
    )
    train_feature_decoder: bool = field(
        default=False, metadata={"help": "Train the whole feature decoder, not only projections."}
    )
    attn_implementation: Literal["sdpa", "eager"] = field(
        default="sdpa",
        metadata={"help": "The attention of the U-Net in training. On a CPU, eager is faster for small images."},
    )
    condition_dropout: float = field(default=0.1, metadata={"help": "The probability to drop the codes of an image."})
    snr_gamma: float | None = field(default=None, metadata={"help": "Weigh timesteps by min(SNR, gamma), say 5."})
    ema_decay: float = field(default=0.999, metadata={"help": "The decay of the moving average of the weights."})
    num_sample_images: int = field(default=8, metadata={"help": "The number of images in samples/."})
    num_inference_steps: int = field(default=25, metadata={"help": "The default number of steps of the decoder."})
    guidance_scale: float = field(default=3.0, metadata={"help": "The default guidance scale of the decoder."})

    def __post_init__(self):
        check_integer("num_inference_steps", self.num_inference_steps, 1)
        check_number("guidance_scale", self.guidance_scale, 0)
        self.unet_fields = read_fields("unet", self.unet)
        self.scheduler_fields = read_fields("scheduler", self.scheduler)
        if self.image_decoder is None and self.vae is None and self.stable_diffusion is None:
            raise ValueError("A new pixel decoder needs a VAE: give --vae or --stable_diffusion, got neither.")

    @property
    def bases(self) -> dict[str, str | None]:
        """The parts that the pixel decoder starts from. A recipe may name parts beside a whole one."""
        if self.image_decoder is not None:
            return {"pixel decoder": self.image_decoder}
        return {"U-Net": self.stable_diffusion, "VAE": self.vae or self.stable_diffusion}


def load_components(arguments: ModelArguments) -> tuple[LavitImageDecoderPipeline, LavitVisualTokenizer]:
    if arguments.image_decoder is not None:
        tokenizer = LavitVisualTokenizer.from_pretrained(arguments.visual_tokenizer)
        return LavitImageDecoderPipeline.from_pretrained(arguments.image_decoder), tokenizer
    base, unet, scheduler = arguments.stable_diffusion, arguments.unet_fields, arguments.scheduler_fields
    if base is None:
        unet, scheduler = UNet2DConditionModel(**unet), DDIMScheduler(**scheduler)
    else:
        unet = UNet2DConditionModel.from_pretrained(base, subfolder="unet", **unet)
        scheduler = DDIMScheduler.from_pretrained(base, subfolder="scheduler", **scheduler)
    place = {"subfolder": "vae"} if arguments.vae is None else {}
    vae = AutoencoderKL.from_pretrained(arguments.vae or base, **place)
    stage_one = load_stage_one(arguments.visual_tokenizer)
    return new_image_decoder(stage_one, unet, vae, scheduler), stage_one.visual_tokenizer


def train(
    model_args: ModelArguments,
    data: DataArguments,
    args: TrainingArguments,
    model_class: type[LavitImageDecoderForTraining] = LavitImageDecoderForTraining,
) -> None:
    """Trains a pixel decoder with the loss of a `model_class`, and saves it."""
    checkpoint = last_checkpoint(args, model_args, data)  # before time is spent
    set_seed(args.seed)
    pipeline, tokenizer = load_components(model_args)
    pipeline.register_to_config(
        default_num_inference_steps=model_args.num_inference_steps, default_guidance_scale=model_args.guidance_scale
    )
    if model_args.attn_implementation == "eager":
        pipeline.unet.set_attn_processor(AttnProcessor())
    model = model_class(
        pipeline,
        tokenizer,
        condition_dropout=model_args.condition_dropout,
        snr_gamma=model_args.snr_gamma,
        train_feature_decoder=model_args.train_feature_decoder,
    )
    train_rows, eval_rows = data.load_images(args.seed)
    height, width = pipeline.default_size
    image_processors = {
        "images": new_image_processor(
            image_size={"height": height, "width": width}, image_mean=[0.5] * 3, image_std=[0.5] * 3
        )
    }
    codes = codes_column(data.image_column)
    if codes not in column_names(train_rows.dataset):  # then the visual tokenizer computes them
        image_processors["pixel_values"] = AutoImageProcessor.from_pretrained(model_args.visual_tokenizer)
        codes = None
    collator = ImageCollator(image_processors, data.image_column, codes)
    trainer = LavitImageDecoderTrainer(
        model,
        args,
        ema_decay=model_args.ema_decay,
        train_dataset=train_rows,
        eval_dataset=eval_rows,
        data_collator=collator,
    )
    samples = collator(spread_rows(eval_rows or train_rows, model_args.num_sample_images))
    images, codes = samples["images"], model.list_codes(samples)

    def draw_samples():
        with trainer.averaged_weights():
            return show_image_decoder(model, images, codes)

    trainer.add_callback(SamplesCallback(draw_samples))
    trainer.train(resume_from_checkpoint=checkpoint)
    if eval_rows is not None:
        trainer.evaluate()
    trainer.save_model()
    trainer.save_state()
    if trainer.is_world_process_zero():
        write_model_card(
            args.output_dir,
            title="LaVIT pixel decoder",
            description="Draws images from their codes: stage 3 of LaVIT (arXiv 2309.04669).",
            usage=USAGE,
            library_name="diffusers",
            base_models={"visual tokenizer": model_args.visual_tokenizer} | model_args.bases,
            dataset=data,
            trainer=trainer,
        )


def main():
    train(*parse_recipe(ModelArguments, DataArguments, TrainingArguments))


if __name__ == "__main__":
    run_script(main)
