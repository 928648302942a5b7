# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
import unittest

from .testers import FeatureDecoderTester, VisualTokenizerTester
from .upstream.test_memory_cleanup_mixin import MemoryCleanupMixin
from .upstream.test_modeling_common import ModelTesterMixin


class VisualTokenizerTest(MemoryCleanupMixin, ModelTesterMixin, unittest.TestCase):
    all_model_classes = VisualTokenizerTester.all_model_classes
    run_under_no_grad = False
    test_resize_embeddings = False
    _is_composite = True

    def setUp(self):
        super().setUp()
        self.model_tester = VisualTokenizerTester(self)


class FeatureDecoderTest(MemoryCleanupMixin, ModelTesterMixin, unittest.TestCase):
    all_model_classes = FeatureDecoderTester.all_model_classes
    run_under_no_grad = False
    test_resize_embeddings = False
    has_attentions = False

    def setUp(self):
        super().setUp()
        self.model_tester = FeatureDecoderTester(self)
