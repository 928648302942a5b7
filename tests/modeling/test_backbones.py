# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Any vision tower, any causal language model."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoModel,
    AutoModelForCausalLM,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    Dinov2Config,
    DINOv3ViTConfig,
    DynamicCache,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    Qwen3Config,
    SiglipVisionConfig,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTModel,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from lavit_hf import (
    LavitForCausalLM,
    LavitVisualTokenizer,
    LavitVisualTokenizerConfig,
    LavitVisualTokenizerForPreTraining,
)

from ..causal_models import check_logits, tiny_text_config
from ..tiny import (
    CODEBOOK_SIZE,
    IMAGE_END,
    IMAGE_START,
    NUM_PATCHES,
    PLACEHOLDER,
    TEXT,
    TEXT_TOKENS,
    VISION,
    VISUAL_OFFSET,
    loosen,
    pad_rows,
    pictures,
    tiny_lavit,
)


DINO = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 32, "patch_size": 8}
VISION_CONFIGS = {
    "clip": lambda: CLIPVisionConfig(**VISION),
    "siglip": lambda: SiglipVisionConfig(**VISION),
    "dinov2": lambda: Dinov2Config(**DINO),
    "dinov3": lambda: DINOv3ViTConfig(**DINO, intermediate_size=64, num_register_tokens=2),
    "vit": lambda: ViTConfig(**VISION),
}
TEXT_CONFIGS = {
    "llama": lambda: LlamaConfig(**TEXT),
    "qwen3": lambda: Qwen3Config(**TEXT),
    "gemma3": lambda: Gemma3TextConfig(**TEXT, sliding_window=16),
}
ROWS = [[5, 6, 7, IMAGE_START, PLACEHOLDER, IMAGE_END], [IMAGE_START, PLACEHOLDER, IMAGE_END, 8, 9]]


@pytest.mark.parametrize("text", TEXT_CONFIGS)
@pytest.mark.parametrize("vision", VISION_CONFIGS)
def test_every_pair_learns_reads_and_draws(vision, text):
    torch.manual_seed(0)
    model = LavitForCausalLM.from_backbones(
        VISION_CONFIGS[vision](), TEXT_CONFIGS[text](), codebook_size=CODEBOOK_SIZE, num_merger_layers=2
    )
    ids, mask = pad_rows(ROWS)
    given = {"input_ids": ids, "attention_mask": mask, "pixel_values": pictures(2)}
    given["labels"] = ids.masked_fill(mask == 0, -100)
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    before = model(**given).loss
    before.backward()
    optimizer.step()
    assert model(**given).loss < before - 1e-3

    model.eval()
    del given["labels"]
    text_ids = model.generate(**given, max_new_tokens=4, eos_token_id=None)
    assert (text_ids[:, -4:] < TEXT_TOKENS).all()
    ids, mask = pad_rows([[5, 6], [7]])
    drawn = model.generate(ids, attention_mask=mask, generation_mode="image", guidance_scale=2.0, max_new_tokens=5)
    assert ((drawn[:, 3] >= VISUAL_OFFSET) & (drawn[:, 3] < PLACEHOLDER)).all()


@torch.no_grad()
@pytest.mark.parametrize("vision", VISION_CONFIGS)
def test_patches_are_told_from_other_tokens(vision):
    model = tiny_lavit(vision=VISION_CONFIGS[vision]())
    tower = model.model.visual_tokenizer.vision_tower
    features = model.model.visual_tokenizer.encode_vision(pictures(2))
    everything = tower(pictures(2), output_hidden_states=True).hidden_states[-1]
    specials = {"clip": 1, "siglip": 0, "dinov2": 1, "dinov3": 3, "vit": 1}[vision]
    assert everything.shape[1] == NUM_PATCHES + specials
    assert torch.equal(features, everything[:, specials:])


