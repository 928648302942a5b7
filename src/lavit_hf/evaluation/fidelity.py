# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""CLIP score (Hessel et al., arXiv 2104.08718) and Fréchet distance (Heusel et al., arXiv 1706.08500) of drawings,
with networks that the user names: nothing is downloaded."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from transformers import AutoModel, AutoProcessor

from .metrics import Metric, average
from .subject import shift


FEATURE_SIZE = 299  # what the Inception network of the published distances reads


class ClipScorer:
    """
    How well drawings fit their captions: 100 times the mean cosine of their embeddings, and 0 where that is negative.

    Args:
        folder (`str`): A saved CLIP model with its processor.
        device (`torch.device`): Where it computes.

    Raises:
        ValueError: no such folder, or one without a model of pictures and texts.
    """

    def __init__(self, folder: str, device: torch.device):
        if not Path(folder).is_dir():
            raise ValueError(f"clip_model must be the folder of a saved CLIP model: there is no folder {folder}.")
        self._processor = AutoProcessor.from_pretrained(folder)
        self._model = AutoModel.from_pretrained(folder).to(device).eval()
        if not hasattr(self._model, "get_text_features"):
            raise ValueError(f"clip_model must be a CLIP model, {folder} holds a {type(self._model).__name__}.")
        # A caption longer than the text tower is cut there, its end mark kept.
        self._max_length = self._model.config.text_config.max_position_embeddings
        self._embeds: list[tuple[torch.Tensor, torch.Tensor]] = []

    @torch.no_grad()
    def update(self, pictures: Sequence[Image.Image], captions: Sequence[str]) -> None:
        """Takes in drawings and what they should show."""
        inputs = self._processor(
            images=list(pictures),
            text=list(captions),
            return_tensors="pt",
            padding=True,
            truncation=True,
            max_length=self._max_length,
        )
        outputs = self._model(**inputs.to(self._model.device))
        self._embeds += zip(outputs.image_embeds.float().cpu(), outputs.text_embeds.float().cpu(), strict=True)

    def compute(self) -> dict[str, Metric]:
        """`clip_score`, 0 to 100. The baseline is each drawing with the caption of another."""
        images, texts = zip(*self._embeds, strict=True)
        own, others = (
            [100 * torch.cosine_similarity(*pair, dim=0).item() for pair in zip(images, captions, strict=False)]
            for captions in (texts, shift(texts))
        )
        metric = average(own, unrelated=others)
        baselines = {name: max(value, 0.0) for name, value in metric.baselines.items()}
        return {"clip_score": Metric(max(metric.value, 0.0), metric.count, baselines=baselines)}


class FrechetScorer:
    """
    How far the distribution of drawings is from that of pictures, in the features of a network.

    Args:
        features (`str` or `nn.Module`): See [`EvaluationSettings`].
        device (`torch.device`): Where it computes.

    Raises:
        ValueError: no such file.
        ImportError: torchmetrics is not installed.
    """

    def __init__(self, features: str | nn.Module, device: torch.device):
        try:
            from torchmetrics.image.fid import FrechetInceptionDistance
        except ImportError as error:
            raise ImportError("fid_features needs torchmetrics: pip install 'lavit-hf[evaluate]'.") from error
        network = features if isinstance(features, nn.Module) else load_features(features)
        self._metric = FrechetInceptionDistance(feature=network.to(device)).to(device)

    @torch.no_grad()
    def update(self, drawings: Sequence[Image.Image], pictures: Sequence[Image.Image]) -> None:
        """Takes in drawings, and pictures as they should be."""
        for images, real in ((drawings, False), (pictures, True)):
            size, method = (FEATURE_SIZE, FEATURE_SIZE), Image.Resampling.BICUBIC
            resized = [np.asarray(image.resize(size, method)) for image in images]
            pixels = torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2)
            self._metric.update(pixels.to(self._metric.device), real=real)

    def compute(self) -> dict[str, Metric]:
        """`fid`, from 0. It needs far more pictures than features to mean anything, and always many."""
        return {"fid": Metric(float(self._metric.compute()), int(self._metric.fake_features_num_samples))}


def load_features(path: str) -> nn.Module:
    """
    A network that TorchScript saved. Such a file is a program: load only what you trust.

    Raises:
        ValueError: no such file, or another kind of file.
    """
    if not Path(path).is_file():
        raise ValueError(f"fid_features must be the file of a saved network: there is no file {path}.")
    try:
        return torch.jit.load(path, map_location="cpu").eval()
    except RuntimeError as error:
        raise ValueError(f"fid_features must be a file that TorchScript saved, {path} is none.") from error


__all__ = ["ClipScorer", "FrechetScorer", "load_features"]
