# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Loading, saving and publishing of a pixel decoder in a folder or repository that holds other models as well."""

import inspect
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from huggingface_hub import CommitInfo, snapshot_download
from huggingface_hub.errors import HFValidationError
from torch import nn

from ..modeling.pretrained_lavit import check_none_missing
from ..publishing.files import check_weights, finish_replacing, list_files, replacing
from ..publishing.saving import check_hub_arguments, upload


PARTS = ("feature_decoder", "scheduler", "unet", "vae")
DOWNLOAD_ARGUMENTS = ("revision", "cache_dir", "token", "local_files_only", "force_download")
SAVE_ARGUMENTS = inspect.signature(DiffusionPipeline.save_pretrained).parameters.keys()


class LavitPipelineFiles(DiffusionPipeline):
    """
    A pipeline that reads, downloads and replaces its own files alone. diffusers downloads no pipeline with a component
    of another library, and looks for a missing component at the root, where another model may lie.
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
                The folder of the pipeline in there, such as `"lowres_decoder"` in a converted release.
            kwargs: Same arguments as `DiffusionPipeline.from_pretrained`: `dtype`, `variant`, `device_map`, components
                to use instead of the stored ones, and for the Hub `revision`, `cache_dir`, `token`,
                `local_files_only`, `force_download`.

        Returns:
            `LavitImageDecoderPipeline`: The pipeline.

        Raises:
            ValueError: If there is neither a folder nor a possible id, no pipeline, or a pipeline without one of its
                components or of their weights.
            OSError: If weights are not safetensors. Errors of the Hub's client are not changed.
        """
        if not kwargs.setdefault("use_safetensors", True):
            raise ValueError(f"Weights must be safetensors, got use_safetensors={kwargs['use_safetensors']}.")
        name, variant = os.fspath(pretrained_model_name_or_path), kwargs.get("variant")
        hub_kwargs = {key: kwargs.pop(key) for key in DOWNLOAD_ARGUMENTS if key in kwargs}
        parts = [part for part in PARTS if part not in kwargs]
        if os.path.isdir(name):
            root = name
            for folder in (name, os.path.join(name, subfolder or "")):
                finish_replacing(folder)
        else:
            root = _download(name, subfolder, variant, [cls.config_name, *parts], **hub_kwargs)
        folder = os.path.join(root, subfolder or "")
        for entry in (cls.config_name, *parts):
            if not os.path.exists(os.path.join(folder, entry)):
                raise ValueError(
                    f"There is no {cls.__name__} in {name!r}{f', subfolder {subfolder!r}' if subfolder else ''}: "
                    f"expected {cls.config_name} and beside it {', '.join(parts)}, but {entry} is missing."
                )
        for part in parts:
            check_weights(os.path.join(folder, part), variant)
        pipe = super().from_pretrained(folder, **kwargs)
        if "device_map" not in kwargs:  # with one, weights may be elsewhere, and a missing one is an error already
            # diffusers only warns of missing weights, and leaves them without values.
            for part in parts:
                component = pipe.components[part]
                tensors = component.state_dict() if isinstance(component, nn.Module) else {}
                check_none_missing(part, [name for name, tensor in tensors.items() if tensor.is_meta])
        # The property `name_or_path` of diffusers reads it, and would be a folder in the cache.
        pipe.register_to_config(_name_or_path=name)
        return pipe

    def save_pretrained(self, save_directory: str | os.PathLike, *args, push_to_hub: bool = False, **kwargs) -> None:
        """
        Saves the pipeline. Same arguments as `DiffusionPipeline.save_pretrained`. The old files are replaced together
        once all new ones are written; see `LavitForCausalLM.save_pretrained`.

        Raises:
            TypeError: If an argument is unknown, or one for the Hub is given without `push_to_hub=True`.
        """
        hub_kwargs = {name: kwargs.pop(name) for name in kwargs.keys() - SAVE_ARGUMENTS}
        check_hub_arguments(hub_kwargs, push_to_hub)
        repo_id = hub_kwargs.pop("repo_id", os.path.basename(os.path.abspath(save_directory)))
        with replacing(save_directory) as folder:
            super().save_pretrained(os.fspath(folder), *args, **kwargs)
            paths = list_files(folder)
        if push_to_hub:
            upload(save_directory, paths, repo_id, **hub_kwargs)

    def push_to_hub(
        self, repo_id: str, *, variant: str | None = None, subfolder: str | None = None, **kwargs
    ) -> CommitInfo:
        """
        Pushes the pipeline in one commit. Old files of the same weights are deleted.

        Args:
            repo_id (`str`): The repository, which is created if it does not exist.
            variant (`str`, *optional*): The variant of the weights, such as `"fp16"`.
            subfolder (`str`, *optional*): The folder in the repository.
            kwargs: `private`, `token`, `create_pr`, `commit_message`.

        Returns:
            `CommitInfo`: The commit.

        Raises:
            TypeError: If an argument is unknown.
        """
        check_hub_arguments(kwargs)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, variant=variant)
            return upload(folder, list_files(Path(folder)), repo_id, subfolder=subfolder or "", **kwargs)


def _download(name: str, subfolder: str | None, variant: str | None, entries: Sequence[str], **kwargs) -> str:
    """Downloads the entries of a pipeline from a repository, and returns the folder of the repository."""
    places = [f"{subfolder.strip('/')}/{entry}" if subfolder else entry for entry in entries]
    try:
        return snapshot_download(
            name,
            allow_patterns=[*places, *(f"{place}/*.{kind}" for place in places for kind in ("json", "safetensors"))],
            # The name of a variant stands between two dots: diffusion_pytorch_model.fp16.safetensors
            ignore_patterns=None if variant else [f"{place}/*.*.safetensors" for place in places],
            **kwargs,
        )
    except HFValidationError as error:
        raise ValueError(f"Expected an existing folder or the id of a repository, got {name!r}.") from error
