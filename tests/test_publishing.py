# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""A whole LaVIT goes to the Hub and comes back, by the real client, with and without this package."""

import copy
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoProcessor

import lavit_hf
from lavit_hf import (
    LavitForCausalLM,
    LavitImageDecoderPipeline,
    LavitImageProcessor,
    LavitImageProcessorPil,
    LavitProcessor,
    LavitVisualTokenizer,
    demo_checkpoint,
)

from .guides import blocks_of
from .hub_server import HubServer
from .tiny import pictures, tiny_lavit
from .training.small import make_processor, make_stage_one


REPOSITORY = "somebody/lavit"
PROMPT = "a red circle"
GREEDY = {"generation_mode": "image", "do_sample": False, "image_generation": {"do_sample": False}}
SOURCE = Path(lavit_hf.__file__).parent
# All that `modeling` and `processing` hold, but what loads no part of a whole LaVIT by an Auto class.
CODE = {path.name for part in ("modeling", "processing") for path in (SOURCE / part).glob("*_lavit*.py")}
CODE -= {"modeling_lavit_feature_decoder.py", "modeling_lavit_stage_one.py", "streaming_lavit.py"}
# Draws greedily, in an environment that has this package or not.
DRAW = """
import sys
repository, *missing = sys.argv[1:]
sys.modules |= dict.fromkeys(missing)  # these cannot be imported
import torch
from transformers import AutoModelForCausalLM, AutoProcessor
trust = {"trust_remote_code": True}
if "lavit_hf" not in missing:
    import lavit_hf
    trust = {}
model = AutoModelForCausalLM.from_pretrained(repository, **trust).float()
processor = AutoProcessor.from_pretrained(repository, **trust)
picture = torch.full((3, 8, 8), 200, dtype=torch.uint8)
inputs = processor(text="<image>a red circle", images=picture, generation_mode="image", return_tensors="pt")
settings = {"generation_mode": "image", "do_sample": False, "image_generation": {"do_sample": False}}
ids = model.generate(**inputs, **settings)[0].tolist()
print(type(model).__module__, type(processor.image_processor).__name__, ids)
"""
DECODE = """
import json, sys, torch
from lavit_hf import LavitImageDecoderPipeline
repository, codes, path = sys.argv[1:]
pipe = LavitImageDecoderPipeline.from_pretrained(repository)
settings = {"num_inference_steps": 2, "generator": torch.Generator().manual_seed(0), "output_type": "pt"}
torch.save(pipe(json.loads(codes), **settings).images, path)
"""


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with HubServer(storage=tmp_path / "hub") as server:
        server.use(monkeypatch)
        yield server


def run(code: str, *arguments, environment=()) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environment = {**os.environ, **dict(environment)}
    return subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)


