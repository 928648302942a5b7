# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Saving and publishing of a whole LaVIT, and interfaces of its models for other libraries."""

from .export import LavitExportMixin
from .saving import LavitPublishingMixin


__all__ = ["LavitExportMixin", "LavitPublishingMixin"]
