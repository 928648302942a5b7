# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Stage 1, the visual tokenizer: when codes begin, when the selector is frozen, and what goes into the log."""

from collections.abc import Sized
from dataclasses import dataclass, field

import torch
from torch.nn.functional import normalize
from transformers import TrainerCallback, TrainingArguments

from ..modeling import (
    LavitVisualTokenizerConfig,
    LavitVisualTokenizerForPreTraining,
    LavitVisualTokenizerForPreTrainingOutput,
)
from ..modeling.arguments_lavit import check_integer
from ..modeling.codebook_lavit import count_codes
from ..modeling.freezing_lavit import evaluation_mode
from .trainer import LavitTrainer


@dataclass
class TokenizerSchedule:
    """
    The changes in the course of the training of the visual tokenizer, in optimizer steps.

    Raises:
        ValueError: If a value is out of its range.
    """

    quantize_from: int = field(
        default=0, metadata={"help": "First step with codes. Before it, features are rebuilt from continuous vectors."}
    )
    freeze_selector_from: int | None = field(
        default=None, metadata={"help": "First step with a frozen selector, which keeps patches as at inference."}
    )
    freeze_selector_until: int | None = field(
        default=None, metadata={"help": "First step at which the selector is trained again."}
    )
    final_gumbel_temperature: float | None = field(
        default=None, metadata={"help": "The temperature at the last step, which is reached geometrically."}
    )
    codebook_start_vectors: int = field(
        default=20, metadata={"help": "The number of vectors per code for the k-means that starts the codebook."}
    )

    def __post_init__(self):
        start, until = self.freeze_selector_from, self.freeze_selector_until
        check_integer("quantize_from", self.quantize_from, 0)
        check_integer("codebook_start_vectors", self.codebook_start_vectors, 1)
        if start is not None:
            check_integer("freeze_selector_from", start, 0)
        if until is not None and (start is None or until <= start):
            raise ValueError(f"freeze_selector_until must be above freeze_selector_from, got {until} and {start}.")
        if self.final_gumbel_temperature is not None and self.final_gumbel_temperature <= 0:
            raise ValueError(f"final_gumbel_temperature must be positive, got {self.final_gumbel_temperature}.")

    def selector_is_frozen(self, step: int) -> bool:
        """Whether the selector is frozen at optimizer step `step`."""
        if self.freeze_selector_from is None or step < self.freeze_selector_from:
            return False
        return self.freeze_selector_until is None or step < self.freeze_selector_until

    def temperature(self, start: float, progress: float) -> float:
        """Returns the Gumbel temperature after a fraction `progress` of the steps, if it was `start` at the first."""
        if self.final_gumbel_temperature is None:
            return start
        return start * (self.final_gumbel_temperature / start) ** progress


# The outputs of a healthy run are far from both limits.
SPREAD_OF_COLLAPSE = 0.02  # of rebuilt features, as a share of that of the tower's features
USAGE_OF_COLLAPSE = 0.02  # used codes, as a share of those that could be used
MIN_IMAGES = 8  # fewer may well keep the same number of patches


def find_collapse(
    outputs: LavitVisualTokenizerForPreTrainingOutput, config: LavitVisualTokenizerConfig, quantize: bool = True
) -> list[str]:
    """
    Tells whether training has made the visual tokenizer useless, from what it makes of different images.

    Args:
        outputs ([`LavitVisualTokenizerForPreTrainingOutput`]):
            Its outputs for B images of different content, in evaluation mode. The numbers of kept patches are compared
            from 8 images on.
        config ([`LavitVisualTokenizerConfig`]): Its configuration.
        quantize (`bool`, *optional*, defaults to `True`): Whether it is trained with codes already.

    Returns:
        `list[str]`: A sentence for each sign of a collapse.
    """
    tokenizer_output, found = outputs.tokenizer_output, []
    counts, codes = tokenizer_output.keep_mask.sum(dim=1), tokenizer_output.codes
    may_vary = config.keep_ratio < 1 and (config.num_codes, config.max_codes, config.keep_scale) == (None, None, 1)
    if len(counts) >= MIN_IMAGES and may_vary and counts.min() == counts.max():
        found.append(f"All {len(counts)} sample images keep {int(counts[0])} patches, whatever they show.")
    spread, original = map(_spread, (outputs.rebuilt_features, tokenizer_output.vision_features))
    if spread < SPREAD_OF_COLLAPSE * original:
        found.append("Features are rebuilt nearly the same for all images: the codes do not tell one from another.")
    used, possible = codes.unique().numel(), min(len(codes), config.codebook_size)
    if quantize and used < max(USAGE_OF_COLLAPSE * possible, 2):
        found.append(f"{len(codes)} patches of sample images have {used} of {config.codebook_size} codes.")
    return found


def _spread(features: torch.Tensor) -> float:
    """Returns one minus the mean cosine of the features (B, N, d) over all pairs of images, place by place."""
    return 1 - normalize(features.float(), dim=-1).mean(dim=0).square().sum(dim=-1).mean().item()


