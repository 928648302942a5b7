# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Whitening, codebook and rotary frequencies stay float32 whichever way a model is cast, and codes stay the same."""

import copy
import re

import pytest
import torch
from accelerate import Accelerator, init_empty_weights, load_checkpoint_and_dispatch
from peft import get_peft_model
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    CLIPVisionConfig,
    CLIPVisionModel,
    CodeGenConfig,
    DeepseekV3Config,
    DINOv3ViTConfig,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
)

from lavit_hf import (
    LavitFeatureDecoder,
    LavitForCausalLM,
    LavitVisualTokenizer,
    LavitVisualTokenizerForPreTraining,
)
from lavit_hf.training import lora_config

from ..tiny import TEXT, TEXT_TOKENS, VISION, loosen, pictures, tiny_lavit


ISLAND = re.compile(r"(codebook|feature_mean|feature_transform|codebook_updater\.(counts|sums)|inv_freq)$")
# Few codes lie far apart: a tower in lower precision finds the same ones.
SETTINGS = {"feature_whitening": 0.05, "encode_positions": True, "codebook_size": 6}


def make_model(**kwargs) -> LavitForCausalLM:
    model = tiny_lavit(**(SETTINGS | kwargs))
    tokenizer = model.model.visual_tokenizer
    features = tokenizer.vision_tower(pictures(64).to(tokenizer.dtype), output_hidden_states=True).hidden_states[-1]
    tokenizer.whitening.fit(features[:, -16:].flatten(0, 1))
    return model


@pytest.fixture(scope="module")
def original() -> LavitForCausalLM:
    return make_model()


@pytest.fixture(scope="module")
def folder(original, tmp_path_factory):
    path = tmp_path_factory.mktemp("float32")
    original.save_pretrained(path)
    return path


def islands(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: value for name, value in tensors.items() if ISLAND.search(name)}


def check_islands(model: torch.nn.Module, original: torch.nn.Module, dtype: torch.dtype) -> None:
    kept, expected = islands(model), islands(original)
    assert len(kept) == len(expected) > 0
    for (name, value), before in zip(kept.items(), expected.values(), strict=True):
        assert value.dtype == torch.float32, name
        assert torch.equal(value.cpu(), before), name
    others = {name: p.dtype for name, p in model.named_parameters() if name not in kept and "lora_" not in name}
    assert set(others.values()) == {dtype}


@torch.no_grad()
def check_runs(model: LavitForCausalLM, original: LavitForCausalLM) -> None:
    """Codes are those of before; text, reading and guided drawing run."""
    images = pictures(16)
    before = original.model.visual_tokenizer
    expected = before(images)
    found = model.model.visual_tokenizer(images, keep_mask=expected.keep_mask)
    error = (found.selector_log_probs - expected.selector_log_probs).exp() - 1
    assert error.abs().max() < 0.03
    # Where two codes are about as near, the tower's own rounding decides.
    nearest = (expected.vectors @ before.quantizer.codebook.T).topk(2, dim=-1).values
    is_clear = nearest[:, 0] - nearest[:, 1] > 0.1
    assert is_clear.float().mean() > 0.25
    assert torch.equal(found.codes[is_clear], expected.codes[is_clear])
    config = model.config
    row = torch.tensor([[5, config.image_start_token_id, config.image_token_id, config.image_end_token_id, 6]])
    assert model(row, pixel_values=images[:1], labels=row).loss.isfinite()
    assert model(row[:, :1]).logits.isfinite().all()
    # Features that were computed before the model runs, by a visual tokenizer in float32.
    encoded = before(images[:1])
    given = {"vision_features": encoded.vision_features.float(), "keep_mask": encoded.keep_mask}
    expanded = torch.cat([row[:, :2], row[:, 2:3].expand(-1, int(encoded.keep_mask.sum())), row[:, 3:]], dim=1)
    assert model(expanded, **given).logits.isfinite().all()
    assert model.generate(row, pixel_values=images[:1], max_new_tokens=3, min_new_tokens=3).shape == (1, 8)
    settings = {"generation_mode": "image", "guidance_scale": 2.0, "max_new_tokens": 3, "min_new_tokens": 3}
    assert model.generate(torch.tensor([[5]]), **settings).shape == (1, 4)


