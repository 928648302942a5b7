# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Stands for transformers' tests of ONNX and ExecuTorch, which need packages of their own."""


class ExportTesterMixin:
    """No test."""