@torch.no_grad()
def test_pretrained_backbones_from_folders(tmp_path):
    torch.manual_seed(0)
    clip = CLIPModel(CLIPConfig(text_config=CLIPTextConfig(**TEXT).to_dict(), vision_config=VISION)).eval()
    clip.save_pretrained(tmp_path / "clip")
    llama = LlamaForCausalLM(LlamaConfig(**TEXT)).eval()
    llama.save_pretrained(tmp_path / "llama")
    model = LavitForCausalLM.from_backbones(
        tmp_path / "clip", tmp_path / "llama", num_text_tokens=TEXT_TOKENS, codebook_size=CODEBOOK_SIZE
    ).eval()

    expected = clip.vision_model(pictures(2), output_hidden_states=True).hidden_states[-1][:, 1:]
    torch.testing.assert_close(model.model.visual_tokenizer.encode_vision(pictures(2)), expected)
    ids = torch.tensor([[5, 6, 7]])
    torch.testing.assert_close(model(ids).logits[..., :TEXT_TOKENS], llama(ids).logits)

    model.save_pretrained(tmp_path / "lavit")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "lavit")
    row = torch.tensor([[IMAGE_START, PLACEHOLDER, IMAGE_END]])
    torch.testing.assert_close(loaded(row, pictures(1)).logits, model(row, pictures(1)).logits)


def test_a_vision_tower_without_some_weights(tmp_path):
    """Its pooler is not needed, and any other weight is."""
    tower = ViTModel(ViTConfig(**VISION), add_pooling_layer=False)
    tower.save_pretrained(tmp_path)
    model = LavitVisualTokenizerForPreTraining.from_vision_tower(tmp_path)
    assert model.visual_tokenizer.vision_tower.embeddings.cls_token.equal(tower.embeddings.cls_token)
    further = LavitVisualTokenizerForPreTraining.from_vision_tower(model.visual_tokenizer)
    assert further.visual_tokenizer is model.visual_tokenizer
    with pytest.raises(ValueError, match="An existing visual tokenizer keeps its own codebook_size"):
        LavitVisualTokenizerForPreTraining.from_vision_tower(model.visual_tokenizer, codebook_size=3)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["embeddings.cls_token"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"lack 1 of its weights, such as embeddings.cls_token"):
        LavitVisualTokenizerForPreTraining.from_vision_tower(tmp_path)


@torch.no_grad()
def test_a_visual_tokenizer_is_taken_as_it_is(tmp_path):
    lavit = tiny_lavit(encode_positions=True)
    tokenizer = lavit.model.visual_tokenizer
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    lavit.save_pretrained(tmp_path / "lavit")
    for vision in (tokenizer, tmp_path / "tokenizer", tmp_path / "lavit"):
        model = LavitForCausalLM.from_backbones(vision, LlamaConfig(**TEXT)).eval()
        assert model.config.codebook_size == CODEBOOK_SIZE
        assert torch.equal(model.model.visual_tokenizer(pictures(2)).codes, tokenizer(pictures(2)).codes)
        adapter = model.model.visual_adapter
        merger = adapter.merger.state_dict()
        assert all(torch.equal(value, merger[name]) for name, value in tokenizer.merger.state_dict().items())
        assert torch.equal(adapter.position_embeddings, tokenizer.quantizer.position_embeddings)
    model = LavitForCausalLM.from_backbones(tokenizer, LlamaConfig(**TEXT), copy_merger=False)
    fresh = model.model.visual_adapter.merger.layers[0].mlp.fc1.weight
    assert not torch.equal(fresh, tokenizer.merger.layers[0].mlp.fc1.weight)
    with pytest.raises(ValueError, match="keeps its own codebook_size"):
        LavitForCausalLM.from_backbones(tokenizer, LlamaConfig(**TEXT), codebook_size=8)


@torch.no_grad()
def test_new_rows_are_like_the_old_ones():
    torch.manual_seed(0)
    llama = LlamaForCausalLM(LlamaConfig(**TEXT))
    llama.model.embed_tokens.weight += 3.0
    model = LavitForCausalLM.from_backbones(CLIPVisionConfig(**VISION), llama, codebook_size=CODEBOOK_SIZE)
    rows = model.get_input_embeddings().weight
    assert rows.shape[0] == model.lm_head.weight.shape[0] == model.config.text_config.vocab_size == PLACEHOLDER + 1
    text, codes = rows[:TEXT_TOKENS], rows[TEXT_TOKENS + 2 : PLACEHOLDER]
    torch.testing.assert_close(rows[PLACEHOLDER], text.mean(dim=0))
    assert abs(rows[TEXT_TOKENS:].mean() - text.mean()) < 0.1
    torch.testing.assert_close(codes.std(), text.std(), rtol=0.1, atol=0)


