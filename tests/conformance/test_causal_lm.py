# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
import unittest

import torch

from tests.tiny import TEXT_TOKENS

from .testers import ImageTester, TextTester
from .upstream import test_modeling_common
from .upstream.generation.test_utils import GenerationTesterMixin
from .upstream.test_memory_cleanup_mixin import MemoryCleanupMixin
from .upstream.test_training_mixin import TrainingTesterMixin


def draw_text_ids(shape, vocab_size, rng=None, name=None) -> torch.LongTensor:
    """Random ids of text, since the placeholder among random ids of the whole vocabulary would ask for an image."""
    return torch.randint(3, min(vocab_size, TEXT_TOKENS), shape)


test_modeling_common.ids_tensor = draw_text_ids


class CausalLMTest(MemoryCleanupMixin, test_modeling_common.ModelTesterMixin, GenerationTesterMixin):
    run_under_no_grad = False
    model_tester_class = None
    all_model_classes = TextTester.all_model_classes
    _is_composite = True

    def setUp(self):
        super().setUp()
        self.model_tester = self.model_tester_class(self)


class TextTest(CausalLMTest, TrainingTesterMixin, unittest.TestCase):
    model_tester_class = TextTester
    model_tester = None


class ImageTest(CausalLMTest, unittest.TestCase):
    model_tester_class = ImageTester
    additional_model_inputs = ["pixel_values"]
    skip_test_image_features_output_shape = True  # It reads `config.vision_config`; ours is the visual tokenizer's.