def evaluate(model, folder, **settings) -> PreTrainedModel:
    args = TrainingArguments(str(folder), use_cpu=True, report_to="none", disable_tqdm=True, **settings)
    row = {"input_ids": torch.tensor([5, 6, 7]), "labels": torch.tensor([5, 6, 7])}
    metrics = Trainer(model, args, eval_dataset=[row] * 2).evaluate()
    assert metrics["eval_loss"] > 0
    return model


# Each makes a model of a dtype out of one in float32, or out of its folder.
CASTS = {
    "to": lambda model, dtype, tmp_path: model.to(dtype),
    "to_device_and_dtype": lambda model, dtype, tmp_path: model.to("cpu", dtype),
    "to_keyword": lambda model, dtype, tmp_path: model.to(dtype=dtype),
    "to_other": lambda model, dtype, tmp_path: model.to(torch.zeros(1, dtype=dtype)),
    "method": lambda model, dtype, tmp_path: model.half() if dtype == torch.float16 else model.bfloat16(),
    "twice": lambda model, dtype, tmp_path: model.to(torch.float16).to(torch.bfloat16).to(dtype),
    "there_and_back": lambda model, dtype, tmp_path: model.to(dtype).double().to(dtype),
    "wrapped": lambda model, dtype, tmp_path: torch.nn.Sequential(model).to(dtype)[0],
    "copied": lambda model, dtype, tmp_path: copy.deepcopy(model).to(dtype),
    "full_eval": lambda model, dtype, tmp_path: evaluate(
        model, tmp_path, **{f"{'fp16' if dtype == torch.float16 else 'bf16'}_full_eval": True}
    ),
    "accelerate": lambda model, dtype, tmp_path: Accelerator(cpu=True).prepare(model).to(dtype),
    "saved_and_loaded": lambda model, dtype, tmp_path: reload(model.to(dtype), tmp_path),
}


def reload(model, folder):
    model.save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("cast", CASTS)
def test_casts(original, tmp_path, cast, dtype):
    model = CASTS[cast](copy.deepcopy(original), dtype, tmp_path)
    check_islands(model, original, dtype)
    check_runs(model, original)


@pytest.mark.parametrize("argument", ["dtype", "torch_dtype"])
@pytest.mark.parametrize("given", [torch.bfloat16, torch.float16, "bfloat16"])
def test_loading(original, folder, argument, given):
    dtype = torch.bfloat16 if given == "bfloat16" else given
    model = AutoModelForCausalLM.from_pretrained(folder, **{argument: given})
    check_islands(model, original, dtype)
    check_runs(model, original)
    # A model that is loaded in a dtype is the one that is cast to it, bit for bit.
    cast = copy.deepcopy(original).to(dtype)
    assert all(torch.equal(value, cast.state_dict()[name]) for name, value in model.state_dict().items())
    codes, of_cast = (each.model.visual_tokenizer(pictures(16)).codes for each in (model, cast))
    assert torch.equal(codes, of_cast)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, "bfloat16"])
def test_from_backbones(original, dtype):
    model = make_model(dtype=dtype)
    dtype = torch.bfloat16 if dtype == "bfloat16" else dtype
    assert all(value.dtype == torch.float32 for value in islands(model).values())
    assert {p.dtype for p in model.parameters()} == {dtype}
    check_runs(model, model)


@pytest.mark.parametrize("auto_class", [AutoModelForCausalLM, AutoModel])
@pytest.mark.parametrize("argument", ["dtype", "torch_dtype"])
def test_from_config(original, folder, auto_class, argument):
    model = auto_class.from_config(AutoConfig.from_pretrained(folder), **{argument: torch.bfloat16}).eval()
    assert all(value.dtype == torch.float32 for value in islands(model).values())
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    whole = original if auto_class is AutoModelForCausalLM else original.model
    model.load_state_dict(whole.state_dict())
    check_islands(model, whole, torch.bfloat16)
    if auto_class is AutoModelForCausalLM:
        check_runs(model, original)


