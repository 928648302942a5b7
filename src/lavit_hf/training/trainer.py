# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The Trainer of transformers with named losses in the log and checkpoints that are loaded completely or refused."""

import copy
import json
import os
from collections.abc import Iterable
from dataclasses import asdict
from inspect import signature
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate.data_loader import IterableDatasetShard
from peft import PeftModel, get_peft_model_state_dict, load_peft_weights
from safetensors import safe_open
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_pt_utils import find_batch_size
from transformers.trainer_utils import sort_checkpoints
from transformers.utils import SAFE_WEIGHTS_NAME, logging

from ..data.rows import RepeatedStream, check_codebook, set_epoch
from ..publishing.files import replacing_file


logger = logging.get_logger(__name__)


def freeze_parts(model: torch.nn.Module, prefixes: list[str]) -> None:
    """
    Freezes the parameters whose names begin with one of `prefixes`, such as `model.language_model`.

    Raises:
        ValueError: If no parameter has one of the prefixes.
    """
    for prefix in prefixes:
        part = [parameter for name, parameter in model.named_parameters() if f"{name}.".startswith(f"{prefix}.")]
        if not part:
            parts = sorted({".".join(name.split(".")[:2]) for name, _ in model.named_parameters()})
            raise ValueError(f"No parameter's name starts with {prefix!r}; the parts are {', '.join(parts)}.")
        for parameter in part:
            parameter.requires_grad_(False)


# Arguments of data and models that a resumed run may change.
MAY_CHANGE = {"attn_implementation", "broken_images", "eval_split", "num_eval_rows", "num_sample_images"}
MAY_CHANGE |= {"guidance_scale", "num_inference_steps", "save_merged"}  # of what is saved at the end


def last_checkpoint(args: TrainingArguments, *arguments: Any) -> str | None:
    """
    Returns the newest complete checkpoint in the output folder, from which the same command resumes, or None.

    Args:
        args (`TrainingArguments`): The arguments of the training.
        arguments (*optional*):
            Dataclasses with what else the training depends on, such as model and data. They are kept in the output
            folder, in `arguments.yaml`, beside `bf16`, so that no run goes on with others.

    Raises:
        ValueError: If there is a checkpoint of a run with other `arguments`.
    """
    found, kept = find_checkpoint(args.output_dir)
    if arguments:
        given = {name: value for one in arguments for name, value in asdict(one).items() if name not in MAY_CHANGE}
        given["bf16"] = args.bf16
        path = Path(args.output_dir, "arguments.yaml")
        if found is not None and kept:
            given = yaml.safe_load(yaml.safe_dump(given))
            other = [
                f"{name} is {value!r}, and was {kept[name]!r}"
                for name, value in given.items()
                if name in kept and kept[name] != value
            ]
            if other:
                raise ValueError(
                    f"{args.output_dir} has a run with different arguments: {'; '.join(other)}. Choose another "
                    "output_dir, or delete this one to train anew."
                )
        elif args.process_index == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing_file(path) as hidden:
                hidden.write_text(yaml.safe_dump(given, sort_keys=False), encoding="utf-8")
    return found


def find_checkpoint(output_dir: str | os.PathLike) -> tuple[str | None, dict[str, Any]]:
    """
    Finds the newest complete checkpoint in `output_dir`.

    Returns:
        `tuple[str | None, dict]`: Its folder, or None, and the arguments of its run that [`last_checkpoint`] has kept.
    """
    newest_first = reversed(sort_checkpoints(output_dir))  # by step, as `Trainer` rotates them
    found = next((folder for folder in newest_first if _is_complete(Path(folder, TRAINER_STATE_NAME))), None)
    path = Path(output_dir, "arguments.yaml")
    has_arguments = found is not None and path.is_file()
    return found, (yaml.safe_load(path.read_text(encoding="utf-8")) if has_arguments else None) or {}


