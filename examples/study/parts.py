# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Makes the parts that rows share: a text tokenizer, visual tokenizers, their codes, and pixel decoders."""

import hashlib
import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import yaml
from diffusers import AutoencoderKL
from pretrain import list_texts, train_text_tokenizer
from transformers import AutoImageProcessor

from lavit_hf import LavitVisualTokenizer, demo_checkpoint
from lavit_hf.data.precompute import precompute_codes
from lavit_hf.publishing.files import replacing
from lavit_hf.training import load_mixture

from .budgets import BASE
from .json_files import fingerprint, keep_recipe
from .tuning import Tuning


# The visual tokenizer of each kind of selection, by the flags that make it.
TOKENIZERS = {
    "dynamic": [],
    "all": ["--num_codes", "all", "--freeze_selector_from", "0"],
    "fixed": [],  # with --num_codes, the mean of the dynamic one
    "dropped": ["--drop_patches", "true"],
    "random": ["--random_budgets", "true"],
}
NUM_COUNTED_IMAGES = 512  # of which the mean number of codes is taken


@dataclass(frozen=True)
class Paths:
    """
    The folders of a study.

    Args:
        runs (`Path`): The folder of trained models.
        results (`Path`): The folder of results.
    """

    runs: Path
    results: Path

    def tokenizer(self, kind: str) -> Path:
        return self.runs / "tokenizers" / kind

    def decoder(self, kind: str) -> Path:
        return self.runs / "decoders" / kind

    def codes(self, kind: str) -> Path:
        return self.runs / "codes" / kind

    @property
    def text_tokenizer(self) -> Path:
        return self.runs / "text_tokenizer"

    def row(self, row: str, seed: int) -> Path:
        return self.results / f"{row}-seed{seed}.json"

    @property
    def dial(self) -> Path:
        return self.results / "dial.json"