def test_a_configuration_of_another_dtype_makes_a_model_of_one(folder, tmp_path):
    AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(tmp_path)
    model = LavitForCausalLM(AutoConfig.from_pretrained(tmp_path))
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_lora(original):
    base = copy.deepcopy(original)
    model = get_peft_model(base, lora_config(base)).to(torch.bfloat16).eval()
    check_islands(model, original, torch.bfloat16)
    check_runs(model.get_base_model(), original)


@pytest.mark.parametrize("dtype", [None, torch.float32])
def test_accelerate_loads_what_was_saved(original, folder, dtype):
    with init_empty_weights():
        model = LavitForCausalLM(AutoConfig.from_pretrained(folder))
    model = load_checkpoint_and_dispatch(model.eval(), folder, device_map={"": "cpu"}, dtype=dtype)
    assert all(value.dtype == torch.float32 for value in islands(model).values())
    assert torch.equal(
        model.model.visual_tokenizer(pictures(2)).codes, original.model.visual_tokenizer(pictures(2)).codes
    )


def test_a_codebook_that_was_rounded_is_refused(original):
    """Some cast tensors one by one, as `accelerate.load_checkpoint_and_dispatch(dtype=...)` does."""
    for part, name in (("quantizer", "codebook"), ("whitening", "feature_transform")):
        model = copy.deepcopy(original).to(torch.bfloat16)
        module = model.model.visual_tokenizer.get_submodule(part)
        setattr(module, name, getattr(module, name).to(torch.bfloat16))
        with pytest.raises(ValueError, match=f"{name} must be float32, got torch.bfloat16"):
            model.model.visual_tokenizer(pictures(1))


TEXTS = {
    "llama": lambda: LlamaConfig(**TEXT),
    "gemma3": lambda: Gemma3TextConfig(**TEXT, sliding_window=16),
    "codegen": lambda: CodeGenConfig(
        n_embd=32, n_layer=2, n_head=4, rotary_dim=4, vocab_size=TEXT_TOKENS, n_positions=128, n_ctx=128
    ),
    "deepseek": lambda: DeepseekV3Config(
        **{name: TEXT[name] for name in TEXT if name not in ("head_dim", "num_key_value_heads")},
        num_key_value_heads=4,
        moe_intermediate_size=16,
        n_routed_experts=4,
        num_experts_per_tok=2,
        n_group=1,
        topk_group=1,
        first_k_dense_replace=1,
        q_lora_rank=8,
        kv_lora_rank=8,
        qk_rope_head_dim=4,
        qk_nope_head_dim=4,
        v_head_dim=8,
    ),
}
DINO = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 32, "patch_size": 8}


@pytest.mark.parametrize("text", TEXTS)
def test_cast_is_loaded(tmp_path, text):
    """Whatever the backbones keep in float32 as they are loaded, they keep as they are cast."""
    vision = DINOv3ViTConfig(**DINO, intermediate_size=64)
    model = tiny_lavit(vision=vision, text=TEXTS[text](), **SETTINGS)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    model.to(torch.bfloat16)
    for kind in ("named_parameters", "named_buffers"):
        cast = dict(getattr(model, kind)())
        for name, value in getattr(loaded, kind)():
            assert value.dtype == cast[name].dtype, name
            assert torch.equal(value, cast[name]), name
    check_runs(model, loaded)


# Backbones that were saved in a dtype of their own


@pytest.mark.parametrize("vision_dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("text_dtype", [torch.bfloat16, torch.float32])
def test_backbones_of_two_dtypes(tmp_path, vision_dtype, text_dtype):
    """The wider of them is the model's: nothing is rounded, now or when it is saved and loaded."""
    torch.manual_seed(0)
    CLIPVisionModel(CLIPVisionConfig(**VISION)).to(vision_dtype).save_pretrained(tmp_path / "vision")
    loosen(LlamaForCausalLM(LlamaConfig(**TEXT))).to(text_dtype).save_pretrained(tmp_path / "text")
    model = LavitForCausalLM.from_backbones(
        tmp_path / "vision", tmp_path / "text", num_text_tokens=TEXT_TOKENS, **SETTINGS
    ).eval()
    widest = torch.promote_types(vision_dtype, text_dtype)
    assert {p.dtype for p in model.parameters()} == {widest}
    check_runs(model, model)
    again = reload(model, tmp_path / "lavit").state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())


