# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Every causal language model of transformers: a LaVIT around it computes what it computes, or it is refused."""

import pytest
import transformers

from ..causal_models import check_logits, text_model_types, tiny_text_config


# Those that cannot be tried.
UNBUILDABLE = {
    "blt": "its configuration holds four others, and the model has 4.6 billion weights by default",
    "dbrx": "transformers 5.24 cannot build it: DbrxAttentionConfig has no rope_theta",
}
# Those that `from_backbones` refuses, with the reason in its error.
REFUSED = set(
    """
    bart bert big_bird bigbird_pegasus blenderbot blenderbot-small camembert cpmant data2vec-text deepseek_v4
    dory electra ernie falcon_h1 falcon_mamba hyperclovax llama4_text mamba mamba2 marian mbart megatron-bert
    minimax modernbert-decoder moshi mvp openai-gpt pegasus plbart prophetnet recurrent_gemma reformer rembert
    roberta roberta-prelayernorm roc_bert roformer rwkv trocr whisper xlm xlm-roberta xlm-roberta-xl xlnet
    xlstm xmod
""".split()
)


@pytest.mark.parametrize("model_type", text_model_types())
def test_logits_are_the_language_models(model_type, tmp_path):
    if model_type in UNBUILDABLE:
        pytest.skip(UNBUILDABLE[model_type])
    transformers.logging.set_verbosity_error()
    check_logits(tiny_text_config(model_type), tmp_path, is_refused=model_type in REFUSED)
