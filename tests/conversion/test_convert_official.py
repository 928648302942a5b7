# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoProcessor, GenerationConfig

from lavit_hf import LavitVisualTokenizer
from lavit_hf.conversion import convert_official_checkpoint, weights
from lavit_hf.diffusion import LavitImageDecoderPipeline

from ..hub_server import HubServer


CHECKPOINT = Path(__file__).parents[1] / "goldens" / "checkpoint"
LANGUAGE_MODEL = "language_model/pytorch_model.bin"
ADAPTER = "language_model/visual_weight.bin"
TOWER = "visual_tokenizer/eva_vitg_psz14.bin"
TOKENIZER = "visual_tokenizer/tokenizer_encoder.bin"
DECODER = "visual_tokenizer/highres_tokenizer_decoder.bin"
UNET = "highres_pixel_decoding/unet/diffusion_pytorch_model.bin"
VAE = "pixel_decoding/vae/diffusion_pytorch_model.safetensors"


@pytest.fixture
def source(tmp_path) -> Iterator[Path]:
    """A copy of the authors' folder, to be changed."""
    yield shutil.copytree(CHECKPOINT, tmp_path / "official")
    shutil.rmtree(tmp_path)  # 30 MB that pytest would keep


def convert(source: Path | str, target: Path, **kwargs) -> Path:
    return convert_official_checkpoint(source, target, **({"num_attention_heads": 4, "progress": False} | kwargs))


def load(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)


def edit(path: Path, change) -> None:
    tensors = load(path)
    change(tensors)
    torch.save(tensors, path)


def load_all(folder: Path) -> dict[str, torch.Tensor]:
    """Every weight of a converted folder, by folder and name."""
    return {
        f"{path.parent.relative_to(folder)}:{key}": tensor
        for path in folder.rglob("*.safetensors")
        for key, tensor in load_file(path).items()
    }


def assert_same_weights(actual: Path, expected: Path) -> None:
    actual, expected = load_all(actual), load_all(expected)
    assert actual.keys() == expected.keys()
    for key, tensor in expected.items():
        assert torch.equal(actual[key], tensor), key


def assert_nothing_left(target: Path) -> None:
    assert not [path.name for path in target.parent.glob(f"{target.name}*")]


