# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The files of the authors' checkpoint, in a folder or in a repository on the Hub."""

import fnmatch
import os
from collections.abc import Collection, Iterable
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError


# The folder of each pixel decoder and the file of its feature decoder.
PIXEL_DECODERS = {
    "highres": ("highres_pixel_decoding", "highres_tokenizer_decoder.bin"),
    "lowres": ("pixel_decoding", "tokenizer_decoder.bin"),
}
LICENCES = ("*LICENSE*", "USE_POLICY*")


def get_release(
    src: str, pixel_decoders: Iterable[str], revision: str | None = None
) -> tuple[Path, dict[str, list[str]]]:
    """
    Finds the authors' checkpoint. The files of a repository that the conversion reads are downloaded to the cache of
    `huggingface_hub`; a file that an earlier download has completed is not downloaded again.

    Args:
        src (`str`): A folder, or the id of a repository.
        pixel_decoders (`Iterable[str]`): The pixel decoders that are converted, `"highres"` and `"lowres"`.
        revision (`str`, *optional*): Branch, tag or commit of the repository. Default: the main branch.

    Returns:
        `Path` and `dict[str, list[str]]`: The checkpoint's folder, and the result of [`choose_weights`].

    Raises:
        FileNotFoundError: If there is neither a folder nor a repository, or if files are missing; all of them are
            named, and nothing is downloaded.
        huggingface_hub.errors.HfHubHTTPError: If the Hub cannot be read for another reason.
    """
    if os.path.isdir(src):
        if revision is not None:
            raise ValueError(f"revision is for a repository, got {revision!r} for the folder {src}.")
        folder = Path(src)
        paths = [path for pattern in ("*", "*/*", "*/*/*") for path in folder.glob(pattern) if path.is_file()]
        names = [path.relative_to(folder).as_posix() for path in paths]
        return folder, choose_weights(src, names, pixel_decoders)
    api = HfApi(library_name="lavit_hf")
    try:
        info = api.model_info(src, revision=revision)
    except (HFValidationError, RepositoryNotFoundError, RevisionNotFoundError) as error:
        at = f" with a revision {revision!r}" if revision else ""
        raise FileNotFoundError(f"There is neither a folder {src} nor a repository of this name{at}.") from error
    weights = choose_weights(src, [file.rfilename for file in info.siblings or []], pixel_decoders)
    files = [name for names in weights.values() for name in names]
    others = [f"{place}/*" for kind, (place, _) in PIXEL_DECODERS.items() if kind not in pixel_decoders]
    # A download by commit does not mix files of two states, whatever is pushed meanwhile.
    downloaded = api.snapshot_download(
        src,
        revision=info.sha,
        allow_patterns=[*files, "*.json", "language_model/tokenizer.model", *LICENCES],
        ignore_patterns=["*.index.json", *others],
    )
    return Path(downloaded), weights


def choose_weights(src: str, names: Collection[str], pixel_decoders: Iterable[str]) -> dict[str, list[str]]:
    """
    Chooses the files with weights among the files of the authors' checkpoint.

    Args:
        src (`str`): The folder or repository, for the error.
        names (`Collection[str]`): The paths of all files in the checkpoint's folder.
        pixel_decoders (`Iterable[str]`): The pixel decoders that are converted.

    Returns:
        `dict[str, list[str]]`: The name that the weights of one or several files go by in tables and errors, and the
        paths of these files.

    Raises:
        FileNotFoundError: If files that the conversion reads are missing.
    """
    weights = {
        "language_model": _files_of_model(names, "language_model", ("model", "pytorch_model")),
        "visual_weight.bin": ["language_model/visual_weight.bin"],
        "eva_vitg_psz14.bin": ["visual_tokenizer/eva_vitg_psz14.bin"],
        "tokenizer_encoder.bin": ["visual_tokenizer/tokenizer_encoder.bin"],
    }
    needed = ["language_model/config.json"]
    for kind in pixel_decoders:
        folder, feature_decoder = PIXEL_DECODERS[kind]
        weights[feature_decoder] = [f"visual_tokenizer/{feature_decoder}"]
        needed.append(f"{folder}/scheduler/scheduler_config.json")
        if kind == "lowres":
            weights["uncond_embeddings.bin"] = [f"{folder}/uncond_embeddings.bin"]
        for part in ("unet", "vae"):
            weights[f"{folder}/{part}"] = _files_of_model(names, f"{folder}/{part}", ("diffusion_pytorch_model",))
            needed.append(f"{folder}/{part}/config.json")
    needed += [name for files in weights.values() for name in files]
    missing = [name for name in needed if name not in names]
    if not {"language_model/tokenizer.model", "language_model/tokenizer.json"} & set(names):
        missing.append("language_model/tokenizer.model or tokenizer.json")
    if missing:
        hint = " To convert less, leave a pixel decoder out of pixel_decoders." if "pixel" in missing[0] else ""
        raise FileNotFoundError(f"{src} lacks {', '.join(missing)}.{hint}")
    return weights


def _files_of_model(names: Iterable[str], folder: str, stems: Iterable[str]) -> list[str]:
    """One file or all shards of a model: safetensors before pickles, and a whole file before shards."""
    for suffix in ("safetensors", "bin"):
        for stem in stems:
            whole = f"{folder}/{stem}.{suffix}"
            if whole in names:
                return [whole]
            if shards := fnmatch.filter(names, f"{folder}/{stem}-?????-of-?????.{suffix}"):
                count = shards[0].removesuffix(f".{suffix}")[-5:]  # a missing shard has to be noticed
                return [f"{folder}/{stem}-{number + 1:05d}-of-{count}.{suffix}" for number in range(int(count))]
    return [f"{whole.removesuffix('bin')}safetensors or .bin"]
