# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Checks of arguments: the ranges of numbers, and keyword arguments of a forward beyond its named ones."""

import dataclasses
import difflib
import inspect
import sys
from numbers import Integral, Real
from typing import Any

import numpy as np
from torch import nn
from transformers import PreTrainedConfig
from transformers.utils import TransformersKwargs


def check_integer(name: str, value: Any, least: int, most: int | None = None) -> int:
    """Returns an integer from `least` to `most`, or raises a `ValueError`."""
    return int(_check_range(name, value, least, most, Integral, "an integer"))


def check_number(name: str, value: Any, least: float, most: float | None = None) -> float:
    """Returns a number from `least` to `most`, or raises a `ValueError`. NaN and infinity are out of every range."""
    return float(_check_range(name, value, least, most, Real, "a finite number"))


def _check_range(name: str, value: Any, least: float, most: float | None, kind: type, kind_name: str) -> Any:
    # NumPy would cast the limits to the type of its number, some of which overflow.
    number = value.item() if isinstance(value, np.number) else value
    largest = sys.float_info.max if most is None else most
    if isinstance(number, bool) or not isinstance(number, kind) or not least <= number <= largest:
        limits = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name} must be {kind_name} {limits}, got {value!r}.")
    return value


def check_keyword_arguments(model: nn.Module, kwargs: dict, *modules: nn.Module) -> None:
    """Raises a `TypeError` for an argument that neither transformers nor the forward of any of `modules` knows."""
    if not kwargs:
        return
    # There is no other list of the arguments that transformers passes to every model.
    known = {*TransformersKwargs.__annotations__, "return_dict"}
    for module in modules:
        known |= inspect.signature(module.forward).parameters.keys()
    if unknown := [name for name in kwargs if name not in known]:
        raise TypeError(f"{type(model).__name__} got an unexpected argument {unknown[0]!r}.")


def check_config_arguments(config_class: type[PreTrainedConfig], kwargs: dict) -> None:
    """
    Raises a `TypeError` for a keyword argument, or for a part in a dictionary of `attn_implementation`, that a new
    configuration does not have. transformers would keep it as an attribute without an effect, as those of its own
    configurations that are about other models.
    """
    parts = config_class.sub_configs.keys()
    known = {*config_class.__annotations__, "attn_implementation"} - parts
    if unknown := [name for name in kwargs if name not in known]:
        raise TypeError(f"{config_class.__name__} got an unexpected argument {unknown[0]!r}.")
    attention = kwargs.get("attn_implementation")
    if isinstance(attention, dict) and (unknown := [name for name in attention if name and name not in parts]):
        raise TypeError(f"attn_implementation must be for {', '.join(map(repr, ['', *parts]))}, got {unknown[0]!r}.")


def check_fields(name: str, fields: dict[str, Any], config_class: type[PreTrainedConfig]) -> None:
    """
    Raises a `ValueError` for one of `fields` that seems to be misspelled: a configuration does not have it, but a
    similar one, and it has no effect on others. transformers would keep it as an attribute. Other fields that a
    configuration does not have may be those of other versions. The `name` is that of the argument with the fields.
    """
    if not dataclasses.is_dataclass(config_class):
        return  # the class of another library
    default = config_class().to_dict()
    known = {field.name for field in dataclasses.fields(config_class)} | default.keys()
    known |= getattr(config_class, "attribute_map", {}).keys()
    for field, value in fields.items():
        likely = difflib.get_close_matches(field, known, 1, cutoff=0.85)
        if field in known or not likely or field.startswith("_"):
            continue
        changed = config_class(**{field: value}).to_dict()
        changed.pop(field, None)
        if changed == default:
            raise ValueError(
                f"{name} must have fields of a {config_class.__name__}, got {field!r}. Did you mean {likely[0]!r}?"
            )


def check_vision_config(config: PreTrainedConfig) -> None:
    """Raises a `ValueError` for a configuration that describes no vision transformer of square images and patches."""
    for name in ("hidden_size", "num_attention_heads", "image_size", "patch_size"):
        try:
            value = getattr(config, name, None)
        except RuntimeError as error:  # transformers raises it for values that differ from layer to layer
            value = error
        if not isinstance(value, int):
            raise ValueError(
                f"vision_config must describe a vision transformer with an integer `{name}`, got "
                f"{type(config).__name__} with {name}={value!r}. For a model with several towers, give its "
                "vision_config."
            )
