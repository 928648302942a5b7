# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Loading a pipeline that lies among other models' files and has a component of ours."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError
from torch import nn

from ..publishing.files import check_none_missing, check_weights, finish_replacing, list_files, replacing
from ..publishing.saving import upload


class OwnFilesPipeline(DiffusionPipeline):
    """
    A pipeline that can be loaded from a folder or a repository in which other models lie as well, and from a
    subfolder of them: it reads and downloads just its own files. diffusers by itself downloads no pipeline with a
    component whose class is neither its own nor transformers'.
    """

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike, subfolder: str | None = None, **kwargs
    ) -> Self:
        """
        Loads a pipeline from its own folder or repository, or from that of a whole LaVIT.

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`): A folder, or the id of a repository on the Hub.
            subfolder (`str`, *optional*):
                Where in there the pipeline lies, as `"lowres_decoder"` in a converted release.
            kwargs: As for any `DiffusionPipeline`: `dtype`, `variant`, `device_map`, components to use instead of the
                stored ones, and for the Hub `revision`, `cache_dir`, `token`, `local_files_only`, `force_download`.

        Raises:
            ValueError: neither a folder nor a possible id; no pipeline in there, or one without one of its parts or of
                their weights.
            OSError: weights that are not safetensors; whatever the Hub's client raises.
        """
        if not kwargs.setdefault("use_safetensors", True):
            raise ValueError(f"Weights must be safetensors, got use_safetensors={kwargs['use_safetensors']}.")
        name = os.fspath(pretrained_model_name_or_path)
        hub = ("revision", "cache_dir", "token", "local_files_only", "force_download")
        hub_kwargs = {key: kwargs.pop(key) for key in hub if key in kwargs}
        parts = [part for part in cls._get_signature_keys(cls)[0] if part not in kwargs]
        if os.path.isdir(name):
            folder = os.path.join(name, subfolder or "")
            for place in (name, folder):
                finish_replacing(place)
        else:
            folder = cls.download(name, subfolder, kwargs.get("variant"), parts, **hub_kwargs)

        # diffusers would look for a part that has no folder at the root, where another model may lie.
        for entry, exists in [(cls.config_name, os.path.isfile)] + [(part, os.path.isdir) for part in parts]:
            if not exists(os.path.join(folder, entry)):
                raise ValueError(
                    f"There is no {cls.__name__} in {name!r}{f', subfolder {subfolder!r}' if subfolder else ''}: "
                    f"expected {cls.config_name} and beside it {', '.join(parts)}, but {entry} is missing."
                )
        for part in parts:
            check_weights(os.path.join(folder, part), kwargs.get("variant"))
        pipe = super().from_pretrained(folder, **kwargs)
        if "device_map" not in kwargs:  # with one, weights may be elsewhere, and what is missing is an error already
            for part in parts:
                _check_complete(part, pipe.components[part])
        pipe.register_to_config(_name_or_path=name)  # rather than a place in the cache
        return pipe

    def save_pretrained(self, save_directory: str | os.PathLike, *args, push_to_hub: bool = False, **kwargs) -> None:
        """
        Saves the pipeline. Same arguments as `DiffusionPipeline.save_pretrained`. Files that are there are replaced
        together once all new ones are written; see `LavitForCausalLM.save_pretrained`.
        """
        if push_to_hub:
            kwargs.setdefault("repo_id", os.path.basename(os.path.abspath(save_directory)))
        with replacing(save_directory) as folder:
            super().save_pretrained(os.fspath(folder), *args, push_to_hub=push_to_hub, **kwargs)

    # A private hook of diffusers, through which all of its ways to push go: it would leave old files of weights in the
    # repository, which are loaded instead of the new ones if these have other names.
    def _upload_folder(self, working_dir, repo_id, token=None, commit_message=None, create_pr=False, subfolder=None):
        return upload(
            working_dir,
            list_files(Path(working_dir)),
            repo_id,
            token=token,
            commit_message=commit_message or f"Upload {type(self).__name__}",
            create_pr=create_pr,
            subfolder=subfolder or "",
        )

    @classmethod
    def download(
        cls,
        pretrained_model_name: str,
        subfolder: str | None = None,
        variant: str | None = None,
        parts: Sequence[str] | None = None,
        **kwargs,
    ) -> str:
        """
        Downloads a pipeline's own files from a repository, in which anything else may lie beside them.

        Args:
            pretrained_model_name (`str`): The id of a repository on the Hub.
            subfolder (`str`, *optional*): Where in there the pipeline lies.
            variant (`str`, *optional*): Download weights of this variant as well, such as `"fp16"`.
            parts (`list[str]`, *optional*): Download no parts but these. Default: all.
            kwargs: Of `huggingface_hub.snapshot_download`: `revision`, `cache_dir`, `token`, ...

        Returns:
            `str`: The local folder with the `model_index.json`.
        """
        prefix = f"{subfolder.strip('/')}/" if subfolder else ""
        parts = cls._get_signature_keys(cls)[0] if parts is None else parts
        # A variant stands between two dots: diffusion_pytorch_model.fp16.safetensors
        ignored = [] if variant else [f"{prefix}{part}/*.*.safetensors" for part in parts]
        allowed = [f"{prefix}{part}/*.{ending}" for part in parts for ending in ("json", "safetensors")]
        try:
            snapshot = snapshot_download(
                pretrained_model_name,
                allow_patterns=[prefix + cls.config_name, *allowed],
                ignore_patterns=ignored,
                **kwargs,
            )
        except HFValidationError as error:
            raise ValueError(
                f"Expected an existing folder or the id of a repository, got {pretrained_model_name!r}."
            ) from error
        return os.path.join(snapshot, prefix)


def _check_complete(part: str, component: Any) -> None:
    # diffusers tells of missing weights in a warning, and leaves them without values.
    tensors = component.state_dict() if isinstance(component, nn.Module) else {}
    check_none_missing(part, [name for name, tensor in tensors.items() if tensor.is_meta])
