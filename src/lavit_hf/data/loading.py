# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Loading of datasets with images by one function, whatever they are stored as. Images stay undecoded."""

import glob
import hashlib
import os
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..modeling.arguments_lavit import check_integer
from .code_files import MANIFEST_FILE, check_complete, read_manifest
from .shapes import load_shapes


try:
    import datasets
except ImportError as error:
    raise ImportError("Datasets need the library datasets: pip install 'lavit-hf[train]'.") from error


# Formats of `datasets`, whose names stand in place of that of a dataset.
FORMATS = ("arrow", "csv", "imagefolder", "json", "parquet", "text", "webdataset")


def load_rows(
    dataset_name: str | os.PathLike,
    split: str = "train",
    *,
    config_name: str | None = None,
    data_dir: str | os.PathLike | None = None,
    streaming: bool = False,
    num_rows: int | None = None,
    seed: int = 0,
    cache_dir: str | None = None,
) -> "datasets.Dataset | datasets.IterableDataset":
    """
    Loads the rows of any dataset and leaves its images undecoded, so that `datasets` itself never fails on a broken
    image file.

    Args:
        dataset_name (`str` or `os.PathLike`):
            `"shapes"`, the dataset that comes with the library; a folder that `save_to_disk` wrote; a folder or file
            of parquet, JSON, CSV or images, with precomputed codes or not; a format such as `"imagefolder"` with
            `data_dir`; or a repository of the Hub.
        split (`str`, *optional*, defaults to `"train"`):
            A split, or without streaming a slice of one, such as `"train[:10%]"`.
        config_name (`str`, *optional*): The configuration of the dataset.
        data_dir (`str` or `os.PathLike`, *optional*): The folder of a format's files, or a folder within the dataset.
        streaming (`bool`, *optional*, defaults to `False`):
            Whether to read rows while iterating, in constant memory and without a cache.
        num_rows (`int`, *optional*): The number of rows to take from the beginning. Default: all rows.
        seed (`int`, *optional*, defaults to 0): The seed of the rows of `"shapes"`.
        cache_dir (`str`, *optional*):
            The folder where `datasets` keeps what it prepares. A local folder whose files have changed is prepared
            anew, and what was prepared before stays.

    Returns:
        `datasets.Dataset`, or with `streaming` `datasets.IterableDataset`. Columns of type `datasets.Image` hold
        `{"bytes": ..., "path": ...}`, which [`~lavit_hf.processing.read_image`] reads.

    Raises:
        ValueError: If the dataset or the split does not exist or cannot be read, or arguments do not fit the dataset.
    """
    name = str(dataset_name)
    if num_rows is not None:
        check_integer("num_rows", num_rows, 1)
    if (name == "shapes" or _is_saved(name) or Path(name).is_file()) and (config_name or data_dir):
        raise ValueError(f"{name!r} takes neither config_name nor data_dir, got {config_name!r} and {data_dir!r}.")
    if name == "shapes":
        rows = {} if num_rows is None else {"num_rows": num_rows}
        dataset = load_shapes(split, seed=seed, streaming=streaming, cache_dir=cache_dir, **rows)
    elif _is_saved(name):
        dataset = _load_saved(name, split, streaming)
    else:
        dataset = _load_dataset(name, split, config_name, data_dir, streaming, cache_dir)
    if num_rows is not None:
        dataset = dataset.take(num_rows) if streaming else dataset.select(range(min(num_rows, len(dataset))))
    return leave_undecoded(dataset)


def _load_saved(folder: str, split: str, streaming: bool):
    """Loads what `save_to_disk` wrote."""
    dataset = datasets.load_from_disk(folder)
    # A dataset that was saved alone may not know its split; it then counts as the train split.
    splits = dataset if isinstance(dataset, datasets.DatasetDict) else {str(dataset.split or "train"): dataset}
    name = split if streaming else split.partition("[")[0]
    if name not in splits:
        raise ValueError(f"There is no split {name!r} in {folder}; it has {', '.join(splits)}.")
    if streaming:
        return splits[name].to_iterable_dataset()
    try:
        [part] = datasets.ReadInstruction.from_spec(split).to_absolute({name: len(splits[name])})
    except (AssertionError, ValueError) as error:
        raise ValueError(f"{split!r} is no slice of the split {name!r} of {folder}: {error}") from error
    return splits[name].select(range(part.from_ or 0, len(splits[name]) if part.to is None else part.to))


def _load_dataset(name: str, split: str, config_name, data_dir, streaming: bool, cache_dir):
    """Loads what `datasets.load_dataset` reads."""
    source = _source(name, data_dir) | {"name": config_name}
    try:
        if _is_local(source):
            files = datasets.load_dataset_builder(**source, cache_dir=cache_dir).config.data_files or {}
            for folder in _find_manifests(source, split, files):
                check_complete(folder)
            if not streaming:
                cache = Path(cache_dir or datasets.config.HF_DATASETS_CACHE)
                cache_dir = str(cache / _fingerprint_files(files))
        return datasets.load_dataset(**source, split=split, streaming=streaming, cache_dir=cache_dir)
    except (ValueError, FileNotFoundError, datasets.exceptions.DatasetsError) as error:
        place = name if data_dir is None else f"{name} in {data_dir}"
        if not _is_local(source) and "/" not in name:
            place += ", which is no local folder or file"
        elif "corresponds to no data" in str(error):
            place += ", which has no files of this split"
        raise ValueError(f"Cannot load split {split!r} of {place}: {error.__cause__ or error}") from error


