# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
import unittest

from .testers import ImageTester, TextTester
from .upstream.generation.test_utils import GenerationTesterMixin
from .upstream.test_memory_cleanup_mixin import MemoryCleanupMixin
from .upstream.test_modeling_common import ModelTesterMixin
from .upstream.test_training_mixin import TrainingTesterMixin


class CausalLMTest(MemoryCleanupMixin, ModelTesterMixin, GenerationTesterMixin):
    run_under_no_grad = False
    tester_class = None
    all_model_classes = TextTester.all_model_classes
    _is_composite = True

    def setUp(self):
        super().setUp()
        self.model_tester = self.tester_class(self)


class TextTest(CausalLMTest, TrainingTesterMixin, unittest.TestCase):
    tester_class = TextTester
    model_tester = None


class ImageTest(CausalLMTest, unittest.TestCase):
    tester_class = ImageTester
