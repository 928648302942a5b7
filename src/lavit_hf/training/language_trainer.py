# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Stage 2 and fine-tuning: next-token prediction over text and codes, in which every label weighs the same."""

import torch
from peft import PeftModel
from torch.nn.functional import cross_entropy
from transformers import TrainingArguments
from transformers.integrations.fsdp import is_fsdp_managed_module

from ..modeling.expansion_lavit import IGNORE_INDEX, count_labels, expand_placeholders, mask_labels
from ..modeling.freezing_lavit import find_trained_adapter, is_trained
from ..modeling.modeling_lavit import LavitForCausalLM
from .collator import LavitCollator
from .mixture import LengthGroupedSampler, MixtureRows
from .trainer import LavitTrainer


class LavitForCausalLMTrainer(LavitTrainer):
    """
    Trains a [`LavitForCausalLM`] on batches of a [`LavitCollator`].

    The loss of a step is the mean over all its labels, those of accumulated batches and of all processes alike,
    counted when images have become codes: batches that accumulate gradients, on any number of processes, do what one
    process does with one batch of all their rows. Accumulated batches are counted before the first of them is trained
    on, and the vision tower then runs on images with one placeholder; unless it is trained, it does not run on them
    again. FSDP and DeepSpeed do not run a part of the model alone: accumulated batches with images pass through the
    whole model once more, without gradients.
    The log has the mean losses of text, `loss_on_text`, and of images with their marks, `loss_on_codes`. The loss of
    an evaluation is the mean over all labels as well, whatever the batch size.

    Args:
        model ([`LavitForCausalLM`] or a `peft` model of one), args (`TrainingArguments`):
            As of [`LavitTrainer`]. With `train_sampling_strategy="group_by_length"`, [`MixtureRows`] come as
            [`LengthGroupedSampler`] orders them.
        kwargs: As of [`LavitTrainer`]. With a dict as `eval_dataset` the log has all losses of each dataset in it.

    Raises:
        ValueError: `label_smoothing_factor` or `compute_loss_func`, which the loss does not know; adapters of `peft`
            in the visual tokenizer that are trained, and would change codes; a [`LavitCollator`] whose processor has
            another vocabulary.
    """

    loss_is_scaled_for_ga = True

    def __init__(self, model, args: TrainingArguments, **kwargs):
        if args.label_smoothing_factor:
            raise ValueError(f"label_smoothing_factor must be 0, got {args.label_smoothing_factor}.")
        if kwargs.get("compute_loss_func") is not None:
            raise ValueError(f"compute_loss_func must be None, got {kwargs['compute_loss_func']}.")
        if isinstance(kwargs.get("train_dataset"), torch.utils.data.IterableDataset):
            # The other way one process makes batches of them all and cuts them up, as if each row had one picture.
            args.accelerator_config.dispatch_batches = False
        super().__init__(model, args, **kwargs)
        if isinstance(self.data_collator, LavitCollator):
            self.data_collator.processor.check_vocabulary(self.model.config)
        name = find_trained_adapter(self._unwrapped().model.visual_tokenizer)
        if name is not None:
            raise ValueError(
                "No adapter may be trained in the visual tokenizer, whose codes it would change, got one in "
                f"'visual_tokenizer.{name}': set exclude_modules=r'.*visual_tokenizer\\..*', or use "
                "lavit_hf.training.lora.lora_config(model)."
            )
        self._wants_logits = False  # in evaluation, what the caller of `prediction_step` asks for
        # Of text and of pictures: the sum of losses and the number of labels since the last entry of the log.
        self._sums = {training: torch.zeros(2, 2, device=args.device) for training in (True, False)}

    def _unwrapped(self) -> LavitForCausalLM:
        return self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model

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

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        samples, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if len(samples) < 2:
            return samples, None  # `compute_loss` counts the labels of the only batch, when these are known
        return samples, self._over_processes(sum(self._count_labels(batch) for batch in samples))

    @torch.no_grad()
    def _count_labels(self, batch: dict) -> torch.Tensor:
        """
        The number () int64 of a batch's labels once its images have become codes. Where the visual tokenizer has to
        run for that, `batch` is expanded, so that it does not run again.
        """
        images = batch.get("vision_features", batch.get("pixel_values"))
        labels, attention_mask, config = batch["labels"], batch.get("attention_mask"), self.model.config
        if images is None:
            return count_labels(mask_labels(config, labels, attention_mask))
        # These do not run a part of the model alone.
        if self.is_fsdp_enabled or self.is_deepspeed_enabled or is_fsdp_managed_module(self.model):
            return count_labels(self.model_wrapped(**batch, supervise_images=True, skip_logits=True)["labels"])
        input_ids = batch["input_ids"]
        is_image = input_ids == config.image_token_id
        if attention_mask is not None and attention_mask.ndim == 2:
            is_image &= attention_mask.bool()
        is_known = {"vision_features", "keep_mask"} <= batch.keys()
        if len(images) > 0 and is_image.sum() == len(images) and not is_known:
            labels, attention_mask = self._expand(batch)
        else:
            labels = labels.masked_fill(is_image & (labels != IGNORE_INDEX), config.visual_token_offset)
        return count_labels(mask_labels(config, labels, attention_mask))

    def _expand(self, batch: dict) -> tuple[torch.Tensor, torch.Tensor]:
        """Gives images one placeholder for each code; returns the labels (B, L) and attention mask (B, L)."""
        model = self._unwrapped()
        given = {name: batch[name] for name in ("pixel_values", "vision_features", "keep_mask") if name in batch}
        tokenized = model.model.tokenize_images(**given)
        sequences = expand_placeholders(
            model.config,
            batch["input_ids"],
            batch.get("attention_mask"),
            batch["labels"],
            tokenized.codes,
            tokenized.num_codes,
            position_ids=batch.get("position_ids"),
        )
        batch["input_ids"] = sequences.input_ids.masked_fill(sequences.image_mask, model.config.image_token_id)
        batch["attention_mask"], batch["labels"] = sequences.attention_mask, sequences.labels
        batch["keep_mask"] = tokenized.keep_mask
        if not is_trained(model.model.visual_tokenizer.vision_tower):
            batch["vision_features"] = tokenized.vision_features
            batch.pop("pixel_values", None)
        return sequences.labels, sequences.attention_mask

    def _over_processes(self, count: torch.Tensor) -> torch.Tensor:
        return self.accelerator.reduce(count.to(self.args.device), reduction="sum")

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        # The labels alone say what is supervised, whatever the configuration.
        given = {**inputs, "supervise_images": True, "skip_logits": model.training or not self._wants_logits}
        loss, outputs = super().compute_loss(model, given, return_outputs=True)
        self._counted_labels = outputs["labels"]
        labels = outputs["labels"][:, 1:]
        is_label = labels != IGNORE_INDEX
        labels, config = labels[is_label], self.model.config
        token_losses = outputs.get("token_losses")
        if token_losses is None:
            token_losses = cross_entropy(outputs["logits"][:, :-1][is_label].float(), labels, reduction="none")
        is_image = ((labels >= config.image_start_token_id) & (labels < config.image_token_id)).long()
        self._sums[model.training][:, 0].index_add_(0, is_image, token_losses.detach())
        self._sums[model.training][:, 1] += is_image.bincount(minlength=2)
        if model.training:
            if num_items_in_batch is None:
                num_items_in_batch = self._over_processes(count_labels(outputs["labels"]))
            # Gradients are averaged over processes, as is the loss in the log.
            loss = loss * (len(labels) * self.accelerator.num_processes / num_items_in_batch.clamp(min=1))
        return (loss, outputs) if return_outputs else loss

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        self._wants_logits = not prediction_loss_only
        loss, logits, labels = super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        # `compute_metrics` is given labels of the logits' length, in which images are their codes.
        return loss, logits, None if labels is None else self._counted_labels

    def _take_measured(self, training: bool) -> dict[str, float]:
        measured = super()._take_measured(training)
        sums = self.accelerator.reduce(self._sums[training], reduction="sum").tolist()
        self._sums[training].zero_()
        names = ["loss_on_text", "loss_on_codes"]
        if not training:  # in training, Trainer logs the loss itself
            names.append("loss")
            sums.append([sum(parts) for parts in zip(*sums, strict=True)])
        return measured | {
            name: round(total / count, 5) for name, (total, count) in zip(names, sums, strict=True) if count
        }


__all__ = ["LavitForCausalLMTrainer"]