def _source(name: str, data_dir: str | os.PathLike | None) -> dict[str, Any]:
    """Returns the arguments of `datasets.load_dataset` that name a dataset."""
    path, folder = Path(name).expanduser(), data_dir and str(Path(data_dir).expanduser())
    for place in (os.path.abspath(path) if path.exists() else None, folder and os.path.abspath(folder)):
        if place and glob.escape(place) != place:
            raise ValueError(f"`datasets` reads the characters *, ? and [ in paths as patterns: rename {place}.")
    if path.is_file():
        return {"path": os.path.abspath(path.parent), "data_files": path.name}
    if path.is_dir():
        return {"path": os.path.abspath(path), "data_dir": folder}
    if name in FORMATS and data_dir is None:  # `datasets` would read the files of the current folder
        raise ValueError(f"{name!r} is a format, and needs data_dir, the folder with its files.")
    if "://" not in name and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise ValueError(f"There is no folder or file {name}.")
    return {"path": name, "data_dir": folder}


def _find_manifests(source: Mapping[str, Any], split: str, files: Mapping[str, Sequence[str]]) -> list[Path]:
    """Finds the folders with manifests among those of all `files` of a split, a slice or a sum of splits."""
    names = [part.partition("[")[0].strip() for part in split.split("+")]
    folders = {
        posixpath.dirname(file) for name in (files if "all" in names else names) for file in files.get(name, [])
    }
    if os.path.isabs(source["path"]) and "data_files" not in source:
        # A split that has only begun may have no files yet, here or in one of several parts.
        for name in files if "all" in names else names:
            for pattern in (name, f"*/{name}"):
                folders |= {str(found.parent) for found in Path(source["path"]).glob(f"{pattern}/{MANIFEST_FILE}")}
    return [Path(folder) for folder in sorted(folders) if read_manifest(folder)]


def _is_saved(name: str) -> bool:
    """Whether `name` is a folder that `save_to_disk` wrote."""
    return any((Path(name) / file).is_file() for file in ("state.json", "dataset_dict.json"))


def _is_local(source: Mapping[str, Any]) -> bool:
    return os.path.isabs(source["path"]) or source["path"] in FORMATS


def _fingerprint_files(data_files: Mapping[str, Any] | None) -> str:
    """
    Returns a name for the present state of data files by split. By a card that lists them, `datasets` (5.2) takes
    folders of one name for the same dataset, also after their files have changed, and returns what it prepared first.
    """
    files = sorted((str(split), list(paths), paths.origin_metadata) for split, paths in (data_files or {}).items())
    return hashlib.sha256(repr(files).encode(errors="surrogateescape")).hexdigest()[:16]


def leave_undecoded(dataset):
    """
    Returns `dataset` with the images of its columns as `{"bytes": ..., "path": ...}`, unless it has a transform, which
    gets its images as `datasets` decodes them.
    """
    if isinstance(dataset, datasets.IterableDataset):
        return dataset.with_format(None).decode(False) if dataset.features else dataset
    if has_transform(dataset):
        return dataset
    for column, feature in dataset.features.items():
        if isinstance(feature, datasets.Image) and feature.decode:
            dataset = dataset.cast_column(column, leave_feature_undecoded(feature))
    return dataset


def has_transform(dataset) -> bool:
    """Returns whether a function of the user makes the values of the rows of `dataset`, which no stream has."""
    return isinstance(dataset, datasets.Dataset) and dataset.format["type"] == "custom"


def leave_feature_undecoded(feature):
    """
    Leaves the images in a feature undecoded, at any depth.

    Args:
        feature: A feature of `datasets`, or all `Features` of a dataset.
    """
    if isinstance(feature, datasets.Image):
        return datasets.Image(mode=feature.mode, decode=False)
    if isinstance(feature, Mapping):
        return type(feature)({name: leave_feature_undecoded(part) for name, part in feature.items()})
    if isinstance(feature, datasets.List | datasets.LargeList):
        return replace(feature, feature=leave_feature_undecoded(feature.feature))
    return feature


def check_columns(dataset, columns: Sequence[str], option: str) -> None:
    """
    Raises a `ValueError` that names one of `columns` that `dataset` does not have, those that it has, and the `option`
    that chooses another column, or a column with a feature that [`check_features`] refuses.
    """
    names = column_names(dataset)
    for column in columns:
        if column not in names:
            raise ValueError(f"There is no column {column!r}; the dataset has {', '.join(names)}. Set {option}.")
    check_features(dataset, columns)


def check_features(dataset, columns: Iterable[str]) -> None:
    """
    Raises a `ValueError` if one of `columns` has images that are to be decoded in a mode other than RGB, as which all
    images are read, or numbers of classes in the place of their names, at any depth. Columns that `dataset` does not
    have pass, and so does a dataset with a transform.
    """
    if has_transform(dataset):
        return  # its values are of other types
    features = getattr(dataset, "features", None) or {}
    for column in columns:
        _check_feature(column, features.get(column))


def _check_feature(column: str, feature) -> None:
    if isinstance(feature, Mapping):
        for part in feature.values():
            _check_feature(column, part)
    elif isinstance(feature, datasets.List | datasets.LargeList):
        _check_feature(column, feature.feature)
    elif isinstance(feature, datasets.Image) and feature.mode not in (None, "RGB"):
        raise ValueError(
            f"Images are read as RGB, but column {column!r} has the feature datasets.Image(mode={feature.mode!r}): "
            "convert its images with `map`, and cast the column to datasets.Image()."
        )
    elif isinstance(feature, datasets.ClassLabel):
        raise ValueError(
            f"Column {column!r} has numbers of the classes {', '.join(feature.names[:3])}, ...: cast it to texts, for "
            "example with `map` and `int2str` of the feature."
        )


def column_names(dataset) -> list[str]:
    """Returns the columns of `dataset`. A stream may not know them before its first row."""
    return dataset.column_names or list(next(iter(dataset), {}))
