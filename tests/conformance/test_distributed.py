# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
import unittest

from .testers import TextTester
from .upstream import test_fsdp_mixin, test_tensor_parallel_mixin


# None: every kind of model, instead of a list of those that transformers' own runs look at.
test_tensor_parallel_mixin.TP_DISTRIBUTED_TEST_MODEL_TYPES = None
test_fsdp_mixin.FSDP_DISTRIBUTED_TEST_MODEL_TYPES = None


# The suites draw ids with fixed seeds: of as many as these, none is the placeholder, the last.


class TensorParallelTester(TextTester):
    vocab_size = 853


class FullyShardedTester(TextTester):
    # An even number: with tied rows of an odd one, FSDP2 and DDP differ for transformers' LlamaForCausalLM as well.
    vocab_size = 5022


class TensorParallelTest(test_tensor_parallel_mixin.TensorParallelTesterMixin, unittest.TestCase):
    all_model_classes = TextTester.all_model_classes
    model_tester = None

    def setUp(self):
        self.model_tester = TensorParallelTester(self)


class FullyShardedTest(test_fsdp_mixin.FSDPTesterMixin, unittest.TestCase):
    model_tester = None

    def setUp(self):
        self.model_tester = FullyShardedTester(self)

    def _has_fsdp_plan(self) -> bool:
        return self.model_tester.get_config().text_config.base_model_fsdp_plan is not None

    def _get_tiny_config(self):
        config = self.model_tester.get_config()
        return type(config), config.to_diff_dict()