def _is_complete(state: Path) -> bool:
    # Trainer writes its state last. If it is missing or incomplete, the run was killed while it wrote the checkpoint.
    try:
        json.loads(state.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return False
    return True


class _Beginnings(TrainerCallback):
    """Prepares a trainer for a training, also where it begins anew with smaller batches, and its rows for an epoch."""

    def __init__(self, trainer: "LavitTrainer"):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        self.trainer.forget_batches()

    def on_epoch_begin(self, args, state, control, **kwargs):
        # In several processes, accelerate tells the epoch to the sampler alone.
        if not isinstance(self.trainer.train_dataset, RepeatedStream):  # which counts the epochs itself
            set_epoch(int(state.epoch or 0), self.trainer.train_dataset)


class LavitTrainer(Trainer):
    """
    A `Trainer` whose log and metrics have the values that [`~LavitTrainer.measure`] names beside the loss, as means
    over the rows of all processes since the last entry, or over the rows of an evaluation. A checkpoint that lacks
    weights of the model is refused, so that a resumed run equals one that was not interrupted. Without an accelerator,
    `dataloader_pin_memory` is off.

    Args:
        model, args, kwargs: Same arguments as `Trainer`. Batches of a stream are never dispatched from one process.

    Raises:
        ValueError: If rows have precomputed codes of another visual tokenizer.
    """

    def __init__(self, model=None, args: TrainingArguments | None = None, **kwargs):
        args = copy.copy(args) if args else TrainingArguments()  # the caller's stay as they are
        is_stream = isinstance(kwargs.get("train_dataset"), torch.utils.data.IterableDataset)
        if is_stream:  # otherwise one process makes the batches of all
            args.accelerator_config = copy.copy(args.accelerator_config)
            args.accelerator_config.dispatch_batches = False
        super().__init__(model, args, **kwargs)
        # Collators need the columns of a row, whatever the arguments of the model are called.
        self.args.remove_unused_columns = False
        if not torch.accelerator.is_available():
            self.args.dataloader_pin_memory = False  # torch would warn that there is nothing to pin it for
        # Without labels, Trainer computes no loss in evaluation. Here, the images are what the model learns from.
        self.label_names = self.label_names or [next(iter(signature(self.model.forward).parameters))]
        self.check_rows(self.train_dataset, self.eval_dataset)
        if is_stream and not hasattr(self.train_dataset, "__len__"):
            self.train_dataset = RepeatedStream(self.train_dataset)
        self.add_callback(_Beginnings(self))
        self.forget_batches()

    def forget_batches(self) -> None:
        """Forgets sums over batches, which a training that was interrupted leaves behind."""
        self._measured: dict[bool, dict[str, list]] = {True: {}, False: {}}

    @property
    def codebook(self) -> torch.Tensor | None:
        """The codebook (codebook_size, code_dim) that precomputed codes of rows must belong to, if they are read."""
        return None

    def check_rows(self, *rows) -> None:
        """
        Checks that precomputed codes belong to the model.

        Args:
            rows ([`RowDataset`] or [`RowStream`], *optional*): The rows, as [`check_codebook`] takes them.

        Raises:
            ValueError: If rows have codes of another visual tokenizer.
        """
        if self.codebook is not None:
            check_codebook(self.codebook, *rows)

    def get_train_dataloader(self):
        """Same as `Trainer.get_train_dataloader`. A process reads only its own rows of a stream."""
        dataloader = super().get_train_dataloader()
        shard = dataloader.dataset
        if isinstance(shard, IterableDatasetShard) and isinstance(shard.dataset, RepeatedStream):
            # By itself, accelerate reads all rows in each process, and drops those of the others.
            share = shard.dataset.split(shard.num_processes, shard.process_index)
            if share is not None:
                shard.dataset, shard.num_processes, shard.process_index = share, 1, 0
        return dataloader

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """Same as `Trainer.get_batch_samples`. A resumed training whose steps are done has no further batch."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return [], None
        return super().get_batch_samples(epoch_iterator, num_batches, device)

    def get_eval_dataloader(self, eval_dataset=None):
        """Same arguments as `Trainer.get_eval_dataloader`. Each evaluation has the random choices of epoch 0."""
        self.check_rows(eval_dataset)
        dataloader = super().get_eval_dataloader(eval_dataset)
        if hasattr(dataloader, "set_epoch"):  # one with persistent workers counts how often it was read
            dataloader.set_epoch(0)
        return dataloader

    def get_test_dataloader(self, test_dataset):
        """Same arguments as `Trainer.get_test_dataloader`."""
        self.check_rows(test_dataset)
        return super().get_test_dataloader(test_dataset)

    def measure(self, outputs) -> dict[str, torch.Tensor | tuple[torch.Tensor, torch.Tensor]]:
        """
        Returns values of the model's `outputs` for the log, each as a mean over the rows of the batch, or as the pair
        of a sum and its weight.
        """
        return {}

    def summarize(self, means: dict[str, torch.Tensor]) -> dict[str, float]:
        """Turns `means` of the values of [`~LavitTrainer.measure`] into entries of the log."""
        return {name: round(mean.item(), 5) for name, mean in means.items()}

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs):
        """
        Same arguments as `Trainer.train`.

        Returns:
            `TrainOutput`: Same as `Trainer.train`.

        Raises:
            ValueError: If the checkpoint lacks weights of the model or has weights that the model lacks, or if
                `resume_from_checkpoint` is True and there is no complete checkpoint, or with `model_init`.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_checkpoint(self.args)
            if resume_from_checkpoint is None:
                folder = self.args.output_dir
                raise ValueError(f"resume_from_checkpoint is True, but {folder} has no whole checkpoint.")
        if resume_from_checkpoint and self.model_init is not None:
            raise ValueError("resume_from_checkpoint does not go with model_init, which makes a new model.")
        if resume_from_checkpoint:
            logger.warning(f"Resuming from {resume_from_checkpoint}.")  # information is hidden by default
            self.load_checkpoint(resume_from_checkpoint)
        output = super().train(resume_from_checkpoint, **kwargs)
        if self.args.load_best_model_at_end and self.state.best_model_checkpoint is not None:
            self.load_checkpoint(self.state.best_model_checkpoint)
        return output

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None):
        """
        Same arguments as `Trainer.create_scheduler`. Warns if the learning rate decays before it is warmed up, as in a
        recipe whose `max_steps` alone was made smaller.
        """
        kwargs, warmup = self.args.lr_scheduler_kwargs or {}, self.args.get_warmup_steps(num_training_steps)
        if (decay := kwargs.get("num_decay_steps", 0)) and warmup + decay > num_training_steps:
            logger.warning(
                f"warmup_steps ({warmup}) and num_decay_steps ({decay}) are more than the {num_training_steps} steps "
                "of the training: the learning rate jumps from the one to the other. Give fewer."
            )
        return super().create_scheduler(num_training_steps, optimizer)

    @property
    def is_sharded(self) -> bool:
        """Whether each process holds a part of the weights, as with FSDP and ZeRO 3."""
        has_parts = any(isinstance(weight, DTensor) for weight in self.model.parameters())
        return has_parts or self.is_fsdp_enabled or is_deepspeed_zero3_enabled()

    def load_checkpoint(self, folder: str | os.PathLike) -> None:
        """
        Loads a checkpoint into the model, completely. `Trainer` itself reads the weights under the names that they
        have in the files, which are not always those of the model, and keeps the old values of weights it misses.

        Args:
            folder (`str` or `os.PathLike`): A folder that `Trainer` has saved.

        Raises:
            ValueError: If weights are missing or unexpected.
        """
        if self.is_deepspeed_enabled or self.is_fsdp_enabled:
            return  # their checkpoints have the names of the model, and are loaded strictly
        if isinstance(self.model, PeftModel):
            check_adapter(self.model, folder)
        elif isinstance(self.model, PreTrainedModel):
            load_weights(self.model, folder)
        else:
            with safe_open(os.path.join(folder, SAFE_WEIGHTS_NAME), "pt") as file:
                saved, expected = set(file.keys()), self.model.state_dict().keys()
            check_keys(expected - saved, saved - expected, folder)

    def _issue_warnings_after_load(self, load_result) -> None:
        """
        Logs nothing. `load_checkpoint` has checked all weights, and the warnings of `Trainer` would be false, since it
        compares the names in the files with those of the model. If transformers renames this private hook, the false
        warnings are back, and tests/training/test_resuming.py fails.
        """

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Same arguments as `Trainer.compute_loss`. Keeps what [`~LavitTrainer.measure`] returns for the log."""
        num_rows = find_batch_size(inputs) or 1
        is_counted = True
        if not self.model.training and (repeated := self._count_repeated_rows(num_rows)):
            is_counted = repeated < num_rows
            inputs = self.leave_out_rows(inputs, num_rows - repeated)
            num_rows -= repeated
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        # The number by which `Trainer` weights the loss of a batch in an evaluation.
        num_rows = torch.tensor(num_rows, device=loss.device)
        for name, value in self.measure(outputs).items():
            total, weight = value if isinstance(value, tuple) else (value.float() * num_rows, num_rows)
            sums = self._measured[model.training].setdefault(name, [0, 0])
            sums[0] += total.detach().float() * is_counted
            sums[1] += weight * is_counted
        return (loss, outputs) if return_outputs else loss

    def _count_repeated_rows(self, num_rows: int) -> int:
        """
        Returns how many of the last `num_rows` rows of an evaluation accelerate has repeated, so that all processes
        have as many. They are at the end of the batch that the processes have together.
        """
        state = self.accelerator.gradient_state
        if self.accelerator.num_processes == 1 or not state.end_of_dataloader or state.remainder <= 0:
            return 0
        left = state.remainder - self.accelerator.process_index * num_rows
        return num_rows - min(max(left, 0), num_rows)

    def leave_out_rows(self, inputs: dict[str, Any], num_rows: int) -> dict[str, Any]:
        """
        Leaves all but the first `num_rows` rows out of the loss of a batch. If none is to stay, one does, since all
        processes must run the model.

        Args:
            inputs (`dict`): The inputs of the model. Its tensors have a row for each of the dataset.
            num_rows (`int`): The number of rows that stay.
        """
        kept = max(num_rows, 1)
        return {name: value[:kept] if isinstance(value, torch.Tensor) else value for name, value in inputs.items()}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Same arguments as `Trainer.log`. Adds the values of [`~LavitTrainer.measure`] beside the training loss."""
        if "loss" in logs:
            logs |= self._take_measured(training=True)
        super().log(logs, start_time)

    def evaluation_loop(self, *args, metric_key_prefix: str = "eval", **kwargs):
        """Same arguments as `Trainer.evaluation_loop`. Adds the values of [`~LavitTrainer.measure`] to the metrics."""
        self._measured[False] = {}  # an evaluation that has failed leaves sums behind
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        measured = self._take_measured(training=False)
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in measured.items()})
        return output

    def _take_measured(self, training: bool) -> dict[str, float]:
        """Returns the values that were measured since the last call, from all processes."""
        measured, self._measured[training] = self._measured[training], {}
        sums = self.accelerator.reduce(measured, reduction="sum") if measured else {}
        return self.summarize({name: total / weight for name, (total, weight) in sums.items() if weight > 0})


