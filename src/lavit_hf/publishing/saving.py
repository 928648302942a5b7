# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""A whole LaVIT in one folder or repository: model, processor, pixel decoder, card, and the code that loads them."""

import fnmatch
import inspect
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import (
    CommitInfo,
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    ModelCard,
    ModelCardData,
    try_to_load_from_cache,
)
from huggingface_hub.errors import HFValidationError
from transformers.utils import ADAPTER_CONFIG_NAME

from .files import check_weights, finish_replacing, list_files, patterns_of_weights, replacing


if TYPE_CHECKING:
    from transformers import PreTrainedModel as MixinBase
else:
    MixinBase = object

AUTO_CLASSES = ("AutoModelForCausalLM", "AutoModelForImageTextToText", "AutoModelForMultimodalLM")
# The classes in the code of a folder, to which transformers adds that of the configuration.
AUTO_MAP = {"AutoModel": "modeling_lavit_model.LavitModel"}
AUTO_MAP |= dict.fromkeys(AUTO_CLASSES, "modeling_lavit.LavitForCausalLM")
CARD_NAME = "README.md"
# Matches ![...](samples/captions.png), and no image of the web.
CARD_IMAGE = re.compile(r"!\[[^\]]*\]\((?!\w+:)([^)\s]+)\)")


def write_card(model_card: ModelCard | str | os.PathLike, folder: Path) -> None:
    """Writes `model_card` to `folder`. If it is a file, the images beside it that it shows are copied as well."""
    if isinstance(model_card, ModelCard):
        model_card.save(folder / CARD_NAME)
        return
    source = Path(model_card)
    if not source.is_file():
        raise ValueError(f"model_card must be a ModelCard or the file of one: there is no file {source}.")
    shutil.copyfile(source, folder / CARD_NAME)
    for image in map(Path, CARD_IMAGE.findall(source.read_text(encoding="utf-8"))):
        inside = (source.parent / image).resolve().is_relative_to(source.parent.resolve())
        if inside and (source.parent / image).is_file():
            (folder / image).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source.parent / image, folder / image)


def new_card(title: str, tags: Sequence[str] | None = None) -> ModelCard:
    """Returns a short card with a `title` and further `tags`, for a repository that has none."""
    data = ModelCardData(library_name="transformers", pipeline_tag="any-to-any", tags=["lavit", *(tags or ())])
    text = "A LaVIT ([arXiv 2309.04669](https://arxiv.org/abs/2309.04669)): it reads and draws images as tokens."
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n# {title}\n\n{text}\n")


def upload(
    folder: str | os.PathLike,
    paths: Sequence[str],
    repo_id: str,
    *,
    private: bool | None = None,
    token: bool | str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str = "Upload LaVIT",
    commit_description: str | None = None,
    tags: Sequence[str] | None = None,
    subfolder: str = "",
) -> CommitInfo:
    """
    Uploads files of a folder as one commit of a model repository, which is created if it does not exist. The commit
    deletes old files of the same weights.

    Args:
        folder (`str` or `os.PathLike`): The folder.
        paths (`Sequence[str]`): The paths of the files in the folder.
        repo_id (`str`): The repository.
        tags (`Sequence[str]`, *optional*): Tags of the short card that a repository without a card gets.
        subfolder (`str`, *optional*, defaults to `""`): The folder in the repository.
        private, token, revision, create_pr, commit_message, commit_description:
            Same as in `PreTrainedModel.push_to_hub`.

    Returns:
        `CommitInfo`: The commit.

    Raises:
        ValueError: If a model is pushed to a place that holds an adapter.
    """
    api = HfApi(library_name="lavit_hf")
    repo_id = api.create_repo(repo_id, private=private, token=token, exist_ok=True).repo_id
    if revision is not None and not revision.startswith("refs/pr/"):
        api.create_branch(repo_id, branch=revision, token=token, exist_ok=True)
    there = api.list_repo_files(repo_id, revision=revision, token=token)
    new = {Path(subfolder, path).as_posix(): Path(folder, path) for path in paths}
    adapter, config = (Path(subfolder, name).as_posix() for name in (ADAPTER_CONFIG_NAME, "config.json"))
    if config in new and adapter in there:
        raise ValueError(
            f"The repository {repo_id} holds an adapter ({adapter}): from_pretrained would load the model that it "
            "belongs to instead of the pushed one. Push to another repository, or remove the adapter."
        )
    stale = {path for pattern in patterns_of_weights(new) for path in fnmatch.filter(there, pattern)} - new.keys()
    operations: list[CommitOperationAdd | CommitOperationDelete]
    operations = [CommitOperationDelete(path) for path in sorted(stale)]
    operations += [CommitOperationAdd(path, file) for path, file in new.items()]
    if not subfolder and CARD_NAME not in (*paths, *there):
        operations.append(CommitOperationAdd(CARD_NAME, new_card(repo_id.split("/")[-1], tags).content.encode()))
    # Not `HfApi.upload_folder`, which makes several commits of a large folder where hf_xet is installed.
    return api.create_commit(
        repo_id,
        operations,
        commit_message=commit_message,
        commit_description=commit_description,
        token=token,
        revision=revision,
        create_pr=create_pr,
    )


