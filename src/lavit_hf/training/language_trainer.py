# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Stage 2 and fine-tuning: next-token prediction over text and codes, in which every label weighs the same."""

import torch
from transformers import TrainingArguments

from ..modeling.expansion_lavit import IGNORE_INDEX
from .mixture import LengthGroupedSampler, MixtureRows
from .trainer import LavitTrainer


class LavitForCausalLMTrainer(LavitTrainer):
    """
    Trains a [`LavitForCausalLM`] on batches of a [`LavitCollator`].

    The loss of a batch is the mean over its labels on all processes, counted when pictures have become codes: two
    processes do what one does with both their batches. The loss of accumulated batches is the mean of their losses.
    The log has the mean losses of text, `loss_on_text`, and of pictures with their marks, `loss_on_codes`.

    Args:
        model ([`LavitForCausalLM`] or a `peft` model of one), args (`TrainingArguments`):
            As of [`LavitTrainer`]. With `train_sampling_strategy="group_by_length"`, [`MixtureRows`] come as
            [`LengthGroupedSampler`] orders them.
        kwargs: As of [`LavitTrainer`]. With a dict as `eval_dataset` the log has all losses of each dataset in it.

    Raises:
        ValueError: label smoothing, which the loss does not know.
    """

    def __init__(self, model, args: TrainingArguments, **kwargs):
        if args.label_smoothing_factor:
            raise ValueError(f"label_smoothing_factor must be 0, got {args.label_smoothing_factor}.")
        if isinstance(kwargs.get("train_dataset"), torch.utils.data.IterableDataset):
            # The other way one process makes batches of them all and cuts them up, as if each row had one picture.
            args.accelerator_config.dispatch_batches = False
        super().__init__(model, args, **kwargs)
        self._wants_logits = False  # in evaluation, what the caller of `prediction_step` asks for
        # Of text and of pictures: the sum of losses and the number of labels since the last entry of the log.
        self._sums = {training: torch.zeros(2, 2, device=args.device) for training in (True, False)}

    def _get_train_sampler(self, train_dataset=None):
        rows = self.train_dataset if train_dataset is None else train_dataset
        if not isinstance(rows, MixtureRows):
            return super()._get_train_sampler(train_dataset)
        # They have a random order of their own, which does not depend on where a run goes on.
        if self.args.train_sampling_strategy != "group_by_length":
            return torch.utils.data.SequentialSampler(rows)
        batch_size = self.args.train_batch_size * self.args.world_size
        return LengthGroupedSampler(rows, batch_size, self.data_collator.estimate_length)

    def _get_eval_sampler(self, eval_dataset):
        if isinstance(eval_dataset, MixtureRows):
            return torch.utils.data.SequentialSampler(eval_dataset)
        return super()._get_eval_sampler(eval_dataset)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        # The labels alone say what is supervised, whatever the configuration.
        given = {**inputs, "supervise_images": True, "skip_logits": model.training or not self._wants_logits}
        loss, outputs = super().compute_loss(model, given, return_outputs=True)
        self._counted_labels = outputs["labels"]
        labels = outputs["labels"][:, 1:]
        labels = labels[labels != IGNORE_INDEX]
        if "token_losses" in outputs:
            is_picture = (labels >= self.model.config.image_start_token_id).long()
            self._sums[model.training][:, 0].index_add_(0, is_picture, outputs["token_losses"].detach())
            self._sums[model.training][:, 1] += is_picture.bincount(minlength=2)
        if model.training and self.accelerator.num_processes > 1:
            count = torch.tensor(float(len(labels)), device=loss.device)
            total = self.accelerator.reduce(count, reduction="sum")
            # Gradients are averaged over processes, as is the loss in the log.
            loss = loss * (len(labels) * self.accelerator.num_processes / total.clamp(min=1))
        return (loss, outputs) if return_outputs else loss

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        self._wants_logits = not prediction_loss_only
        loss, logits, labels = super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        # `compute_metrics` is given labels of the logits' length, in which images are their codes.
        return loss, logits, None if labels is None else self._counted_labels

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        for key in [key for key in logs if key.startswith("eval_") and key.endswith("_loss")]:
            if key != "eval_loss":  # of one of several datasets
                prefix = key.removesuffix("loss")
                logs |= {prefix + name: value for name, value in self._take_measured(training=False).items()}
        super().log(logs, start_time)

    def _take_measured(self, training: bool) -> dict[str, float]:
        measured = super()._take_measured(training)
        sums = self.accelerator.reduce(self._sums[training], reduction="sum").tolist()
        self._sums[training].zero_()
        for name, (total, count) in zip(("loss_on_text", "loss_on_codes"), sums, strict=True):
            if count:
                measured[name] = round(total / count, 5)
        return measured


__all__ = ["LavitForCausalLMTrainer"]
