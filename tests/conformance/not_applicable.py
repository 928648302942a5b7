# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
Tests of the common suites that do not apply, each with its reason: `class::test`, where `*` stands for anything.

They run nevertheless: one that passes is an error, as is an entry that names no test.
"""

CHECKPOINTS = (
    "The suite watches the first layer with gradient checkpointing, which is one of the frozen vision tower or visual "
    "tokenizer and gets no gradient. Gradients with checkpointing are compared in tests/modeling."
)
CODEBOOK = "The rows of a new codebook are random, although it is a buffer: it is not trained by gradients."
MASKS = "The suite subtracts outputs from each other, which boolean masks do not support."
INCOMPLETE = "A feature decoder whose checkpoint lacks weights is refused: it would make images of random ones."
NO_EMBEDDINGS = "The model reads no ids of a vocabulary."
ROWS = "The suite asks for 128 rows, fewer than text, codes and placeholder have, which is refused by name."

NOT_APPLICABLE = {
    "TextTest::test_resize_tokens_embeddings": ROWS,
    "ImageTest::test_resize_tokens_embeddings": ROWS,
    "TextTest::test_get_image_features_*": "The inputs of this suite have no image.",
    "TextTest::test_init_weights_can_init_buffers": CODEBOOK,
    "TextTest::test_training_gradient_checkpointing*": CHECKPOINTS,
    "ImageTest::test_causal_lm_loss_honors_shift_labels": (
        "shift_labels are refused by name with images, whose codes are labels that the model alone knows."
    ),
    "ImageTest::test_init_weights_can_init_buffers": CODEBOOK,
    "ImageTest::test_model_outputs_equivalence": MASKS,
    "ImageTest::test_training_gradient_checkpointing*": CHECKPOINTS,
    "VisualTokenizerTest::test_init_weights_can_init_buffers": CODEBOOK,
    "VisualTokenizerTest::test_model_get_set_embeddings": NO_EMBEDDINGS,
    "VisualTokenizerTest::test_model_outputs_equivalence": MASKS,
    "VisualTokenizerTest::test_retain_grad_hidden_states_attentions": (
        "The first of the hidden states are the features of the frozen vision tower, which have no gradient."
    ),
    "PreTrainingTest::test_init_weights_can_init_buffers": CODEBOOK,
    "PreTrainingTest::test_model_get_set_embeddings": NO_EMBEDDINGS,
    "PreTrainingTest::test_model_outputs_equivalence": MASKS,
    "PreTrainingTest::test_training_gradient_checkpointing*": CHECKPOINTS,
    "FeatureDecoderTest::test_can_init_all_missing_weights": INCOMPLETE,
    "FeatureDecoderTest::test_init_weights_can_init_buffers": CODEBOOK,
    "FeatureDecoderTest::test_model_get_set_embeddings": NO_EMBEDDINGS,
    "FeatureDecoderTest::test_model_weights_reload_no_missing_tied_weights": INCOMPLETE,
}
