# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""LoRA: which weights are trained, and that loaded and merged models equal the trained one."""

import copy
import json
import runpy
import sys
import warnings
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, PeftType, get_peft_model, inject_adapter_in_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.lora import LoraLayer
from transformers import GPT2Config, LlamaConfig, MixtralConfig

from lavit_hf import LavitForCausalLM
from lavit_hf.modeling.freezing_lavit import VISUAL_PARTS, is_trained, keep_adapters_out
from lavit_hf.training import (
    LavitCollator,
    LoraArguments,
    MixtureRows,
    SequenceArguments,
    lora_config,
)

from ..tiny import NUM_PATCHES, PLACEHOLDER, TEXT, TEXT_TOKENS, pictures, tiny_lavit
from .small import EVERY_KIND, make_dataset, make_model, make_processor


SCRIPT = Path(__file__).parent.parent.parent / "examples" / "finetune_lora.py"


@pytest.fixture(scope="module")
def batch() -> dict:
    rows = MixtureRows(make_dataset(), SequenceArguments(EVERY_KIND))
    return LavitCollator(make_processor(), NUM_PATCHES)([rows[index] for index in range(4)])


def make_base(tie: bool) -> LavitForCausalLM:
    text = TEXT | {"vocab_size": make_processor().image_start_token_id, "tie_word_embeddings": tie}
    return tiny_lavit(text=LlamaConfig(**text))


def trained_parts(model) -> set[str]:
    """Returns the shortened names of the trained parameters."""
    names = (name.removeprefix("base_model.model.") for name, p in model.named_parameters() if p.requires_grad)
    return {name.partition(".lora_")[0].partition(".modules_to_save")[0] for name in names}


@pytest.mark.parametrize("text", ["llama", "gpt2"])
def test_the_language_models_layers_and_nothing_else(text):
    gpt2 = GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=TEXT_TOKENS, n_positions=256)
    model = tiny_lavit(text=gpt2 if text == "gpt2" else None)
    names = trained_parts(get_peft_model(model, lora_config(model)))
    assert all(name.startswith("model.language_model.") for name in names)
    assert len(names) == 2 * (4 if text == "gpt2" else 7)


def test_experts_are_trained_and_come_back(tmp_path):
    """Experts are parameters, which "all-linear" leaves out, and most of the weights of a mixture of experts."""
    text = MixtralConfig(**TEXT, num_local_experts=4)
    base = tiny_lavit(text=text)
    expected = copy.deepcopy(base)
    model = get_peft_model(base, lora_config(base))
    names = {name for name in trained_parts(model) if "experts" in name}
    assert len({name.partition(".layers.")[2].partition(".")[0] for name in names}) == text.num_hidden_layers
    inputs = {"input_ids": torch.tensor([[5, 6, 7, PLACEHOLDER]]), "pixel_values": pictures(1)}
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    updates = {
        name: parameter for name, parameter in model.named_parameters() if ".experts." in name and "lora_" in name
    }
    assert len(updates) == 2 * 2 * text.num_hidden_layers
    assert all(parameter.grad is not None for parameter in updates.values())
    with torch.no_grad():
        for parameter in updates.values():
            parameter.normal_(std=0.1)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(expected, tmp_path)
    torch.testing.assert_close(loaded.eval()(**inputs).logits, model.eval()(**inputs).logits)


def test_a_second_adapter_sits_in_the_language_model_alone(batch):
    base = make_base(False)
    model = get_peft_model(base, lora_config(base))
    model.add_adapter("second", lora_config(base))
    model.set_adapter("second")
    assert all(name.startswith("model.language_model.") for name in trained_parts(model))
    assert model(**batch).loss > 0


def test_an_adapter_that_is_frozen_reads_no_image_that_enters_as_codes(batch, monkeypatch):
    model = get_peft_model(make_base(False), lora_config(make_base(False))).train()
    batch = batch | {"image_inputs": "codes"}
    expected = model(**batch).loss
    monkeypatch.setattr(model.base_model.model.model.visual_adapter, "forward", None)
    assert model(**batch).loss == expected


WAYS = {
    "get_peft_model": get_peft_model,
    "inject_adapter_in_model": lambda model, config: inject_adapter_in_model(config, model),  # as `add_adapter` does
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], "all-linear"])
def test_adapters_sit_in_the_language_model_alone(targets, way, batch):
    """Also with the plain configurations of other people's programs. Every adapter is trained."""
    base = make_base(False)
    model = WAYS[way](base, LoraConfig(target_modules=targets, r=2, init_lora_weights=False))
    layers = {name for name, part in base.named_modules() if isinstance(part, LoraLayer)}
    language_model = base.model.language_model
    expected = {
        f"model.language_model.{name.removesuffix('.base_layer')}"
        for name, part in language_model.named_modules()
        if isinstance(part, torch.nn.Linear) and name.endswith("base_layer")
    }
    assert layers == expected
    assert len(layers) == 2 * (2 if isinstance(targets, list) else 7)
    model.train()(**batch).loss.backward()
    trained = {name: parameter for name, parameter in base.named_parameters() if parameter.requires_grad}
    assert len(trained) == 2 * len(layers)
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in trained.values())


