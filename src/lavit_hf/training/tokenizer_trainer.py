# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Stage 1, the visual tokenizer: when the codebook begins, when the selector is held, and what is looked at."""

from dataclasses import dataclass, field

import torch
from transformers import TrainerCallback, TrainingArguments

from ..modeling import LavitVisualTokenizerForPreTraining
from .trainer import LavitTrainer


@dataclass
class TokenizerSchedule:
    """What changes while the visual tokenizer trains, in optimizer steps."""

    quantize_from: int = field(
        default=0, metadata={"help": "First step with codes; before, features are rebuilt from continuous vectors."}
    )
    freeze_selector_from: int | None = field(
        default=None, metadata={"help": "First step at which the selector is held: patches are kept as at inference."}
    )
    freeze_selector_until: int | None = field(default=None, metadata={"help": "First step at which it moves again."})
    final_gumbel_temperature: float | None = field(
        default=None, metadata={"help": "Where the temperature arrives at the last step, geometrically."}
    )
    codebook_start_vectors: int = field(
        default=20, metadata={"help": "Vectors per code that the k-means start of the codebook sees."}
    )

    def selector_is_frozen(self, step: int) -> bool:
        """Whether the selector is held at optimizer step `step`."""
        if self.freeze_selector_from is None or step < self.freeze_selector_from:
            return False
        return self.freeze_selector_until is None or step < self.freeze_selector_until

    def temperature(self, start: float, progress: float) -> float:
        """The Gumbel temperature that began at `start`, after `progress` of the steps, 0 to 1."""
        if self.final_gumbel_temperature is None:
            return start
        return start * (self.final_gumbel_temperature / start) ** progress


class _ScheduleCallback(TrainerCallback):
    """Sets the model as the schedule says for the coming step, from the step's number alone: a resumed run agrees."""

    def __init__(self, trainer: "LavitVisualTokenizerTrainer", schedule: TokenizerSchedule):
        self.trainer, self.schedule = trainer, schedule

    def on_train_begin(self, args, state, control, **kwargs):
        if state.global_step == 0 and self.trainer.tokenizer.visual_tokenizer.whitening is not None:
            self.trainer.start_whitening()

    def on_step_begin(self, args, state, control, **kwargs):
        model, step = self.trainer.tokenizer, state.global_step
        model.freeze_selector = self.schedule.selector_is_frozen(step)
        model.quantize = step >= self.schedule.quantize_from
        if model.quantize and step == self.schedule.quantize_from:
            self.trainer.start_codebook(self.schedule.codebook_start_vectors)
        start = model.config.gumbel_temperature
        model.gumbel_temperature = self.schedule.temperature(start, step / state.max_steps)

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        # Without a gradient the optimizer leaves a parameter alone; of zero, it would go on by momentum and decay.
        if self.trainer.tokenizer.freeze_selector:
            for parameter in self.trainer.tokenizer.visual_tokenizer.selector.parameters():
                parameter.grad = None


class LavitVisualTokenizerTrainer(LavitTrainer):
    """
    Trains a [`LavitVisualTokenizerForPreTraining`]: whitening and codebook start from the data, the
    schedule is followed, and the log has the loss's parts, the kept fraction, and the codebook's usage and perplexity
    over the steps since the last entry.

    Args:
        model ([`LavitVisualTokenizerForPreTraining`]), args (`TrainingArguments`): What is trained, and how.
        schedule ([`TokenizerSchedule`], *optional*): Quantized from the first step on, unless it says otherwise.
        kwargs: As of [`LavitTrainer`].
    """

    def __init__(
        self,
        model: LavitVisualTokenizerForPreTraining,
        args: TrainingArguments,
        schedule: TokenizerSchedule | None = None,
        **kwargs,
    ):
        super().__init__(model, args, **kwargs)
        self.tokenizer = model
        num_codes, device = model.config.codebook_size, self.args.device
        self._code_counts = {training: torch.zeros(num_codes, device=device) for training in (True, False)}
        self.add_callback(_ScheduleCallback(self, schedule or TokenizerSchedule()))

    def measure(self, outputs) -> dict[str, torch.Tensor]:
        tokenizer_output = outputs["tokenizer_output"]
        measured = {
            "reconstruction_loss": outputs["reconstruction_loss"],
            "kept_fraction": tokenizer_output["keep_mask"].float().mean(),
        }
        if self.tokenizer.quantize:
            codes, training = tokenizer_output["codes"], self.tokenizer.training
            self._code_counts[training] += codes.bincount(minlength=self.tokenizer.config.codebook_size)
            measured["commitment_loss"] = outputs["commitment_loss"]
        return measured

    def _take_measured(self, training: bool) -> dict[str, float]:
        measured = super()._take_measured(training)
        counts = self.accelerator.reduce(self._code_counts[training], reduction="sum")
        self._code_counts[training] = torch.zeros_like(counts)
        if counts.sum() > 0:
            probs = counts / counts.sum()
            measured["code_usage"] = round((counts > 0).float().mean().item(), 4)
            measured["code_perplexity"] = round(torch.special.entr(probs).sum().exp().item(), 1)
        return measured

    @torch.no_grad()
    def _first_outputs(self, wanted: int, key: str) -> torch.Tensor:
        """The first `wanted` rows of an output of the tokenizer over the training data, of all processes alike."""
        tokenizer, found, count = self.tokenizer.visual_tokenizer, [], 0
        was_training = tokenizer.training
        tokenizer.eval()
        for batch in self.get_train_dataloader():
            outputs = tokenizer(batch["pixel_values"].to(self.args.device))
            rows = outputs[key].flatten(0, -2)
            rows = self.accelerator.pad_across_processes(rows, pad_index=float("nan"))
            rows = self.accelerator.gather(rows)
            found.append(rows[~rows[:, 0].isnan()])
            count += len(found[-1])
            if count >= wanted:
                break
        tokenizer.train(was_training)
        return torch.cat(found)[:wanted]

    def start_whitening(self, num_features: int = 100_000) -> None:
        """Fits the whitening to the first `num_features` features; until then it leaves them as they are."""
        self.tokenizer.visual_tokenizer.whitening.fit(self._first_outputs(num_features, "vision_features"))

    def start_codebook(self, vectors_per_code: int) -> None:
        """Puts the codebook at the k-means of the first pictures' vectors, `vectors_per_code` for each code."""
        vectors = self._first_outputs(vectors_per_code * self.tokenizer.config.codebook_size, "vectors")
        self.tokenizer.start_codebook(vectors)


__all__ = ["LavitVisualTokenizerTrainer", "TokenizerSchedule"]
