# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Tables of transformers that list model classes by name, and have no public way in."""

from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
)


def write_names(model_type: str, class_name: str) -> None:
    """
    Enters the class of a causal language model that reads and writes images. `Trainer` looks up the first table to
    shift labels when it smooths them. The pipelines "text-generation" and "any-to-any" look up one table each.
    """
    for table in (MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES):
        table[model_type] = class_name
