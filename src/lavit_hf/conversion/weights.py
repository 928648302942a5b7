# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Weights on disk: found and described without reading them, renamed by a table, and written tensor by tensor.

Nothing here holds more than one tensor at a time, however large the files are. All that can be wrong with names and
shapes is known before the first byte is written.
"""

import json
import pickle
import re
import struct
import zipfile
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm.auto import tqdm

from ..publishing.files import list_shards, open_safetensors


# What safetensors calls them.
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class StoredTensor:
    """
    A tensor in a file, not read yet.

    Args:
        path (`Path`): The file.
        key (`str`): Its name there, "" where the file is one bare tensor.
        shape (`tuple[int, ...]`): Its shape.
        dtype (`torch.dtype`, *optional*): Its type. None for what can be no weight: an integer, say, or a list.
    """

    path: Path
    key: str
    shape: tuple[int, ...]
    dtype: torch.dtype | None


def load_pickle(path: Path) -> dict:
    """
    Loads what a `.bin` file holds, by name; its tensors are mapped rather than read. "" is the name of a bare tensor.

    Raises:
        ValueError: the file is damaged, or loading it would run code. No code in it is run.
    """
    with open(path, "rb") as file:
        if file.read(16) == b"version https://":
            raise ValueError(f"{path} is a Git LFS pointer to a file that was not downloaded.")
    try:
        # PyTorch's format before version 1.6 is no zip archive and cannot be mapped.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} was not loaded: it is no file of tensors alone, and what else a pickle holds may run code."
        ) from error
    except (RuntimeError, EOFError, OSError) as error:
        raise ValueError(f"{path} cannot be read, it may be incomplete: {error}") from error
    if isinstance(content, torch.Tensor):
        return {"": content}
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a dictionary of tensors, got {type(content).__name__}.")
    return {str(key): value for key, value in content.items()}


def describe_file(path: Path) -> dict[str, StoredTensor]:
    """
    Describes what a `.bin` or `.safetensors` file holds, by name.

    Raises:
        ValueError: the file is damaged, or loading it would run code.
    """
    if path.suffix == ".safetensors":
        with open_safetensors(path) as file:
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
            facts = {key: (tuple(item.get_shape()), DTYPES.get(item.get_dtype())) for key, item in slices.items()}
    else:
        facts = {key: _describe(value) for key, value in load_pickle(path).items()}
    return {key: StoredTensor(path, key, shape, dtype) for key, (shape, dtype) in facts.items()}


def _describe(value) -> tuple[tuple[int, ...], torch.dtype | None]:
    """Shape and type of what a pickle holds, for what can be no weight () and None."""
    if not isinstance(value, torch.Tensor):
        return (), None
    is_plain = value.layout == torch.strided and value.dtype in DTYPE_NAMES
    return tuple(value.shape), value.dtype if is_plain else None


def choose_weights(names: Collection[str], stems: Iterable[str]) -> list[str]:
    """
    Chooses the files with a model's weights among the names of files in a folder: safetensors before `.bin`, whole
    before sharded.

    Args:
        names (`Collection[str]`): What there is.
        stems (`Iterable[str]`): Names without ending that the weights may have.

    Returns:
        `list[str]`: One file; or an index, and behind it the files that are named like its shards; or nothing.
    """
    stems = list(stems)
    for suffix in ("safetensors", "bin"):
        for stem in stems:
            whole, index = f"{stem}.{suffix}", f"{stem}.{suffix}.index.json"
            if whole in names:
                return [whole]
            if index in names:
                shard = re.compile(rf"{re.escape(stem)}-\d+-of-\d+\.{suffix}")
                return [index, *sorted(name for name in names if shard.fullmatch(name))]
    return []


def find_weights(folder: Path, stems: Iterable[str]) -> list[Path]:
    """
    Finds the files with a model's weights, see [`choose_weights`].

    Raises:
        FileNotFoundError: there are none, or the index names one that is not there.
        ValueError: a broken index, or one that names a file elsewhere.
    """
    stems = list(stems)
    chosen = choose_weights([path.name for path in folder.glob("*") if path.is_file()], stems)
    if not chosen:
        names = [f"{stem}.{suffix}" for suffix in ("safetensors", "bin") for stem in stems]
        raise FileNotFoundError(f"{folder} holds no weights, expected one of {names} or a shard index of one.")
    if not chosen[0].endswith(".index.json"):
        return [folder / chosen[0]]
    paths = [folder / name for name in list_shards(folder / chosen[0])]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"{folder / chosen[0]} names weights that are not beside it: {missing}.")
    return paths


def read_json(path: Path) -> dict:
    """A JSON object. Raises FileNotFoundError or ValueError, both with the file's name."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(content).__name__}.")
    return content


