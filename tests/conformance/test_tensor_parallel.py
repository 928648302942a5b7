# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
import unittest

from .testers import TextTester
from .upstream import test_tensor_parallel_mixin


# None: every kind of model, instead of a list of those that transformers' own runs look at.
test_tensor_parallel_mixin.TP_DISTRIBUTED_TEST_MODEL_TYPES = None


class TensorParallelTest(test_tensor_parallel_mixin.TensorParallelTesterMixin, unittest.TestCase):
    all_model_classes = TextTester.all_model_classes
    model_tester = None

    def setUp(self):
        self.model_tester = TextTester(self)
