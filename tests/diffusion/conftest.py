# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Pipelines with the weights of the checkpoint of the goldens."""

import pytest

from lavit_hf.diffusion import LavitImageDecoderPipeline


VISUAL_TOKEN_OFFSET = 32002
KINDS = ["lowres", "highres"]


def _load_pipeline(folder, subfolder=None):
    pipe = LavitImageDecoderPipeline.from_pretrained(folder, subfolder=subfolder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="session")
def lowres(converted):
    """The SD 1.5 kind: 61 stored unconditional embeddings for 64 patches."""
    return _load_pipeline(converted, "lowres_decoder")


@pytest.fixture(scope="session")
def highres(converted):
    """The SDXL kind."""
    return _load_pipeline(converted)


@pytest.fixture(scope="session")
def pipes(lowres, highres):
    return {"lowres": lowres, "highres": highres}


@pytest.fixture(params=KINDS)
def pipe(request, pipes):
    return pipes[request.param]


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="session")
def visual_ids(golden_json):
    """Vocabulary ids of four images."""
    return golden_json["visual_ids_argmax"]


@pytest.fixture(scope="session")
def codes(visual_ids):
    return [[token - VISUAL_TOKEN_OFFSET for token in image] for image in visual_ids]