def digest(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("kind", ["shipped", "converted"])
def test_round_trip(kind, converted, hub, tmp_path):
    """Pushed in one commit; both kinds of installation write the same ids from it, and the one the same image."""
    path = demo_checkpoint() if kind == "shipped" else converted
    model, processor = AutoModelForCausalLM.from_pretrained(path), AutoProcessor.from_pretrained(path)
    pipe = LavitImageDecoderPipeline.from_pretrained(path)
    model.push_to_hub(REPOSITORY, processor=processor, image_decoder=pipe, model_card=path / "README.md")
    assert hub.commits == ["Upload LaVIT"]
    pushed = digest(hub.repositories[REPOSITORY])
    assert {name for name in pushed if name.endswith(".py")} == CODE
    assert (pushed["README.md"]) == digest(path)["README.md"]
    assert {name for name in pushed if name.endswith(".png")} == {name for name in digest(path) if name[-4:] == ".png"}

    picture = torch.full((3, 8, 8), 200, dtype=torch.uint8)
    inputs = processor(text=f"<image>{PROMPT}", images=picture, generation_mode="image", return_tensors="pt")
    ids = model.float().generate(**inputs, **GREEDY)[0].tolist()
    environment = hub.environment(tmp_path / "home")
    here = run(DRAW, REPOSITORY, environment=environment)
    assert here.stdout == f"lavit_hf.modeling.modeling_lavit LavitImageProcessor {ids}\n", here.stderr
    assert not [name for name in hub.downloads if name.startswith(("unet/", "vae/", "feature_decoder/", "samples/"))]
    assert not [name for name in hub.downloads if name.endswith(".py")]  # not even fetched where not needed
    elsewhere = run(DRAW, REPOSITORY, "lavit_hf", environment=environment)
    assert elsewhere.stdout.startswith("transformers_modules.somebody.lavit."), elsewhere.stderr
    assert elsewhere.stdout.split(" ", 1)[1] == f"LavitImageProcessor {ids}\n"
    without = run(DRAW, REPOSITORY, "lavit_hf", "torchvision", environment=environment)
    assert without.stdout.split(" ", 2)[1] == "LavitImageProcessorPil", without.stderr

    hub.requests.clear()
    codes = processor.decode_interleaved(ids)[-1].codes
    decoded = run(
        DECODE, REPOSITORY, codes, tmp_path / "drawn.pt", environment=hub.environment(tmp_path / "other home")
    )
    assert decoded.returncode == 0, decoded.stderr
    parts = {"feature_decoder", "model_index.json", "scheduler", "unet", "vae"}
    assert {name.split("/")[0] for name in hub.downloads} == parts
    noise = torch.Generator().manual_seed(0)
    drawn = pipe(codes, num_inference_steps=2, generator=noise, output_type="pt").images
    # Another process may round sums differently.
    torch.testing.assert_close(drawn, torch.load(tmp_path / "drawn.pt"), atol=1e-5, rtol=0)


def test_a_converted_folder_carries_its_code(converted, hub, tmp_path):
    """Without this package, it is loaded and draws the same; the code is that which `save_pretrained` writes."""
    model, processor = AutoModelForCausalLM.from_pretrained(converted), AutoProcessor.from_pretrained(converted)
    model.save_pretrained(tmp_path / "saved", processor=processor)
    for name in [*CODE, "__init__.py"]:
        assert (converted / name).exists() == (tmp_path / "saved" / name).exists(), name
    maps = [json.loads((folder / "config.json").read_text())["auto_map"] for folder in (converted, tmp_path / "saved")]
    assert maps[0] == maps[1]
    environment = hub.environment(tmp_path / "home")
    here, elsewhere = (
        run(DRAW, converted, environment=environment),
        run(DRAW, converted, "lavit_hf", environment=environment),
    )
    assert elsewhere.stdout.startswith("transformers_modules."), elsewhere.stderr
    assert elsewhere.stdout.split(" ", 1)[1] == here.stdout.split(" ", 1)[1]


def test_the_pixel_decoder_of_the_same_commit(hub, demo, tmp_path):
    """Loaded later, from where the model came from: its revision, its cache, its subfolder. No token is kept."""
    model, processor, pipe = demo
    hub.repositories[REPOSITORY] = tmp_path / "hub"
    model.save_pretrained(tmp_path / "hub" / "small", processor=processor, image_decoder=pipe)
    commit = hub.commit_of(REPOSITORY)
    where = {"subfolder": "small", "cache_dir": tmp_path / "cache", "token": "hf_secret"}
    for auto_class in (AutoModelForCausalLM, LavitForCausalLM):
        loaded = auto_class.from_pretrained(REPOSITORY, **where)
        assert "hf_secret" not in str(vars(loaded))
        hub.requests.clear()
        assert loaded.image_decoder.unet.config.sample_size == pipe.unet.config.sample_size
    assert list(tmp_path.glob(f"cache/*/snapshots/{commit}/small/unet/*.safetensors"))
    loaded.export_language_model(tmp_path / "exported")
    assert (tmp_path / "exported" / "tokenizer.json").is_file()
    hub.commits.append("A later one")
    del loaded.image_decoder  # it is loaded once more
    assert loaded.image_decoder.unet.config.sample_size == pipe.unet.config.sample_size
    assert hub.commit_of(REPOSITORY) not in str(hub.requests)


def test_what_to_do_is_said(hub, converted, tmp_path):
    AutoModelForCausalLM.from_pretrained(converted).push_to_hub(REPOSITORY)
    code = "import sys; sys.modules['lavit_hf'] = None; from transformers import AutoModelForCausalLM as model\n"
    result = run(code + f"model.from_pretrained('{REPOSITORY}')", environment=hub.environment(tmp_path / "home"))
    assert "pass the argument `trust_remote_code=True`" in result.stderr


def test_each_part_alone(hub, demo, tmp_path):
    model, processor, pipe = demo
    model.model.visual_tokenizer.push_to_hub("somebody/tokenizer")
    processor.push_to_hub("somebody/processor")
    pipe.push_to_hub("somebody/decoder")
    model.push_to_hub("somebody/model", tags=["shapes"])
    loaded = LavitProcessor.from_pretrained("somebody/processor")
    assert loaded.image_processor.to_dict() == processor.image_processor.to_dict()
    assert loaded.tokenizer.get_vocab() == processor.tokenizer.get_vocab()
    processor.save_pretrained(tmp_path / "saved", push_to_hub=True, repo_id="somebody/saved-processor")
    saved = (tmp_path / "saved" / "tokenizer_config.json").read_bytes()
    for name in ("processor", "saved-processor"):
        assert (hub.repositories[f"somebody/{name}"] / "tokenizer_config.json").read_bytes() == saved
    tokenizer = LavitVisualTokenizer.from_pretrained("somebody/tokenizer")
    assert torch.equal(tokenizer.quantizer.codebook, model.model.visual_tokenizer.quantizer.codebook)
    assert "modeling_lavit_visual_tokenizer.py" in digest(hub.repositories["somebody/tokenizer"])
    decoder = LavitImageDecoderPipeline.from_pretrained("somebody/decoder")
    assert torch.equal(decoder.unet.conv_in.weight, pipe.unet.conv_in.weight)
    card = ModelCard.load("somebody/model")
    assert (card.data.pipeline_tag, card.data.tags) == ("any-to-any", ["lavit", "shapes"])


def test_old_shards_go_and_the_rest_stays(hub, demo, tmp_path):
    model, processor, _ = demo
    folder = tmp_path / "lavit"
    model.save_pretrained(folder, max_shard_size="4MB")
    assert (folder / "model.safetensors.index.json").is_file()
    (folder / "adapter_model.safetensors").touch()
    (folder / "notes.txt").touch()
    model.save_pretrained(folder, processor=processor, push_to_hub=True, repo_id=REPOSITORY)
    names = set(digest(folder))
    assert {name for name in names if "safetensors" in name} == {"model.safetensors", "adapter_model.safetensors"}
    assert "notes.txt" in names
    model.push_to_hub(REPOSITORY, max_shard_size="4MB", commit_message="In shards")
    pushed = digest(hub.repositories[REPOSITORY])
    assert "model.safetensors" not in pushed
    assert {"model.safetensors.index.json", "processor_config.json"} <= set(pushed)
    assert not {"notes.txt", "adapter_model.safetensors"} & set(pushed)  # only what was saved
    assert hub.commits == ["Upload LaVIT", "In shards"]
    assert LavitForCausalLM.from_pretrained(REPOSITORY).lm_head.weight.equal(model.lm_head.weight)


def test_errors(demo, tmp_path):
    model, _, _ = demo
    with pytest.raises(ValueError, match=r"model_card must be .* there is no file .*nowhere"):
        model.save_pretrained(tmp_path / "folder", model_card=tmp_path / "nowhere.md")
    assert digest(tmp_path) == {}
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="save_directory must be a folder, got the file"):
        model.save_pretrained(tmp_path / "file")