class _ScheduleCallback(TrainerCallback):
    """Prepares the model for the next step, from the number of the step alone, so that a resumed run agrees."""

    def __init__(self, trainer: "LavitVisualTokenizerTrainer", schedule: TokenizerSchedule):
        self.trainer, self.schedule = trainer, schedule

    @property
    def is_new(self) -> bool:
        """Whether the codebook was not trained before."""
        return not self.trainer.tokenizer.codebook_updater.num_updates

    def on_train_begin(self, args, state, control, **kwargs):
        if self.is_new and self.schedule.quantize_from < state.max_steps:
            self.trainer.check_codebook_size()
        if state.global_step == 0 and self.is_new and self.trainer.tokenizer.visual_tokenizer.whitening is not None:
            self.trainer.start_whitening()

    def on_step_begin(self, args, state, control, **kwargs):
        model, step = self.trainer.tokenizer, state.global_step
        model.freeze_selector = self.schedule.selector_is_frozen(step)
        model.quantize = step >= self.schedule.quantize_from
        if step == self.schedule.quantize_from and self.is_new:
            self.trainer.start_codebook(self.schedule.codebook_start_vectors)
        start = model.config.gumbel_temperature
        model.gumbel_temperature = self.schedule.temperature(start, step / state.max_steps)

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        # The optimizer skips parameters without a gradient. If it were zero, momentum and decay would move them.
        if self.trainer.tokenizer.freeze_selector:
            for parameter in self.trainer.tokenizer.visual_tokenizer.selector.parameters():
                parameter.grad = None


class LavitVisualTokenizerTrainer(LavitTrainer):
    """
    Trains a [`LavitVisualTokenizerForPreTraining`]. Whitening and codebook start from the data unless they were
    trained before, the schedule is followed, and the log has the parts of the loss, the fraction of kept patches, and
    usage and perplexity of the codebook over the steps since the last entry.

    Args:
        model ([`LavitVisualTokenizerForPreTraining`]): The model to train.
        args (`TrainingArguments`): The arguments of the training.
        schedule ([`TokenizerSchedule`], *optional*): The schedule. By default, there are codes from the first step on.
        kwargs: Same arguments as [`LavitTrainer`].

    Raises:
        ValueError: With FSDP and DeepSpeed ZeRO 3, since the codebook follows averages over all vectors in each
            process.
    """

    def __init__(
        self,
        model: LavitVisualTokenizerForPreTraining | None,
        args: TrainingArguments,
        schedule: TokenizerSchedule | None = None,
        **kwargs,
    ):
        super().__init__(model, args, **kwargs)
        if self.is_sharded:
            raise ValueError("The visual tokenizer does not train with FSDP and DeepSpeed ZeRO 3: use DDP.")
        self.add_callback(_ScheduleCallback(self, schedule or TokenizerSchedule()))

    @property
    def tokenizer(self) -> LavitVisualTokenizerForPreTraining:
        """The model in training, which may be one that `model_init` has made."""
        return self.accelerator.unwrap_model(self.model)

    def measure(self, outputs) -> dict[str, torch.Tensor | tuple[torch.Tensor, torch.Tensor]]:
        tokenizer_output = outputs["tokenizer_output"]
        measured = {
            "reconstruction_loss": outputs["reconstruction_loss"],
            "kept_fraction": tokenizer_output["keep_mask"].float().mean(),
        }
        if self.tokenizer.quantize:
            measured["commitment_loss"] = outputs["commitment_loss"]
            counts = count_codes(tokenizer_output["codes"], self.tokenizer.config.codebook_size)
            measured["code_counts"] = (counts, counts.new_ones(()))  # every code has the same weight
        return measured

    def summarize(self, means: dict[str, torch.Tensor]) -> dict[str, float]:
        counts = means.pop("code_counts", None)
        summary = super().summarize(means)
        if counts is not None:
            summary["code_usage"] = round((counts > 0).float().mean().item(), 4)
            summary["code_perplexity"] = round(torch.special.entr(counts / counts.sum()).sum().exp().item(), 1)
        return summary

    @torch.no_grad()
    def _first_outputs(self, wanted: int, key: str) -> torch.Tensor:
        """Returns the first `wanted` rows of an output of the visual tokenizer, the same rows in all processes."""
        tokenizer, found, count = self.tokenizer.visual_tokenizer, [], 0
        with evaluation_mode(tokenizer):
            for batch in self.get_train_dataloader():
                outputs = tokenizer(batch["pixel_values"].to(self.args.device))
                rows = outputs[key].flatten(0, -2)
                rows = self.accelerator.pad_across_processes(rows, pad_index=float("nan"))
                rows = self.accelerator.gather(rows)
                found.append(rows[~rows[:, 0].isnan()])
                count += len(found[-1])
                if count >= wanted:
                    break
        return torch.cat(found)[:wanted]

    def check_codebook_size(self) -> None:
        """Raises a `ValueError` if the rows have fewer patches than the codebook has codes, which starts from them."""
        config = self.tokenizer.config
        if not isinstance(self.train_dataset, Sized):
            return  # the number of rows is not known
        if (num_patches := len(self.train_dataset) * config.num_patches) < config.codebook_size:
            raise ValueError(
                f"codebook_size must be at most the {num_patches} patches of the {len(self.train_dataset)} images to "
                f"train on, from which the codebook starts, got {config.codebook_size}."
            )

    def start_whitening(self, num_features: int = 100_000) -> None:
        """Fits the whitening to the first `num_features` features."""
        self.tokenizer.visual_tokenizer.whitening.fit(self._first_outputs(num_features, "vision_features"))

    def start_codebook(self, vectors_per_code: int) -> None:
        """Sets the codebook to the k-means of the vectors of the first images, `vectors_per_code` for each code."""
        vectors = self._first_outputs(vectors_per_code * self.tokenizer.config.codebook_size, "vectors")
        self.tokenizer.start_codebook(vectors)