def test_plain_adapters_are_saved_and_loaded(tmp_path, batch):
    """The folder tells peft which layers have none."""
    base = make_base(False)
    model = get_peft_model(base, LoraConfig(target_modules=["q_proj", "v_proj"], r=2, init_lora_weights=False)).eval()
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["exclude_modules"] == r".*visual_(tokenizer|adapter)\..*"
    plain = model.unload()
    assert plain is base
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error", UserWarning)
        loaded = PeftModel.from_pretrained(plain, tmp_path)
        first = loaded(**batch).logits
        loaded.load_adapter(tmp_path, "second")
        loaded.set_adapter("second")
        torch.testing.assert_close(loaded(**batch).logits, first)


# Methods that replace layers, and what they need at this size. Older versions of peft do not have all of them.
METHODS = {
    "ADALORA": {"total_step": 10},
    "BEFT": {},
    "BOFT": {},
    "C3A": {"block_size": 8},
    "FOURIERFT": {"n_frequency": 4},
    "HRA": {},
    "IA3": {"feedforward_modules": []},
    "LOHA": {},
    "LOKR": {},
    "MISS": {"r": 8},
    "OFT": {},
    "OSF": {},
    "RANDLORA": {},
    "ROAD": {"group_size": 8},
    "SHIRA": {"r": 4},
    "VBLORA": {"vector_length": 16},
    "VERA": {},
    "WAVEFT": {"n_frequency": 4},
}


@pytest.mark.parametrize("method", [method for method in METHODS if method in PeftType.__members__])
def test_no_method_of_peft_reaches_the_visual_tokenizer(method):
    """Also the methods whose configurations have no `exclude_modules`."""
    base = make_base(False)
    before = {name: value.clone() for name, value in base.model.visual_tokenizer.state_dict().items()}
    config = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType[method]](target_modules=["q_proj", "v_proj"], **METHODS[method])
    get_peft_model(base, config)
    after = base.model.visual_tokenizer.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert not is_trained(base.model.visual_tokenizer)
    assert is_trained(base.model.language_model)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("initial", ["pissa", "pissa_niter_2", "olora", "gaussian", "orthogonal", "mica", True, False])
def test_initial_values_do_not_change_codes(initial, way, batch):
    """Those that rewrite the weights of layers are refused, unless the visual parts are excluded from the start."""
    base = make_base(False)
    before = {name: value.clone() for name, value in base.model.visual_tokenizer.state_dict().items()}
    config = LoraConfig(target_modules=["q_proj", "v_proj"], r=2, init_lora_weights=initial)
    rewrites = str(initial).startswith(("pissa", "olora"))
    if rewrites:
        with pytest.raises(ValueError, match="load the model again, and set exclude_modules"):
            WAYS[way](make_base(False), copy.deepcopy(config))
        config.exclude_modules = VISUAL_PARTS
    WAYS[way](base, config)
    after = base.model.visual_tokenizer.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_the_initial_values_of_one_adapter_are_none_of_another(tmp_path):
    """The visual parts have the second adapter alone."""
    text = r".*language_model.*\.q_proj"
    config = LoraConfig(target_modules=text, r=2, init_lora_weights="pissa")
    model = get_peft_model(make_base(False), config)
    plain = LoraConfig(target_modules=["q_proj"], r=2, init_lora_weights="Gaussian")
    get_peft_model(make_base(False), plain).save_pretrained(tmp_path)
    model.load_adapter(tmp_path, "second")
    keep_adapters_out(model.base_model.model, model.peft_config)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_biases_of_the_visual_tokenizer_are_not_trained(bias, way):
    base = make_base(False)
    WAYS[way](base, LoraConfig(target_modules="all-linear", r=2, bias=bias))
    assert not is_trained(base.model.visual_tokenizer)


@pytest.mark.parametrize("way", WAYS)
def test_parts_of_the_visual_tokenizer_are_not_saved_as_a_whole(way):
    config = LoraConfig(target_modules=["q_proj"], r=2, modules_to_save=["quantizer"])
    with pytest.raises(ValueError, match=r"modules_to_save=.*visual_tokenizer\..*quantizer.*change the codes"):
        WAYS[way](make_base(False), config)


def test_adapters_that_tokens_activate_are_refused():
    """peft finds the tokens in ids whose images are not expanded."""
    with pytest.raises(ValueError, match=r"alora_invocation_tokens must be None, got \[5\]"):
        get_peft_model(make_base(False), LoraConfig(target_modules="all-linear", alora_invocation_tokens=[5]))