def describe(paths: Iterable[Path], namespace: str = "") -> dict[str, StoredTensor]:
    """
    The tensors of all `paths` by name, each name with `namespace` before it.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: as of [`describe_file`], or one name in two files.
    """
    weights: dict[str, StoredTensor] = {}
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing.")
        for key, stored in describe_file(path).items():
            if namespace + key in weights:
                raise ValueError(f"{key} is both in {weights[namespace + key].path} and in {path}.")
            weights[namespace + key] = stored
    return weights


class WeightReader:
    """Reads stored tensors. One file is open at a time, so that no more than one is ever mapped."""

    def __init__(self):
        self._path = None
        self._get = None

    def __call__(self, stored: StoredTensor) -> torch.Tensor:
        if stored.path != self._path:
            # The file before is let go of first.
            self._path = self._get = None
            if stored.path.suffix == ".safetensors":
                self._get = open_safetensors(stored.path).get_tensor
            else:
                self._get = load_pickle(stored.path).__getitem__
            self._path = stored.path
        return self._get(stored.key).detach()


@dataclass(frozen=True)
class Rule:
    """
    How tensors get their new names.

    Args:
        ours (`str`): Regular expression of the beginning of a new name. What follows it stays as it is.
        theirs (`str` or `tuple[str, ...]`): The old beginning, or those of the several tensors that become one.
        make (`Callable`, *optional*): From the old tensors to the new one. Default: as it is.
    """

    ours: str
    theirs: str | tuple[str, ...]
    make: Callable[..., torch.Tensor] = lambda tensor: tensor

    def match(self, key: str) -> tuple[str, ...] | None:
        """The old names of what is to be called `key`, None where the rule is not about it."""
        match = re.match(self.ours, key)
        if match is None:
            return None
        templates = (self.theirs,) if isinstance(self.theirs, str) else self.theirs
        return tuple(match.expand(template) + key[match.end() :] for template in templates)


@dataclass(frozen=True)
class PlannedTensor:
    """
    A tensor to be written.

    Args:
        key (`str`): Its new name.
        shape (`tuple[int, ...]`), dtype (`torch.dtype`): What is written.
        sources (`tuple[StoredTensor, ...]`), make (`Callable`): What it is made of, and how.
    """

    key: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    sources: tuple[StoredTensor, ...]
    make: Callable[..., torch.Tensor]

    @property
    def num_bytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize


def _made_shape(rule: Rule, sources: Iterable[StoredTensor]) -> tuple[int, ...] | None:
    """The shape that `rule` gives, None where it does not work on tensors of these shapes."""
    try:
        return tuple(rule.make(*[torch.empty(stored.shape, device="meta") for stored in sources]).shape)
    except (RuntimeError, IndexError):
        return None


