# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Tiny causal language models of every type that transformers has, and what a LaVIT around one must compute."""

import dataclasses
import re
from pathlib import Path

import pytest
import torch
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoModelForCausalLM,
    CLIPVisionConfig,
    PreTrainedConfig,
)

from lavit_hf import LavitForCausalLM
from lavit_hf.modeling.guidance_lavit import keeps_state

from .tiny import CODEBOOK_SIZE, IMAGE_START, TEXT_TOKENS, VISION, VISUAL_OFFSET, loosen, pad_rows, text_tokenizer


# Full names of integer fields, and their values. The first that matches counts.
SIZES = {
    "vocab_size|vocab_size_per_layer_input|unpadded_vocab_size|pronunciation_vocab_size|shape_vocab_size": TEXT_TOKENS,
    "hidden_size|d_model|n_embd|emb_dim|(in|out)put_embedding_size|embedding_size": 32,
    ".*(intermediate_size|intermediate_size_mlp|ffn_dim|ffn_hidden_size|feed_forward_size|dim_ff|dff|d_ssm)": 32,
    ".*(key_value_heads|kv_n?_?heads)": 2,
    ".*(attention_heads|n_heads?|num_heads|mamba_heads|num_key_heads|num_value_heads)": 4,
    "num_hidden_layers|n_layers?|num_layers|.*coder_layers": 4,
    "qk_(rope|nope)_head_dim|rotary_dim": 4,
    ".*(head_dim|head_size|dim_head|kv_channels|_rank|state_size|d_state|chunk_size|num_buckets)": 8,
    "hidden_size_per_layer_input|index_block_size|d_inner|dim_model_base": 8,
    "num_experts|n_routed_experts|num_local_experts|moe_num_experts": 4,
    ".*(experts_per_tok|moe_k|moe_topk)": 2,
    "n_group|topk_group|n_groups": 1,
    "max_position_embeddings|n_positions|n_ctx|max_seq_len|context_length|max_target_positions": 128,
    "(sliding_|attention_)?window_size|sliding_window": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# The fields with the default None without which a model is not built, or not tiny.
NEEDED = re.compile(".*head_dim|.*key_value_heads|n_routed_experts|num_experts_per_tok|.*token_id")
# Numbers that may change logits, which are often without effect by default.
SCALES = re.compile("(?!rope|.*multipliers).*(logit|lm_head|multiplier|scaling).*")
CAPS = re.compile(".*soft_?cap.*")
HYBRID = ["linear_attention", "full_attention"] * 2
ALTERNATING = ["sliding_attention", "full_attention"] * 2
SPECIAL: dict[str, dict] = {
    "bailing_hybrid": {"layer_group_size": 2},
    "bamba": {"attn_layer_indices": [1, 3]},
    "cohere_compass_text": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}},
    "dots1": {"n_shared_experts": 1},
    "dots3_note_text": {"num_hidden_layers": 2},
    "gemma3n_text": {"num_kv_shared_layers": 1, "layer_types": ALTERNATING},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 2},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "kimi_linear": {"layer_types": HYBRID},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "longcat_flash": {"zero_expert_num": 2, "head_dim": 4},
    "mamba2": {"head_dim": 16},
    "qwen4_exp_text": {
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 4,
        "indexer_compress_ratio": 2,
        "ngram_vocab_size_base": 20,
    },
    "mpt": {"logit_scale": None},  # which transformers 5.24 does not apply
    "reformer": {"attn_layers": ["local"] * 2, "axial_pos_shape": (8, 16), "axial_pos_embds_dim": (16, 16)},
    "xlstm": {"hidden_size": 128},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
    "youtu": {"pad_token_id": None},  # its embedding becomes zero when transformers 5.24 loads it
    "zamba": {"num_hidden_layers": 6, "attn_layer_period": 3, "attn_layer_offset": 1},
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid"] * 2},
    "zaya": {"num_experts_per_tok": 1},
}


def text_model_types() -> list[str]:
    """Model types of transformers' causal language models that are no part of a larger model."""
    configs = dict.fromkeys(MODEL_FOR_CAUSAL_LM_MAPPING)
    parts = {"text_config", "vision_config", "audio_encoder"}
    return [config.model_type for config in configs if not parts & set(config.sub_configs)]


