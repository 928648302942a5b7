# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
import unittest

from lavit_hf import LavitConfig, LavitFeatureDecoderConfig, LavitVisualTokenizerConfig

from .testers import FeatureDecoderTester, TextTester, VisualTokenizerTester
from .upstream.test_configuration_common import ConfigTester


class ConfigurationTest(unittest.TestCase):
    def test_whole_model(self):
        self.model_tester = TextTester(self)
        ConfigTester(self, LavitConfig, has_text_modality=False, image_inputs="codes").run_common_tests()

    def test_visual_tokenizer(self):
        self.model_tester = VisualTokenizerTester(self)
        ConfigTester(self, LavitVisualTokenizerConfig, has_text_modality=False, code_dim=8).run_common_tests()

    def test_feature_decoder(self):
        self.model_tester = FeatureDecoderTester(self)
        ConfigTester(self, LavitFeatureDecoderConfig, has_text_modality=False, hidden_size=32).run_common_tests()