SAVE = """
import sys
from lavit_hf import LavitForCausalLM, LavitImageDecoderPipeline, LavitProcessor, demo_checkpoint
parts = (LavitForCausalLM, LavitProcessor, LavitImageDecoderPipeline)
model, processor, pipe = (part.from_pretrained(demo_checkpoint()) for part in parts)
model.lm_head.weight.data.zero_()
print("ready", flush=True)
if sys.argv[1] == "push":
    model.push_to_hub(sys.argv[2], processor=processor, image_decoder=pipe)
while True:
    model.save_pretrained(sys.argv[2], processor=processor, image_decoder=pipe)
"""


def kill_when(ready, *arguments, environment=()) -> None:
    """Runs SAVE and kills it once `ready` is true."""
    command = [sys.executable, "-c", SAVE, *map(str, arguments)]
    process = subprocess.Popen(command, env={**os.environ, **dict(environment)}, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    while not ready():
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_killed_while_uploading(hub, demo, tmp_path):
    model, processor, pipe = demo
    model.push_to_hub(REPOSITORY, processor=processor, image_decoder=pipe)
    before = digest(hub.repositories[REPOSITORY])
    hub.takes_large_files.clear()
    hub.requests.clear()
    environment = hub.environment(tmp_path / "home")
    kill_when(lambda: "PUT" in dict(hub.requests), "push", REPOSITORY, environment=environment)
    assert digest(hub.repositories[REPOSITORY]) == before
    assert hub.commits == ["Upload LaVIT"]
    weights = LavitForCausalLM.from_pretrained(REPOSITORY).lm_head.weight
    assert weights.equal(model.lm_head.weight)
    assert weights.abs().sum() > 0


def saved_parts() -> dict:
    model = tiny_lavit()
    return {
        "model": model,
        "base": model.model,
        "visual tokenizer": model.model.visual_tokenizer,
        "stage 1": make_stage_one(),
        "configuration": model.config,
        "tokenizer's configuration": model.config.visual_tokenizer_config,
        "torchvision": LavitImageProcessor(),
        "pil": LavitImageProcessorPil(),
        "processor": make_processor(),
    }


@pytest.mark.parametrize("name", saved_parts())
def test_auto_map_names_what_is_there(name, tmp_path):
    """Each name is a string, as for models of transformers, and its file lies beside it."""
    saved_parts()[name].save_pretrained(tmp_path)
    found = []
    for file in tmp_path.glob("*.json"):
        content = json.loads(file.read_text())
        maps = [content.get("auto_map", {}), content.get("image_processor", {}).get("auto_map", {})]
        for auto_class, names in [item for auto_map in maps for item in auto_map.items()]:
            if auto_class == "AutoImageProcessor":
                assert names.keys() == {"torchvision", "pil"}
            found += names.values() if isinstance(names, dict) else [names]
    assert found
    for reference in found:
        module, name = reference.split(".")
        assert f"class {name}(" in (tmp_path / f"{module}.py").read_text()


def test_a_folder_does_not_tell_what_was_saved_before(tmp_path):
    model = tiny_lavit()
    model.save_pretrained(tmp_path / "first")
    model.model.visual_tokenizer.save_pretrained(tmp_path / "part")
    model.model.save_pretrained(tmp_path / "base")
    model.save_pretrained(tmp_path / "second")
    first, second = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("first", "second"))
    del second["visual_tokenizer_config"]["architectures"]  # transformers keeps it in the configuration itself
    assert first == second


