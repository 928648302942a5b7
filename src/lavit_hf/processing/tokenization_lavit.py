# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The vocabulary of LaVIT: a text tokenizer, then the marks of an image, its codes, and its placeholder."""

import copy

from tokenizers import AddedToken, pre_tokenizers
from transformers import PreTrainedTokenizerBase, TokenizersBackend


IMAGE_START_TOKEN = "[IMG]"
IMAGE_END_TOKEN = "[/IMG]"
IMAGE_TOKEN = "<image>"
CODE_TOKEN = r"<code_\d+>"  # a regular expression of the names of codes


def code_token(code: int) -> str:
    """The token string of a code, 0..codebook_size-1."""
    return f"<code_{code}>"


def extend_tokenizer(
    tokenizer: PreTrainedTokenizerBase, codebook_size: int, image_start_token_id: int | None = None
) -> TokenizersBackend:
    """
    Makes a LaVIT tokenizer out of a text tokenizer, which stays as it is (arXiv 2309.04669, section 3.2).

    The new tokens come after all others, in this order: `[IMG]`, `[/IMG]`, `<code_0>` to `<code_{codebook_size-1}>`,
    `<image>`. In the release (Llama-2, 16384 codes) they are 32000, 32001, 32002..48385 and 48386. All are special
    tokens: `split_special_tokens=True` takes their names as text, and `skip_special_tokens=True` leaves them out. The
    marks and the placeholder are `image_start_token`, `image_end_token` and `image_token`.

    Text after a mark or a code gets the ids it has when it is tokenized alone, as the authors tokenized every piece of
    a prompt on its own. A missing pad token becomes the unknown token, or else the end of sequence.

    Args:
        tokenizer (`PreTrainedTokenizerBase`):
            A tokenizer of transformers that runs on the `tokenizers` library. Its chat template is not kept.
        codebook_size (`int`): The number of codes.
        image_start_token_id (`int`, *optional*):
            The id of `[IMG]`, which is the number of rows that the language model's embeddings have for text. If it is
            larger than the tokenizer, reserved tokens `<reserved_0>`, ... fill the gap.

    Returns:
        `TokenizersBackend`: A tokenizer that `AutoTokenizer` saves and loads.

    Raises:
        ValueError: If the tokenizer has no `tokenizers` backend, holds one of the new tokens already, reaches beyond
            `image_start_token_id`, or has neither pad, unknown nor end-of-sequence token.
    """
    if not isinstance(tokenizer, TokenizersBackend):
        raise ValueError(f"{type(tokenizer).__name__} does not run on the `tokenizers` library, which LaVIT needs.")
    if codebook_size < 1:
        raise ValueError(f"codebook_size is {codebook_size}; expected at least 1.")
    text_size = max(tokenizer.get_vocab().values()) + 1
    if image_start_token_id is None:
        image_start_token_id = text_size
    if image_start_token_id < text_size:
        raise ValueError(
            f"image_start_token_id is {image_start_token_id}, but the tokenizer uses the ids up to {text_size - 1}."
        )
    names = [f"<reserved_{k}>" for k in range(image_start_token_id - text_size)]
    names += [IMAGE_START_TOKEN, IMAGE_END_TOKEN, *map(code_token, range(codebook_size)), IMAGE_TOKEN]
    backend = copy.deepcopy(tokenizer.backend_tokenizer)
    backend.no_padding()  # the last call of the tokenizer left its settings there
    backend.no_truncation()
    backend.add_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    for token_id, name in enumerate(names, text_size):
        if backend.token_to_id(name) != token_id:
            raise ValueError(
                f"{name!r} cannot have id {token_id}: the tokenizer holds it already, or the ids of its vocabulary "
                "have gaps."
            )
    # With "first", text after a mark would lack the leading space that it has at the start of a string.
    metaspace = backend.pre_tokenizer
    if isinstance(metaspace, pre_tokenizers.Metaspace) and metaspace.prepend_scheme == "first":
        backend.pre_tokenizer = pre_tokenizers.Metaspace(metaspace.replacement, "always", metaspace.split)
    # The plain backend class is loaded from tokenizer.json as it is. Model classes rebuild their pipeline when they
    # load, from settings that they do not all save: LlamaTokenizer forgets `legacy`, and with it the leading spaces.
    named_tokens = {
        **tokenizer.special_tokens_map,
        "pad_token": tokenizer.pad_token or tokenizer.unk_token or tokenizer.eos_token,
        "image_start_token": IMAGE_START_TOKEN,
        "image_end_token": IMAGE_END_TOKEN,
        "image_token": IMAGE_TOKEN,
    }
    if named_tokens["pad_token"] is None:
        raise ValueError("The tokenizer has no token to pad with: set `tokenizer.pad_token` first.")
    return TokenizersBackend(
        tokenizer_object=backend,
        extra_special_tokens=tokenizer.extra_special_tokens,
        padding_side="left",
        truncation_side=tokenizer.truncation_side,
        model_max_length=tokenizer.model_max_length,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=tokenizer.clean_up_tokenization_spaces,
        **named_tokens,
    )


def check_tokenizer(tokenizer: PreTrainedTokenizerBase):
    """Raises a ValueError if `tokenizer` does not have the layout that [`extend_tokenizer`] gives."""
    for name in ("image_start_token", "image_end_token", "image_token"):
        if getattr(tokenizer, name, None) is None:
            raise ValueError(f"The tokenizer has no `{name}`: make it with `extend_tokenizer`.")
    start, end, last = (tokenizer.image_start_token_id, tokenizer.image_end_token_id, tokenizer.image_token_id)
    codebook_size = last - end - 1
    codes = tokenizer.convert_ids_to_tokens([end + 1, last - 1])
    if end != start + 1 or codes != [code_token(0), code_token(codebook_size - 1)]:
        raise ValueError(
            f"The tokenizer has {tokenizer.image_start_token} at {start}, {tokenizer.image_end_token} at {end}, "
            f"{tokenizer.image_token} at {last} and {codes} at the ends of the codes; expected "
            f"{IMAGE_START_TOKEN}, {IMAGE_END_TOKEN}, {code_token(0)}, ..., {IMAGE_TOKEN} without gaps."
        )
