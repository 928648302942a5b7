# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
import unittest

from .testers import FeatureDecoderTester, VisualTokenizerTester
from .upstream.test_modeling_common import ModelTesterMixin


class VisualTokenizerTest(ModelTesterMixin, unittest.TestCase):
    all_model_classes = VisualTokenizerTester.all_model_classes
    test_resize_embeddings = False
    _is_composite = True

    def setUp(self):
        self.model_tester = VisualTokenizerTester(self)


class FeatureDecoderTest(ModelTesterMixin, unittest.TestCase):
    all_model_classes = FeatureDecoderTester.all_model_classes
    test_resize_embeddings = False
    has_attentions = False

    def setUp(self):
        self.model_tester = FeatureDecoderTester(self)