def check_keys(missing: Iterable[str], unexpected: Iterable[str], folder: str | os.PathLike) -> None:
    """Raises a `ValueError` if the checkpoint in `folder` has `missing` or `unexpected` names of weights."""
    for keys, problem in ((sorted(missing), "lacks"), (sorted(unexpected), "has, unlike the model,")):
        if keys:
            shown = ", ".join(keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")
            raise ValueError(f"The checkpoint {os.fspath(folder)!r} does not fit the model: it {problem} {shown}.")


@torch.no_grad()
def load_weights(model: PreTrainedModel, folder: str | os.PathLike) -> None:
    """
    Loads a checkpoint into a model as `from_pretrained` does, which knows how weights are named and laid out in files.
    The parameters remain the same objects.

    Args:
        model (`PreTrainedModel`): A model of a class that can be built from its configuration.
        folder (`str` or `os.PathLike`): A folder that `save_pretrained` has written.

    Raises:
        ValueError: If weights are missing or unexpected.
    """
    dtypes = {value.dtype for value in model.state_dict().values() if value.is_floating_point()}
    # Float32 holds every value of lower precisions, so that copying into a model of several dtypes rounds nothing.
    dtype = dtypes.pop() if len(dtypes) == 1 else torch.float32
    result: tuple[PreTrainedModel, dict[str, list[str]]] = type(model).from_pretrained(
        folder, config=copy.deepcopy(model.config), dtype=dtype, output_loading_info=True
    )
    loaded, info = result
    check_keys(info["missing_keys"], info["unexpected_keys"], folder)
    model.load_state_dict(loaded.state_dict())


def check_adapter(model: PeftModel, folder: str | os.PathLike) -> None:
    """Raises a `ValueError` if `folder` lacks weights of the adapter of `model`, about which peft only warns."""
    name = model.active_adapters[0]
    inside = os.path.join(folder, name)
    saved = load_peft_weights(inside if os.path.isdir(inside) else os.fspath(folder), device="cpu")
    expected = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    check_keys(expected.keys() - saved.keys(), (), folder)
