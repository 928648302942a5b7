# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Nothing in a folder is executed without `trust_remote_code`, and nothing outside of it is read."""

import ast
import json
import pickle
import re
import shutil
from pathlib import Path

import jinja2
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoModelForCausalLM, AutoProcessor, AutoTokenizer

import lavit_hf
from lavit_hf import (
    LavitFeatureDecoder,
    LavitForCausalLM,
    LavitImageDecoderPipeline,
    LavitProcessor,
    LavitVisualTokenizer,
    demo_checkpoint,
)

from .hub_server import HubServer


SOURCE = Path(lavit_hf.__file__).parent
EVIL = """
from pathlib import Path
Path(__file__).with_name("executed").touch()
class Evil: pass
"""


class Touch:
    """Pickled, it runs code as it is loaded."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A copy of the model that ships, to be made hostile."""
    return Path(shutil.copytree(demo_checkpoint(), tmp_path / "hostile"))


@pytest.fixture(autouse=True)
def nothing_was_executed(tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.TIME_OUT_REMOTE_CODE", 0)  # asks nobody
    yield
    assert not list(tmp_path.rglob("executed*"))


def change(path: Path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("auto_class", "file"),
    [
        (AutoModelForCausalLM, "config.json"),
        (AutoProcessor, "processor_config.json"),
        (AutoTokenizer, "tokenizer_config.json"),
        (AutoImageProcessor, "config.json"),
    ],
)
def test_code_beside_the_weights(auto_class, file, folder):
    """Where this package knows the class, its own is taken."""
    (folder / "evil.py").write_text(EVIL)
    names = ("AutoConfig", "AutoModelForCausalLM", "AutoProcessor", "AutoImageProcessor")
    auto_map = dict.fromkeys(names, "evil.Evil") | {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    change(folder / file, auto_map=auto_map)
    assert type(auto_class.from_pretrained(folder)).__module__.startswith(("lavit_hf.", "transformers."))


def test_an_unknown_kind_of_model(folder):
    (folder / "evil.py").write_text(EVIL)
    change(folder / "config.json", model_type="evil", auto_map={"AutoConfig": "evil.Evil"})
    with pytest.raises(ValueError, match="trust_remote_code"):
        AutoModelForCausalLM.from_pretrained(folder)


def test_a_generation_loop_of_its_own(folder):
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(EVIL)
    assert "generate" not in vars(LavitForCausalLM.from_pretrained(folder))


@pytest.mark.parametrize("model_class", [LavitForCausalLM, LavitVisualTokenizer])
def test_pickled_weights(model_class, folder):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights | {"evil": Touch(folder / "executed")}, folder / "pytorch_model.bin")
    with pytest.raises((OSError, ValueError, pickle.UnpicklingError)):
        model_class.from_pretrained(folder)


@pytest.mark.parametrize("part", ["unet", "vae", "feature_decoder"])
def test_pickled_weights_of_the_pixel_decoder(part, folder):
    [weights] = (folder / part).glob("*.safetensors")
    name = "pytorch_model.bin" if part == "feature_decoder" else "diffusion_pytorch_model.bin"
    torch.save({"evil": Touch(folder / "executed")}, folder / part / name)
    weights.unlink()
    with pytest.raises((OSError, ValueError, pickle.UnpicklingError)):
        LavitImageDecoderPipeline.from_pretrained(folder)


@pytest.mark.parametrize("value", [["evil", "Evil"], ["os", "system"], ["lavit_hf.evil", "Evil"]])
def test_components_that_are_none(value, folder, monkeypatch):
    monkeypatch.syspath_prepend(folder / "unet")
    for place in (folder, folder / "unet"):
        (place / "evil.py").write_text(EVIL)
    change(folder / "model_index.json", unet=value)
    with pytest.raises((ValueError, AttributeError, ImportError)):
        LavitImageDecoderPipeline.from_pretrained(folder)


@pytest.mark.parametrize(
    ("load", "part", "name"),
    [
        (LavitForCausalLM, "", "model.safetensors"),
        (LavitForCausalLM, "", "pytorch_model.bin"),
        (LavitVisualTokenizer, "", "model.safetensors"),
        (LavitImageDecoderPipeline, "unet", "diffusion_pytorch_model.safetensors"),
        (LavitImageDecoderPipeline, "feature_decoder", "model.safetensors"),
    ],
)
def test_weights_outside_of_the_folder(load, part, name, folder):
    """A secret beside the folder does not come in as weights."""
    [weights] = (folder / part).glob("*.safetensors")
    outside = folder.parent / f"secret{Path(name).suffix}"
    tensors = load_file(weights)
    weights.unlink()
    torch.save(tensors, outside) if name.endswith(".bin") else save_file(tensors, outside)
    reference = f"{'../' * (2 if part else 1)}{outside.name}"
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(tensors, reference)}
    (folder / part / f"{name}.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=rf"must name files beside it, got '{re.escape(reference)}'"):
        load.from_pretrained(folder)


def test_a_chat_template_is_sandboxed(folder):
    (folder / "chat_template.jinja").write_text("{{ ''.__class__.__mro__[1].__subclasses__() }}")
    processor = LavitProcessor.from_pretrained(folder)
    with pytest.raises(jinja2.exceptions.SecurityError):
        processor.apply_chat_template([{"role": "user", "content": [{"type": "text", "text": "hello"}]}])


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: path.stem)
def test_the_source_evaluates_nothing(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        assert name not in ("eval", "exec", "compile", "__import__", "pickle.load", "pickle.loads", "yaml.load"), name
        if name == "torch.load":
            assert "weights_only=True" in ast.unparse(node)


BROKEN_INDICES = [
    "[]",
    "{}",
    "null",
    '{"weight_map": null}',
    '{"weight_map": {}}',
    '{"weight_map": {"a": 3}}',
    "{",
    "\xff",
]


@pytest.mark.parametrize("content", BROKEN_INDICES)
@pytest.mark.parametrize(
    ("load", "part", "stem"),
    [
        (LavitForCausalLM, "", "model"),
        (AutoModelForCausalLM, "", "model"),
        (LavitVisualTokenizer, "", "model"),
        (LavitImageDecoderPipeline, "unet", "diffusion_pytorch_model"),
        (LavitImageDecoderPipeline, "feature_decoder", "model"),
    ],
)
def test_a_broken_index_is_named(load, part, stem, content, folder):
    (folder / part / f"{stem}.safetensors").unlink()
    index = folder / part / f"{stem}.safetensors.index.json"
    index.write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match=rf"^{re.escape(str(index))} (must hold an object|is not valid JSON)"):
        load.from_pretrained(folder)


