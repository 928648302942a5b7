# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""How well a LaVIT captions, answers, draws, edits and reconstructs, and what its tokens are like."""

from .metrics import Metric
from .report import EvaluationReport
from .runner import TASKS, check_tasks, evaluate
from .subject import EvaluationSettings


__all__ = ["TASKS", "EvaluationReport", "EvaluationSettings", "Metric", "check_tasks", "evaluate"]
