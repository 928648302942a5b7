# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Arguments that every configuration takes, with values other than the defaults."""

config_common_kwargs = {
    "return_dict": False,
    "output_hidden_states": True,
    "output_attentions": True,
    "dtype": "float16",
    "chunk_size_feed_forward": 5,
    "architectures": ["Model"],
    "id2label": {0: "first", 1: "second", 2: "third"},
    "label2id": {"first": 0, "second": 1, "third": 2},
    "problem_type": "regression",
    "name_or_path": "folder/name",
}
