# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Computes the gradients of one batch, shared by as many processes as there are sizes. The first one saves them."""

import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from train_vae import VaeForTraining, VaeTrainer
from train_vision_tower import LabelledMAE, TowerTrainer
from transformers import Trainer, TrainingArguments, ViTMAEConfig

from lavit_hf.modeling.distributed_lavit import process_index_and_count
from lavit_hf.training import (
    LavitImageDecoderTrainer,
    LavitTrainer,
    LavitVisualTokenizerTrainer,
    MixtureRows,
    SequenceArguments,
    run_script,
)

from ..tiny import loosen, pictures
from .small import EVERY_KIND, VAE, make_dataset
from .small_image_decoder import make_collator, make_decoder, make_rows
from .small_pretrain import make_trainer
from .test_tokenizer_training import make_model


NUM_ROWS = 6


def stage_one(args: TrainingArguments, rows: slice, **attributes):
    model = make_model(reconstruction_norm_power=2)
    for name, value in attributes.items():
        setattr(model, name, value)
    return LavitVisualTokenizerTrainer(model, args), {"pixel_values": pictures(NUM_ROWS)[rows]}


def stage_two(args: TrainingArguments, rows: slice, kinds: list[str]):
    # Rows of many lengths, some without an image.
    mixture = MixtureRows(make_dataset(), SequenceArguments(kinds))
    trainer = make_trainer(args.output_dir, rows=mixture)
    return trainer, trainer.data_collator([mixture[index] for index in range(NUM_ROWS)[rows]])


def stage_two_accumulated(args: TrainingArguments, rows: slice):
    """In several processes, two batches of unequal sizes. If there is only one row, one batch has no label."""
    trainer, whole = stage_two(args, rows, EVERY_KIND)
    if rows.stop - rows.start == NUM_ROWS:
        return trainer, [whole]
    first = slice(rows.start, rows.start + 1)
    rest = slice(first.stop, rows.stop) if rows.stop > first.stop else first
    batches = [stage_two(args, part, EVERY_KIND)[1] for part in (first, rest)]
    if rest == first:
        batches[1]["labels"].fill_(-100)
    return trainer, batches


def stage_three(args: TrainingArguments, rows: slice, **settings):
    torch.manual_seed(0)
    trainer = LavitImageDecoderTrainer(make_decoder(condition_dropout=0.4, **settings), args)
    return trainer, make_collator()(make_rows(NUM_ROWS)[rows])


def vae(args: TrainingArguments, rows: slice):
    torch.manual_seed(0)
    model = VaeForTraining(AutoencoderKL(**VAE), kl_weight=0.1)
    return VaeTrainer(model, args), {"pixel_values": pictures(NUM_ROWS)[rows, :, ::2, ::2].clamp(-1, 1)}


def vision_tower(args: TrainingArguments, rows: slice):
    torch.manual_seed(0)
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 32}
    decoder = {f"decoder_{name}": value for name, value in size.items()}
    config = ViTMAEConfig(
        **size, **decoder, image_size=32, patch_size=8, num_annotation_labels=5, label_loss_weight=2.0
    )
    model = loosen(LabelledMAE(config), 0.1)
    annotations = torch.randint(5, (NUM_ROWS, 16, 16), generator=torch.Generator().manual_seed(0))
    return TowerTrainer(model, args), {
        "pixel_values": pictures(NUM_ROWS)[rows],
        "annotations": annotations[rows],
    }


CASES = {
    "stage_one": lambda *given: stage_one(*given),
    "stage_one_before_codes": lambda *given: stage_one(*given, quantize=False),
    "stage_one_with_frozen_selector": lambda *given: stage_one(*given, freeze_selector=True),
    "stage_two": lambda *given: stage_two(*given, EVERY_KIND),
    "stage_two_text": lambda *given: stage_two(*given, ["text=1", "draw=1"]),
    "stage_two_accumulated": stage_two_accumulated,
    "stage_three": lambda *given: stage_three(*given),
    "stage_three_whole": lambda *given: stage_three(*given, train_feature_decoder=True, snr_gamma=5.0),
    "vae": vae,
    "vision_tower": vision_tower,
}


def compute_gradients(case: str, folder: Path, sizes: list[int]) -> dict[str, torch.Tensor]:
    """Returns the loss, under `loss`, and the gradient of each parameter for this process's rows of the batch."""
    # This starts the process group.
    args = TrainingArguments(str(folder), use_cpu=True, report_to="none", disable_tqdm=True, save_strategy="no")
    index, _ = process_index_and_count()
    start = sum(sizes[:index])
    trainer, batches = CASES[case](args, slice(start, start + sizes[index]))
    batches = batches if isinstance(batches, list) else [batches]
    assert isinstance(trainer, LavitTrainer | Trainer)
    model = trainer.accelerator.prepare(trainer.model).train()
    torch.manual_seed(1)
    trainer.current_gradient_accumulation_steps = len(batches)
    loss = torch.zeros(())
    for number, batch in enumerate(batches, 1):
        trainer.accelerator.gradient_state._set_sync_gradients(number == len(batches))
        loss += trainer.training_step(model, batch)
    loss = trainer.accelerator.reduce(loss, reduction="mean")
    gradients = {name: p.grad for name, p in trainer.model.named_parameters() if p.requires_grad}
    return gradients | {"loss": loss}


def main():
    folder, sizes = Path(sys.argv[1]), [int(size) for size in sys.argv[2].split(",")]
    found = {}
    for case in CASES:
        found[case] = compute_gradients(case, folder, sizes)
        assert process_index_and_count()[1] == len(sizes)
    if process_index_and_count()[0] == 0:
        torch.save(found, folder / "gradients.pt")


if __name__ == "__main__":
    run_script(main)