class TestResult:
    def test_every_part_loads_complete(self, converted):
        for model_class in (AutoModelForCausalLM, LavitVisualTokenizer):
            model, info = model_class.from_pretrained(converted, output_loading_info=True)
            assert not any(info.values())
            assert model.dtype == torch.float32
        processor = AutoProcessor.from_pretrained(converted)
        assert (processor.image_start_token_id, processor.visual_token_offset) == (32000, 32002)
        assert processor.image_token_id == 48386
        assert not processor.drawing_image_markers
        generation = GenerationConfig.from_pretrained(converted)
        assert (generation.bos_token_id, generation.eos_token_id, generation.pad_token_id) == (1, 2, 0)
        assert generation.image_generation["guidance_scale"] == 4.0
        for subfolder, dims in ((None, [24, 40]), ("lowres_decoder", [24])):
            pipe = LavitImageDecoderPipeline.from_pretrained(converted, subfolder=subfolder)
            assert pipe.feature_decoder.config.condition_dims == dims
            assert pipe.config.visual_token_offset == 32002

    @torch.no_grad()
    def test_tokenizer_equals_the_authors(self, converted, goldens, golden_json):
        tokenizer = LavitVisualTokenizer.from_pretrained(converted).eval()
        features = tokenizer.encode_vision(goldens["pixel_values"])
        torch.testing.assert_close(features, goldens["vit_features"][:, 1:], atol=1e-4, rtol=0)
        log_probs = tokenizer.selector(features)
        torch.testing.assert_close(log_probs, goldens["selector_log_probs"], atol=1e-5, rtol=0)
        for kind in ("argmax", "gumbel"):
            keep_mask = goldens[f"keep_{kind}"].bool()
            merged = tokenizer.merger(features, policy=keep_mask.float())[keep_mask]
            expected = goldens[f"generation_merged_{kind}"][keep_mask]
            torch.testing.assert_close(merged, expected, atol=1e-4, rtol=0)
            given = {"selection": "argmax"} if kind == "argmax" else {"keep_mask": keep_mask}
            codes = tokenizer(vision_features=features, **given).split()
            assert [(picture + 32002).tolist() for picture in codes] == golden_json[f"visual_ids_{kind}"]

    @torch.no_grad()
    def test_model_equals_the_authors(self, converted, goldens):
        model = AutoModelForCausalLM.from_pretrained(converted).eval()
        model.config.visual_tokenizer_config.selection = "argmax"
        ids = torch.tensor([[32000, 48386, 32001]] * 4)
        logits = model(input_ids=ids, pixel_values=goldens["pixel_values"], logits_to_keep=1).logits[:, -1]
        # The packed merger leaves out the authors' smoothing of the softmax.
        torch.testing.assert_close(logits[:, :-1], goldens["caption_first_logits"], atol=1e-3, rtol=0)
        # The placeholder, which the authors' vocabulary does not have, has no more than the mean of the text's scores.
        torch.testing.assert_close(logits[:, -1], logits[:, :32000].mean(dim=-1), atol=1e-4, rtol=0)

    def test_pixel_decoders_equal_the_authors(self, converted, goldens, golden_json):
        for subfolder, kind, guidance_scale in ((None, "highres", 7.0), ("lowres_decoder", "lowres", 5.0)):
            pipe = LavitImageDecoderPipeline.from_pretrained(converted, subfolder=subfolder)
            pipe.set_progress_bar_config(disable=True)
            images = pipe(
                golden_json["visual_ids_argmax"],
                vocabulary_ids=True,
                num_inference_steps=4,
                guidance_scale=guidance_scale,
                latents=goldens["latents"],
                output_type="np",
            ).images
            torch.testing.assert_close(torch.tensor(images), goldens[f"{kind}_image"], atol=1e-4, rtol=0)

    def test_card_and_notice(self, converted):
        notice = "LaVIT is licensed under the LaVIT Community License, Copyright (c) LaVIT authors, Inc. All Rights"
        card = (converted / "README.md").read_text()
        assert notice in card
        assert notice in (converted / "NOTICE").read_text()
        assert card.startswith("---\nlibrary_name: transformers\npipeline_tag: any-to-any\nlicense: other\n")
        assert "lowres_decoder" in card

    def test_card_examples_run(self, converted):
        card = (converted / "README.md").read_text()
        names = {"path": converted, "picture": Image.open(CHECKPOINT.parent / "image_1.png")}
        for example in re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL):
            exec(example, names)
        assert names["codes"]
        assert names["picture"].size == (64, 64)

    def test_shape_is_read_off_the_weights(self, converted):
        config = json.loads((converted / "config.json").read_text())
        tokenizer = config["visual_tokenizer_config"]
        vision = tokenizer["vision_config"]
        assert config["architectures"] == ["LavitForCausalLM"]
        assert [vision[name] for name in ("image_size", "patch_size", "num_hidden_layers")] == [112, 14, 3]
        assert [tokenizer[name] for name in ("num_merger_layers", "codebook_size", "code_dim")] == [2, 16384, 32]
        assert tokenizer["selection"] == "topk"
        assert tokenizer["attention_smoothing"] == 1e-6  # the authors' value, which no weight tells


