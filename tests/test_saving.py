# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Who is killed while saving leaves the old files or the new ones, for every reader."""

import errno
import hashlib
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from diffusers.models import AutoencoderKL, UNet2DConditionModel
from diffusers.schedulers import DDIMScheduler
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoProcessor,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedTokenizerFast,
)

from lavit_hf import (
    LavitConfig,
    LavitFeatureDecoder,
    LavitForCausalLM,
    LavitImageDecoderPipeline,
    LavitProcessor,
    LavitVisualTokenizer,
)
from lavit_hf.publishing import files as publishing_files
from lavit_hf.publishing.files import finish_replacing, replacing, replacing_file

from .run_saving import OLD, build
from .tiny import tiny_lavit


ROOT = Path(__file__).parent.parent
# `max_shard_size` of the old and of the new files, and whether there is a pixel decoder.
KINDS = {
    "sharded to sharded": ("80KB", "200KB", "True"),
    "whole to sharded": ("1GB", "200KB", "False"),
    "sharded to whole": ("80KB", "1GB", "False"),
}


def digest(folder: Path) -> dict[str, str]:
    """The files that a reader sees."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    names = {path.relative_to(folder).as_posix(): path for path in paths}
    shown = {name: path for name, path in names.items() if not name.startswith(".")}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in shown.items()}


def weights(model) -> str:
    tensors = sorted(model.state_dict().items())
    return hashlib.sha256(b"".join(name.encode() + tensor.numpy().tobytes() for name, tensor in tensors)).hexdigest()


def model_facts(model) -> tuple:
    settings = model.generation_config.to_dict() if hasattr(model, "generation_config") else None
    return model.config.to_json_string(), settings, weights(model)


def tokenizer_facts(tokenizer) -> tuple:
    return tokenizer.backend_tokenizer.to_str(), tokenizer.chat_template, tokenizer.eos_token


def processor_facts(processor) -> tuple:
    return processor.to_json_string(), processor.chat_template, tokenizer_facts(processor.tokenizer)


def pipeline_facts(pipe) -> tuple:
    parts = (pipe.unet, pipe.vae, pipe.feature_decoder)
    return *map(weights, parts), *(str(part.config) for part in (*parts, pipe.scheduler))


def to_dict(loaded) -> dict:
    return loaded.to_dict()


def diffusers_facts(part) -> tuple:
    return str(part.config), weights(part) if hasattr(part, "state_dict") else None


# Readers that complete an interrupted replacement.
OURS = {
    LavitForCausalLM: model_facts,
    LavitVisualTokenizer: model_facts,
    LavitImageDecoderPipeline: pipeline_facts,
}
# Other readers, and what the paths of their files begin with.
OTHERS = {
    AutoConfig: (to_dict, "config.json"),
    LavitConfig: (to_dict, "config.json"),
    GenerationConfig: (to_dict, "generation_config.json"),
    AutoProcessor: (processor_facts, "config.json chat processor tokenizer"),
    LavitProcessor: (processor_facts, "config.json chat processor tokenizer"),
    AutoTokenizer: (tokenizer_facts, "config.json chat processor tokenizer"),
    PreTrainedTokenizerFast: (tokenizer_facts, "config.json chat processor tokenizer"),
    AutoImageProcessor: (to_dict, "config.json processor"),
    UNet2DConditionModel: (diffusers_facts, "unet/"),
    AutoencoderKL: (diffusers_facts, "vae/"),
    DDIMScheduler: (diffusers_facts, "scheduler/"),
    LavitFeatureDecoder: (model_facts, "feature_decoder/"),
    AutoModelForCausalLM: (model_facts, ""),  # the last one, as it may complete the replacement
}


def read(reader, facts, folder: Path, files: str = ""):
    """Returns the model that a reader loads from a folder, or the error that it gets."""
    place = folder / (files if files.endswith("/") else "")
    try:
        return str(facts(reader.from_pretrained(str(place)))).replace(str(folder), "")
    except (OSError, ValueError, TypeError, AttributeError) as error:
        return error


@pytest.fixture(scope="module", params=KINDS.values(), ids=KINDS)
def killed(request, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("killed")
    subprocess.run([sys.executable, "-m", "tests.run_saving", root, *request.param], cwd=ROOT, check=True)
    return root


def test_no_old_file_beside_a_new_one(killed):
    old, new = digest(killed / "old"), digest(killed / "new")
    assert not {name for name in old if old[name] == new.get(name)}  # all differ
    for folder in sorted((killed / "killed").iterdir()):
        found = digest(folder)
        is_old, is_new = ({name for name in found if found[name] == files.get(name)} for files in (old, new))
        assert not (is_old and is_new), (folder, is_old, is_new)
        assert set(found) - is_old - is_new <= {"config.json"}


def test_every_reader_gets_the_old_the_new_or_an_error(killed):
    kinds = {}
    for name in ("old", "new"):
        for reader, (facts, files) in OTHERS.items():
            if (killed / name / files.rstrip("/")).is_dir() or not files.endswith("/"):
                kinds[reader, read(reader, facts, killed / name, files)] = name
    readers = {reader for reader, _ in kinds}
    assert len(kinds) == 2 * len(readers) >= 18
    known, found = set(), set()
    for folder in sorted((killed / "killed").iterdir()):
        seen = digest(folder).items()
        for reader in (reader for reader in OTHERS if reader in readers):
            facts, files = OTHERS[reader]
            state = reader, frozenset(item for item in seen if item[0].startswith(tuple(files.split()) or ""))
            if state in known:
                continue
            known.add(state)
            result = read(reader, facts, folder, files)
            kind = "error" if isinstance(result, Exception) else kinds.get((reader, result))
            assert kind, f"{reader} reads a mixture from {folder}"
            found.add((reader, kind))
            if kind == "error" and reader in (AutoConfig, LavitConfig, AutoModelForCausalLM):
                assert re.search("(?i)saving to .* was interrupted", str(result))
    assert found >= {(reader, kind) for reader in readers for kind in ("old", "new", "error")}


def test_the_classes_of_this_library_complete_the_replacement(killed, tmp_path):
    readers = OURS if (killed / "old" / "unet").is_dir() else dict(list(OURS.items())[:2])
    places = {name: killed / name for name in ("old", "new")}
    expected = {(reader, name): read(reader, readers[reader], places[name]) for reader in readers for name in places}
    for index, folder in enumerate(sorted((killed / "killed").iterdir())[::4]):
        name = "old" if index == 0 else "new"  # the first kill comes before the commit
        reader, facts = list(readers.items())[index % len(readers)]
        copy = Path(shutil.copytree(folder, tmp_path / folder.name))
        assert read(reader, facts, copy) == expected[reader, name]
        assert digest(copy) == digest(places[name])
        shutil.rmtree(copy)


def test_saving_less_over_an_interrupted_replacement(killed, tmp_path):
    """A save that was committed is completed first: the processor and the pixel decoder are those of one save."""
    model, _, _ = build(OLD, has_decoder=False)
    for folder in sorted((killed / "killed").iterdir())[::8]:
        again = Path(shutil.copytree(folder, tmp_path / folder.name))
        model.save_pretrained(again)
        found = digest(again)
        for files in (digest(killed / "old"), digest(killed / "new")):
            others = {name for name in files if "/" in name or name.startswith(("processor", "tokenizer", "model_"))}
            if all(found.get(name) == files[name] for name in others):
                break
        else:
            raise AssertionError(f"a mixture in {folder}")
        assert weights(LavitForCausalLM.from_pretrained(again)) == weights(model)
        assert not [path for path in again.iterdir() if path.name.startswith(".")]


def write(folder: Path, **files: str) -> Path:
    for name, content in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


def replace(folder: Path, **files: str) -> None:
    with replacing(folder) as staged:
        write(staged, **files)


def texts(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_several_processes_complete_one_replacement(tmp_path):
    """Each as often as it takes for one to be where another one has just been."""
    names = ["config.json", "model__safetensors", "tokenizer.json", "a__b__c", "unet__config.json", "z"]
    for number in range(100):
        folder = tmp_path / str(number)
        write(folder, **dict.fromkeys(names, "old"))
        write(folder, **{f".replacing-x__new__{name}": "new" for name in names})
        write(folder, **{".replacing-x__old__none": "", ".replacing-x__config.json": "neither"})
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(finish_replacing, [folder] * 4))
        assert set(texts(folder).values()) == {"new"}
        assert len(texts(folder)) == len(names)


def test_a_save_that_ends_leaves_a_running_one_alone_where_no_folder_can_be_locked(tmp_path, monkeypatch):
    monkeypatch.setattr(publishing_files, "fcntl", None)  # as on Windows
    with replacing(tmp_path) as outer:
        write(outer, settings="outer", weights="outer")
        replace(tmp_path, settings="inner", more="inner")
        assert texts(outer) == {"settings": "outer", "weights": "outer"}
    assert texts(tmp_path) == {"settings": "outer", "weights": "outer", "more": "inner"}
    assert not list(tmp_path.glob(".*"))


def test_saves_at_the_same_time(tmp_path):
    """The files are those of one save, and nothing is left of the others."""

    def save(name: str) -> None:
        for _ in range(30):
            replace(tmp_path, **dict.fromkeys(("config.json", "unet__config.json", "z"), name))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(save, "abcd"))
    assert len(set(texts(tmp_path).values())) == 1
    assert not list(tmp_path.glob(".*"))


def test_a_file_that_is_written_twice_at_the_same_time(tmp_path):
    """It is one of the two as a whole, also with the longest name."""
    path = tmp_path / f"{'é' * 125}.json"
    with replacing_file(path) as first:
        with replacing_file(path) as second:
            first.write_text("first")
            second.write_text("second")
            assert first.suffix == second.suffix == ".json"
        assert texts(tmp_path) == {path.name: "second", first.name: "first"}
    assert texts(tmp_path) == {path.name: "first"}


def test_errors_about_other_files_keep_their_name(tmp_path):
    path = tmp_path / "out.json"
    with pytest.raises(FileNotFoundError, match="input.json"), replacing_file(path):
        (tmp_path / "input.json").read_text()
    with pytest.raises(OSError, match="out.json cannot be written: No space left"), replacing_file(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    missing = replacing_file(tmp_path / "folder" / "out.json")
    with pytest.raises(OSError, match="folder/out.json cannot be written: No such file"), missing as hidden:
        hidden.write_text("text")
    assert not list(tmp_path.iterdir())


def test_replacements_that_were_committed_at_the_same_time(tmp_path):
    """One after the other: weights of one do not stay beside those of the other."""
    write(tmp_path, **{"config.json": "old", "model-00001-of-00002.safetensors": "old", "notes": "theirs"})
    for journal, weights_file in (("a", "model-00001-of-00001.safetensors"), ("b", "model.safetensors")):
        new = {f".replacing-{journal}__new__{name}": journal for name in ("config.json", weights_file)}
        write(
            tmp_path, **new, **{f".replacing-{journal}__old__none": "", f".replacing-{journal}__config.json": "none"}
        )
    finish_replacing(tmp_path)
    assert texts(tmp_path) == {"config.json": "b", "model.safetensors": "b", "notes": "theirs"}


FORKS = """
import os, signal, time
from lavit_hf.publishing.files import replacing
with replacing(".") as new:
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
signal.alarm(60)
try:
    with replacing("."):
        pass
