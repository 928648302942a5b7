# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""CLIP score and Fréchet distance with small networks from local files."""

import numpy as np
import pytest
import torch
from torchmetrics.functional.multimodal import clip_score
from transformers import CLIPModel, CLIPProcessor

from lavit_hf.evaluation import evaluate
from lavit_hf.evaluation.fidelity import ClipScorer, FrechetScorer
from lavit_hf.evaluation.subject import Subject

from ..tiny import Colors, save_clip


pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return str(save_clip(tmp_path_factory.mktemp("clip")))


def test_clip_score_is_that_of_torchmetrics(clip_folder, rows):
    images, captions = [row["image"] for row in rows[:8]], ["a red circle", "a large blue star at the top"] * 4

    class Pooled(CLIPModel):  # torchmetrics expects what these returned before transformers 5
        def get_image_features(self, *args):
            return super().get_image_features(*args).pooler_output

        def get_text_features(self, *args):
            return super().get_text_features(*args).pooler_output

    def load():
        return Pooled.from_pretrained(clip_folder).eval(), CLIPProcessor.from_pretrained(clip_folder)

    scorer = ClipScorer(clip_folder, CPU)
    scorer.update(images[:5], captions[:5])
    scorer.update(images[5:], captions[5:])
    metric = scorer.compute()["clip_score"]
    pixels = [torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images]
    with torch.no_grad():
        expected, unrelated = (
            clip_score(pixels, texts, load).item() for texts in (captions, captions[1:] + captions[:1])
        )
    # torchmetrics shows a negative mean as 0.
    assert max(metric.value, 0) == pytest.approx(expected, abs=1e-3)
    assert max(metric.baselines["unrelated"], 0) == pytest.approx(unrelated, abs=1e-3)
    assert max(expected, unrelated) > 1
    scorer.update(images[:1], ["a red circle " * 20])  # longer than the text tower


def test_frechet_distance(rows):
    images, others = [row["image"] for row in rows[:20]], [row["image"] for row in rows[20:40]]
    scorer, same = FrechetScorer(Colors(), CPU), FrechetScorer(Colors(), CPU)
    scorer.update(others, images)
    same.update(images[:10], images[10:])
    same.update(images[10:], images[:10])
    means = [np.stack([np.asarray(p.resize((299, 299), 3)).mean((0, 1)) / 255 for p in ps]) for ps in (others, images)]
    (mu, sigma), (mu_real, sigma_real) = ((x.mean(0), np.cov(x, rowvar=False)) for x in means)
    root = np.sqrt(np.linalg.eigvals(sigma @ sigma_real)).real.sum()
    expected = ((mu - mu_real) ** 2).sum() + np.trace(sigma + sigma_real) - 2 * root
    metric = scorer.compute()["fid"]
    assert metric.value == pytest.approx(expected, rel=1e-3)
    assert metric.count == 20
    assert same.compute()["fid"].value == pytest.approx(0, abs=1e-5)


def test_a_network_from_a_file(rows, tmp_path):
    path, images = tmp_path / "network.pt", [row["image"] for row in rows]
    torch.jit.save(torch.jit.script(Colors()), path)
    distances = []
    for features in (str(path), Colors()):
        scorer = FrechetScorer(features, CPU)
        scorer.update(images[:5], images[5:12])
        distances.append(scorer.compute()["fid"].value)
    assert distances[0] == pytest.approx(distances[1])


def test_evaluate_with_both(demo, rows, clip_folder):
    plain = [{"image": row["image"], "caption": row["caption"]} for row in rows[:4]]
    settings = {"image_decoding": {"num_inference_steps": 1}, "clip_model": clip_folder, "fid_features": Colors()}
    report = evaluate(*demo, plain, tasks=["drawing", "reconstruction"], **settings)
    assert set(report.results["drawing"]) == {"num_codes", "clip_score", "fid"}
    assert set(report.results["reconstruction"]) == {"psnr", "ssim", "fid"}
    assert report.results["drawing"]["clip_score"].count == report.results["drawing"]["fid"].count == 4
    assert report.protocol["settings"]["fid_features"] == "Colors"
    report.to_json()


class Silent(Subject):
    """A model under evaluation that may not be asked for text."""

    def write(self, texts, images, max_new_tokens):
        raise AssertionError("a task has begun")


def test_mistakes_in_settings_of_images_are_told_before_texts_are_written(demo, rows, tmp_path):
    (tmp_path / "text.pt").write_text("no network")
    for settings, message in (
        ({"clip_model": str(tmp_path / "no-clip")}, "clip_model must be the folder"),
        ({"fid_features": str(tmp_path / "no.pt")}, "no.pt does not exist"),
        ({"fid_features": str(tmp_path / "text.pt")}, "text.pt is not"),
        ({"image_decoding": {"num_inference_steps": 0}}, "num_inference_steps"),
        ({"image_decoding": {"num_steps": 5}}, "num_steps"),
        ({"image_generation": {"guidance_scale": "much"}}, "guidance_scale"),
        ({"image_generation": {"guidance": 5}}, "guidance"),
        ({"plan_generation": {"temperatur": 1.0}}, "temperatur"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            evaluate(*demo, rows[:2], subject_class=Silent, **settings)
    with pytest.raises(ValueError, match="fid_features need at least 2 rows, got 1"):
        evaluate(*demo, rows[:1], subject_class=Silent, fid_features=Colors())