class TestArguments:
    def test_dtype_leaves_the_codebook(self, converted, tmp_path):
        folder = convert(CHECKPOINT, tmp_path / "out", dtype="bfloat16")
        for key, tensor in load_all(folder).items():
            assert tensor.dtype == (torch.float32 if key.endswith("codebook") else torch.bfloat16), key
        tokenizer = LavitVisualTokenizer.from_pretrained(folder)
        assert (tokenizer.dtype, tokenizer.quantizer.codebook.dtype) == (torch.bfloat16, torch.float32)
        rounded, exact = (load_file(path / "model.safetensors")["lm_head.weight"] for path in (folder, converted))
        assert torch.equal(rounded, exact.bfloat16())

    def test_float16_that_overflows_is_refused(self, source, tmp_path):
        edit(source / ADAPTER, lambda tensors: tensors["vit_proj.bias"].fill_(1e5))
        with pytest.raises(ValueError, match=r"visual_adapter\.projection\.bias.*float16"):
            convert(source, tmp_path / "out", dtype="float16")
        assert_nothing_left(tmp_path / "out")

    def test_shards(self, converted, tmp_path):
        folder = convert(CHECKPOINT, tmp_path / "out", dtype="float32", max_shard_size="1MB")
        shards = sorted(folder.glob("model-*.safetensors"))
        assert len(shards) > 3
        assert all(path.name.endswith(f"-of-{len(shards):05d}.safetensors") for path in shards)
        assert all(len(load_file(path)) == 1 for path in shards if path.stat().st_size > 1.1e6)
        assert_same_weights(folder, converted)
        _, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
        assert not any(info.values())
        LavitImageDecoderPipeline.from_pretrained(folder)

    def test_pixel_decoder_left_out(self, source, tmp_path):
        shutil.rmtree(source / "highres_pixel_decoding")
        with pytest.raises(FileNotFoundError, match="highres_pixel_decoding.*pixel_decoders"):
            convert(source, tmp_path / "out")
        folder = convert(source, tmp_path / "out", pixel_decoders=["lowres"])
        assert not (folder / "model_index.json").exists()
        LavitImageDecoderPipeline.from_pretrained(folder, subfolder="lowres_decoder")

    def test_licences_are_copied(self, source, tmp_path):
        for name in ("LICENSE", "USE_POLICY.md", "LLAMA2-LICENSE.txt"):
            (source / name).write_text(name)
        folder = convert(source, tmp_path / "out", pixel_decoders=())
        for name in ("LICENSE", "USE_POLICY.md", "LLAMA2-LICENSE.txt"):
            assert (folder / name).read_text() == name
            assert f"`{name}`" in (folder / "README.md").read_text()

    @pytest.mark.parametrize(
        ("argument", "value"),
        [
            ("dtype", "int8"),
            ("max_shard_size", "many"),
            ("max_shard_size", 0),
            ("num_attention_heads", 5),
            ("pixel_decoders", ("highest",)),
            ("pixel_decoders", "highres"),
        ],
    )
    def test_refused(self, tmp_path, argument, value):
        with pytest.raises(ValueError, match=argument):
            convert(CHECKPOINT, tmp_path / "out", **{argument: value})