LOAD_A_TOKENIZER = """
import sys; sys.modules["lavit_hf"] = None
import torch
from transformers import AutoConfig, AutoImageProcessor, AutoModel
trust = {"trust_remote_code": True}
model = AutoModel.from_pretrained(sys.argv[1], **trust)
pixels = torch.load(sys.argv[2], weights_only=True)
print(type(AutoConfig.from_pretrained(sys.argv[1], **trust)).__module__, model(pixels).codes.tolist())
model.save_pretrained(sys.argv[3])
again = AutoModel.from_pretrained(sys.argv[3], **trust)
print(type(again).__module__, again(pixels).codes.tolist())
"""


def test_the_visual_tokenizer_without_this_package(tmp_path, hub):
    """Loaded by its own code, saved with that, and loaded once more."""
    tokenizer = tiny_lavit().model.visual_tokenizer
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    torch.save(pictures(2), tmp_path / "pixels.pt")
    arguments = (tmp_path / "tokenizer", tmp_path / "pixels.pt", tmp_path / "again")
    result = run(LOAD_A_TOKENIZER, *arguments, environment=hub.environment(tmp_path / "home"))
    codes = tokenizer(pictures(2)).codes.tolist()
    first, second = result.stdout.splitlines()[-2:]
    assert re.fullmatch(rf"transformers_modules\.\S+\.configuration_lavit {re.escape(str(codes))}", first)
    assert re.fullmatch(rf"transformers_modules\.\S+\.modeling_lavit_visual_tokenizer {re.escape(str(codes))}", second)


def test_the_processor_cannot_load_a_visual_tokenizer_without_this_package(tmp_path, hub):
    tiny_lavit().save_pretrained(tmp_path / "model")
    make_processor().save_pretrained(tmp_path / "model")
    code = (
        "import sys; sys.modules['lavit_hf'] = None; from transformers import AutoProcessor\n"
        "AutoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True, visual_tokenizer=True)"
    )
    result = run(code, tmp_path / "model", environment=hub.environment(tmp_path / "home"))
    assert "visual_tokenizer=True needs lavit_hf to be installed" in result.stderr