def tiny_text_config(model_type: str, **settings) -> PreTrainedConfig:
    """A configuration of some ten thousand weights; `settings` override its values."""
    config_class = CONFIG_MAPPING[model_type]
    values = {}
    for field in dataclasses.fields(config_class):
        default = field.default
        if isinstance(default, bool):
            continue
        size = next((value for names, value in SIZES.items() if re.fullmatch(names, field.name)), None)
        if size is not None and (isinstance(default, int) or (default is None and NEEDED.fullmatch(field.name))):
            values[field.name] = size
        elif CAPS.fullmatch(field.name):
            values[field.name] = 2.0
        elif SCALES.fullmatch(field.name) and "float" in str(field.type) and default in (None, 1.0):
            values[field.name] = 0.7
    if "is_decoder" in config_class.__annotations__:
        values["is_decoder"] = True
    if "kv_lora_rank" in values and "num_key_value_heads" in values:
        values["num_key_value_heads"] = values["num_attention_heads"]  # latent attention shares none
    return config_class(**values | SPECIAL.get(model_type, {}) | settings)


def guided_by_hand(
    model: LavitForCausalLM, prompt: list[int], scale: float, length: int, negative=(), begun=()
) -> list[int]:
    """The likeliest codes of an image under guidance, by two forwards per code without a cache."""
    codes: list[int] = [*begun]
    allowed = torch.full((model.config.text_config.vocab_size,), -torch.inf)
    allowed[VISUAL_OFFSET : VISUAL_OFFSET + CODEBOOK_SIZE] = 0
    while len(codes) < len(begun) + length:
        branches = ([*prompt, IMAGE_START, *codes], [*negative, IMAGE_START, *codes])
        conditional, unconditional = (model(torch.tensor([ids])).logits[0, -1].log_softmax(-1) for ids in branches)
        codes.append(int((unconditional + scale * (conditional - unconditional) + allowed).argmax()))
    return codes[len(begun) :]


@torch.no_grad()
def check_logits(config: PreTrainedConfig, folder: Path, is_refused: bool = False) -> None:
    """
    Asserts that a LaVIT around a new language model computes what the language model does, from ids, from embeddings
    with a cache, once it is saved and loaded, and once its language model is exported, and that guidance of a batch
    with a cache is guidance without either. Or else that `from_backbones` refuses the language model by its name.
    """
    torch.manual_seed(0)
    text_model = loosen(AutoModelForCausalLM.from_config(config)).eval()
    ids = torch.tensor([[5, 6, 7, 9, 11]])
    whole = text_model(ids).logits
    vision = {"vision": CLIPVisionConfig(**VISION), "codebook_size": CODEBOOK_SIZE, "num_merger_layers": 1}
    if is_refused:
        with pytest.raises(ValueError, match=type(text_model).__name__):
            LavitForCausalLM.from_backbones(text=text_model, **vision)
        return
    model = LavitForCausalLM.from_backbones(text=text_model, **vision).eval()
    step = text_model(ids[:, -1:], cache=text_model(ids[:, :-1], use_cache=True).cache).logits

    def assert_close(logits, expected):
        tolerance = 1e-4 * float(expected.abs().max())
        torch.testing.assert_close(logits[..., :TEXT_TOKENS], expected[..., :TEXT_TOKENS], rtol=0, atol=tolerance)

    assert_close(model(ids).logits, whole)
    embeddings = model.get_input_embeddings()(ids[:, :-1])
    assert_close(model(ids[:, -1:], cache=model(inputs_embeds=embeddings, use_cache=True).cache).logits, step)
    model.save_pretrained(folder / "lavit")
    assert_close(LavitForCausalLM.from_pretrained(folder / "lavit")(ids).logits, whole)
    model.export_language_model(folder / "exported", text_tokenizer())
    exported = AutoModelForCausalLM.from_pretrained(folder / "exported")
    assert type(exported) is type(text_model)
    assert_close(exported(ids).logits, whole)

    loosen(model)  # The new rows of the vocabulary are small: the last bits would decide which code is the likeliest.
    settings = {"generation_mode": "image", "guidance_scale": 3.0, "max_new_tokens": 4, "min_new_tokens": 4}
    rows = [[6, 7, 8], [5]]
    batch, mask = pad_rows(rows)
    drawn = model.generate(batch, attention_mask=mask, return_full_text=False, **settings)
    assert drawn.tolist() == [[IMAGE_START, *guided_by_hand(model, row, 3.0, 3)] for row in rows]
    # Layers with a state read a single token even where the mask hides it.
    assert model.generate(torch.tensor(rows[1:]), return_full_text=False, **settings).tolist() == drawn.tolist()[1:]
    # MPT's own settings use no cache, without which transformers refuses chunks.
    chunks = {"attention_mask": mask, "return_full_text": False, "prefill_chunk_size": 2, "use_cache": True} | settings
    if keeps_state(model.config):
        with pytest.raises(ValueError, match="does not work with prefill_chunk_size"):
            model.generate(batch, **chunks)
    else:
        assert model.generate(batch, **chunks).tolist() == drawn.tolist()
