# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""How often the host waits for the device, and that nothing is computed that is not needed."""

import traceback
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import lavit_hf
from lavit_hf import LavitVisualTokenizerForPreTraining
from lavit_hf.modeling.codebook_lavit import LavitCodebookUpdater, LavitQuantizer

from ..tiny import IMAGE_END, IMAGE_START, PLACEHOLDER, pictures, tiny_lavit
from .test_quantization import make_config
from .test_tokenizer import make_config as make_tokenizer_config


LIBRARY = Path(lavit_hf.__file__).parent


class Operations(TorchDispatchMode):
    """Counts operations, and where this library makes the host wait for a device, by the names of the operations."""

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "bincount", "_unique2", "tolist")

    def __init__(self, monkeypatch):
        super().__init__()
        self.names: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        tolist = torch.Tensor.tolist

        def counted(tensor):
            self._count("tolist")
            return tolist(tensor)

        monkeypatch.setattr(torch.Tensor, "tolist", counted)

    def _count(self, name: str) -> None:
        self.names[name] += 1
        if name in self.WAITING:
            libraries = (frame.filename for frame in reversed(traceback.extract_stack()[:-2]))
            caller = next(path for path in libraries if "/torch/" not in path)
            self.waits[name] += Path(caller).is_relative_to(LIBRARY)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        indices = [index for index in args[1] if index is not None] if name in ("index", "index_put_") else []
        self._count("nonzero" if any(index.dtype == torch.bool for index in indices) else name)
        return function(*args, **kwargs or {})


@pytest.fixture
def operations(monkeypatch):
    return Operations(monkeypatch)


def test_a_codebook_of_living_codes_is_not_revived(operations):
    updater = LavitCodebookUpdater(make_config())
    quantizer = LavitQuantizer(make_config())
    codes = torch.arange(8).repeat(4)
    with operations:
        updater(quantizer.codebook, quantizer.codebook[codes], codes)
    assert not {"randn", "normal_", "argsort", "sort"} & operations.names.keys()
    assert operations.names["_local_scalar_dense"] == 1


@pytest.mark.parametrize("trained", [False, True])
def test_a_batch_without_images_runs_the_adapter_alone(trained):
    """Its gradient is zero, as if images had been read by other processes. A trained vision tower has one as well."""
    model = tiny_lavit().train()
    visual, ran = model.model.visual_tokenizer, []
    visual.vision_tower.requires_grad_(trained)
    for name, part in {"tower": visual.vision_tower, "selector": visual.selector, "merger": visual.merger}.items():
        part.register_forward_hook(lambda *_, name=name: ran.append(name))
    ids = torch.tensor([[5, 6, 7, 8]])
    losses = [model(ids, pixel_values=images, labels=ids).loss for images in (pictures(1)[:0], None)]
    assert torch.equal(*losses)
    losses[0].backward()
    assert ran == (["tower", "selector", "merger"] if trained else [])
    assert all(not weight.grad.any() for weight in model.model.visual_adapter.parameters())
    assert (visual.vision_tower.embeddings.patch_embedding.weight.grad is not None) == trained
    model.eval()(ids, pixel_values=pictures(1)[:0])
    assert len(ran) == 3 * trained


def test_waits_of_a_training_step(operations):
    """The host waits for the numbers of kept patches, of placeholders, and of labels."""
    model, with_image = tiny_lavit().train(), torch.tensor([[5, IMAGE_START, PLACEHOLDER, IMAGE_END, 7]])
    with operations:
        model(with_image, pictures(1), labels=with_image, skip_logits=True).loss.backward()
    assert +operations.waits == {"tolist": 2, "nonzero": 1}


def test_waits_of_a_training_step_without_images(operations):
    """The host waits for the number of labels. On a CPU, it counts placeholders at once, for which a GPU has time."""
    model, ids = tiny_lavit().train(), torch.tensor([[5, 6, 7, 8]])
    with operations:
        model(ids, labels=ids, skip_logits=True).loss.backward()
    assert +operations.waits == {"_local_scalar_dense": 1, "nonzero": 1}


def test_waits_of_a_training_step_of_the_tokenizer(operations):
    """The host waits for the numbers of kept patches, and for whether codes are dead."""
    model = LavitVisualTokenizerForPreTraining(make_tokenizer_config()).train()
    model.codebook_updater.dead_code_threshold = 0.0
    with operations:
        model(pixel_values=pictures(2)).loss.backward()
    assert +operations.waits == {"tolist": 1, "_local_scalar_dense": 1}


@pytest.mark.parametrize("mode", ["text", "image", "interleaved"])
def test_tokens_are_not_waited_for(operations, mode):
    """transformers alone waits for each token, to learn whether all sequences have ended."""
    model, counts = tiny_lavit(), []
    guidance = {} if mode == "text" else {"guidance_scale": 2.0, "image_generation": {"max_new_tokens": 10}}
    for length in (12, 4) if mode == "image" else (20, 12):
        operations.names.clear()
        operations.waits.clear()
        with operations:
            settings = {"max_new_tokens": length, "min_new_tokens": length, "generation_mode": mode}
            model.generate(torch.tensor([[5, 6]]), **settings, **guidance)
        counts.append((operations.names["_local_scalar_dense"], +operations.waits))
    assert counts[0][0] >= counts[1][0] + 8
    assert counts[0][1] == counts[1][1]
