# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""A whole LaVIT in one folder or repository: model, processor, pixel decoder, card, and the code that loads them."""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard, ModelCardData
from transformers import PreTrainedConfig


AUTO_CLASSES = ("AutoModelForCausalLM", "AutoModelForImageTextToText", "AutoModelForMultimodalLM")
CARD_NAME = "README.md"
STAGED = ".saving-"
HUB_ARGUMENTS = ("repo_id", "private", "token", "revision", "create_pr", "commit_message", "commit_description")
# Weights of transformers and diffusers, whole or in shards. Of an adapter, or of anything else, none.
WEIGHTS = re.compile(r"(model|diffusion_pytorch_model)(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?")
# ![...](samples/captions.png), and not a picture of the web
CARD_PICTURE = re.compile(r"!\[[^\]]*\]\((?!\w+:)([^)\s]+)\)")


def find_stale(there: Sequence[str], new: Sequence[str]) -> list[str]:
    """Of the files that are `there`, those with weights that `new` files hold anew, in other shards."""
    renewed = {Path(path).parent for path in new if WEIGHTS.fullmatch(Path(path).name)}
    old = (path for path in there if WEIGHTS.fullmatch(Path(path).name) and path not in new)
    return [path for path in old if Path(path).parent in renewed]


def list_files(folder: Path) -> list[str]:
    """The files in a folder and below, by their paths in there."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def list_shards(index: Path, content: dict) -> list[str]:
    """
    The files that an index of weights, with its content, names.

    Raises:
        ValueError: one that does not lie beside the index.
    """
    names = sorted(set(content.get("weight_map", {}).values()))
    if outside := [name for name in names if Path(name).name != name]:
        raise ValueError(f"{index} must name files beside it, got {outside[0]!r}.")
    return names


def check_shards(folder: str | os.PathLike) -> None:
    """Raises the ValueError of [`list_shards`] for the indices of weights in a folder."""
    for kind in ("safetensors", "bin"):
        for index in Path(folder).glob(f"*.{kind}.index.json"):
            list_shards(index, json.loads(index.read_text(encoding="utf-8")))


@contextmanager
def replacing(folder: str | os.PathLike) -> Iterator[Path]:
    """
    A folder to save to, beside the files of `folder`, which are replaced only once all of the new ones are written:
    whoever is killed while saving leaves the old ones whole.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=STAGED, ignore_cleanup_errors=True) as staged:
        yield Path(staged)
        new = list_files(Path(staged))
        for path in new:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            os.replace(Path(staged, path), folder / path)
        for path in find_stale(list_files(folder), new):
            (folder / path).unlink()
        if new:  # with several processes, only one of them writes
            for left_behind in folder.glob(f"{STAGED}*"):
                shutil.rmtree(left_behind, ignore_errors=True)


def write_card(model_card: ModelCard | str | os.PathLike, folder: Path) -> None:
    """Writes a card to a folder; of a card that is a file, with the pictures beside it that it shows."""
    if isinstance(model_card, ModelCard):
        model_card.save(folder / CARD_NAME)
        return
    source = Path(model_card)
    if not source.is_file():
        raise ValueError(f"model_card must be a ModelCard or the file of one: there is no file {source}.")
    shutil.copyfile(source, folder / CARD_NAME)
    for picture in map(Path, CARD_PICTURE.findall(source.read_text(encoding="utf-8"))):
        inside = (source.parent / picture).resolve().is_relative_to(source.parent.resolve())
        if inside and (source.parent / picture).is_file():
            (folder / picture).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source.parent / picture, folder / picture)


def new_card(title: str, tags: Sequence[str] = ()) -> ModelCard:
    """The least that a repository says of itself."""
    data = ModelCardData(library_name="transformers", pipeline_tag="any-to-any", tags=["lavit", *tags])
    text = "A LaVIT ([arXiv 2309.04669](https://arxiv.org/abs/2309.04669)): it reads and draws pictures as tokens."
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
    commit_message: str | None = None,
    commit_description: str | None = None,
    tags: Sequence[str] = (),
) -> CommitInfo:
    """
    Files of a folder as one commit of a model repository, made where there is none: before it the repository is as it
    was, after it all of them are in it, at no time some. `tags` are for a repository that has no card yet; other
    arguments as of `PreTrainedModel.push_to_hub`.
    """
    api = HfApi(library_name="lavit_hf")
    repo_id = api.create_repo(repo_id, private=private, token=token, exist_ok=True).repo_id
    if revision is not None and not revision.startswith("refs/pr/"):
        api.create_branch(repo_id, branch=revision, token=token, exist_ok=True)
    there = api.list_repo_files(repo_id, revision=revision, token=token)
    operations = [CommitOperationDelete(path) for path in find_stale(there, paths)]
    operations += [CommitOperationAdd(path, Path(folder, path)) for path in paths]
    if CARD_NAME not in (*paths, *there):
        operations.append(CommitOperationAdd(CARD_NAME, new_card(repo_id.split("/")[-1], tags).content.encode()))
    return api.create_commit(
        repo_id,
        operations,
        commit_message=commit_message or "Upload LaVIT",
        commit_description=commit_description,
        token=token,
        revision=revision,
        create_pr=create_pr,
    )


