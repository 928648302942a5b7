# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""transformers' Trainer with what all stages of LaVIT want: the loss in parts, learning rates for parts."""

import time
from collections import defaultdict
from inspect import signature

import torch
from peft import PeftModel
from transformers import PreTrainedModel, Trainer
from transformers.trainer_pt_utils import find_batch_size

from .optimizer import MuonWithAdamW, hidden_matrices
from .resuming import ResumeCallback, check_adapter, check_keys, load_weights


def freeze_parts(model: torch.nn.Module, prefixes: list[str]) -> None:
    """
    Freezes the parameters whose names start with one of `prefixes`, say `model.language_model`.

    Raises:
        ValueError: a prefix that no parameter has.
    """
    for prefix in prefixes:
        parameters = [p for name, p in model.named_parameters() if _in_part(name, prefix)]
        if not parameters:
            raise _unknown_part(model, prefix)
        for parameter in parameters:
            parameter.requires_grad_(False)


def _in_part(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")


def _unknown_part(model: torch.nn.Module, prefix: str) -> ValueError:
    parts = sorted({".".join(name.split(".")[:2]) for name, _ in model.named_parameters()})
    return ValueError(f"No parameter's name starts with {prefix!r}; the parts are {', '.join(parts)}.")


class LavitTrainer(Trainer):
    """
    A `Trainer` whose log has the scalars that [`~LavitTrainer.measure`] names beside the loss, as means over the rows
    of all processes since the last entry, `steps_per_second`, and `data_wait`, the fraction of that time that was
    spent waiting for rows.

    A checkpoint is loaded completely, as `from_pretrained` loads it, or it is refused: a resumed run, which logs its
    step once, equals the run that was not interrupted. A `PreTrainedModel` must be one that its configuration makes.

    Args:
        learning_rates (`dict[str, float]`, *optional*):
            Of parts of the model, by the beginning of their parameters' names, where it is not `args.learning_rate`.
            The longest matching name decides.
        use_muon (`bool`, *optional*, defaults to `False`):
            Whether hidden layers' matrices are moved by Muon, as [`MuonWithAdamW`] says.
        args, kwargs: As of `Trainer`.

    Raises:
        ValueError: a part of `learning_rates` that the model does not have; `use_muon` with a model in which no hidden
            linear layer is trained.
    """

    def __init__(self, *args, learning_rates: dict[str, float] | None = None, use_muon: bool = False, **kwargs):
        super().__init__(*args, **kwargs)
        # Collators need the columns of a row, whatever the model's arguments are called.
        self.args.remove_unused_columns = False
        # Where there are no labels, Trainer computes no loss in evaluation; pictures are what these models learn from.
        self.label_names = self.label_names or [next(iter(signature(self.model.forward).parameters))]
        self.learning_rates, self.use_muon = learning_rates or {}, use_muon
        names = [name for name, _ in self.model.named_parameters()]
        for prefix in self.learning_rates:
            if not any(_in_part(name, prefix) for name in names):
                raise _unknown_part(self.model, prefix)
        if use_muon and not hidden_matrices(self.model):
            raise ValueError(
                "use_muon must be False, got True: the model has no hidden linear layer (torch.nn.Linear) that is "
                "trained, so that AdamW would move everything."
            )
        self._measured: dict[bool, dict[str, list]] = {True: defaultdict(list), False: defaultdict(list)}
        self._waited, self._logged = 0.0, None
        self.add_callback(ResumeCallback())

    def measure(self, outputs) -> dict[str, torch.Tensor]:
        """Scalars of the model's outputs that go into the log."""
        return {}

    def create_optimizer(self, model: PreTrainedModel | None = None) -> torch.optim.Optimizer:
        if self.optimizer is not None:
            return self.optimizer
        model = model or self.model
        optimizer = super().create_optimizer(model)
        if self.learning_rates:
            rates = {id(p): self._rate(name) for name, p in model.named_parameters()}
            groups = list(optimizer.param_groups)
            optimizer.param_groups.clear()
            for group in groups:
                by_rate = defaultdict(list)
                for parameter in group["params"]:
                    by_rate[rates[id(parameter)]].append(parameter)
                for rate, parameters in by_rate.items():
                    optimizer.add_param_group({**group, "params": parameters, "lr": rate})
        if self.use_muon:
            self.optimizer = MuonWithAdamW(optimizer, hidden_matrices(model))
        return self.optimizer

    def _rate(self, name: str) -> float:
        prefixes = [prefix for prefix in self.learning_rates if _in_part(name, prefix)]
        return self.learning_rates[max(prefixes, key=len)] if prefixes else self.args.learning_rate

    # Private hooks of Trainer, because in them it loads files under the names that these have, and what is left out
    # keeps its random values, with a warning.

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        if not self._load_completely(resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        if not self._load_completely(self.state.best_model_checkpoint):
            super()._load_best_model()

    def _load_completely(self, folder: str) -> bool:
        """Loads a model of transformers. What else there is, Trainer loads, and tells what is missing."""
        if self.is_deepspeed_enabled or self.is_fsdp_enabled:
            return False  # whose checkpoints are strict, and name weights as the model does
        if isinstance(self.model, PeftModel):
            check_adapter(self.model, folder)
        elif isinstance(self.model, PreTrainedModel):
            load_weights(self.model, folder)
            return True
        return False

    def _issue_warnings_after_load(self, load_result) -> None:
        check_keys(load_result.missing_keys, load_result.unexpected_keys)

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        started = time.perf_counter()
        samples = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._waited += time.perf_counter() - started
        return samples

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        num_rows = find_batch_size(inputs) or 1
        for name, value in self.measure(outputs).items():
            value = value.detach().float()
            self._measured[model.training][name].append(
                torch.stack([value * num_rows, torch.full_like(value, num_rows)])
            )
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs |= self._take_measured(training=True)
            now = time.perf_counter(), self.state.global_step
            if self._logged is not None:
                seconds, steps = now[0] - self._logged[0], now[1] - self._logged[1]
                logs |= {
                    "steps_per_second": round(steps / seconds, 3),
                    "data_wait": round(self._waited / seconds, 4),
                }
            self._waited, self._logged = 0.0, now
        super().log(logs, start_time)

    def evaluation_loop(self, *args, metric_key_prefix: str = "eval", **kwargs):
        """Same as in `Trainer`, with what was measured among the metrics."""
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        measured = self._take_measured(training=False)
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in measured.items()})
        return output

    def _take_measured(self, training: bool) -> dict[str, float]:
        measured, self._measured[training] = self._measured[training], defaultdict(list)
        if not measured:
            return {}
        sums = torch.stack([torch.stack(values).sum(dim=0) for values in measured.values()])
        totals, counts = self.accelerator.reduce(sums, reduction="sum").unbind(dim=1)
        return {name: round(value, 5) for name, value in zip(measured, (totals / counts).tolist(), strict=True)}


__all__ = ["LavitTrainer", "freeze_parts"]
