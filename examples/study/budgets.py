# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The lines in which rows of the study may differ. A row with another budget than the others is refused."""

from collections.abc import Mapping
from typing import Any


BASE = "lavit"
EQUAL = "lavit_text_only_equal"
# The lines in which the recipe of each row differs from that of LaVIT.
ROWS: dict[str, tuple[str, ...]] = {
    "lavit": (),
    "lavit_text_only": ("system",),
    EQUAL: ("system", "per_device_train_batch_size"),
    "adapter_linear": ("system", "num_codes"),
    "adapter_mlp": ("system", "num_codes"),
    "adapter_resampler": ("system", "num_codes"),
    "regression": ("system", "regression", "image_decoder"),
    "fixed_all": ("visual_tokenizer", "image_decoder"),
    "fixed_k": ("visual_tokenizer", "image_decoder"),
    "dynamic_dropped": ("system", "visual_tokenizer", "image_decoder"),
    "discrete_input": ("image_inputs", "freeze_parts"),
}
# The names and places of a run, its seed and tasks, and the learning rate, which is tuned alike for all rows.
OWN = ("row", "output_dir", "results", "codes", "learning_rate", "seed", "tasks")


def check_budgets(recipes: Mapping[str, Mapping[str, Any]]) -> None:
    """
    Checks that rows differ from LaVIT in nothing but what they are about.

    Args:
        recipes (`dict[str, dict]`): The recipes of rows by their names, read from YAML or from results.

    Raises:
        ValueError: If a row is unknown, the row of LaVIT is missing, or a row has another value than LaVIT where it
            must not. The message has the row, the name and both values.
    """
    if BASE not in recipes:
        raise ValueError(f"Rows are compared with {BASE!r}, got {', '.join(recipes)}.")
    for row, recipe in recipes.items():
        if row not in ROWS:
            raise ValueError(f"A row must be one of {', '.join(ROWS)}, got {row!r}.")
        for name in sorted(recipe.keys() | recipes[BASE].keys()):
            own, other = recipe.get(name), recipes[BASE].get(name)
            if own != other and name not in (*ROWS[row], *OWN):
                raise ValueError(f"Row {row!r} has {name}={own!r}, but {BASE!r} has {other!r}.")