def test_stage_one_trains_in_float32(tmp_path):
    CLIPVisionModel(CLIPVisionConfig(**VISION)).to(torch.bfloat16).save_pretrained(tmp_path)
    model = LavitVisualTokenizerForPreTraining.from_vision_tower(tmp_path, codebook_size=6, num_merger_layers=1)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    model(pictures(2)).loss.backward()


def test_a_tokenizer_around_a_tower_has_its_dtype():
    tower = CLIPVisionModel(CLIPVisionConfig(**VISION)).to(torch.bfloat16)
    config = LavitVisualTokenizer(tiny_lavit().config.visual_tokenizer_config).config
    tokenizer = LavitVisualTokenizer(config, vision_tower=tower).eval()
    assert {p.dtype for p in tokenizer.parameters()} == {torch.bfloat16}
    assert tokenizer.quantizer.codebook.dtype == torch.float32
    tokenizer(pictures(2))


@pytest.mark.parametrize("dtype", ["bfloat", "int64", torch.int8, 16])
def test_what_is_no_dtype(dtype):
    with pytest.raises(ValueError, match=f"dtype must be .* got {dtype!r}"):
        tiny_lavit(dtype=dtype)


def test_the_deprecated_name_is_no_argument_of_from_backbones():
    with pytest.raises(TypeError, match="unexpected argument 'torch_dtype'"):
        tiny_lavit(torch_dtype=torch.bfloat16)


# Stage 1 and the feature decoder


@pytest.mark.parametrize("way", ["to", "from_pretrained", "full_eval"])
def test_stage_one(tmp_path, way):
    torch.manual_seed(0)
    model = loosen(
        LavitVisualTokenizerForPreTraining.from_vision_tower(
            CLIPVisionConfig(**VISION), num_merger_layers=1, **SETTINGS
        )
    )
    for _ in range(2):  # the updater has counts
        model.train()(pictures(8))
    model.eval()
    original = copy.deepcopy(model)
    if way == "to":
        model.to(torch.bfloat16)
    elif way == "from_pretrained":
        model.save_pretrained(tmp_path)
        model = LavitVisualTokenizerForPreTraining.from_pretrained(tmp_path, dtype=torch.bfloat16)
    else:
        args = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none", bf16_full_eval=True)
        trainer = Trainer(model, args, eval_dataset=[{"pixel_values": picture} for picture in pictures(4)])
        trainer.can_return_loss = True
        trainer.label_names = ["pixel_values"]
        assert trainer.evaluate()["eval_loss"] > 0
    check_islands(model, original, torch.bfloat16)
    assert model.codebook_updater.num_updates.dtype == torch.long
    assert model.codebook_updater.num_updates == 2
    loss = model.train()(pictures(8)).loss
    loss.backward()
    assert loss.isfinite()
    check_islands(model, model.float(), torch.float32)


@torch.no_grad()
def test_the_feature_decoder():
    torch.manual_seed(0)
    config = LavitVisualTokenizerForPreTraining.from_vision_tower(
        CLIPVisionConfig(**VISION), codebook_size=6, num_merger_layers=1
    ).feature_decoder.config
    exact = LavitFeatureDecoder(config).eval()
    codes = torch.tensor([[0, 3, 5]])
    for model in (copy.deepcopy(exact).to(torch.bfloat16), LavitFeatureDecoder._from_config(config, dtype="bfloat16")):
        assert model.codebook.dtype == torch.float32
        assert model(codes=codes).features.dtype == torch.bfloat16
    rounded = copy.deepcopy(exact).half().eval()
    assert torch.equal(rounded.codebook, exact.codebook)
    torch.testing.assert_close(rounded(codes=codes).features.float(), exact(codes=codes).features, atol=1e-2, rtol=0)
