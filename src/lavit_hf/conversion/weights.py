# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Weights of the authors' files: mapped into memory, renamed by rules, and written as safetensors.

Tensors are read from the files only when they are written. All that can be wrong with names and shapes is known before
the first byte is written.
"""

import json
import pickle
import re
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import StateDictSplit, split_torch_state_dict_into_shards
from safetensors.torch import save_file
from torch import nn
from tqdm.auto import tqdm

from ..publishing.files import open_safetensors


FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def map_weights(folder: Path, files: Mapping[str, Iterable[str]]) -> dict[str, Any]:
    """
    Maps the contents of files of weights into memory.

    Args:
        folder (`Path`): The checkpoint's folder.
        files (`Mapping[str, Iterable[str]]`): Same as the result of [`choose_weights`].

    Returns:
        `dict[str, Any]`: Everything that the files hold, by names of the form `file:key`.

    Raises:
        ValueError: If a file is damaged, or if loading it would run code; none of its code is run.
    """
    return {
        f"{name}:{key}": value
        for name, paths in files.items()
        for path in paths
        for key, value in _load_file(folder / path).items()
    }


def _load_file(path: Path) -> dict[str, Any]:
    if path.suffix == ".safetensors":
        with open_safetensors(path) as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    with open(path, "rb") as file:
        if file.read(16) == b"version https://":
            raise ValueError(f"{path} is a Git LFS pointer to a file that was not downloaded.")
    try:
        # PyTorch's format before version 1.6 is no zip archive and cannot be mapped.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path} was not loaded: it holds more than tensors, and a pickle can run code.") from error
    except (RuntimeError, EOFError, OSError) as error:
        raise ValueError(f"{path} cannot be read, it may be incomplete: {error}") from error
    if isinstance(content, torch.Tensor):
        content = {"": content}
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a dictionary of tensors, got {type(content).__name__}.")
    return content


class Rule(NamedTuple):
    """
    Says which of the authors' weights become weights of ours.

    Args:
        ours (`str`): Regular expression of the beginning of our name. The rest of the name stays as it is.
        theirs (`str` or `tuple[str, ...]`): The beginning of their name, or of the names of several tensors.
        make (`Callable`, *optional*): Makes our tensor from theirs. By default it is the same tensor.
    """

    ours: str
    theirs: str | tuple[str, ...]
    make: Callable[..., torch.Tensor] = lambda tensor: tensor

    def find(self, key: str) -> list[str]:
        """Returns the authors' names for our name `key`, or an empty list if the rule does not apply to it."""
        match = re.match(self.ours, key)
        templates = (self.theirs,) if isinstance(self.theirs, str) else self.theirs
        return [match.expand(template) + key[match.end() :] for template in templates] if match else []