def check_hub_arguments(given: dict[str, Any], push_to_hub: bool = True) -> None:
    """
    Checks arguments of [`upload`] before anything is written.

    Args:
        given (`dict[str, Any]`): Arguments of [`upload`] beyond `folder` and `paths`, with or without a `repo_id`.
        push_to_hub (`bool`, *optional*, defaults to `True`): Whether files are going to be uploaded.

    Raises:
        TypeError: If an argument is unknown, or if anything but a token is given and nothing is uploaded.
    """
    if not push_to_hub and (unknown := given.keys() - {"token"}):
        raise TypeError(f"save_pretrained takes no {', '.join(sorted(unknown))} without push_to_hub=True.")
    inspect.signature(upload).bind("folder", [], **{"repo_id": None} | given)


class LavitPublishingMixin(MixinBase):
    """Saving, publishing and loading of a model whose folder or repository may hold all that belongs to it."""

    widest_dtype: Callable[[], Any]  # of `LavitPreTrainedModel`

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """
        Loads a model. Same arguments as `PreTrainedModel.from_pretrained`.

        Returns:
            The model, or with `output_loading_info=True` a tuple of it and a dictionary.

        Raises:
            ValueError: If a file of weights or their index cannot be read; the message names it.
            OSError: If saving to the folder was interrupted, and the replacement of its files cannot be completed, or
                has just been completed when an Auto class had already read the old configuration.
        """
        name = pretrained_model_name_or_path
        subfolder, variant = kwargs.get("subfolder") or "", kwargs.get("variant")
        is_name = isinstance(name, (str, os.PathLike)) and not kwargs.get("gguf_file")
        if is_name and os.path.isdir(name):
            cls._check_folder(name, subfolder, variant, kwargs.get("config") is not None)
        try:
            return super().from_pretrained(name, *args, **kwargs)
        except Exception:
            # The error of a broken file does not always name it. The files of a repository are checked only now.
            if is_name and not os.path.isdir(name):
                with suppress(HFValidationError):  # no repository
                    where = kwargs.get("cache_dir"), kwargs.get("revision")
                    cached = try_to_load_from_cache(name, os.path.join(subfolder, "config.json"), *where)
                    if isinstance(cached, str):
                        check_weights(os.path.dirname(cached), variant)
            raise

    @staticmethod
    def _check_folder(name: str | os.PathLike, subfolder: str, variant: str | None, has_config: bool) -> None:
        folder = os.path.join(name, subfolder)
        had_old_files = [finish_replacing(place) for place in {name, folder}]
        if any(had_old_files) and has_config:
            raise OSError(
                f"Saving to {name} was interrupted while files were being replaced. The replacement has now been "
                "completed, but the configuration was read before: load again."
            )
        if not has_config and not {"config.json", ADAPTER_CONFIG_NAME} & {*os.listdir(folder)}:
            raise ValueError(
                f"{os.path.normpath(folder)} holds no config.json, so that no model can be loaded from it."
            )
        check_weights(folder, variant)

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        is_main_process: bool = True,
        state_dict: dict | None = None,
        *,
        max_shard_size: int | str = "50GB",
        variant: str | None = None,
        processor=None,
        image_decoder=None,
        model_card: ModelCard | str | os.PathLike | None = None,
        save_peft_format: bool = True,
        save_original_format: bool = True,
        distributed_checkpoint: bool = False,
        push_to_hub: bool = False,
        **hub_kwargs,
    ) -> None:
        """
        Saves the model, and with it what belongs to it, to a folder from which all of `from_pretrained` load. Existing
        files are replaced together once all new ones are written: a process that is killed while saving leaves the old
        files or the new ones, never some of each. Other files in the folder stay.

        Args:
            save_directory (`str` or `os.PathLike`): The folder.
            processor ([`LavitProcessor`], *optional*): The model's processor.
            image_decoder ([`LavitImageDecoderPipeline`], *optional*): The model's pixel decoder.
            model_card (`ModelCard`, `str` or `os.PathLike`, *optional*):
                A card, or the file of one, whose images are copied as well.
            push_to_hub (`bool`, *optional*, defaults to `False`):
                Whether to push the saved files as well, to `repo_id` or else to a repository named as the folder.
            is_main_process, state_dict, max_shard_size, variant, save_peft_format, save_original_format:
                Same as in `PreTrainedModel.save_pretrained`. `max_shard_size` is also that of the pixel decoder.
            distributed_checkpoint (`bool`, *optional*, defaults to `False`):
                Same as in `PreTrainedModel.save_pretrained`. All processes then write to `save_directory` itself.
            hub_kwargs: With `push_to_hub=True`, same as in `push_to_hub`.

        Raises:
            ValueError: If the folder is a file or holds an adapter, if the processor has another vocabulary or the
                pixel decoder another codebook, if the layers of the model have adapters of a `PeftModel`, if there is
                no `model_card`, if a folder lies at the place of a file, or with `safe_serialization=False`.
            TypeError: If an argument is unknown.
        """
        from ..modeling.codebook_lavit import check_same_codebook  # imported late, since the models import this file
        from ..modeling.freezing_lavit import check_no_adapters

        if os.path.isfile(save_directory):
            raise ValueError(f"save_directory must be a folder, got the file {os.fspath(save_directory)!r}.")
        if not hub_kwargs.pop("safe_serialization", True):
            raise ValueError("Weights are always saved as safetensors, got safe_serialization=False.")
        check_hub_arguments(hub_kwargs, push_to_hub)
        repo_id = hub_kwargs.pop("repo_id", Path(save_directory).absolute().name)
        # transformers sets it where a model has an adapter of its own, and saves the adapter alone then.
        is_adapter = getattr(self, "_hf_peft_config_loaded", False)
        if not is_adapter and Path(save_directory, ADAPTER_CONFIG_NAME).is_file():
            raise ValueError(
                f"{save_directory} holds an adapter ({ADAPTER_CONFIG_NAME}), and from_pretrained would apply it to "
                "the saved model: save to another folder, or remove the adapter."
            )
        if not is_adapter and state_dict is None:
            check_no_adapters(self)
        if processor is not None and hasattr(self.config, "image_start_token_id"):
            processor.check_vocabulary(self.config)
        if image_decoder is not None:
            check_same_codebook(self, image_decoder.feature_decoder)
        settings: dict[str, Any] = {
            "max_shard_size": max_shard_size,
            "variant": variant,
            "save_peft_format": save_peft_format,
            "save_original_format": save_original_format,
        }
        if distributed_checkpoint:
            if not (processor is image_decoder is model_card is None):
                raise ValueError("A distributed checkpoint goes without processor, image_decoder and model_card.")
            settings |= {"distributed_checkpoint": True, "push_to_hub": push_to_hub, "repo_id": repo_id}
            super().save_pretrained(save_directory, is_main_process, state_dict, **settings, **hub_kwargs)
            return
        saves = self.should_save_on_this_rank(is_main_process)
        with replacing(save_directory) if saves else nullcontext(Path(save_directory)) as folder:
            with self._auto_classes():
                super().save_pretrained(folder, is_main_process, state_dict, **settings)
                is_whole = not (is_adapter or getattr(self, "is_quantized", False))
                if saves and is_whole and (widest := self.widest_dtype()) not in (None, self.dtype):
                    # from_pretrained brings all weights to one dtype, and transformers has noted the first one's.
                    self.config.dtype = widest
                    self.config.save_pretrained(folder)
            if saves:
                if processor is not None:
                    processor.save_pretrained(folder)
                if image_decoder is not None:
                    image_decoder.save_pretrained(folder, max_shard_size=max_shard_size)
                if model_card is not None:
                    write_card(model_card, folder)
            paths = list_files(folder) if push_to_hub and saves else []
        # Another process may read the folder only now that the files are in their places.
        self.barrier_after_gathered_checkpoint_save(getattr(self.config, "distributed_config", None))
        if push_to_hub and saves:
            upload(save_directory, paths, repo_id, **hub_kwargs)

    @contextmanager
    def _auto_classes(self) -> Iterator[None]:
        """A context in which the configuration names the class of each Auto class that loads a whole LaVIT."""
        # transformers itself adds one Auto class and that of the configuration.
        if self._auto_class in AUTO_CLASSES:
            self.config.auto_map = dict(AUTO_MAP)
        try:
            yield
        finally:  # the entry belongs to one folder, and the model may be saved to another one
            vars(self.config).pop("auto_map", None)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        processor=None,
        image_decoder=None,
        model_card: ModelCard | str | os.PathLike | None = None,
        max_shard_size: int | str = "50GB",
        **kwargs,
    ) -> CommitInfo:
        """
        Pushes the model, and with it what belongs to it, in one commit. Until then the repository is as it was.

        Args:
            repo_id (`str`): The repository, which is created if it does not exist.
            processor ([`LavitProcessor`], *optional*), image_decoder ([`LavitImageDecoderPipeline`], *optional*):
                Same as in `save_pretrained`.
            model_card (`ModelCard`, `str` or `os.PathLike`, *optional*):
                Same as in `save_pretrained`. Without one, the repository keeps its card or gets a short one.
            max_shard_size (`int` or `str`, *optional*, defaults to `"50GB"`): Largest size of a file of weights.
            kwargs:
                `private`, `token`, `revision`, `create_pr`, `commit_message`, `commit_description`, and `tags` for
                the short card.

        Returns:
            `CommitInfo`: The commit.

        Raises:
            TypeError: If an argument is unknown.
        """
        check_hub_arguments(kwargs)
        with tempfile.TemporaryDirectory() as folder:
            whole = {"processor": processor, "image_decoder": image_decoder, "model_card": model_card}
            self.save_pretrained(folder, max_shard_size=max_shard_size, **whole)
            return upload(folder, list_files(Path(folder)), repo_id, **kwargs)
