# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Loaded models are those that were saved: every class, in every way of saving."""

import copy
import json

import pytest
import torch
from accelerate import load_checkpoint_in_model
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMultimodalLM,
    GPT2Config,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

from lavit_hf import (
    LavitFeatureDecoder,
    LavitFeatureDecoderConfig,
    LavitForCausalLM,
    LavitImageDecoderPipeline,
    LavitVisualTokenizer,
)
from lavit_hf.modeling.freezing_lavit import list_adapters

from .run_saving import build
from .tiny import TEXT, TEXT_TOKENS, loosen, pictures, tiny_lavit
from .training.small import make_stage_one


def feature_decoder() -> LavitFeatureDecoder:
    shape = tiny_lavit().config.visual_tokenizer_config
    more = {"condition_dims": [8, 4], "pooled_condition_dim": 4, "num_unconditional_tokens": 3}
    return loosen(LavitFeatureDecoder(LavitFeatureDecoderConfig.from_visual_tokenizer_config(shape, **more))).eval()


def with_settings() -> LavitForCausalLM:
    model = tiny_lavit(feature_whitening=0.01, encode_positions=True)
    model.model.visual_tokenizer.whitening.fit(torch.randn(50, 32))
    model.config.supervise_images = False
    model.generation_config.update(max_new_tokens=7, image_generation={"guidance_scale": 2.0, "top_k": 3})
    return model


MIXTRAL = TEXT | {"num_local_experts": 4, "num_experts_per_tok": 2}
GPT2 = GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=TEXT_TOKENS, n_positions=256)
MODELS = {
    "llama": tiny_lavit,
    "tied": lambda: tiny_lavit(text=LlamaConfig(**TEXT, tie_word_embeddings=True)),
    "gpt2": lambda: tiny_lavit(text=GPT2),
    "experts": lambda: tiny_lavit(text=MixtralConfig(**MIXTRAL)),
    "settings": with_settings,
    "without head": lambda: tiny_lavit().model,
    "visual tokenizer": lambda: with_settings().model.visual_tokenizer,
    "stage 1": make_stage_one,
    "feature decoder": feature_decoder,
}
OPTIONS = {
    "plain": {},
    "shards": {"max_shard_size": "30KB"},
    "variant": {"variant": "fp16"},
    "variant in shards": {"variant": "fp16", "max_shard_size": "30KB"},
    "new format": {"save_original_format": False},
}


def settings_in(config) -> dict:
    """A configuration without what depends on where it lies and on how it was loaded."""
    config = config.to_dict() if isinstance(config, PreTrainedConfig) else config
    left_out = ("_name_or_path", "_use_default_values", "architectures", "auto_map", "dtype", "transformers_version")
    kept = {name: value for name, value in json.loads(json.dumps(config)).items() if name not in left_out}
    return {name: settings_in(value) if isinstance(value, dict) else value for name, value in kept.items()}


def assert_same(loaded: PreTrainedModel, saved: PreTrainedModel) -> None:
    assert type(loaded) is type(saved)
    expected, found = saved.state_dict(), loaded.state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name
    assert settings_in(loaded.config.to_dict()) == settings_in(saved.config.to_dict())
    if saved.can_generate():
        assert settings_in(loaded.generation_config.to_dict()) == settings_in(saved.generation_config.to_dict())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_models(make, options, dtype, tmp_path):
    model = make().to(dtype)
    before = copy.deepcopy(vars(model.config).get("auto_map"))
    model.save_pretrained(tmp_path / "sub" / "folder", **options)
    assert vars(model.config).get("auto_map") == before
    place = {"subfolder": "sub/folder", "variant": options.get("variant")}
    loaded, info = type(model).from_pretrained(tmp_path, output_loading_info=True, **place)
    assert not any(info.values())
    assert_same(loaded, model)
    files = list((tmp_path / "sub" / "folder").glob("*.safetensors"))
    assert (len(files) > 1) == ("max_shard_size" in options)
    for file in files:
        with safe_open(file, "pt") as opened:
            assert opened.metadata()["format"] == "pt"
    # Saved once more, over itself, it is the same.
    loaded.save_pretrained(tmp_path / "sub" / "folder", **options)
    assert_same(type(model).from_pretrained(tmp_path, **place), model)


@pytest.mark.parametrize("auto_class", [AutoModelForCausalLM, AutoModelForMultimodalLM, AutoModel])
def test_auto_classes(auto_class, tmp_path):
    model = with_settings()
    model.save_pretrained(tmp_path)
    loaded = auto_class.from_pretrained(tmp_path)
    assert_same(loaded, model.model if auto_class is AutoModel else model)


def test_parts_of_a_whole(tmp_path):
    model = with_settings()
    model.save_pretrained(tmp_path, max_shard_size="30KB")
    part = LavitVisualTokenizer.from_pretrained(tmp_path)
    tokenizer = model.model.visual_tokenizer
    assert {name: tensor.tolist() for name, tensor in part.state_dict().items()} == {
        name: tensor.tolist() for name, tensor in tokenizer.state_dict().items()
    }
    assert part(pictures(2)).codes.equal(tokenizer(pictures(2)).codes)


