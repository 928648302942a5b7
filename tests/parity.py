# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The largest difference to each number that the authors' code computes, on a tiny checkpoint in their layout.

    python -m tests.parity

converts `tests/goldens/checkpoint`, runs it in float32 on the CPU, prints a table and writes it as JSON.
`tests/test_parity.py` holds each line to its tolerance.
"""

import argparse
import functools
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import PIL
import torch
from diffusers.utils import logging as diffusers_logging
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModelForCausalLM, AutoProcessor
from transformers.utils import logging as transformers_logging

from lavit_hf import LavitImageDecoderPipeline
from lavit_hf.conversion import convert_official_checkpoint
from lavit_hf.modeling import select_patches
from lavit_hf.modeling.merger_lavit import PatchPartition


GOLDENS = Path(__file__).parent / "goldens"


class Goldens:
    """The results of the authors' code: `tensors` and `facts` by name, and the pictures they came from."""

    def __init__(self):
        self.tensors = load_file(GOLDENS / "goldens.safetensors")
        self.facts = json.loads((GOLDENS / "goldens.json").read_text())
        self.images = [Image.open(GOLDENS / f"image_{index}.png").convert("RGB") for index in range(4)]

    def keep_mask(self, kind: str) -> torch.Tensor:
        return self.tensors[f"keep_{kind}"].bool()


def convert(target: Path, **kwargs) -> Path:
    convert_official_checkpoint(GOLDENS / "checkpoint", target, num_attention_heads=4, **kwargs)
    return target


class Candidate:
    """A converted folder, loaded as a user would load it, with the way of selection the goldens were made with."""

    def __init__(self, folder: Path, goldens: Goldens):
        self.folder, self.goldens = folder, goldens
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.model.config.visual_tokenizer_config.selection = "argmax"
        self.processor = AutoProcessor.from_pretrained(folder, backend="pil")
        self.tokenizer = self.model.model.visual_tokenizer
        self.adapter = self.model.model.visual_adapter

    @functools.cached_property
    def pixel_values(self) -> torch.Tensor:
        return self.processor.image_processor(self.goldens.images, return_tensors="pt")["pixel_values"]

    @functools.cached_property
    def tokens(self):
        return self.tokenizer(self.goldens.tensors["pixel_values"])

    def pipeline(self, subfolder: str | None) -> LavitImageDecoderPipeline:
        pipeline = LavitImageDecoderPipeline.from_pretrained(self.folder, subfolder=subfolder)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def read(self, texts, **settings) -> list[list[int]]:
        """The logits for the four pictures, with `texts` behind each."""
        inputs = self.processor(text=[f"<image>{text}" for text in texts], images=self.goldens.images)
        inputs = inputs.convert_to_tensors("pt")
        inputs["pixel_values"] = self.goldens.tensors["pixel_values"]
        ids = self.model.generate(**inputs, **settings)
        return ids[:, -settings["max_new_tokens"] :].tolist()

    def draw(self, prompts, guidance_scale: float) -> list[list[int]]:
        inputs = self.processor(text=prompts, generation_mode="image", return_tensors="pt")
        return self.draw_from(guidance_scale, max_new_tokens=25, **inputs)

    def draw_from(self, guidance_scale: float, max_new_tokens: int, **inputs) -> list[list[int]]:
        """`[IMG]` and the codes, greedily."""
        ids = self.model.generate(
            **inputs,
            generation_mode="image",
            guidance_scale=guidance_scale,
            do_sample=False,
            min_new_tokens=9,
            max_new_tokens=max_new_tokens,
            return_full_text=False,
        )
        return ids.tolist()


def distance(actual: torch.Tensor, expected: torch.Tensor) -> float:
    if actual.shape != expected.shape:
        raise AssertionError(f"shapes differ: {tuple(actual.shape)} and {tuple(expected.shape)}")
    return (actual.double() - expected.double()).abs().max().item()


def mismatches(actual: list[list[int]], expected: list[list[int]]) -> float:
    """How many ids differ."""
    return float(
        sum(
            abs(len(a) - len(e)) + sum(x != y for x, y in zip(a, e, strict=False))
            for a, e in zip(actual, expected, strict=True)
        )
    )


@dataclass(frozen=True)
class Check:
    name: str
    tolerance: float
    measure: Callable[[Candidate, Goldens], float]


CHECKS: list[Check] = []


def check(name: str, tolerance: float, *args):
    """Lists the decorated measurement, once for each of `args`, which ends its name."""

    def register(measure):
        for arg in args or (None,):
            bound = measure if arg is None else functools.partial(measure, arg)
            CHECKS.append(Check(name if arg is None else f"{name} {arg}", tolerance, bound))
        return measure

    return register


# The goldens' pictures were resized by Pillow 13. Earlier ones filter a tall picture's axes in the other order.
PILLOW_TOLERANCE = 1e-5 if int(PIL.__version__.partition(".")[0]) >= 13 else 0.08


@check("pixel_values, PIL", PILLOW_TOLERANCE)
def _(candidate, goldens):
    return distance(candidate.pixel_values, goldens.tensors["pixel_values"])


