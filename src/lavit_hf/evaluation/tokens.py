# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The number of tokens of images, and the use of the codebook."""

from collections.abc import Sequence

import torch
from torchmetrics.functional.regression import spearman_corrcoef

from ..visualization import code_perplexity, name_tokens, show_kept_patches
from .metrics import Metric
from .subject import Subject


def score_tokens(
    codes: Sequence[torch.LongTensor], num_patches: int, codebook_size: int, num_objects: Sequence[int] = ()
) -> dict[str, Metric]:
    """
    Describes the codes of images.

    Args:
        codes (`list[torch.LongTensor]`): The codes of each image.
        num_patches (`int`): The largest number of codes of an image.
        codebook_size (`int`): The number of different codes.
        num_objects (`list[int]`, *optional*): The number of objects in each image.

    Returns:
        `dict[str, Metric]`: `kept_fraction` and `kept_fraction_std`, the mean and the standard deviation of the share
        of patches that are kept; `codebook_usage`, the share of codes that occur; `codebook_perplexity`; and
        `objects_spearman`, the rank correlation of the numbers of objects and tokens, if both vary.
    """
    lengths, used = torch.tensor([float(len(image_codes)) for image_codes in codes]), torch.cat(list(codes))
    kept = lengths / num_patches
    metrics = {
        "kept_fraction": Metric(kept.mean().item(), len(codes)),
        "kept_fraction_std": Metric(kept.std(correction=0).item(), len(codes)),
        "codebook_usage": Metric(len(used.unique()) / codebook_size, len(used)),
        "codebook_perplexity": Metric(code_perplexity(used), len(used)),
    }
    objects = torch.tensor(num_objects, dtype=torch.float32)
    if len(objects.unique()) > 1 and len(lengths.unique()) > 1:
        metrics["objects_spearman"] = Metric(spearman_corrcoef(objects, lengths).item(), len(codes))
    return metrics


def evaluate_tokens(subject: Subject, rows: Sequence[dict]) -> dict[str, Metric]:
    """Encodes the image of each row."""
    codes, num_objects = [], []
    for first, batch in subject.batches(rows, "tokens"):
        images = subject.read_images(batch, first)
        outputs = subject.encode(images)
        codes += [image_codes.cpu() for image_codes in outputs.split()]
        num_objects += [len(row["scene"]) for row in batch if "scene" in row]
        kept = map(show_kept_patches, images, outputs.keep_mask)
        subject.show(images, kept, lines=[name_tokens(int(count)) for count in outputs.keep_mask.sum(1)])
    config = subject.model.config
    return score_tokens(codes, config.num_patches, config.codebook_size, num_objects)