class TestSources:
    def write_shards(self, folder: Path, name: str, save) -> None:
        """The language model in two files whose tensors alternate, so that no order can be relied upon."""
        tensors = load(folder / "pytorch_model.bin")
        (folder / "pytorch_model.bin").unlink()
        stem, ending = name.split(".")
        weight_map = {}
        for number in range(2):
            shard = {key: tensors[key] for key in list(tensors)[number::2]}
            path = folder / f"{stem}-{number + 1:05d}-of-00002.{ending}"
            save(shard, path)
            weight_map |= dict.fromkeys(shard, path.name)
        (folder / f"{name}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))

    def test_sharded_bin(self, source, tmp_path, converted):
        self.write_shards(source / "language_model", "pytorch_model.bin", torch.save)
        assert_same_weights(convert(source, tmp_path / "out"), converted)
        (source / "language_model/pytorch_model-00002-of-00002.bin").unlink()
        with pytest.raises(FileNotFoundError, match="pytorch_model-00002-of-00002.bin"):
            convert(source, tmp_path / "other")

    def test_sharded_safetensors(self, source, tmp_path, converted):
        self.write_shards(source / "language_model", "model.safetensors", save_file)
        assert_same_weights(convert(source, tmp_path / "out"), converted)

    @pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
    def test_shards_elsewhere(self, source, tmp_path, name):
        outside = source / f"secret.{name.split('.')[1]}"
        (source / "language_model/pytorch_model.bin").rename(outside)
        index = source / f"language_model/{name}.index.json"
        index.write_text(json.dumps({"weight_map": {"lm_head.weight": f"../{outside.name}"}}))
        with pytest.raises(ValueError, match=r"must name files beside it, got '\.\./secret"):
            convert(source, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_files_of_other_versions(self, source, tmp_path, converted):
        """Whole safetensors; PyTorch's format before 1.6; an autoencoder's attention and a table of former names."""
        edit(
            source / LANGUAGE_MODEL,
            lambda tensors: tensors.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}),
        )
        save_file(load(source / UNET), (source / UNET).with_suffix(".safetensors"))
        (source / UNET).unlink()
        torch.save(load(source / TOKENIZER), source / TOKENIZER, _use_new_zipfile_serialization=False)
        former = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
        vae = load_file(source / VAE)
        for new, old in former.items():
            vae = {key.replace(new, old): tensor for key, tensor in vae.items()}
        assert any(".proj_attn." in key for key in vae)
        save_file(vae, source / VAE)
        assert_same_weights(convert(source, tmp_path / "out"), converted)

    def test_copies_in_the_adapters_file(self, source, tmp_path, converted):
        key = "quantize.embedding.weight"
        codebook = load(source / TOKENIZER)[key]
        edit(source / ADAPTER, lambda tensors: tensors.update({key: codebook.half()}))
        assert_same_weights(convert(source, tmp_path / "out"), converted)
        edit(source / ADAPTER, lambda tensors: tensors.update({key: -codebook}))
        with pytest.raises(ValueError, match=f"visual_weight.bin:{key} must repeat"):
            convert(source, tmp_path / "other")

    @pytest.mark.parametrize("strict", [False, True])
    def test_files_that_hold_more(self, source, tmp_path, converted, caplog, strict):
        """What training leaves, of any type, in each of the files."""
        extra = {
            "mask_token": torch.ones(3),
            "blocks.0.attn.relative_position_index": torch.ones(2, dtype=torch.long),
            "blocks.1.attn.relative_position_index": torch.ones(2, dtype=torch.long),
            "quantize.embedding.initted": torch.tensor(True),
            "epoch": 3,
            "optimizer": {"state": {0: torch.ones(1)}},
        }
        names = [LANGUAGE_MODEL, ADAPTER, TOWER, TOKENIZER, DECODER, UNET]
        for number, name in enumerate(names):
            edit(source / name, lambda tensors, number=number: tensors.update(extra | {f"only_{number}": number}))
        vae = load_file(source / VAE)
        save_file(vae | {"steps": torch.ones(1, dtype=torch.int64)}, source / VAE)
        if strict:
            with pytest.raises(ValueError, match="28 unknown"):
                convert(source, tmp_path / "out", strict=True, dtype="float32")
            assert_nothing_left(tmp_path / "out")
            return
        with caplog.at_level("WARNING", "lavit_hf"):
            folder = convert(source, tmp_path / "out", dtype="float32")
        assert_same_weights(folder, converted)
        card = (folder / "README.md").read_text()
        for text in (card, caplog.text):
            assert "`eva_vitg_psz14.bin:blocks.*.attn.relative_position_index`, 2 times" in text
            assert "`pixel_decoding/vae:steps`" in text
            assert "`visual_weight.bin:optimizer`" in text
            assert "`highres_tokenizer_decoder.bin:epoch`" in text
            assert all(f":only_{number}`" in text for number in range(len(names)))
        assert "43 entries" in caplog.text
        assert "left out" not in (converted / "README.md").read_text()

    def test_what_is_assumed_is_said(self, converted, tmp_path, command_line):
        card = (converted / "README.md").read_text()
        assert "4 attention heads in the vision tower, the merger and the feature decoders" in card
        assert "epsilon of 1e-06 in the vision tower and 1e-05 elsewhere" in card
        options = ("--num-attention-heads", 4, "--without", "highres", "--without", "lowres")
        code, output, _ = command_line("convert", CHECKPOINT, tmp_path / "out", *options)
        assert code == 0
        assert "Assumed: 4 attention heads" in output


RELEASE = "rain1011/LaVIT-7B-v2"
CONVERT = """
import sys
from lavit_hf.conversion import convert_official_checkpoint
convert_official_checkpoint(*sys.argv[1:], num_attention_heads=4, dtype="float32", progress=False)
"""