finally:
    os.kill(child, signal.SIGKILL)
"""


def test_a_process_that_is_forked_while_saving_does_not_lock_the_folder(tmp_path):
    assert subprocess.run([sys.executable, "-c", FORKS], cwd=tmp_path).returncode == 0


def test_folders_of_killed_saves_are_deleted(tmp_path):
    code = "import os; from lavit_hf.publishing.files import replacing\nwith replacing('.') as new: os.abort()"
    for _ in range(2):
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, stderr=subprocess.DEVNULL)
        assert len(list(tmp_path.glob(".saving-*"))) == 1  # the next save deletes it
    replace(tmp_path, settings="new")
    assert texts(tmp_path) == {"settings": "new"}
    assert not list(tmp_path.glob(".*"))


def test_new_files_that_somebody_deletes(tmp_path):
    write(tmp_path, settings="old")
    with pytest.raises(FileNotFoundError, match=r"\.saving-.*deleted"), replacing(tmp_path) as staged:
        shutil.rmtree(write(staged, settings="new").parent)
    assert texts(tmp_path) == {"settings": "old"}


def test_links_are_replaced_and_not_followed(tmp_path):
    """As links of files, of folders, in folders that are links, and where they lead nowhere."""
    elsewhere = write(tmp_path / "elsewhere", config="theirs", unet__config="theirs", unet__deep__config="theirs")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "config").symlink_to(elsewhere / "config")
    (folder / "unet").symlink_to(elsewhere / "unet")
    (folder / "vae").symlink_to(tmp_path / "nowhere")
    (folder / "others").symlink_to(elsewhere)
    before = texts(elsewhere)
    replace(folder, config="new", unet__config="new", unet__deep__config="new", vae__config="new")
    assert texts(elsewhere) == before
    assert not (tmp_path / "nowhere").exists()
    assert texts(folder) == dict.fromkeys(("config", "unet/config", "unet/deep/config", "vae/config"), "new")
    assert (folder / "others").is_symlink()
    # A folder that is itself given by a link is the one that it leads to.
    (tmp_path / "link").symlink_to(folder)
    replace(tmp_path / "link", config="newer")
    assert (tmp_path / "link").is_symlink()
    assert (folder / "config").read_text() == "newer"


def test_what_is_in_the_way(tmp_path):
    write(tmp_path, unet="a file", **{"config.json__notes": "in a folder"})
    before = texts(tmp_path)
    with pytest.raises(ValueError, match=r"saved as .*config\.json, which is a folder"):
        replace(tmp_path, **{"config.json": "new"})
    with pytest.raises(ValueError, match=r"saved in .*unet, which is a file"):
        replace(tmp_path, unet__config="new")
    assert texts(tmp_path) == before
    with pytest.raises(ZeroDivisionError), replacing(tmp_path) as staged:
        write(staged, other=str(1 / 0))
    assert texts(tmp_path) == before
    assert not list(tmp_path.glob(".*"))


def test_a_replacement_that_cannot_be_completed(tmp_path):
    """The error names the folder and where the new files are, from which they can be saved."""
    write(tmp_path, **{".placing-1__new__settings": "new", "settings__notes": "in a folder made meanwhile"})
    before = texts(tmp_path)
    message = rf"files in {re.escape(str(tmp_path))} cannot be replaced by those in .*\.placing-1"
    for attempt in (lambda: LavitForCausalLM.from_pretrained(tmp_path), lambda: replace(tmp_path, settings="newer")):
        with pytest.raises(OSError, match=message):
            attempt()
    assert texts(tmp_path) == before
    shutil.rmtree(tmp_path / "settings")
    finish_replacing(tmp_path)
    assert texts(tmp_path) == {"settings": "new"}


@pytest.mark.parametrize("stem", ["model", "unet/diffusion_pytorch_model"])
def test_stale_weights(stem, tmp_path):
    """Weights of the same model and variant under other names, and nothing else."""
    plain = [f"{stem}.safetensors", f"{stem}-00001-of-00001.safetensors", f"{stem}.safetensors.index.json"]
    fp16 = [f"{stem}.fp16.safetensors", f"{stem}.fp16-00001-of-00002.safetensors"]
    fp16.append(f"{stem}.safetensors.index.fp16.json")
    others = [
        "adapter_model.safetensors",
        "model.py",
        "optimizer.pt",
        "vae/model.safetensors",
        "model_best.safetensors",
    ]
    everything = dict.fromkeys([*plain, *fp16, *others], "old")
    for group in (plain, fp16):
        for name in group[:2]:
            write(tmp_path, **everything)
            replace(tmp_path, **{name: "new"})
            kept = {other: text for other, text in everything.items() if other not in group}
            assert texts(tmp_path) == kept | {name: "new"}
    write(tmp_path, **everything)
    new = {"config.json": "new", "adapter_model.safetensors": "new"}
    replace(tmp_path, **new)
    assert texts(tmp_path) == everything | new


def test_variants(tmp_path):
    """The last save of a variant is the one that is loaded; another variant is another model."""
    saved = {}
    for seed, (size, variant) in enumerate([("1GB", None), ("1GB", "fp16"), ("80KB", None), ("80KB", "fp16")]):
        saved[variant] = tiny_lavit(seed=seed)
        saved[variant].save_pretrained(tmp_path, variant=variant, max_shard_size=size)
        for name, model in saved.items():
            assert weights(LavitForCausalLM.from_pretrained(tmp_path, variant=name)) == weights(model)
