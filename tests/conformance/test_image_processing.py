# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
import unittest

from lavit_hf.processing import LavitImageProcessor, LavitImageProcessorPil

from .upstream.test_image_processing_common import ImageProcessingTester, ImageProcessingTestMixin


class LavitImageProcessingTester(ImageProcessingTester):
    def __init__(self, parent, **kwargs):
        super().__init__(parent, **{"size": {"height": 18, "width": 18}} | kwargs)

    def _get_image_processing_classes(self):
        return {"torchvision": LavitImageProcessor, "pil": LavitImageProcessorPil}


class ImageProcessingTest(ImageProcessingTestMixin, unittest.TestCase):
    image_processor_tester_class = LavitImageProcessingTester
    test_cast_dtype = True
