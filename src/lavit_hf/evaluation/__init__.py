# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Evaluation of captions, answers, drawings, edits, reconstructions and tokens."""

from .metrics import Metric
from .report import EvaluationReport
from .runner import TASKS, check_tasks, evaluate
from .subject import EvaluationSettings, Subject


__all__ = ["TASKS", "EvaluationReport", "EvaluationSettings", "Metric", "Subject", "check_tasks", "evaluate"]
