# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
CLIP score (Hessel et al., arXiv 2104.08718) and Fréchet distance (Heusel et al., arXiv 1706.08500) of drawings, by
networks from local files.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance
from transformers import AutoModel, AutoProcessor

from .metrics import Metric, average


FEATURE_SIZE = (299, 299)  # the input size of the Inception network of published distances


class ClipScorer:
    """
    Computes 100 times the mean cosine of the embeddings of drawings and their captions. `CLIPScore` of torchmetrics
    does not work with the outputs of transformers 5, and cuts off the end token of long captions.

    Args:
        folder (`str`): The folder of a CLIP model with its processor.
        device (`torch.device`): The device to compute on.

    Raises:
        ValueError: If there is no such folder, or its model does not embed images and texts.
    """

    def __init__(self, folder: str, device: torch.device):
        if not Path(folder).is_dir():
            raise ValueError(f"clip_model must be the folder of a saved CLIP model: there is no folder {folder}.")
        self._processor = AutoProcessor.from_pretrained(folder)
        self._model = AutoModel.from_pretrained(folder).to(device).eval()
        if not hasattr(self._model, "get_text_features"):
            raise ValueError(f"clip_model must be a CLIP model, {folder} holds a {type(self._model).__name__}.")
        self._embeds: list[tuple[torch.Tensor, torch.Tensor]] = []

    @torch.no_grad()
    def update(self, drawings: Sequence[Image.Image], captions: Sequence[str]) -> None:
        """Adds `drawings` and the `captions` that they should show."""
        inputs = self._processor(
            images=list(drawings),
            text=list(captions),
            return_tensors="pt",
            padding=True,
            truncation=True,
            max_length=self._model.config.text_config.max_position_embeddings,
        )
        outputs = self._model(**inputs.to(self._model.device))
        self._embeds.append((outputs.image_embeds.float().cpu(), outputs.text_embeds.float().cpu()))

    def compute(self) -> dict[str, Metric | None]:
        """
        Returns `clip_score` of all drawings since the last call. Its baseline pairs each drawing with the caption of
        another one.
        """
        images, texts = map(torch.cat, zip(*self._embeds, strict=True))
        self._embeds = []
        own, unrelated = (100 * torch.cosine_similarity(images, other) for other in (texts, texts.roll(-1, 0)))
        return {"clip_score": average(own.tolist(), unrelated=unrelated.tolist() if len(texts) > 1 else [])}


class FrechetScorer:
    """
    Computes the distance between the distributions of drawings and of the images of a dataset.

    Args:
        features (`str` or `nn.Module`): See [`EvaluationSettings`].
        device (`torch.device`): The device to compute on.

    Raises:
        ValueError: If there is no such file, or it was not saved by TorchScript.
    """

    def __init__(self, features: str | nn.Module, device: torch.device):
        network = features if isinstance(features, nn.Module) else load_features(features)
        self._metric = FrechetInceptionDistance(feature=network.to(device)).to(device)

    @torch.no_grad()
    def update(self, drawings: Sequence[Image.Image], images: Sequence[Image.Image]) -> None:
        """Adds `drawings`, and `images` of the dataset."""
        for added, real in ((drawings, False), (images, True)):
            resized = np.stack([np.asarray(image.resize(FEATURE_SIZE, Image.Resampling.BICUBIC)) for image in added])
            self._metric.update(torch.from_numpy(resized).permute(0, 3, 1, 2).to(self._metric.device), real=real)

    def compute(self) -> dict[str, Metric]:
        """
        Returns `fid` of all drawings since the last call. It is meaningful only for many more images than features.
        """
        metric = Metric(float(self._metric.compute()), int(self._metric.fake_features_num_samples))
        self._metric.reset()
        return {"fid": metric}


def load_features(path: str) -> nn.Module:
    """
    Loads a network that was saved by TorchScript. Such a file is a program: load only files that you trust.

    Raises:
        ValueError: If there is no such file, or it was not saved by TorchScript.
    """
    try:
        return torch.jit.load(path, map_location="cpu").eval()
    except RuntimeError as error:
        raise ValueError(f"fid_features must be a file that was saved by TorchScript, {path} is not.") from error
