# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The pixel decoder, a pipeline of diffusers."""

from .pipeline_lavit_image_decoder import ASPECT_RATIOS, LavitImageDecoderPipeline


__all__ = ["ASPECT_RATIOS", "LavitImageDecoderPipeline"]