@torch.no_grad()
def test_codes_that_are_alike_start_alike():
    torch.manual_seed(0)
    tokenizer = tiny_lavit().model.visual_tokenizer
    codebook = tokenizer.quantizer.codebook
    llama = LlamaConfig(**TEXT | {"hidden_size": 512})
    model = LavitForCausalLM.from_backbones(tokenizer, llama)
    rows = model.get_input_embeddings().weight[TEXT_TOKENS + 2 : PLACEHOLDER]
    distances, expected = (torch.cdist(points, points).flatten() for points in (rows, codebook))
    assert torch.corrcoef(torch.stack([distances, expected]))[0, 1] > 0.9


def test_padding_of_the_vocabulary_is_taken_over():
    model = tiny_lavit(num_text_tokens=90)
    config = model.config
    assert (config.image_start_token_id, config.visual_token_offset) == (90, 92)
    assert config.text_config.vocab_size == 92 + CODEBOOK_SIZE + 1


@torch.no_grad()
@pytest.mark.parametrize("tie", [True, False])
def test_tied_embeddings(tmp_path, tie):
    model = tiny_lavit(text=LlamaConfig(**TEXT, tie_word_embeddings=tie))
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == tie
    model.save_pretrained(tmp_path)
    loaded = LavitForCausalLM.from_pretrained(tmp_path)
    assert (loaded.lm_head.weight is loaded.get_input_embeddings().weight) == tie
    ids = torch.tensor([[5, 6, IMAGE_START]])
    torch.testing.assert_close(loaded(ids).logits, model(ids).logits)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(tiny_text_config("gpt2"), id="absolute-positions"),
        pytest.param(tiny_text_config("cohere"), id="logit_scale"),
        pytest.param(tiny_text_config("granite"), id="logits_scaling"),
        pytest.param(tiny_text_config("gemma3_text"), id="final_logit_softcapping"),
        pytest.param(tiny_text_config("falcon_h1", embedding_multiplier=1.0), id="lm_head_multiplier"),
        pytest.param(tiny_text_config("minicpm3"), id="scaled-hidden-states"),
        pytest.param(tiny_text_config("mixtral"), id="experts"),
        pytest.param(tiny_text_config("phi"), id="head-with-bias"),
        pytest.param(tiny_text_config("bamba"), id="recurrent-layers"),
    ],
)
def test_text_models_with_ways_of_their_own(text, tmp_path):
    """The other causal language models of transformers are tried in tests/conformance."""
    check_logits(text, tmp_path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param(tiny_text_config("hyperclovax"), "changes its head's logits", id="multiplies-by-logits_scaling"),
        pytest.param(tiny_text_config("falcon_h1"), "or its input embeddings", id="embeds-ids-in-another-way"),
        pytest.param(tiny_text_config("bert"), "weights outside .* such as cls.predictions.transform", id="deep-head"),
        pytest.param(tiny_text_config("dory"), "such as lm_head.logit_scale", id="head-with-more-weights"),
        pytest.param(
            tiny_text_config("gemma3_text", use_bidirectional_attention=True), "is not causal", id="both-directions"
        ),
        pytest.param(tiny_text_config("bart"), "another base model than its BartDecoderWrapper", id="decoder"),
        pytest.param(tiny_text_config("moshi"), "101 embeddings for a vocabulary of 100", id="one-row-more"),
        pytest.param(tiny_text_config("mamba"), "does not run inside one .*get_seq_length", id="recurrent"),
        pytest.param(tiny_text_config("minimax"), "does not run inside one .*cache of its own", id="another-cache"),
        pytest.param(tiny_text_config("rwkv"), "returns no cache", id="no-cache"),
    ],
)
def test_text_models_that_do_not_fit(text, reason):
    name = MODEL_FOR_CAUSAL_LM_MAPPING[type(text)].__name__
    with pytest.raises(ValueError, match=f"{name} cannot be the language model of a LaVIT: .*{reason}"):
        LavitForCausalLM.from_backbones(CLIPVisionConfig(**VISION), text, codebook_size=CODEBOOK_SIZE)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (lambda: LlamaModel(LlamaConfig(**TEXT)), "its head must be a linear layer, got NoneType"),
        (
            lambda: T5ForConditionalGeneration(T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=1)),
            "other parts than a decoder",
        ),
    ],
)
def test_models_that_are_no_causal_language_models(text, reason):
    with pytest.raises(ValueError, match=reason):
        LavitForCausalLM.from_backbones(CLIPVisionConfig(**VISION), text(), codebook_size=CODEBOOK_SIZE)