def test_parts_of_several_dtypes(tmp_path):
    """All parts come back in the widest dtype, so that no weight is rounded."""
    for narrow in ("language_model", "visual_tokenizer", "visual_adapter"):
        model = tiny_lavit()
        getattr(model.model, narrow).to(torch.bfloat16)
        model.save_pretrained(tmp_path / narrow)
        assert_same(LavitForCausalLM.from_pretrained(tmp_path / narrow), model.float())
    model = tiny_lavit().to(torch.bfloat16)
    model.save_pretrained(tmp_path / "all")
    assert json.loads((tmp_path / "all" / "config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.parametrize("options", list(OPTIONS.values())[:4], ids=list(OPTIONS)[:4])
def test_pipeline(options, tmp_path):
    _, _, pipe = build(2)
    pipe.save_pretrained(tmp_path, **options)
    loaded = LavitImageDecoderPipeline.from_pretrained(tmp_path, variant=options.get("variant"))
    for name, part in pipe.components.items():
        if hasattr(part, "state_dict"):
            found = loaded.components[name].state_dict()
            assert all(found[key].equal(tensor) for key, tensor in part.state_dict().items())
        assert settings_in(loaded.components[name].config) == settings_in(part.config)
    assert loaded.config.visual_token_offset == pipe.config.visual_token_offset
    settings = {"num_inference_steps": 2, "output_type": "pt"}
    drawn = [p([[1, 2, 3]], generator=torch.Generator().manual_seed(0), **settings).images for p in (pipe, loaded)]
    assert torch.equal(*drawn)


def test_accelerate_loads_folders_with_the_names_of_modules(demo, tmp_path):
    """The guide says so. The vision tower has other names in the files of transformers."""
    model = demo[0]
    model.save_pretrained(tmp_path, save_original_format=False)
    loaded = LavitForCausalLM(copy.deepcopy(model.config))
    load_checkpoint_in_model(loaded, tmp_path)
    found = loaded.state_dict()
    assert all(torch.equal(found[name], value.to(found[name].dtype)) for name, value in model.state_dict().items())


def with_adapter(modules_to_save=None, merged=False) -> LavitForCausalLM:
    config = LoraConfig(target_modules=["q_proj", "v_proj"], modules_to_save=modules_to_save, init_lora_weights=False)
    model = get_peft_model(tiny_lavit(), config)
    return model.merge_and_unload() if merged else model.get_base_model()


STATES = {
    "plain": tiny_lavit,
    "adapter": with_adapter,
    "copies": lambda: with_adapter(["lm_head"]),
    "merged": lambda: with_adapter(merged=True),
    "more rows": lambda: with_more_rows(tiny_lavit()),
    "bfloat16": lambda: tiny_lavit().bfloat16(),
}


def with_more_rows(model: LavitForCausalLM) -> LavitForCausalLM:
    model.resize_token_embeddings(model.config.text_config.vocab_size + 3)
    return model


@pytest.mark.parametrize("way", ["save_pretrained", "export_language_model"])
@pytest.mark.parametrize("state", STATES.values(), ids=STATES)
def test_what_is_written_has_the_logits_of_the_model_or_is_refused(state, way, tmp_path):
    model, processor = state(), build(1, has_decoder=False)[1]
    arguments = {"tokenizer": processor.tokenizer} if way == "export_language_model" else {}
    if list_adapters(model):
        with pytest.raises(ValueError, match="has an adapter, which changes the names of its weights"):
            getattr(model, way)(tmp_path / "out", **arguments)
        assert not (tmp_path / "out").exists()
        return
    getattr(model, way)(tmp_path / "out", **arguments)
    loaded, info = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values())
    ids = torch.arange(3, 30)[None]
    expected, found = (one.eval()(input_ids=ids).logits for one in (model, loaded))
    count = min(expected.shape[-1], found.shape[-1])
    torch.testing.assert_close(found[..., :count], expected[..., :count])


def test_a_text_backbone_with_adapters_is_refused():
    adapted = get_peft_model(LlamaForCausalLM(LlamaConfig(**TEXT)), LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(ValueError, match="it has adapters, such as that of model.layers.0.self_attn.q_proj"):
        LavitForCausalLM.from_backbones(tiny_lavit().model.visual_tokenizer, adapted.get_base_model())


def test_the_visual_tokenizer_beside_an_adapter_has_none(tmp_path):
    model = tiny_lavit()
    model.save_pretrained(tmp_path / "base")
    codes = model.model.visual_tokenizer(pictures(2)).codes
    config = LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    adapted = get_peft_model(LavitForCausalLM.from_pretrained(tmp_path / "base"), config)
    adapted.save_pretrained(tmp_path / "adapter")
    loaded, info = LavitVisualTokenizer.from_pretrained(tmp_path / "adapter", output_loading_info=True)
    assert not any(info.values())
    assert not list_adapters(loaded)
    assert loaded(pictures(2)).codes.equal(codes)
    with pytest.raises(ValueError, match="takes no adapters"):
        loaded.load_adapter(str(tmp_path / "adapter"))