class TestRepository:
    @pytest.fixture
    def repository(self, source) -> Path:
        """The authors' files among others, one of them twice."""
        save_file(load(source / UNET), (source / UNET).with_suffix(".safetensors"))
        others = ("assets/demo.png", "safety_checker/model.bin", "language_model/notes.txt", "README.md")
        for name in (*others, "pixel_decoding/unet/random_states_0.pkl", "visual_tokenizer/optimizer.bin"):
            (source / name).parent.mkdir(exist_ok=True)
            (source / name).write_text("not needed")
        for name in ("LICENSE", "USE_POLICY.md"):
            (source / name).write_text(name)
        return source

    @pytest.fixture
    def hub(self, repository, tmp_path, monkeypatch):
        with HubServer({RELEASE: repository}) as server:
            server.use(monkeypatch)
            monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
            yield server

    def test_what_is_needed_is_downloaded(self, hub, repository, converted, tmp_path):
        folder = convert(RELEASE, tmp_path / "out", dtype="float32")
        assert_same_weights(folder, converted)
        there = {path.relative_to(CHECKPOINT).as_posix() for path in CHECKPOINT.rglob("*") if path.is_file()}
        weights = {UNET, UNET.replace(".bin", ".safetensors")}
        needed = there - weights | {"LICENSE", "USE_POLICY.md"}
        assert hub.downloads - weights <= needed
        # The client downloads files of equal content once.
        contents = {(repository / name).read_bytes() for name in hub.downloads}
        assert {(repository / name).read_bytes() for name in needed} <= contents
        assert hub.downloads & weights == {UNET.replace(".bin", ".safetensors")}
        assert (folder / "LICENSE").read_text() == "LICENSE"
        hub.requests.clear()
        convert(RELEASE, tmp_path / "lowres", pixel_decoders=["lowres"], revision=hub.commit_of(RELEASE))
        assert not hub.downloads

    def test_one_pixel_decoder(self, hub, tmp_path):
        convert(RELEASE, tmp_path / "out", pixel_decoders=["lowres"])
        assert not [name for name in hub.downloads if "highres" in name]

    def test_a_killed_download_goes_on(self, hub, converted, tmp_path):
        hub.stalled.add(TOKENIZER)
        command = [sys.executable, "-c", CONVERT, RELEASE, str(tmp_path / "out")]
        environment = os.environ | hub.environment(tmp_path / "home")
        process = subprocess.Popen(command, env=environment)
        cache = tmp_path / "home" / "hub"
        while not list(cache.glob("**/snapshots/*/language_model/pytorch_model.bin")):
            assert process.poll() is None
            time.sleep(0.05)
        process.kill()
        process.wait()
        done = {
            path.relative_to(next(cache.glob("*/snapshots/*"))).as_posix() for path in cache.glob("*/snapshots/*/**/*")
        }
        hub.stalled.clear()
        hub.requests.clear()
        subprocess.run(command, env=environment, check=True)
        assert TOKENIZER in hub.downloads
        assert LANGUAGE_MODEL not in hub.downloads
        assert not hub.downloads & done
        assert_same_weights(tmp_path / "out", converted)

    def test_refused_before_anything_is_downloaded(self, hub, repository, tmp_path):
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "thesis.tex").touch()
        with pytest.raises(FileExistsError, match="not empty"):
            convert(RELEASE, tmp_path / "full")
        assert not hub.requests
        with pytest.raises(FileNotFoundError, match=r"neither a folder nobody/none nor a repository"):
            convert("nobody/none", tmp_path / "out")
        with pytest.raises(FileNotFoundError, match=r"no repository|nor a repository .* revision 'none'"):
            convert(RELEASE, tmp_path / "out", revision="none")
        with pytest.raises(FileNotFoundError, match=r"no folder no/such/folder"):
            convert("no/such/folder", tmp_path / "out")
        with pytest.raises(ValueError, match=r"revision is for a repository"):
            convert(CHECKPOINT, tmp_path / "out", revision="main")
        (repository / ADAPTER).unlink()
        (repository / VAE).unlink()
        with pytest.raises(FileNotFoundError, match=rf"{RELEASE} lacks {ADAPTER}, pixel_decoding/vae/"):
            convert(RELEASE, tmp_path / "out")
        assert not hub.downloads

    def test_command_line(self, hub, tmp_path, command_line):
        options = ("--num-attention-heads", 4, "--without", "highres")
        assert command_line("convert", RELEASE, tmp_path / "out", *options)[0] == 0
        LavitImageDecoderPipeline.from_pretrained(tmp_path / "out", subfolder="lowres_decoder")


