# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Stage 2 and fine-tuning: next-token prediction over text and codes, in which every label has the same weight."""

from typing import Any

import torch
from peft import PeftModel
from torch.nn.functional import cross_entropy
from transformers import TrainingArguments
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.utils import logging

from ..modeling.labels_lavit import IGNORE_INDEX, count_labels
from ..modeling.packing_lavit import supports_packing
from .collator import LavitCollator
from .trainer import LavitTrainer


logger = logging.get_logger(__name__)

# Scales the sum of a batch's losses to about their mean, so that gradients in float16 do not overflow. A power of two
# rounds nothing.
SCALE = 2.0**-10


class LavitForCausalLMTrainer(LavitTrainer):
    """
    Trains a [`LavitForCausalLM`] on batches of a [`LavitCollator`].

    The loss of a step is the mean over all its labels, counted once images have become codes: accumulated batches, on
    any number of processes, do what one process does with one batch of all their rows. With accumulated batches, the
    number of labels is only known after the last one, so that gradients are sums until then. The log has the mean
    losses of text, `loss_on_text`, and of images with their markers, `loss_on_codes`, also for each dataset of a
    dictionary in `eval_dataset`. The loss of an evaluation is the mean over all its labels, whatever the batch size.

    If the language model keeps packed sequences apart, those of a batch are put side by side into few rows, once their
    images are expanded. It saves padding, and losses are those of separate rows up to rounding. Logits of an
    evaluation are of separate rows. The trainer tries it on a few tokens with the first batch, unless `packing` is set
    before. It packs neither with ZeRO 3, where packing has not been tested, nor with virtual tokens of `peft`.

    Args:
        model ([`LavitForCausalLM`] or a `PeftModel` of one): The model to train.
        args (`TrainingArguments`): The arguments of the training.
        kwargs: Same arguments as [`LavitTrainer`].

    Raises:
        ValueError: If `label_smoothing_factor` or `compute_loss_func` is set, which would not see the codes; if
            gradients are accumulated with DeepSpeed; if an adapter of `peft` in the visual tokenizer is trained, which
            would change codes; if the processor of a [`LavitCollator`] has another vocabulary; if rows have
            precomputed codes of another visual tokenizer.
    """

    # `Trainer` reads it, and would otherwise divide the loss by the number of accumulated batches.
    loss_is_scaled_for_ga = True
    current_gradient_accumulation_steps = 1  # until `Trainer` begins a step

    def __init__(self, model, args: TrainingArguments, **kwargs):
        if args.label_smoothing_factor:
            raise ValueError(f"label_smoothing_factor must be 0, got {args.label_smoothing_factor}.")
        if kwargs.get("compute_loss_func") is not None:
            raise ValueError(f"compute_loss_func must be None, got {kwargs['compute_loss_func']}.")
        super().__init__(model, args, **kwargs)
        if isinstance(self.data_collator, LavitCollator):
            self.data_collator.processor.check_vocabulary(self.model.config)
        if self.is_deepspeed_enabled and args.gradient_accumulation_steps > 1:
            raise ValueError(
                "With DeepSpeed, which hides gradients, gradient_accumulation_steps must be 1, got "
                f"{args.gradient_accumulation_steps}: raise per_device_train_batch_size, or use FSDP."
            )
        self.model_accepts_loss_kwargs = False  # `Trainer` need not count labels, which this class does
        self.packing: bool | None = None  # tried with the first batch
        self._wants_logits = False  # in evaluation, what the caller of `prediction_step` asks for

    def forget_batches(self) -> None:
        super().forget_batches()
        # Sums over the batches of the current step.
        self._num_labels = self._loss = torch.zeros((), device=self.args.device)

    @property
    def codebook(self) -> torch.Tensor:
        lavit = self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model
        return lavit.model.visual_tokenizer.quantizer.codebook

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        """
        Same arguments as `Trainer.training_step`. After the last of several accumulated batches, their gradients are
        divided by the number of their labels.

        Returns:
            `torch.FloatTensor` of shape `()`: The loss of the step after its last batch, 0 before.
        """
        loss = super().training_step(model, inputs)
        if self.current_gradient_accumulation_steps == 1:
            return loss
        self._loss = self._loss + loss
        if not self.accelerator.sync_gradients:
            return torch.zeros_like(loss)
        factor = self._take_weight_of_labels().item() / SCALE
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(factor)
        loss, self._loss = self._loss * factor, torch.zeros_like(loss)
        return loss

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """
        Same arguments as `Trainer.compute_loss`.

        Returns:
            `torch.FloatTensor` of shape `()`: In evaluation, the mean loss of the batch. In training, the sum of its
            losses, divided by the number of labels in all processes, or times `SCALE` if gradients are accumulated.
        """
        if self.packing is None:
            self.packing = self._supports_packing(model)
        # The labels alone decide what is supervised, whatever the configuration says.
        skips = model.training or not self._wants_logits
        given = {**inputs, "supervise_images": True, "skip_logits": skips, "pack": self.packing and skips}
        loss, outputs = super().compute_loss(model, given, return_outputs=True)
        self._expanded_labels = outputs["labels"]
        if model.training:
            num_labels = count_labels(outputs["labels"])
            self._num_labels = self._num_labels + num_labels
            weight = SCALE if self.current_gradient_accumulation_steps > 1 else self._take_weight_of_labels()
            loss = loss * num_labels * weight
        return (loss, outputs) if return_outputs else loss

    def _supports_packing(self, model) -> bool:
        """Returns whether all processes can pack sequences."""
        # The cache of a prefix stands before rows, not before sequences.
        prompts = getattr(getattr(self.model, "active_peft_config", None), "is_prompt_learning", False)
        if prompts or is_deepspeed_zero3_enabled() or self.args.n_gpu > 1:  # which would split the rows of the trial
            return False
        found = torch.tensor(supports_packing(model, self.model.config, self.args.device), device=self.args.device)
        if not (found := self.accelerator.gather(found[None]).all()):
            kind = self.model.config.text_config.model_type
            logger.warning_once(f"Batches are padded: a {kind!r} does not keep packed sequences apart.")
        return bool(found)

    def _take_weight_of_labels(self) -> torch.Tensor:
        """
        Returns the weight () of each label of the step, and begins the next step. It includes the number of processes,
        since gradients and losses are averaged over them.
        """
        total = self.accelerator.reduce(self._num_labels, reduction="sum")
        self._num_labels = torch.zeros_like(total)
        return self.accelerator.num_processes / total.clamp(min=1)

    def measure(self, outputs) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        labels, losses, config = outputs["labels"][:, 1:], outputs.get("token_losses"), self.model.config
        is_label = labels != IGNORE_INDEX
        labels = labels[is_label]
        if losses is None:
            losses = cross_entropy(outputs["logits"][:, :-1][is_label].float(), labels, reduction="none")
        is_code = (labels >= config.image_start_token_id) & (labels < config.image_token_id)
        measured = {
            "loss_on_text": ((losses * ~is_code).sum(), (~is_code).sum()),
            "loss_on_codes": ((losses * is_code).sum(), is_code.sum()),
        }
        if not self.model.training:  # where the loss of `Trainer` is a mean over batches
            measured["loss"] = (losses.sum(), is_label.sum())
        return measured

    def leave_out_rows(self, inputs: dict[str, Any], num_rows: int) -> dict[str, Any]:
        """Same as in [`LavitTrainer`]. Rows that are left out have no labels, since images are not in rows."""
        labels = inputs["labels"].clone()
        labels[num_rows:] = IGNORE_INDEX
        return inputs | {"labels": labels}

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Same arguments as `Trainer.prediction_step`. Labels have the length of the logits, with codes for images."""
        self._wants_logits = not prediction_loss_only
        loss, logits, labels = super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        return loss, logits, None if labels is None else self._expanded_labels