def plan(
    expected: Mapping[str, torch.Tensor],
    weights: Mapping[str, StoredTensor],
    rules: Iterable[Rule],
    dtype: torch.dtype | None = None,
    unused: str | None = None,
    float32: str | None = None,
    strict: bool = False,
) -> tuple[list[PlannedTensor], list[str]]:
    """
    Plans how a model's complete weights come out of the stored ones.

    Args:
        expected (`Mapping[str, torch.Tensor]`): The model's state dict; only its names and shapes matter.
        weights (`Mapping[str, StoredTensor]`): All that there is.
        rules (`Iterable[Rule]`): The first one that is about a name and finds its tensors counts.
        dtype (`torch.dtype`, *optional*): What is written. Default: each tensor as it is stored.
        unused (`str`, *optional*): Regular expression of the beginning of names in `weights` that nothing uses.
        float32 (`str`, *optional*): Regular expression of the end of new names that are float32 whatever `dtype` is.
        strict (`bool`, *optional*, defaults to `False`): Whether unknown names in `weights` are an error.

    Returns:
        `list[PlannedTensor]` and `list[str]`: What is to be written, and the unknown names.

    Raises:
        ValueError: names that are missing, of another shape than expected, no weights or, with `strict`, unknown; all
            of them in one message.
    """
    rules = list(rules)
    planned, missing, misshapen, no_weights = [], [], [], []
    used: set[str] = set()
    for key, tensor in expected.items():
        matches = [(rule, names) for rule in rules if (names := rule.match(key)) is not None]
        if not matches:
            raise ValueError(f"No rule says where the weights of {key} come from.")
        found = [match for match in matches if all(name in weights for name in match[1])]
        if not found:
            missing += [name for name in matches[0][1] if name not in weights]
            continue
        rule, names = found[0]
        used.update(names)
        sources = tuple(weights[name] for name in names)
        if any(stored.dtype is None for stored in sources):
            no_weights += [name for name in names if weights[name].dtype is None]
            continue
        shape = _made_shape(rule, sources)
        if shape != tuple(tensor.shape):
            shapes = " and ".join(str(stored.shape) for stored in sources)
            misshapen.append(f"{' and '.join(names)}: found {shapes}, {key} of shape {tuple(tensor.shape)} expected")
            continue
        kept_dtype = torch.float32 if float32 and re.search(f"(?:{float32})$", key) else dtype or sources[0].dtype
        planned.append(PlannedTensor(key, shape, kept_dtype, sources, rule.make))
    unknown = [name for name in weights if name not in used and not (unused and re.match(unused, name))]
    problems = {
        "missing": list(dict.fromkeys(missing)),
        "unknown": unknown if strict else [],
        "of a wrong shape": misshapen,
        f"of another type than {', '.join(DTYPE_NAMES.values())}": list(dict.fromkeys(no_weights)),
    }
    if any(problems.values()):
        raise ValueError(_report(problems, sorted({str(stored.path.parent) for stored in weights.values()})))
    return planned, unknown


def _report(problems: Mapping[str, list[str]], folders: list[str], most: int = 10) -> str:
    lines = [f"The weights in {', '.join(folders)} are not those of the model that they are taken for."]
    for kind, names in problems.items():
        if names:
            lines.append(f"{len(names)} {kind}:")
            lines += [f"  {name}" for name in names[:most]] + ["  ..."] * (len(names) > most)
    return "\n".join(lines)


def write_weights(
    folder: Path, stem: str, planned: Iterable[PlannedTensor], max_shard_size: int, progress: tqdm
) -> None:
    """
    Writes safetensors, one file or shards with their index, in the layout that `from_pretrained` looks for.

    Args:
        folder (`Path`): Where to; made where it is not there.
        stem (`str`): The files' name without ending, `"model"` or `"diffusion_pytorch_model"`.
        planned (`Iterable[PlannedTensor]`): What is written.
        max_shard_size (`int`): Most bytes of tensors in a file, unless one tensor alone has more.
        progress (`tqdm`): Counts bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    order: dict[Path, int] = {}
    for tensor in planned:
        order.setdefault(tensor.sources[0].path, len(order))
    # File by file: each is opened once.
    shards: list[list[PlannedTensor]] = [[]]
    for tensor in sorted(planned, key=lambda tensor: order[tensor.sources[0].path]):
        if shards[-1] and sum(other.num_bytes for other in shards[-1]) + tensor.num_bytes > max_shard_size:
            shards.append([])
        shards[-1].append(tensor)

    read = WeightReader()
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        name = f"{stem}.safetensors" if len(shards) == 1 else f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_safetensors(folder / name, shard, read, progress)
        weight_map |= {tensor.key: name for tensor in shard}
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": sum(tensor.num_bytes for shard in shards for tensor in shard)},
            "weight_map": dict(sorted(weight_map.items())),
        }
        (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _write_safetensors(path: Path, shard: list[PlannedTensor], read: WeightReader, progress: tqdm) -> None:
    """
    One safetensors file: the length of its header (8 bytes, little-endian), the header in JSON, the tensors' bytes.

    The library's own `save_file` wants all tensors of a file in memory. Here it is one.
    """
    # The widest first, as the library does it, so that each tensor begins at a multiple of its width.
    shard = sorted(shard, key=lambda tensor: -tensor.dtype.itemsize)
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for tensor in shard:
        offsets = [offset, offset + tensor.num_bytes]
        facts = {"dtype": DTYPE_NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": offsets}
        header[tensor.key], offset = facts, offsets[1]
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in shard:
            data = tensor.make(*map(read, tensor.sources)).to(tensor.dtype).contiguous()
            if tensor.dtype == torch.float16 and not data.isfinite().all():
                raise ValueError(f"{tensor.key} has values that float16 cannot hold; bfloat16 and float32 can.")
            file.write(data.flatten().view(torch.uint8).numpy())
            progress.update(tensor.num_bytes)