class Malicious:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


class TestRefusals:
    @pytest.mark.parametrize(
        "name",
        [
            LANGUAGE_MODEL,
            ADAPTER,
            TOWER,
            DECODER,
            UNET,
            VAE,
            "language_model/config.json",
            "language_model/tokenizer.model",
            "pixel_decoding/uncond_embeddings.bin",
            "pixel_decoding/scheduler/scheduler_config.json",
            "highres_pixel_decoding/vae/config.json",
        ],
    )
    def test_missing_file(self, source, tmp_path, name):
        (source / name).unlink()
        with pytest.raises(FileNotFoundError, match=Path(name).parent.name):
            convert(source, tmp_path / "out")
        assert_nothing_left(tmp_path / "out")

    @pytest.mark.parametrize("name", [LANGUAGE_MODEL, ADAPTER, TOWER, TOKENIZER, DECODER, UNET])
    def test_weights(self, source, tmp_path, name):
        """A missing one, one of a wrong shape, one of integers and a foreign one, all of them in the one error."""
        gone, reshaped, whole = [key for key in load(source / name) if key.endswith(".weight")][3:6]

        def change(tensors):
            del tensors[gone]
            tensors["foreign.weight"] = torch.ones(1)
            tensors[reshaped] = torch.ones(3, 2)
            tensors[whole] = tensors[whole].to(torch.long)

        edit(source / name, change)
        for strict in (False, True):
            with pytest.raises(ValueError, match=r"missing(.|\n)*wrong shape(.|\n)*of another type") as error:
                convert(source, tmp_path / "out", strict=strict)
            for expected in (gone, reshaped, "found (3, 2)", whole):
                assert expected in str(error.value)
            assert ("1 unknown:" in str(error.value)) == ("foreign.weight" in str(error.value)) == strict
        assert_nothing_left(tmp_path / "out")

    def test_long_lists_are_cut(self, source, tmp_path):
        edit(source / TOWER, lambda tensors: tensors.update({f"extra.{i}": torch.ones(1) for i in range(40)}))
        with pytest.raises(ValueError, match="40 unknown") as error:
            convert(source, tmp_path / "out", strict=True)
        assert len(str(error.value).splitlines()) < 15

    @pytest.mark.parametrize("name", [LANGUAGE_MODEL, "pixel_decoding/uncond_embeddings.bin"])
    @pytest.mark.filterwarnings("ignore:Detected pickle protocol")
    @pytest.mark.parametrize("save", ["zip", "legacy", "pickle"])
    def test_pickle_with_code(self, source, tmp_path, name, save):
        trace = tmp_path / "trace"
        content = {"model.norm.weight": Malicious(trace)}
        if save == "pickle":
            (source / name).write_bytes(pickle.dumps(content))
        else:
            torch.save(content, source / name, _use_new_zipfile_serialization=save == "zip")
        with pytest.raises(ValueError, match=f"{Path(name).name} was not loaded"):
            convert(source, tmp_path / "out")
        assert not trace.exists()
        assert_nothing_left(tmp_path / "out")

    @pytest.mark.parametrize("kind", ["cut", "empty", "pointer", "other zip", "a list", "no tensor", "integers"])
    def test_damaged_file(self, source, tmp_path, kind):
        path = source / TOWER
        if kind == "cut":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        elif kind == "empty":
            path.write_bytes(b"")
        elif kind == "pointer":
            path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
        elif kind == "other zip":
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("a/b", "c")
        elif kind == "a list":
            torch.save([torch.ones(1)], path)
        else:
            cls_token = load(path)["cls_token"]
            value = cls_token.tolist() if kind == "no tensor" else cls_token.long()
            edit(path, lambda tensors: tensors.update(cls_token=value))
        with pytest.raises(ValueError, match="eva_vitg_psz14.bin"):
            convert(source, tmp_path / "out")

    def test_damaged_safetensors(self, source, tmp_path):
        (source / VAE).write_bytes((source / VAE).read_bytes()[:-100])
        with pytest.raises(ValueError, match="vae/diffusion_pytorch_model.safetensors cannot be read"):
            convert(source, tmp_path / "out")

    def test_broken_json(self, source, tmp_path):
        (source / "language_model/config.json").write_text("{")
        with pytest.raises(ValueError, match=r"language_model/config.json is not valid JSON"):
            convert(source, tmp_path / "out")

    def test_no_source(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="nowhere"):
            convert(tmp_path / "nowhere", tmp_path / "out")


