# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Scenes of colored shapes, with captions, questions and edits, to train small models and judge their drawings."""

from .captions import DescribedObject, describe_layout, describe_scene, parse_caption
from .edits import EDIT_KINDS, Edit, edit_scene
from .judging import ReadObject, keeps_background, match_objects, read_scene, scene_matches
from .loading import load_shapes
from .own_words import OwnWords, load_own_words
from .prompts import request_scene
from .questions import QUESTION_KINDS, Question, ask_questions
from .references import conclude
from .rendering import annotate_scene, render_scene
from .scenes import COLORS, LABELS, PLACES, SHAPES, SIZES, SPLITS, Background, Scene, ShapeObject, sample_scene


__all__ = [
    "COLORS",
    "EDIT_KINDS",
    "LABELS",
    "PLACES",
    "QUESTION_KINDS",
    "SHAPES",
    "SIZES",
    "SPLITS",
    "Background",
    "DescribedObject",
    "Edit",
    "OwnWords",
    "Question",
    "ReadObject",
    "Scene",
    "ShapeObject",
    "annotate_scene",
    "ask_questions",
    "conclude",
    "describe_layout",
    "describe_scene",
    "edit_scene",
    "keeps_background",
    "load_own_words",
    "load_shapes",
    "match_objects",
    "parse_caption",
    "read_scene",
    "render_scene",
    "request_scene",
    "sample_scene",
    "scene_matches",
]
