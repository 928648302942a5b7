# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The authors' checkpoint from the Hub: those of its files that a conversion reads."""

import re
from collections.abc import Collection, Iterable
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

from .model_card import is_licence
from .official_lavit import PIXEL_DECODERS
from .weights import choose_weights


REPOSITORY_ID = re.compile(r"[\w.-]+/[\w.-]+")
TOKENIZERS = ("tokenizer.model", "tokenizer.json")


def download_official_checkpoint(repo_id: str, pixel_decoders: Iterable[str], revision: str | None = None) -> Path:
    """
    Downloads from a repository what the conversion reads, to the cache of `huggingface_hub`. A file that an earlier
    download has completed is not downloaded again.

    Args:
        repo_id (`str`): Id of the repository.
        pixel_decoders (`Iterable[str]`): Of `"highres"` and `"lowres"`, those that are converted.
        revision (`str`, *optional*): Branch, tag or commit. Default: the main branch.

    Returns:
        `Path`: A folder with the files, laid out as in the repository.

    Raises:
        FileNotFoundError: there is no such repository or revision, or it lacks files that are needed, by name.
        huggingface_hub.errors.HfHubHTTPError: whatever else the Hub answers.
    """
    api = HfApi(library_name="lavit_hf")
    try:
        info = api.model_info(repo_id, revision=revision)
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        at = f" with a revision {revision!r}" if revision else ""
        raise FileNotFoundError(f"There is neither a folder {repo_id} nor a repository of this name{at}.") from error
    files = needed_files([file.rfilename for file in info.siblings or []], repo_id, pixel_decoders)
    # One commit, whatever is pushed meanwhile.
    return Path(snapshot_download(repo_id, revision=info.sha, allow_patterns=files, library_name="lavit_hf"))


def needed_files(names: Collection[str], repo_id: str, pixel_decoders: Iterable[str]) -> list[str]:
    """
    Chooses from the names of all files in the authors' layout those that a conversion reads.

    Raises:
        FileNotFoundError: files that are needed and are not there, by name.
    """
    names = set(names)
    required = ["language_model/config.json", "language_model/visual_weight.bin"]
    required += [f"visual_tokenizer/{name}.bin" for name in ("eva_vitg_psz14", "tokenizer_encoder")]
    models = {"language_model": ["model", "pytorch_model"]}
    for kind in pixel_decoders:
        folder, feature_decoder = PIXEL_DECODERS[kind]
        required.append(f"visual_tokenizer/{feature_decoder}")
        required += [f"{folder}/{part}" for part in ("scheduler/scheduler_config.json", "unet/config.json")]
        required.append(f"{folder}/vae/config.json")
        required += [f"{folder}/uncond_embeddings.bin"] if kind == "lowres" else []
        models |= dict.fromkeys((f"{folder}/unet", f"{folder}/vae"), ["diffusion_pytorch_model"])
    missing = [name for name in required if name not in names]

    optional = [name for name in names if is_licence(name)]
    optional += [name for name in names if re.fullmatch(r"language_model/[^/]*(?<!index)\.json", name)]
    optional += [name for name in ("language_model/tokenizer.model",) if name in names]
    if not any(f"language_model/{name}" in names for name in TOKENIZERS):
        missing.append(f"language_model/{' or '.join(TOKENIZERS)}")
    for folder, stems in models.items():
        beside = {name.removeprefix(f"{folder}/") for name in names if name.startswith(f"{folder}/")}
        chosen = choose_weights(beside, stems)
        if not chosen:
            missing.append(f"{folder}/{stems[-1]}.bin or its like")
        optional += [f"{folder}/{name}" for name in chosen]
    if missing:
        raise FileNotFoundError(f"The repository {repo_id} lacks {', '.join(missing)}.")
    return sorted({*required, *optional})