class TestTarget:
    def test_existing(self, tmp_path):
        target = tmp_path / "out"
        target.mkdir()
        convert(CHECKPOINT, target, pixel_decoders=())  # an empty folder is as good as none
        with pytest.raises(FileExistsError, match="overwrite"):
            convert(CHECKPOINT, target, pixel_decoders=())
        (target / "of another run").touch()
        convert(CHECKPOINT, target, pixel_decoders=(), overwrite=True)
        assert not (target / "of another run").exists()
        assert [path.name for path in tmp_path.iterdir()] == ["out"]

    def test_something_else_is_not_overwritten(self, tmp_path):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "thesis.tex").touch()
        with pytest.raises(FileExistsError, match="no earlier result"):
            convert(CHECKPOINT, tmp_path / "out", overwrite=True)
        assert (tmp_path / "out" / "thesis.tex").exists()

    def test_source_is_not_overwritten(self, source):
        for target in (source, source.parent):
            with pytest.raises(ValueError, match="itself"):
                convert(source, target, overwrite=True)

    def test_not_enough_space(self, tmp_path, monkeypatch):
        monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(2, 1, 1))
        with pytest.raises(OSError, match="free"):
            convert(CHECKPOINT, tmp_path / "out")
        assert_nothing_left(tmp_path / "out")

    @pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
    def test_failure_in_the_middle(self, tmp_path, monkeypatch, error):
        target = convert(CHECKPOINT, tmp_path / "out", pixel_decoders=())
        written = []

        def write(path, *args):
            if len(written) == 2:
                raise error
            written.append(path)

        monkeypatch.setattr(weights, "_write_safetensors", write)
        with pytest.raises(error):
            convert(CHECKPOINT, tmp_path / "new")
        assert_nothing_left(tmp_path / "new")
        written.clear()
        with pytest.raises(error):
            convert(CHECKPOINT, target, overwrite=True)
        assert [path.name for path in tmp_path.iterdir()] == ["out"]
        assert (target / "model.safetensors").is_file()

    def test_killed(self, tmp_path, converted):
        code = (
            "import os, signal, sys; from lavit_hf.conversion import convert_official_checkpoint, weights;"
            "weights._write_safetensors = lambda path, *args: path.touch() or os.kill(os.getpid(), signal.SIGKILL);"
            "convert_official_checkpoint(sys.argv[1], sys.argv[2], num_attention_heads=4)"
        )
        target = tmp_path / "out"
        killed = subprocess.run([sys.executable, "-c", code, str(CHECKPOINT), str(target)], capture_output=True)
        assert killed.returncode == -signal.SIGKILL
        assert not target.exists()
        assert_same_weights(convert(CHECKPOINT, target), converted)

    def test_killed_between_the_two_renames(self, tmp_path):
        """The earlier result is there again when the conversion is called once more, whatever becomes of that."""
        target = convert(CHECKPOINT, tmp_path / "out", pixel_decoders=())
        code = (
            "import os, signal, sys; from pathlib import Path; from lavit_hf.conversion import convert_official as c;"
            "rename = Path.rename;"
            "Path.rename = lambda *a: (rename(*a), os.kill(os.getpid(), signal.SIGKILL));"
            "c.convert_official_checkpoint(*sys.argv[1:], num_attention_heads=4, pixel_decoders=(), overwrite=True)"
        )
        killed = subprocess.run([sys.executable, "-c", code, str(CHECKPOINT), str(target)], capture_output=True)
        assert killed.returncode == -signal.SIGKILL
        assert not target.exists()
        with pytest.raises(FileExistsError):
            convert(CHECKPOINT, target, pixel_decoders=())
        AutoModelForCausalLM.from_pretrained(target)
        assert [path.name for path in tmp_path.iterdir()] == ["out"]