class Plan:
    """
    Collects how the weights of models are made from stored ones, and everything that is wrong with these.

    Args:
        stored (`Mapping[str, Any]`): The result of [`map_weights`].
    """

    def __init__(self, stored: Mapping[str, Any]):
        self.stored = stored
        self.used: set[str] = set()
        self.problems: defaultdict[str, list[str]] = defaultdict(list)

    def fill(self, model: nn.Module, rules: Iterable[Rule]) -> dict[str, torch.Tensor]:
        """
        Returns the weights of a model. If several rules apply to a name, the first one counts whose tensors exist.

        Args:
            model (`nn.Module`): The model, which may be on the meta device: its names and shapes are read.
            rules (`Iterable[Rule]`): Rules that apply to all of its names.
        """
        tensors = {}
        tied = getattr(model, "all_tied_weights_keys", {})  # of transformers; models of diffusers tie no weights
        for key, expected in model.state_dict().items():
            if key in tied:
                continue
            choices = [(rule, names) for rule in rules if (names := rule.find(key))]
            rule, names = next((choice for choice in choices if self.stored.keys() >= {*choice[1]}), choices[0])
            self.used.update(names)
            if missing := [name for name in names if name not in self.stored]:
                self.problems["missing"] += missing
            elif other := [name for name in names if not _is_weight(self.stored[name])]:
                self.problems["of another type than floating point tensors"] += other
            elif (tensor := self._make(rule, names)) is None or tensor.shape != expected.shape:
                found = " and ".join(str(tuple(self.stored[name].shape)) for name in names)
                expectation = f"{key} of shape {tuple(expected.shape)} expected"
                self.problems["of a wrong shape"].append(f"{' and '.join(names)}: found {found}, {expectation}")
            else:
                tensors[key] = tensor
        return tensors

    def _make(self, rule: Rule, names: Iterable[str]) -> torch.Tensor | None:
        try:
            return rule.make(*(self.stored[name].detach() for name in names))
        except (RuntimeError, IndexError):  # tensors of wrong shapes
            return None

    def check(self, unused: str, strict: bool) -> list[str]:
        """
        Returns the names of stored weights that no model has.

        Args:
            unused (`str`): Regular expression of the beginning of names that no model has, and that are not returned.
            strict (`bool`): Whether unknown names are an error.

        Raises:
            ValueError: If weights are missing, misshapen or, with `strict`, unknown. All of them are listed.
        """
        unknown = [name for name in self.stored if name not in self.used and not re.match(unused, name)]
        if strict and unknown:
            self.problems["unknown"] = unknown
        if self.problems:
            lines = ["The weights are not those of LaVIT:"]
            for kind, names in self.problems.items():
                names = list(dict.fromkeys(names))
                lines += [f"{len(names)} {kind}:", *(f"  {name}" for name in names[:10])]
                lines += ["  ..."] * (len(names) > 10)
            raise ValueError("\n".join(lines))
        return unknown


def _is_weight(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.layout == torch.strided and value.dtype in FLOATS


def dtype_to_save(key: str, tensor: torch.Tensor, dtype: torch.dtype | None) -> torch.dtype:
    """Returns the dtype in which a weight is saved. A codebook is never rounded, as its rows lie close together."""
    return torch.float32 if key.endswith("codebook") else dtype or tensor.dtype


def split_weights(
    tensors: Mapping[str, torch.Tensor], dtype: torch.dtype | None, pattern: str, max_shard_size: int | str
) -> StateDictSplit:
    """Distributes weights to files. Same arguments as `split_torch_state_dict_into_shards`, plus the saved `dtype`."""
    sizes = {
        key: torch.empty(tensor.shape, dtype=dtype_to_save(key, tensor, dtype), device="meta")
        for key, tensor in tensors.items()
    }
    return split_torch_state_dict_into_shards(sizes, filename_pattern=pattern, max_shard_size=max_shard_size)


def write_weights(
    folder: Path,
    tensors: Mapping[str, torch.Tensor],
    dtype: torch.dtype | None,
    split: StateDictSplit,
    progress: tqdm,
) -> None:
    """
    Writes weights to a folder, in the layout that `from_pretrained` reads. One file at a time is in memory.

    Args:
        folder (`Path`): An existing folder.
        tensors (`Mapping[str, torch.Tensor]`): The weights.
        dtype (`torch.dtype`, *optional*): The dtype to save. By default, that of each tensor.
        split (`StateDictSplit`): The result of [`split_weights`].
        progress (`tqdm`): A progress bar that counts bytes.

    Raises:
        ValueError: If a weight has values that float16 cannot hold.
    """
    for name, keys in split.filename_to_tensors.items():
        progress.update(_write_file(folder / name, {key: tensors[key] for key in keys}, dtype))
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        stem = name.split("-")[0]
        (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _write_file(path: Path, tensors: Mapping[str, torch.Tensor], dtype: torch.dtype | None) -> int:
    """Writes one file of weights, whose memory is free when this returns. Returns the number of bytes."""
    shard = {key: tensor.to(dtype_to_save(key, tensor, dtype)).contiguous() for key, tensor in tensors.items()}
    for key, tensor in shard.items():
        if tensor.dtype == torch.float16 and not tensor.isfinite().all():
            raise ValueError(f"{key} has values that float16 cannot hold; bfloat16 and float32 can.")
    save_file(shard, path, metadata={"format": "pt"})
    return sum(tensor.nbytes for tensor in shard.values())