class Parts(Tuning):
    """
    Makes the parts of a study. What is there is checked and kept.

    Attributes:
        paths ([`Paths`]): The folders.
    """

    paths: Paths

    def make_parts(self, kind: str) -> None:
        """Trains a visual tokenizer, precomputes the codes of all rows, and trains a pixel decoder on them."""
        self.train_tokenizer(kind)
        with self.lock:  # it uses all cores
            self.compute_codes(kind)
        self.train_decoder(kind)

    def make_text_tokenizer(self) -> None:
        """Trains the text tokenizer of all rows on the sequences of LaVIT, which have all kinds of text."""
        study, sequences, data, args = self.arguments(BASE, 0, self.paths.runs / "unused")
        recipe = {name: str(value) for name, value in {**vars(data), **vars(sequences)}.items()}
        keep_recipe(self.paths.text_tokenizer.with_suffix(".json"), recipe | {"size": study.text_vocab_size})
        if (self.paths.text_tokenizer / "tokenizer_config.json").exists():
            return
        rows, _ = load_mixture(data, sequences, args)
        tokenizer = train_text_tokenizer(list_texts(rows), study.text_vocab_size, lowercase=True)
        with replacing(self.paths.text_tokenizer) as folder:
            tokenizer.save_pretrained(folder)

    def shipped_part(self, recipe: str, name: str) -> list[str]:
        """
        Returns the flag of a part of the model that ships with the library, and writes it into a folder of its own if
        it is not there. A recipe that names another part keeps it.
        """
        if not recipe or _read_recipe(recipe).get(name) != f"runs/study/{name}":
            return []
        place = self.paths.runs / name
        if not (place / "config.json").exists():
            with replacing(place) as folder:
                if name == "vae":
                    AutoencoderKL.from_pretrained(demo_checkpoint(), subfolder="vae").save_pretrained(folder)
                else:
                    AutoImageProcessor.from_pretrained(demo_checkpoint()).save_pretrained(folder)
                    tokenizer = LavitVisualTokenizer.from_pretrained(demo_checkpoint(), dtype="float32")
                    tokenizer.vision_tower.save_pretrained(folder)
        return [f"--{name}", str(place)]

    def train_tokenizer(self, kind: str) -> None:
        options, folder = self.options, self.paths.tokenizer(kind)
        flags = [*_recipe(options.tokenizer_recipe), *TOKENIZERS[kind], "--output_dir", str(folder)]
        flags += self.shipped_part(options.tokenizer_recipe, "vision_tower")
        if kind == "fixed":
            flags += ["--num_codes", str(self.mean_codes())]
        flags += [*options.common, *options.tokenizer]
        self.train_part("study.train_tokenizer", folder, flags, self.shared_recipe("visual_tokenizer"))

    def train_decoder(self, kind: str) -> None:
        options, folder, tokenizer = self.options, self.paths.decoder(kind), self.paths.tokenizer(kind)
        flags = [*_recipe(options.decoder_recipe), "--visual_tokenizer", str(tokenizer), "--output_dir", str(folder)]
        flags += self.shipped_part(options.decoder_recipe, "vae")
        flags += [*options.common, *options.decoder]
        if not options.no_codes:  # so that the visual tokenizer need not run in each step
            flags += ["--dataset_name", str(self.paths.codes(kind))]
        self.train_part("train_image_decoder", folder, flags, self.shared_recipe("image_decoder"))

    def shared_recipe(self, part: str) -> str:
        """Returns a checksum of what all visual tokenizers, or pixel decoders, of the study are trained by."""
        options = self.options
        path, own = {
            "visual_tokenizer": (options.tokenizer_recipe, options.tokenizer),
            "image_decoder": (options.decoder_recipe, options.decoder),
        }[part]
        recipe = _read_recipe(path) if path else {}
        return hashlib.sha256(json.dumps([recipe, options.common, own]).encode()).hexdigest()[:16]

    def train_part(self, module: str, folder: Path, flags: list[str], shared: str) -> None:
        """Trains a part that is missing."""
        contents = [Path(flag).read_text(encoding="utf-8") for flag in flags[:1] if not flag.startswith("--")]
        recipe = {"module": module, "flags": flags, "recipe": contents, "shared": shared}
        recipe["parts"] = _given_parts(flags, contents)
        keep_recipe(folder.with_suffix(".json"), recipe)
        if not (folder / "README.md").exists():
            self.run(module, flags)

    def compute_codes(self, kind: str) -> None:
        """
        Precomputes the codes of the images that rows train on, and of those that pixel decoders are evaluated on. All
        rows read them, since images that were rendered or decoded once are read faster. What is complete is kept.
        """
        if self.options.no_codes:
            return
        tokenizer = LavitVisualTokenizer.from_pretrained(self.paths.tokenizer(kind))
        processor = AutoImageProcessor.from_pretrained(self.paths.tokenizer(kind))
        _, sequences, data, _ = self.arguments(BASE, 0, self.paths.runs / "unused")
        for rows in filter(None, data.load()):
            columns = [
                name for name in (data.image_column, sequences.edited_image_column) if name in rows.column_names
            ]
            precompute_codes(rows, self.paths.codes(kind), tokenizer, processor, image_columns=columns)

    def mean_codes(self) -> int:
        """Returns the mean number of codes of the dynamic visual tokenizer, rounded, over held-out images."""
        folder = self.paths.tokenizer("dynamic")
        _, _, data, _ = self.arguments(BASE, 0, self.paths.runs / "unused")
        _, rows = data.load_images()
        images = [rows[index][data.image_column] for index in range(min(NUM_COUNTED_IMAGES, len(rows)))]
        pixel_values = AutoImageProcessor.from_pretrained(folder)(images, return_tensors="pt")["pixel_values"]
        tokens = LavitVisualTokenizer.from_pretrained(folder).tokenize_images(pixel_values)
        return round(tokens.num_codes.float().mean().item())


def _recipe(path: str) -> list[str]:
    return [path] if path else []


def _read_recipe(path: str) -> dict:
    return yaml.safe_load(Path(path).read_text(encoding="utf-8"))


def _given_parts(flags: list[str], contents: list[str]) -> dict[str, str | None]:
    """Returns the checksums of the parts that a recipe and flags name."""
    named = yaml.safe_load(contents[0]) if contents else {}
    named |= {name.removeprefix("--"): value for name, value in pairwise(flags) if name.startswith("--")}
    return {name: fingerprint(named[name]) for name in ("vision_tower", "vae", "visual_tokenizer") if name in named}
