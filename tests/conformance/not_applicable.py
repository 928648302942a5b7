# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
Tests of the common suites that do not apply, each with its reason: `class::test`, where `*` stands for anything.

They run nevertheless: one that passes is an error, as is an entry that names no test.
"""

NOT_APPLICABLE = {
    "TextTest::test_get_image_features_*": "Images are not among the inputs of this suite.",
    "TextTest::test_training_gradient_checkpointing*": (
        "The suite watches the first layer with checkpoints, which is one of the frozen visual tokenizer."
    ),
}