def test_the_check_of_logits_leaves_no_trace():
    text_model = LlamaForCausalLM(LlamaConfig(**TEXT)).train()
    model = LavitForCausalLM.from_backbones(
        CLIPVisionConfig(**VISION), text_model, codebook_size=CODEBOOK_SIZE, copy_merger=False
    )
    assert text_model.training
    assert model.training
    assert not model.model.visual_tokenizer.training
    assert not text_model.lm_head._forward_hooks


@pytest.mark.parametrize("which", ["vision", "text"])
def test_what_is_no_backbone(which):
    given = {"vision": CLIPVisionConfig(**VISION), "text": LlamaConfig(**TEXT)} | {which: 5}
    with pytest.raises(ValueError, match=f"{which} must be a folder, .* got int"):
        LavitForCausalLM.from_backbones(**given)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"codebok_size": 7}, "LavitVisualTokenizerConfig got an unexpected argument 'codebok_size'"),
        ({"id2label": {0: "a"}}, "LavitVisualTokenizerConfig got an unexpected argument 'id2label'"),
        ({"attn_implementation": {"visoin_config": "eager"}}, "must be for '', 'vision_config', got 'visoin_config'"),
    ],
)
def test_settings_without_an_effect_are_refused(settings, message):
    """They are misspelled, or those of other models, which configurations of transformers have as well."""
    vision = CLIPVisionConfig(**VISION)
    with pytest.raises(TypeError, match=message):
        LavitForCausalLM.from_backbones(vision, LlamaConfig(**TEXT), **settings)
    with pytest.raises(TypeError, match=message):
        LavitVisualTokenizerForPreTraining.from_vision_tower(vision, **settings)


@pytest.mark.parametrize("part", ["", "vision_config"])
def test_the_attention_of_a_new_visual_tokenizer(part):
    settings = {"attn_implementation": {part: "eager"}}
    vision, other, text = CLIPVisionConfig(**VISION), CLIPVisionConfig(**VISION), LlamaConfig(**TEXT)
    for tokenizer in (
        LavitForCausalLM.from_backbones(vision, text, **settings).model.visual_tokenizer,
        LavitVisualTokenizerForPreTraining.from_vision_tower(other, **settings).visual_tokenizer,
    ):
        found = [config._attn_implementation for config in (tokenizer.config, tokenizer.vision_tower.config)]
        assert found == (["sdpa", "eager"] if part else ["eager", "sdpa"])


