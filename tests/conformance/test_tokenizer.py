# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
import unittest

from .testers import FeatureDecoderTester, PreTrainingTester, VisualTokenizerTester
from .upstream.test_memory_cleanup_mixin import MemoryCleanupMixin
from .upstream.test_modeling_common import ModelTesterMixin


class VisionTest(MemoryCleanupMixin, ModelTesterMixin):
    model_tester_class = VisualTokenizerTester
    run_under_no_grad = False
    test_resize_embeddings = False

    def setUp(self):
        super().setUp()
        self.model_tester = self.model_tester_class(self)
        self.all_model_classes = self.model_tester.all_model_classes


class VisualTokenizerTest(VisionTest, unittest.TestCase):
    _is_composite = True

    def test_hidden_states_output(self):
        # The kept patches of a batch are one sequence.
        self.model_tester.encoder_seq_length = self.model_tester.batch_size * self.model_tester.seq_length
        super().test_hidden_states_output()


class PreTrainingTest(VisionTest, unittest.TestCase):
    model_tester_class = PreTrainingTester
    _is_composite = True


class FeatureDecoderTest(VisionTest, unittest.TestCase):
    model_tester_class = FeatureDecoderTester