class LavitPublishingMixin:
    """Saving and publishing of a model with all that belongs to it."""

    config: PreTrainedConfig
    is_remote_code: Callable[[], bool]

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        *args,
        processor=None,
        image_decoder=None,
        model_card: ModelCard | str | os.PathLike | None = None,
        push_to_hub: bool = False,
        **kwargs,
    ) -> None:
        """
        As of every model of transformers, and with what belongs to the model in the same folder, which then all of
        `from_pretrained` take. Files that are there are replaced once all new ones are written.

        Args:
            save_directory (`str` or `os.PathLike`): The folder.
            processor ([`LavitProcessor`], *optional*): The model's processor.
            image_decoder ([`LavitImageDecoderPipeline`], *optional*): The model's pixel decoder.
            model_card (`ModelCard`, `str` or `os.PathLike`, *optional*):
                A card, or the file of one, whose pictures come along.
            push_to_hub (`bool`, *optional*, defaults to `False`):
                Whether to push it as well, to `repo_id` or else to a repository named as the folder.
            args, kwargs: As of `PreTrainedModel.save_pretrained` and, with `push_to_hub`, of `push_to_hub`.

        Raises:
            ValueError: a folder that is a file; a `model_card` that is not there.
        """
        if os.path.isfile(save_directory):
            raise ValueError(f"save_directory must be a folder, got the file {os.fspath(save_directory)!r}.")
        hub_kwargs = {name: kwargs.pop(name) for name in HUB_ARGUMENTS if name in kwargs} if push_to_hub else {}
        if self.is_remote_code():
            names = dict.fromkeys(AUTO_CLASSES, "modeling_lavit.LavitForCausalLM")
            self.config.auto_map = {"AutoModel": "modeling_lavit.LavitModel"} | names
        with replacing(save_directory) as folder:
            super().save_pretrained(folder, *args, **kwargs)
            for part in filter(None, (processor, image_decoder)):
                part.save_pretrained(folder)
            if model_card is not None:
                write_card(model_card, folder)
            paths = list_files(folder)
        if push_to_hub:
            upload(
                save_directory, paths, hub_kwargs.pop("repo_id", Path(save_directory).absolute().name), **hub_kwargs
            )

    def push_to_hub(
        self,
        repo_id: str,
        *,
        processor=None,
        image_decoder=None,
        model_card: ModelCard | str | os.PathLike | None = None,
        max_shard_size: int | str = "50GB",
        tags: Sequence[str] | None = None,
        **kwargs,
    ) -> CommitInfo:
        """
        As of every model of transformers, and with what belongs to the model: all in one commit, before which the
        repository is as it was.

        Args:
            repo_id (`str`): The repository, made where there is none.
            processor ([`LavitProcessor`], *optional*), image_decoder ([`LavitImageDecoderPipeline`], *optional*):
                As of `save_pretrained`.
            model_card (`ModelCard`, `str` or `os.PathLike`, *optional*):
                As of `save_pretrained`. Without one, that of the repository stays, or it gets a short one.
            max_shard_size (`int` or `str`, *optional*, defaults to `"50GB"`): Largest file of weights.
            tags (`list[str]`, *optional*): Of the short card.
            kwargs: `private`, `token`, `revision`, `create_pr`, `commit_message`, `commit_description`.
        """
        with tempfile.TemporaryDirectory() as folder:
            whole = {"processor": processor, "image_decoder": image_decoder, "model_card": model_card}
            self.save_pretrained(folder, max_shard_size=max_shard_size, **whole)
            return upload(folder, list_files(Path(folder)), repo_id, tags=tags or (), **kwargs)
