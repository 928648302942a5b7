# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Makes the parts that rows share: a text tokenizer, visual tokenizers, their codes, and pixel decoders."""

import hashlib
import json
from dataclasses import dataclass
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
VECTORS = "vectors"  # the kind of the pixel decoder that takes the vectors of the dynamic visual tokenizer
# The conditions of pixel decoders that are not trained on precomputed codes.
CONDITIONS = {VECTORS: "vectors", "random": "any_length"}
GIVEN_PARTS = ("vision_tower", "vae", "visual_tokenizer")
NUM_MEAN_IMAGES = 512  # images whose mean number of codes is taken
# Arguments of sequences that the text tokenizer does not depend on.
NOT_TEXT = ("num_eval_rows", "eval_split", "supervise_images", "supervise_prompts", "image_inputs", "broken_images")


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
    Makes the parts of a study. Parts that are there are checked and kept.

    Attributes:
        paths ([`Paths`]): The folders.
    """

    paths: Paths

    def make_parts(self, kind: str) -> None:
        """
        Trains a visual tokenizer, precomputes the codes of all rows, and trains a pixel decoder on them. The kind
        `VECTORS`, whose visual tokenizer is there already, trains a pixel decoder on its vectors.
        """
        if kind != VECTORS:
            self.train_tokenizer(kind)
            with self.lock:  # it uses all cores
                self.compute_codes(kind)
        self.train_decoder(kind)

    def make_text_tokenizer(self) -> None:
        """Trains the text tokenizer of all rows on the sequences of LaVIT, which have all kinds of text."""
        study, sequences, data, args = self.arguments(BASE)
        folder = self.paths.text_tokenizer
        recipe = {name: str(value) for name, value in {**vars(data), **vars(sequences)}.items()}
        recipe |= {"size": study.text_vocab_size, "lowercase": study.lowercase}
        keep_recipe(folder.with_suffix(".json"), folder, recipe, NOT_TEXT)
        if (folder / "tokenizer_config.json").exists():
            return
        rows, _ = load_mixture(data, sequences, args)
        tokenizer = train_text_tokenizer(list_texts(rows), study.text_vocab_size, study.lowercase)
        with replacing(folder) as hidden:
            tokenizer.save_pretrained(hidden)

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
        options, folder = self.options, self.paths.decoder(kind)
        tokenizer = self.paths.tokenizer("dynamic" if kind == VECTORS else kind)
        flags = [*_recipe(options.decoder_recipe), "--visual_tokenizer", str(tokenizer), "--output_dir", str(folder)]
        flags += self.shipped_part(options.decoder_recipe, "vae")
        flags += [*options.common, *options.decoder]
        module = "train_image_decoder"
        if kind in CONDITIONS:
            module = "study.train_decoder"
            flags += ["--conditions", CONDITIONS[kind]]
        elif not options.no_codes:  # so that the visual tokenizer need not run in each step
            flags += ["--dataset_name", str(self.paths.codes(kind))]
        self.train_part(module, folder, flags, self.shared_recipe("image_decoder"))

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
        recipe = _merge_flags(flags)
        made = {name: fingerprint(recipe.pop(name)) for name in GIVEN_PARTS if name in recipe}
        for name in ("output_dir", "dataset_name"):  # the latter may be a folder of the study
            recipe[name] = Path(str(recipe.get(name))).name
        recipe |= {"module": module, "shared": shared, "parts": made}
        keep_recipe(folder.with_suffix(".json"), folder, recipe)
        if not (folder / "README.md").exists():
            self.run(module, flags)

    def check_codes(self) -> None:
        """Raises a `ValueError` if the codes of the dataset cannot be precomputed, before anything is run."""
        data = self.arguments(BASE)[2]
        splits = [str(split).partition("[")[0] for split in (data.train_split, data.eval_split)]
        whole = splits == [data.train_split, data.eval_split] and len({*splits}) == 2
        if self.options.no_codes or (whole and data.data_dir is None and data.dataset_config_name is None):
            return
        raise ValueError(
            "Codes are precomputed for whole splits of a dataset in one place, got "
            f"train_split={data.train_split!r}, eval_split={data.eval_split!r}, data_dir={data.data_dir!r} and "
            f"dataset_config_name={data.dataset_config_name!r}: give --no_codes."
        )

    def compute_codes(self, kind: str) -> None:
        """
        Precomputes the codes of the images that rows train on, and of those that pixel decoders are evaluated on. All
        rows read them, since images that were rendered or decoded once are read faster. Complete splits are kept.
        """
        if self.options.no_codes:
            return
        tokenizer = LavitVisualTokenizer.from_pretrained(self.paths.tokenizer(kind))
        processor = AutoImageProcessor.from_pretrained(self.paths.tokenizer(kind))
        _, sequences, data, _ = self.arguments(BASE)
        for rows in filter(None, data.load()):
            columns = [
                name for name in (data.image_column, sequences.edited_image_column) if name in rows.column_names
            ]
            precompute_codes(rows, self.paths.codes(kind), tokenizer, processor, image_columns=columns)

    def mean_codes(self) -> int:
        """Returns the mean number of codes of the dynamic visual tokenizer, rounded, over images of the training."""
        folder = self.paths.tokenizer("dynamic")
        _, _, data, _ = self.arguments(BASE)
        rows, _ = data.load_images()
        images = [rows[index][data.image_column] for index in range(min(NUM_MEAN_IMAGES, len(rows)))]
        pixel_values = AutoImageProcessor.from_pretrained(folder)(images, return_tensors="pt")["pixel_values"]
        tokens = LavitVisualTokenizer.from_pretrained(folder).tokenize_images(pixel_values)
        return round(tokens.num_codes.float().mean().item())


def _recipe(path: str) -> list[str]:
    return [path] if path else []


def _read_recipe(path: str) -> dict:
    return yaml.safe_load(Path(path).read_text(encoding="utf-8"))


def _merge_flags(flags: list[str]) -> dict:
    """Returns the recipe that flags begin with, with the values of the flags after it."""
    recipe = _read_recipe(flags[0]) if not flags[0].startswith("--") else {}
    given: dict[str, list[str]] = {}
    for word in flags:
        if word.startswith("--"):
            values = given[word.removeprefix("--")] = []
        elif given:
            values.append(word)
    return recipe | {name: values[0] if len(values) == 1 else values for name, values in given.items()}