@check("pixel_values, torchvision", 0.06)
def _(candidate, goldens):
    processor = AutoImageProcessor.from_pretrained(candidate.folder, backend="torchvision")
    return distance(processor(goldens.images, return_tensors="pt")["pixel_values"], goldens.tensors["pixel_values"])


@check("vit_features", 1e-4)
def _(candidate, goldens):
    outputs = candidate.tokenizer.vision_tower(goldens.tensors["pixel_values"], output_hidden_states=[-1])
    return distance(outputs.hidden_states[-1], goldens.tensors["vit_features"])


@check("selector_log_probs", 1e-5)
def _(candidate, goldens):
    return distance(candidate.tokens.selector_log_probs, goldens.tensors["selector_log_probs"])


@check("keep_argmax, differing patches", 0)
def _(candidate, goldens):
    return (candidate.tokens.keep_mask != goldens.keep_mask("argmax")).sum().item()


@check("keep_gumbel given the noise, differing patches", 0)
def _(candidate, goldens):
    noise = goldens.tensors["gumbel_noise"]
    keep_mask = select_patches(candidate.tokens.selector_log_probs + noise, "argmax")
    return (keep_mask != goldens.keep_mask("gumbel")).sum().item()


def _merge(candidate, goldens, which: str, kind: str, dense: bool) -> torch.Tensor:
    merger = candidate.tokenizer.merger if which == "generation" else candidate.adapter.merger
    keep_mask = goldens.keep_mask(kind)
    if dense:
        return merger(candidate.tokens.vision_features, policy=keep_mask.float())[keep_mask]
    return merger(candidate.tokens.vision_features, PatchPartition(keep_mask))


MERGES = ("generation_merged_argmax", "generation_merged_gumbel", "understanding_merged_argmax")
MERGES += ("understanding_merged_gumbel",)


@check("dense", 1e-4, *MERGES)
def _(name, candidate, goldens):
    which, _, kind = name.split("_")
    expected = goldens.tensors[name][goldens.keep_mask(kind)]
    return distance(_merge(candidate, goldens, which, kind, dense=True), expected)


@check("packed against dense", 1e-3, *MERGES)
def _(name, candidate, goldens):
    which, _, kind = name.split("_")
    dense = _merge(candidate, goldens, which, kind, dense=True)
    return distance(_merge(candidate, goldens, which, kind, dense=False), dense)


@check("quantized", 1e-6, "argmax", "gumbel")
def _(kind, candidate, goldens):
    outputs = candidate.tokenizer(goldens.tensors["pixel_values"], keep_mask=goldens.keep_mask(kind))
    return distance(outputs.quantized, goldens.tensors[f"quantized_{kind}"])


@check("visual ids, packed,", 0, "argmax", "gumbel")
def _(kind, candidate, goldens):
    outputs = candidate.tokenizer(goldens.tensors["pixel_values"], keep_mask=goldens.keep_mask(kind))
    offset = candidate.model.config.visual_token_offset
    ids = [(codes + offset).tolist() for codes in outputs.split()]
    return mismatches(ids, goldens.facts[f"visual_ids_{kind}"])


@check("visual ids, dense,", 0, "argmax", "gumbel")
def _(kind, candidate, goldens):
    codes, _, _ = candidate.tokenizer.quantizer(_merge(candidate, goldens, "generation", kind, dense=True))
    counts = goldens.keep_mask(kind).sum(-1).tolist()
    ids = [(row + candidate.model.config.visual_token_offset).tolist() for row in codes.split(counts)]
    return mismatches(ids, goldens.facts[f"visual_ids_{kind}"])


@check("understanding_embeds", 1e-3, "argmax", "gumbel")
def _(kind, candidate, goldens):
    partition = PatchPartition(goldens.keep_mask(kind))
    embeds = candidate.adapter(candidate.tokens.vision_features, partition)
    expected = [goldens.tensors[f"understanding_embeds_{kind}_{index}"] for index in range(4)]
    return distance(embeds, torch.cat(expected))


def _prefix(candidate, goldens):
    inputs = candidate.processor(text=["<image>"] * 4, images=goldens.images, return_tensors="pt")
    inputs["pixel_values"] = goldens.tensors["pixel_values"]
    return candidate.model.model.expand_images(**inputs)


@check("understanding_prefix_embeds", 1e-3)
def _(candidate, goldens):
    mask = goldens.tensors["understanding_prefix_mask"].bool()
    expected = goldens.tensors["understanding_prefix_embeds"]
    return distance(_prefix(candidate, goldens).inputs_embeds[mask], expected[mask])


@check("understanding_prefix_mask, differing positions", 0)
def _(candidate, goldens):
    expected = goldens.tensors["understanding_prefix_mask"]
    return distance(_prefix(candidate, goldens).attention_mask, expected)


@check("caption_first_logits", 5e-3)
def _(candidate, goldens):
    sequences = _prefix(candidate, goldens)
    logits = candidate.model(
        inputs_embeds=sequences.inputs_embeds, attention_mask=sequences.attention_mask, logits_to_keep=1
    ).logits[:, -1]
    # The authors' vocabulary has no image placeholder.
    return distance(logits[:, : candidate.model.config.image_token_id], goldens.tensors["caption_first_logits"])