def save_adapter(model, folder: Path) -> None:
    adapted = get_peft_model(copy.deepcopy(model), LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    adapted.save_pretrained(folder)


def test_an_adapter_in_the_way(hub, tmp_path):
    """Loading would apply it to what was saved beside it, or take another model in its place."""
    model = tiny_lavit()
    save_adapter(model, tmp_path / "adapter")
    before = digest(tmp_path)
    with pytest.raises(ValueError, match=r"adapter holds an adapter \(adapter_config\.json\)"):
        model.save_pretrained(tmp_path / "adapter")
    assert digest(tmp_path) == before
    hub.repositories[REPOSITORY] = tmp_path / "adapter"
    with pytest.raises(ValueError, match=rf"{REPOSITORY} holds an adapter"):
        model.push_to_hub(REPOSITORY)
    assert not hub.commits
    # An adapter that comes later belongs to the model.
    model.save_pretrained(tmp_path / "model")
    save_adapter(model, tmp_path / "model")
    ids, loaded = torch.tensor([[5, 6, 7]]), LavitForCausalLM.from_pretrained(tmp_path / "model")
    assert not loaded(ids).logits.equal(model(ids).logits)


def test_the_pixel_decoder_of_an_adapters_model(hub, demo, tmp_path):
    """It lies beside the model that the adapter is for, and not at the adapter's commit."""
    model, processor, pipe = demo
    hub.repositories |= {"somebody/whole": tmp_path / "whole", "somebody/adapter": tmp_path / "adapter"}
    model.save_pretrained(tmp_path / "whole", processor=processor, image_decoder=pipe)
    save_adapter(model, tmp_path / "adapter")
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    changed = settings | {"base_model_name_or_path": "somebody/whole"}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(changed))
    loaded = LavitForCausalLM.from_pretrained("somebody/adapter", cache_dir=tmp_path / "cache")
    assert loaded.image_decoder.unet.conv_in.weight.equal(pipe.unet.conv_in.weight)


def test_old_shards_of_a_pushed_part_go(hub, demo, tmp_path):
    model, _, pipe = demo
    tokenizer = model.model.visual_tokenizer
    for shards in ({}, {"max_shard_size": "100KB"}, {}):
        for name, part in (("tokenizer", tokenizer), ("decoder", pipe)):
            where = {"push_to_hub": True, "repo_id": f"somebody/{name}"}
            part.save_pretrained(tmp_path / name, **shards, **where)
            saved, pushed = digest(tmp_path / name), digest(hub.repositories[where["repo_id"]])
            weights = {file: value for file, value in saved.items() if "safetensors" in file}
            assert weights == {file: value for file, value in pushed.items() if "safetensors" in file}
            assert (len(weights) > 4) == bool(shards)
    pipe.push_to_hub("somebody/decoder", subfolder="lowres_decoder", commit_message="A second one")
    there = hub.repositories["somebody/decoder"] / "lowres_decoder"
    assert LavitImageDecoderPipeline.from_pretrained(there).unet.conv_in.weight.equal(pipe.unet.conv_in.weight)
    assert hub.commits[-1] == "A second one"


def test_arguments_that_are_none(demo, tmp_path, monkeypatch):
    """They are refused before anything is written."""
    model, processor, pipe = demo
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    for name in ("proccessor", "max_shards_size"):
        with pytest.raises(TypeError, match=f"takes no {name} "):
            model.save_pretrained(tmp_path, **{name: processor})
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
            model.save_pretrained(tmp_path, push_to_hub=True, **{name: processor})
    for part in (model, pipe):
        with pytest.raises(TypeError, match=r"takes no private, repo_id without push_to_hub=True"):
            part.save_pretrained(tmp_path, repo_id=REPOSITORY, private=True)
        with pytest.raises(TypeError, match="unexpected keyword argument 'privat'"):
            part.push_to_hub(REPOSITORY, privat=True)
    with pytest.raises(ValueError, match=r"safe_serialization=False"):
        model.save_pretrained(tmp_path, safe_serialization=False)
    assert not list(tmp_path.iterdir())


def test_the_guide_runs(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in blocks_of("publish"):
        exec(block, names)
    assert isinstance(names["model"], LavitForCausalLM)
    saved, pushed = digest(tmp_path / "my-lavit"), digest(hub.repositories["me/my-lavit"])
    assert {name for name in saved if name != "README.md"} == {name for name in pushed if name != "README.md"}
    card = ModelCard.load(tmp_path / "my-lavit" / "README.md")
    assert len(card.data.eval_results) > 4
