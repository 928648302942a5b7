# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The authors' checkpoint to one folder that transformers and diffusers load."""

from .convert_official import convert_official_checkpoint


__all__ = ["convert_official_checkpoint"]