@pytest.mark.parametrize("variant", [None, "fp16"])
@pytest.mark.parametrize("shards", [False, True])
@pytest.mark.parametrize("length", [0, 5, 1000, -1])
@pytest.mark.parametrize(
    ("load", "part", "stem"),
    [
        (LavitForCausalLM, "", "model"),
        (LavitVisualTokenizer, "", "model"),
        (LavitImageDecoderPipeline, "vae", "diffusion_pytorch_model"),
    ],
)
def test_truncated_weights_are_named(load, part, stem, length, shards, variant, folder):
    whole = folder / part / f"{stem}.safetensors"
    infix = f".{variant}" if variant else ""
    broken = whole.with_name(f"{stem}{infix}{'-00001-of-00001' if shards else ''}.safetensors")
    if shards:
        index = {"metadata": {}, "weight_map": dict.fromkeys(load_file(whole), broken.name)}
        whole.with_name(f"{stem}.safetensors.index{infix}.json").write_text(json.dumps(index))
    whole.rename(broken)
    broken.write_bytes(broken.read_bytes()[:length])
    with pytest.raises(ValueError, match=rf"{re.escape(str(broken))} cannot be read as safetensors"):
        load.from_pretrained(folder, variant=variant)


def test_weights_that_are_not_loaded_may_be_broken(folder):
    """Weights of another variant, of an adapter, and shards beside the whole file."""
    for name in ("model.fp16", "adapter_model", "model-00001-of-00002"):
        (folder / f"{name}.safetensors").write_bytes(b"broken")
    (folder / "model.safetensors.index.json").write_text("[]")
    (folder / "vae" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"broken")
    LavitForCausalLM.from_pretrained(folder)
    LavitImageDecoderPipeline.from_pretrained(folder)


@pytest.mark.parametrize("load", [LavitForCausalLM, LavitVisualTokenizer, LavitFeatureDecoder])
def test_weights_without_a_configuration(load, folder):
    """transformers would make a model of the default configuration."""
    place = folder / "feature_decoder" if load is LavitFeatureDecoder else folder
    (place / "config.json").unlink()
    with pytest.raises(ValueError, match=rf"{re.escape(str(place))} holds no config\.json"):
        load.from_pretrained(place)


@pytest.fixture
def hub(folder, monkeypatch):
    with HubServer({"somebody/broken": folder}) as server:
        server.use(monkeypatch)
        yield server


@pytest.mark.parametrize("content", [*BROKEN_INDICES, "outside", "truncated"])
@pytest.mark.parametrize("load", [LavitForCausalLM, LavitVisualTokenizer])
def test_broken_weights_in_a_repository(load, content, folder, hub, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    if content == "truncated":
        name = "model.safetensors"
        (folder / name).write_bytes((folder / name).read_bytes()[:-1])
    else:
        name = "model.safetensors.index.json"
        weights = folder / "model.safetensors"
        outside = {"weight_map": dict.fromkeys(load_file(weights), "../secret.safetensors")}
        weights.rename(folder.parent / "secret.safetensors")
        text = json.dumps(outside) if content == "outside" else content
        (folder / name).write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=rf"/{re.escape(name)} (must|is not valid|cannot be read)"):
        load.from_pretrained("somebody/broken", cache_dir=tmp_path / "cache")