@pytest.mark.parametrize("given", [["k_proj"], r".*\.k_proj"])
def test_modules_that_are_left_out_stay_left_out(given):
    model = get_peft_model(make_base(False), LoraConfig(target_modules=["q_proj", "k_proj"], exclude_modules=given))
    names = trained_parts(model)
    assert len(names) == 2
    assert all(name.startswith("model.language_model.") and name.endswith("q_proj") for name in names)


def test_a_second_adapter_that_would_change_codes_is_refused(batch):
    """peft does not tell a model of a second adapter, which is found when it is trained."""
    config = LoraConfig(target_modules="all-linear", r=2)
    model = get_peft_model(make_base(False), copy.deepcopy(config)).train()
    model(**batch)
    model.add_adapter("second", config)
    model.set_adapter("second")
    with pytest.raises(ValueError, match=r"trains 'visual_tokenizer\..*exclude_modules="):
        model(**batch)


def test_a_second_adapter_with_a_copy_of_the_visual_tokenizer_is_refused(batch):
    model = get_peft_model(make_base(False), LoraConfig(target_modules=["q_proj"], r=2)).train()
    copied = {"modules_to_save": ["quantizer"], "exclude_modules": VISUAL_PARTS}
    model.add_adapter("second", LoraConfig(target_modules=["q_proj"], r=2, **copied))
    model.set_adapter("second")
    with pytest.raises(ValueError, match=r"trains 'visual_tokenizer\..*quantizer"):
        model(**batch)


def test_adapters_of_the_visual_parts_alone_are_refused():
    with pytest.raises(ValueError, match=r"language model alone.*visual_adapter"):
        get_peft_model(make_base(False), LoraConfig(target_modules=r".*visual_adapter.*\.q_proj"))


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("whole", [True, False])
def test_loaded_and_merged_is_trained(tmp_path, batch, tie, whole):
    base = make_base(tie)
    before = {name: value.clone() for name, value in base.state_dict().items()}
    arguments = LoraArguments(lora_rank=4, train_embeddings=whole, train_adapter=whole)
    model = get_peft_model(base, lora_config(base, arguments)).train()
    embeddings, head = "model.language_model.embed_tokens", "lm_head"
    expected = ({embeddings} if tie else {embeddings, head}) if whole else set()
    assert {embeddings, head} & trained_parts(model) == expected
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(8):
        losses.append(model(**batch).loss)
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0]
    model.eval().save_pretrained(tmp_path / "adapter")

    with torch.no_grad():
        trained = model(**batch).logits
        loaded = PeftModel.from_pretrained(make_base(tie), tmp_path / "adapter")
        torch.testing.assert_close(loaded(**batch).logits, trained)
        plain = make_base(tie)
        plain.load_adapter(tmp_path / "adapter")
        torch.testing.assert_close(plain(**batch).logits, trained)
        merged = loaded.merge_and_unload()
        merged.save_pretrained(tmp_path / "merged")
        merged = LavitForCausalLM.from_pretrained(tmp_path / "merged")
        torch.testing.assert_close(merged(**batch).logits, trained, atol=1e-4, rtol=1e-4)
    moved = {name for name, value in merged.state_dict().items() if not torch.equal(value, before[name])}
    assert (f"{embeddings}.weight" in moved) == ("lm_head.weight" in moved) == whole
    assert any(name.startswith("model.visual_adapter") for name in moved) == whole
    assert not any(name.startswith("model.visual_tokenizer") for name in moved)
    assert (merged.lm_head.weight is merged.get_input_embeddings().weight) == tie


def test_the_script(monkeypatch, tmp_path):
    processor = make_processor()
    base = make_model(processor)
    base.save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    make_dataset().to_parquet(tmp_path / "data" / "train.parquet")
    flags = f"--model {tmp_path}/base --dataset_name {tmp_path}/data --output_dir {tmp_path}/out --mixture question=1"
    flags += " --max_steps 4 --learning_rate 1e-2 --use_cpu --report_to none"
    flags += " --supervise_prompts False --supervise_images False --save_merged --lora_rank 4 --disable_tqdm True"
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *flags.split()])
    runpy.run_path(str(SCRIPT), run_name="__main__")

    inputs = processor(text="<image>", images=make_dataset()[0]["image"], return_tensors="pt")
    with torch.no_grad():
        before = base(**inputs).logits
        loaded = PeftModel.from_pretrained(base, tmp_path / "out")(**inputs).logits
        merged = LavitForCausalLM.from_pretrained(tmp_path / "out" / "merged")(**inputs).logits
    torch.testing.assert_close(merged, loaded, atol=1e-4, rtol=1e-4)
    assert (loaded - before).abs().max() > 1e-2