# The goldens begin with a BOS that the authors' library put there.
@check("caption ids, beams", 0, 1, 2)
def _(num_beams, candidate, goldens):
    ids = candidate.read([""] * 4, num_beams=num_beams, min_new_tokens=4, max_new_tokens=12)
    return mismatches(ids, [row[1:] for row in goldens.facts[f"caption_ids_beams{num_beams}"]])


@check("prompted caption ids", 0)
def _(candidate, goldens):
    ids = candidate.read([goldens.facts["caption_prompt"]] * 4, min_new_tokens=4, max_new_tokens=12)
    return mismatches(ids, [row[1:] for row in goldens.facts["caption_prompt_ids"]])


@check("VQA ids, beams", 0, 1, 5)
def _(num_beams, candidate, goldens):
    prompts = [candidate.processor.vqa_prompt.format(question=question) for question in goldens.facts["questions"]]
    ids = candidate.read(
        prompts,
        num_beams=num_beams,
        min_new_tokens=2,
        max_new_tokens=8,
        length_penalty=0.0,
        early_stopping=num_beams > 1,
    )
    return mismatches(ids, [row[1:] for row in goldens.facts[f"vqa_ids_beams{num_beams}"]])


@check("drawing ids in a batch, guidance", 0, 1.0, 3.0)
def _(guidance_scale, candidate, goldens):
    ids = candidate.draw(goldens.facts["t2i_prompts"], guidance_scale)
    return mismatches(ids, goldens.facts[f"t2i_ids_cfg{guidance_scale}"])


@check("drawing ids one by one, guidance", 0, 1.0, 3.0)
def _(guidance_scale, candidate, goldens):
    ids = [candidate.draw([prompt], guidance_scale)[0] for prompt in goldens.facts["t2i_prompts"]]
    return mismatches(ids, goldens.facts[f"t2i_ids_single_cfg{guidance_scale}"])


@check("drawing ids, multimodal prompt, guidance 3.0", 0)
def _(candidate, goldens):
    expected = goldens.facts["multimodal_ids_cfg3.0"]
    prompt = torch.tensor([goldens.facts["multimodal_prompt_ids"]])
    ids = candidate.draw_from(3.0, max_new_tokens=len(expected[0]), input_ids=prompt)
    return mismatches(ids, expected)


@check("drawing ids, the same prompt from pixels", 0)
def _(candidate, goldens):
    expected = goldens.facts["multimodal_ids_cfg3.0"]
    words = [token for token in goldens.facts["multimodal_prompt_ids"] if token < 32000]
    text = candidate.processor.tokenizer.decode(words)
    inputs = candidate.processor(
        text=f"<image>{text}", images=goldens.images[0], generation_mode="image", return_tensors="pt"
    )
    inputs["pixel_values"] = goldens.tensors["pixel_values"][:1]
    return mismatches(candidate.draw_from(3.0, max_new_tokens=len(expected[0]), **inputs), expected)


@check("pixel decoder,", 1e-4, "lowres_prompt_embeds", "highres_prompt_embeds", "highres_pooled_prompt_embeds")
def _(name, candidate, goldens):
    kind, _, field = name.partition("_")
    pipeline = candidate.pipeline("lowres_decoder" if kind == "lowres" else None)
    embeds = pipeline.encode_image_tokens(goldens.facts["visual_ids_argmax"], vocabulary_ids=True)
    return distance(embeds[field == "pooled_prompt_embeds"], goldens.tensors[name])


@check("pixel decoder,", 2e-3, "lowres_image", "highres_image")
def _(name, candidate, goldens):
    kind = name.removesuffix("_image")
    pipeline = candidate.pipeline("lowres_decoder" if kind == "lowres" else None)
    images = pipeline(
        image_tokens=goldens.facts["visual_ids_argmax"],
        vocabulary_ids=True,
        num_inference_steps=4,
        guidance_scale={"lowres": 5.0, "highres": 7.0}[kind],
        latents=goldens.tensors["latents"],
        output_type="pt",
    ).images
    return distance(images.permute(0, 2, 3, 1), goldens.tensors[name])


def main() -> None:
    sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
    from figures import Figure, add_output, report

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_output(parser)
    args = parser.parse_args()
    transformers_logging.disable_progress_bar()
    diffusers_logging.disable_progress_bar()
    goldens = Goldens()
    figures, failed = [], []
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        candidate = Candidate(convert(Path(folder) / "converted"), goldens)
        for item in CHECKS:
            error = item.measure(candidate, goldens)
            failed += [item.name] * (error > item.tolerance)
            figures += [Figure(item.name, error, "largest error"), Figure(item.name, item.tolerance, "tolerance")]
    report(args, "Against the authors' code, in float32", {"parity": figures})
    if failed:
        sys.exit(f"Beyond the tolerance: {'; '.join(failed)}.")


if __name__ == "__main__":
    main()
