# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
import unittest

from .testers import TextTester
from .upstream.generation.test_utils import GenerationTesterMixin
from .upstream.test_modeling_common import ModelTesterMixin
from .upstream.test_training_mixin import TrainingTesterMixin


class TextTest(ModelTesterMixin, GenerationTesterMixin, TrainingTesterMixin, unittest.TestCase):
    all_model_classes = TextTester.all_model_classes
    model_tester = None
    _is_composite = True

    def setUp(self):
        self.model_tester = TextTester(self)
