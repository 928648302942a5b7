# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
import pytest
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, TokenizersBackend

from lavit_hf.processing import LavitProcessor


CODEBOOK_SIZE = 8


@pytest.fixture(scope="session")
def golden_images(golden_folder) -> list[Image.Image]:
    return [Image.open(golden_folder / f"image_{i}.png") for i in range(4)]


@pytest.fixture(scope="session")
def release_text_tokenizer(golden_folder) -> PreTrainedTokenizerBase:
    """The release's language model folder: a sentencepiece file and no tokenizer.json."""
    return AutoTokenizer.from_pretrained(golden_folder / "checkpoint" / "language_model")


@pytest.fixture(scope="session")
def release_processor(release_text_tokenizer) -> LavitProcessor:
    return LavitProcessor.from_backbones(
        text=release_text_tokenizer, codebook_size=16384, image_start_token_id=32000, image_size=112
    )


@pytest.fixture(scope="session")
def byte_level_tokenizer() -> TokenizersBackend:
    """A small tokenizer of the GPT-2 and Qwen kind: no unknown token, no added space, an end of sequence."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, special_tokens=["<|end|>"])
    tokenizer.train_from_iterator(["a photo of a dog", "a red circle on a blue square"], trainer)
    return TokenizersBackend(tokenizer_object=tokenizer, eos_token="<|end|>")


@pytest.fixture(scope="session")
def processor(byte_level_tokenizer) -> LavitProcessor:
    return LavitProcessor.from_backbones(text=byte_level_tokenizer, codebook_size=CODEBOOK_SIZE, image_size=16)


@pytest.fixture(scope="session")
def images() -> list[Image.Image]:
    """Images that can be told apart by `pixel_values[i, 0, 0, 0]`, which grows with i."""
    return [Image.new("RGB", (9, 5), (40 * i, 0, 0)) for i in range(5)]
