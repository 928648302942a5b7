# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
import unittest

from transformers import PreTrainedTokenizerBase
from transformers.image_processing_utils import BaseImageProcessor

from lavit_hf.processing import LavitImageProcessor, LavitProcessor, extend_tokenizer
from tests.tiny import CODEBOOK_SIZE, IMAGE_SIZE, text_tokenizer

from .upstream.test_processing_common import ProcessorTesterMixin


class ProcessingTest(ProcessorTesterMixin, unittest.TestCase):
    processor_class = LavitProcessor

    @classmethod
    def _setup_image_processor(cls) -> BaseImageProcessor:
        return LavitImageProcessor(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE})

    @classmethod
    def _setup_tokenizer(cls) -> PreTrainedTokenizerBase:
        return extend_tokenizer(text_tokenizer(), CODEBOOK_SIZE)