@pytest.mark.parametrize(("attention", "experts"), [("sdpa", "grouped_mm"), ("eager", "eager")])
def test_backbones_keep_their_kernels(attention, experts):
    config = tiny_text_config("qwen2_moe")
    text = AutoModelForCausalLM.from_config(config, attn_implementation=attention, experts_implementation=experts)
    vision = AutoModel.from_config(CLIPVisionConfig(**VISION), attn_implementation=attention)
    model = LavitForCausalLM.from_backbones(vision, text, num_text_tokens=TEXT_TOKENS, codebook_size=CODEBOOK_SIZE)
    parts = model.config.text_config, model.config.visual_tokenizer_config.vision_config
    assert [part._attn_implementation for part in parts] == [attention] * 2
    assert model.config.text_config._experts_implementation == experts


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("route", ["from_backbones", "from_vision_tower", "configuration", "configuration of a tower"])
def test_a_vision_tower_runs_with_a_known_attention(route, attention, monkeypatch):
    """The check of a new model runs the tower as well, with the attention that it has later."""
    used = set()
    get_interface = ALL_ATTENTION_FUNCTIONS.get_interface
    monkeypatch.setattr(
        type(ALL_ATTENTION_FUNCTIONS),
        "get_interface",
        lambda self, implementation, default: used.add(implementation) or get_interface(implementation, default),
    )
    tower = AutoModel.from_config(CLIPVisionConfig(**VISION), attn_implementation=attention)
    settings = {"codebook_size": CODEBOOK_SIZE, "num_merger_layers": 1}
    if route == "from_backbones":
        text = LlamaConfig(**TEXT, attn_implementation=attention)
        model = LavitForCausalLM.from_backbones(tower, text, **settings).model.visual_tokenizer
    elif route == "from_vision_tower":
        model = LavitVisualTokenizerForPreTraining.from_vision_tower(tower, **settings).visual_tokenizer
    elif route == "configuration":
        config = LavitVisualTokenizerConfig(
            vision_config=CLIPVisionConfig(**VISION), **settings, attn_implementation=attention
        )
        model = LavitVisualTokenizer(config)
    else:
        config = LavitVisualTokenizerConfig(vision_config=tower.config, **settings)
        assert tower.config._attn_implementation == attention
        config = LavitVisualTokenizerConfig(vision_config=tower.config, **settings, attn_implementation=attention)
        model = LavitVisualTokenizer(config, vision_tower=tower)
    model(torch.zeros(1, 3, VISION["image_size"], VISION["image_size"]))
    assert used == {attention}
    assert model.vision_tower.config._attn_implementation == attention


@torch.no_grad()
def test_an_empty_cache_changes_no_positions():
    """`DynamicCache()` has no layers before its first use. Absolute positions show whether padding was counted."""
    text = tiny_text_config("gpt2")
    model = loosen(LavitForCausalLM.from_backbones(CLIPVisionConfig(**VISION), text, codebook_size=CODEBOOK_SIZE))
    model.eval()
    ids = torch.tensor([[0, 0, 0, 5, 6, 7]])
    mask = (ids != 0).long()
    alone = model(input_ids=ids[:, 3:]).logits
    for cache in (None, DynamicCache(), DynamicCache(config=model.config.text_config)):
        logits = model(input_ids=ids, attention_mask=mask, cache=cache).logits[:, 3:]
        torch.testing.assert_close(logits, alone)
        with pytest.raises(ValueError, match="attention_mask must be of shape"):
            model(input_ids=ids, attention_mask=mask[:, 1:], cache=cache and type(cache)())


@torch.no_grad()
@pytest.mark.parametrize("asked", [{"output_router_logits": True}, {}, {"output_router_logits": None}])
def test_a_router_loss_is_not_dropped_silently(asked):
    """The causal language model of these experts adds it to its loss, a LaVIT does not."""
    by_argument = asked.get("output_router_logits", False)
    text = tiny_text_config("mixtral", output_router_logits=not by_argument)
    model = LavitForCausalLM.from_backbones(CLIPVisionConfig(**VISION), text, codebook_size=CODEBOOK_SIZE)
    ids = torch.tensor([[5, 6, 7, 8]])
    with pytest.raises(ValueError, match="output_router_logits must be False"):
        model(input_ids=ids, labels=ids, **asked)
    assert model(input_ids=ids, labels=ids, output_router_logits=False).loss.isfinite()
    assert model.generate(ids, max_new_tokens=2).shape == (1, 6)


@pytest.mark.parametrize("num_tokens", [TEXT_TOKENS, TEXT_TOKENS + 2 + CODEBOOK_SIZE])
def test_the_vocabulary_is_not_cut(num_tokens):
    model = tiny_lavit()
    for part in (model, model.model):
        with pytest.raises(ValueError, match=f"new_num_tokens must be at least {TEXT_TOKENS + CODEBOOK_SIZE + 3}"):
            part.resize_token_embeddings(num_tokens)
    model.resize_token_embeddings(TEXT_TOKENS + CODEBOOK_SIZE + 8)
    assert model.lm_head.out_features == TEXT_TOKENS + CODEBOOK_SIZE + 8
