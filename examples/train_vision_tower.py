# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
Trains a small vision tower from pictures alone, as a masked autoencoder (He et al., arXiv 2111.06377), with
transformers' own classes. Only needed where no pretrained vision model fits: LaVIT takes any.

    python examples/train_vision_tower.py examples/recipes/shapes/vision_tower.yaml
"""

import json
from dataclasses import dataclass, field

from transformers import TrainingArguments, ViTConfig, ViTMAEConfig, ViTMAEForPreTraining, ViTModel

from lavit_hf import LavitImageProcessorPil
from lavit_hf.training import (
    CurvesCallback,
    DataArguments,
    LavitTrainer,
    PictureCollator,
    last_checkpoint,
    load_eval_rows,
    load_training_rows,
    parse_recipe,
)


@dataclass
class ModelArguments:
    config: str = field(default="{}", metadata={"help": "JSON with the fields of the ViTMAEConfig."})


def main():
    model_args, data, args = parse_recipe(ModelArguments, DataArguments, TrainingArguments)
    config = ViTMAEConfig(**json.loads(model_args.config))
    processor = LavitImageProcessorPil(
        size={"height": config.image_size, "width": config.image_size}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    model = ViTMAEForPreTraining(config)
    trainer = LavitTrainer(
        model,
        args,
        train_dataset=load_training_rows(data),
        eval_dataset=load_eval_rows(data),
        data_collator=PictureCollator(processor, data.image_column),
        callbacks=[CurvesCallback()],
    )
    trainer.train(resume_from_checkpoint=last_checkpoint(args))

    # The encoder is a plain ViT; what masks and rebuilds stays behind.
    names = set(ViTConfig().to_dict()) - {"model_type", "architectures", "transformers_version"}
    tower = ViTModel(
        ViTConfig(**{name: value for name, value in config.to_dict().items() if name in names}),
        add_pooling_layer=False,
    )
    tower.load_state_dict(trainer.accelerator.unwrap_model(trainer.model).vit.state_dict())
    if trainer.is_world_process_zero():
        tower.save_pretrained(args.output_dir)
        processor.save_pretrained(args.output_dir)


if __name__ == "__main__":
    main()
