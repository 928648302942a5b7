# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The processor of LaVIT: text and images to token sequences and pixels, and token sequences back to segments."""

import itertools
import json
import operator
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, overload

import torch
from PIL import Image
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoTokenizer,
    BatchFeature,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.image_processing_utils import BaseImageProcessor
from transformers.image_utils import ImageInput
from transformers.processing_utils import (
    AudioKwargs,
    ImagesKwargs,
    ProcessingKwargs,
    ProcessorMixin,
    TextKwargs,
    VideosKwargs,
)
from transformers.utils import is_torchvision_available, logging
from transformers.utils.chat_template_utils import mark_control_tokens

from .chat_lavit import CHAT_TEMPLATE, VQA_PROMPT
from .image_processing_lavit import LavitImageProcessor, LavitImageProcessorPil
from .tokenization_lavit import CODE_TOKEN, ImageSegment, TextSegment, check_tokenizer, extend_tokenizer


logger = logging.get_logger(__name__)

# The characters that transformers' `mark_control_tokens` puts around a token that a user typed.
MARKED = re.compile("\U000f0000.*?\U000f0001", re.DOTALL)
UNMARKED = "(?<!\U000f0000)"


class LavitImagesKwargs(ImagesKwargs, total=False):
    """
    generation_mode (`"text"`, `"image"` or `"interleaved"`, *optional*, defaults to `"text"`):
        The `generation_mode` of `generate` that the prompt is for.
    image_markers (`bool`, *optional*):
        Whether images stand between `[IMG]` and `[/IMG]`. Defaults to the processor's `drawing_image_markers` in
        prompts of drawings, and to True in others.
    """

    generation_mode: Literal["text", "image", "interleaved"]
    image_markers: bool


class LavitProcessorKwargs(ProcessingKwargs, total=False):
    images_kwargs: LavitImagesKwargs


class LavitProcessor(ProcessorMixin):
    """
    Processor of LaVIT (arXiv 2309.04669).

    Args:
        image_processor (`BaseImageProcessor`):
            A [`LavitImageProcessor`], or another that gives `pixel_values` of the vision tower's size.
        tokenizer (`PreTrainedTokenizerBase`): A tokenizer with LaVIT's vocabulary, see [`extend_tokenizer`].
        chat_template (`str`, *optional*):
            Jinja template. By default, users' texts become questions, and images alone ask for a caption.
        drawing_image_markers (`bool`, *optional*, defaults to `True`):
            Whether images stand between `[IMG]` and `[/IMG]` also in prompts of drawings. The released model was
            trained to see them without these marks there.

    Attributes:
        visual_tokenizer ([`LavitVisualTokenizer`], *optional*):
            With a visual tokenizer, the processor gives each image one placeholder for each of its codes, so that the
            lengths of sequences are known before the model runs. It is not saved. Default: none, and one placeholder
            for each image, which the model expands.

    Raises:
        ValueError: the tokenizer lacks LaVIT's vocabulary.
    """

    valid_processor_kwargs = LavitProcessorKwargs
    text_kwargs = {"add_special_tokens": False, "padding": True}

    vqa_prompt = VQA_PROMPT
    visual_tokenizer: PreTrainedModel | None = None

    def __init__(
        self,
        image_processor: BaseImageProcessor,
        tokenizer: PreTrainedTokenizerBase,
        chat_template: str | None = None,
        drawing_image_markers: bool = True,
    ):
        check_tokenizer(tokenizer)
        self.drawing_image_markers = drawing_image_markers
        super().__init__(image_processor, tokenizer, chat_template=chat_template or CHAT_TEMPLATE)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        *args,
        visual_tokenizer: bool | PreTrainedModel = False,
        **kwargs,
    ) -> "LavitProcessor":
        """
        Loads a processor.

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`): Folder or repository of a LaVIT.
            visual_tokenizer (`bool` or [`LavitVisualTokenizer`], *optional*, defaults to `False`):
                True loads the visual tokenizer of the same folder or repository. `model.model.visual_tokenizer` is the
                one of a loaded model, on its device. With either, lengths are known before the model runs.
            args, kwargs: Same as in `ProcessorMixin.from_pretrained`.
        """
        processor = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        if visual_tokenizer is True:
            names = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")
            hub = {name: kwargs[name] for name in names if name in kwargs}
            config = AutoConfig.from_pretrained(pretrained_model_name_or_path, **hub)
            config = getattr(config, "visual_tokenizer_config", config)
            visual_tokenizer = AutoModel.from_pretrained(pretrained_model_name_or_path, config=config, **hub)
        if visual_tokenizer is not False:
            processor.visual_tokenizer = visual_tokenizer
        return processor

    @classmethod
    def from_backbones(
        cls,
        *,
        vision: str | os.PathLike | BaseImageProcessor | None = None,
        text: str | os.PathLike | PreTrainedTokenizerBase,
        codebook_size: int,
        image_start_token_id: int | None = None,
        image_size: int | dict[str, int] | None = None,
        image_mean: Sequence[float] | None = None,
        image_std: Sequence[float] | None = None,
        **kwargs,
    ) -> "LavitProcessor":
        """Builds the processor of a new LaVIT from its two backbones.

        Args:
            vision: Folder, repository or image processor of the vision backbone: the size, mean, deviation and
                resampling filter are taken from there where they are not given. None, or a place without an image
                processor, needs `image_size`; mean and deviation are then those of CLIP.
            text: Folder, repository or tokenizer of the language model.
            codebook_size, image_start_token_id: See [`extend_tokenizer`].
            image_size: Height and width of the square input, or `{"height": ..., "width": ...}`.
            image_mean, image_std: Of each channel, for values from 0 to 1.
            kwargs: `chat_template`, `drawing_image_markers`.

        Raises:
            ValueError: If no image size is known, and as [`extend_tokenizer`] does.
        """
        tokenizer = AutoTokenizer.from_pretrained(text) if isinstance(text, (str, os.PathLike)) else text
        image_processor = new_image_processor(vision, image_size, image_mean, image_std)
        return cls(image_processor, extend_tokenizer(tokenizer, codebook_size, image_start_token_id), **kwargs)

    def __call__(
        self,
        images: ImageInput | str | Path | Sequence | None = None,
        text: str | list[str] | None = None,
        **kwargs,
    ) -> BatchFeature:
        """
        Turns text and images into the inputs of [`LavitForCausalLM`].

        Args:
            images (an image, a list of images, or a list of lists of images, *optional*):
                A flat list is dealt out to the placeholders in order; a list of lists has one list for each text.
                Without text, a flat list stands for as many captions. See [`load_pictures`] for what an image may be.
            text (`str` or `list[str]`, *optional*):
                Texts with one `<image>` for each image. `[IMG]`, `[/IMG]` and the tokens of codes are what they name,
                unless `split_special_tokens=True`: pass what a person typed through [`~LavitProcessor.escape`].
            kwargs: `generation_mode`, `image_markers`, `return_tensors`, and all arguments of the tokenizer and the
                image processor.

        Returns:
            `BatchFeature` with `input_ids` and `attention_mask` (batch_size, sequence_length) int64, padded on the
            left, without tokens of begin and end. With images, `pixel_values` (num_images, 3, height, width) float32
            over the whole batch in reading order, and one placeholder for each image. With a `visual_tokenizer`, one
            placeholder for each code, and `vision_features` (num_images, num_patches, hidden_size) and `keep_mask`
            (num_images, num_patches) bool, with which the model does not run its vision tower again.

        Raises:
            ValueError: images and placeholders that do not match; an image or a text that cannot be used.
            TypeError: an unknown argument.
        """
        self._check_arguments(kwargs)
        has_images = images is not None and not (isinstance(images, list | tuple) and len(images) == 0)
        text = self._check_text(text, has_images, kwargs)
        kwargs["sanitize_control_tokens"] = text is not None and any(MARKED.search(sample) for sample in text)
        merged = self._merge_kwargs(tokenizer_init_kwargs=self.tokenizer.init_kwargs, **kwargs)
        text_kwargs = merged["text_kwargs"]
        on_request = ("return_mm_token_type_ids", "return_text_replacement_offsets")
        return_type_ids, return_offsets = (text_kwargs.pop(name, merged[name]) for name in on_request)

        images = [] if images is None else self._list_images(images, text)
        if text is None:
            text = [self.image_token * len(part) for part in images]
        self._check_placeholders(text, images)
        data: BatchFeature | dict = {}
        replacements: list[str] = []
        if any(images):
            data, replacements = self._replace_images(images, text, **merged["images_kwargs"])
        text, offsets = self.get_text_with_replacements(text, replacements)
        inputs = self.tokenizer(text, **text_kwargs)
        self._check_special_mm_tokens(text, inputs, modalities=["image"])
        if return_offsets:
            inputs["text_replacement_offsets"] = offsets
        if return_type_ids:
            inputs["mm_token_type_ids"] = self.create_mm_token_type_ids(inputs["input_ids"])
        inputs = BatchFeature(
            {**inputs, **data},
            tensor_type=text_kwargs.get("return_tensors"),
            skip_tensor_conversion=self.skip_tensor_conversion,
        )
        for name in ("input_ids", "attention_mask"):
            if torch.is_tensor(inputs.get(name)):
                inputs[name] = inputs[name].long()  # a batch of empty texts comes as float
        return inputs

    def escape(self, text: str) -> str:
        """
        Marks the special tokens in a text that a person typed, so that the processor takes them as plain text:
        `processor(text=f"<image>{processor.escape(typed)}", images=image)`. Chat templates do this by themselves.
        """
        return mark_control_tokens(text, self._special_tokens())

    def _special_tokens(self, image_token: bool = True) -> re.Pattern:
        """Matches the names of all special tokens, of the placeholder only on request."""
        names = {*self.tokenizer.all_special_tokens, self.image_start_token, self.image_end_token} - {self.image_token}
        patterns = [re.escape(name) for name in sorted(names, key=len, reverse=True)]
        if image_token:
            patterns.append(re.escape(self.image_token))
        return re.compile("|".join([*patterns, CODE_TOKEN]))

    def _check_text(self, text, has_images: bool, kwargs: dict) -> list[str] | None:
        """Checks texts, and marks special tokens in them where these are to be split."""
        if text is None:
            if not has_images:
                raise ValueError(f"{type(self).__name__} needs text or images, got neither.")
            return None
        texts = [text] if isinstance(text, str) else text
        if not (isinstance(texts, list | tuple) and texts and all(isinstance(sample, str) for sample in texts)):
            raise ValueError(f"text must be a string or a non-empty list of strings, got {str(text)[:100]!r}.")
        for index, sample in enumerate(texts):
            if surrogate := re.search("[\ud800-\udfff]", sample):
                raise ValueError(
                    f"Text {index} has a lone surrogate, {surrogate[0]!r}, at position {surrogate.start()}: it is no "
                    "valid Unicode."
                )
        split = kwargs.pop("split_special_tokens", None)
        split = self.tokenizer.split_special_tokens if split is None else split
        if not split:
            return list(texts)
        pattern = self._special_tokens(image_token=not has_images)
        return [mark_control_tokens(sample, pattern) for sample in texts]

    def _check_arguments(self, kwargs: dict) -> None:
        """Raises a `TypeError` for an argument that no processor of transformers, and no part of this one, has."""
        # Clients of many kinds of models pass the arguments of videos and of audio to all of them.
        kinds = (TextKwargs, LavitImagesKwargs, VideosKwargs, AudioKwargs, ProcessingKwargs)
        known = {name for kind in kinds for name in kind.__annotations__}
        known |= {*getattr(self.image_processor, "valid_kwargs", ImagesKwargs).__annotations__}
        known |= {"common_kwargs", "videos", "audio", "split_special_tokens"}
        if unknown := [name for name in kwargs if name not in known]:
            raise TypeError(f"{type(self).__name__} got an unexpected argument {unknown[0]!r}.")

    def apply_chat_template(self, conversation, chat_template: str | None = None, **kwargs):
        """
        Same as in `ProcessorMixin`. Special tokens that a message holds as text are plain text: images come in parts
        of type `"image"`.
        """
        conversation = _escape_messages(conversation, self._special_tokens())
        texts = json.dumps(conversation, default=str, ensure_ascii=False)
        if kwargs.get("return_assistant_tokens_mask") and (marked := MARKED.search(texts)):
            # transformers gives no offsets for texts in which some tokens are text.
            raise ValueError(
                f"return_assistant_tokens_mask does not go with messages that hold {marked[0][1:-1]!r} as text."
            )
        return super().apply_chat_template(conversation, chat_template, **kwargs)

    def to_dict(self, *args, **kwargs) -> dict:
        """Same as in `ProcessorMixin`, without the visual tokenizer, which is a model and is saved with it."""
        visual_tokenizer = self.__dict__.pop("visual_tokenizer", None)
        try:
            return super().to_dict(*args, **kwargs)
        finally:
            if visual_tokenizer is not None:
                self.visual_tokenizer = visual_tokenizer

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs) -> list[str]:
        """Saves image processor, tokenizer, chat template and settings; arguments as of `ProcessorMixin`."""
        files = super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)
        # Saving notes the place of the code in the processor itself, where a loaded processor has no such note.
        self.__dict__.pop("auto_map", None)
        # tokenizer.json holds all added tokens. Without this entry transformers copies every code out of there once
        # more when it loads the tokenizer, which then takes more than twice the time.
        path = Path(save_directory) / "tokenizer_config.json"
        config = {**json.loads(path.read_text(encoding="utf-8")), "added_tokens_decoder": {}}
        path.write_text(json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
        return files

    def __repr__(self) -> str:
        # The base shows the tokenizer with its added tokens, that is every code on a line of its own.
        return f"{type(self).__name__}(codebook_size={self.codebook_size}) {self.to_json_string()}"

    # Images into texts

    def _list_images(self, images, text: list[str] | None) -> list[list]:
        """Loads images, and returns one list of them for each text."""
        images = self.image_processor.fetch_images(images)
        images = images if isinstance(images, list) else [images]
        if text is None or any(isinstance(part, list) for part in images):
            return [part if isinstance(part, list) else [part] for part in images]
        counts = [self._count_placeholders(sample) for sample in text]
        if sum(counts) != len(images):
            raise ValueError(
                f"The texts have {sum(counts)} {self.image_token} placeholders, but {len(images)} images were given."
            )
        dealt = iter(images)
        return [list(itertools.islice(dealt, count)) for count in counts]

    def _count_placeholders(self, text: str) -> int:
        return len(re.findall(UNMARKED + re.escape(self.image_token), text))

    def _check_placeholders(self, text: list[str], images: list[list]) -> None:
        if images and len(images) != len(text):
            raise ValueError(f"Got {len(images)} lists of images for {len(text)} texts.")
        for index, sample in enumerate(text):
            num_images = len(images[index]) if images else 0
            num_placeholders = self._count_placeholders(sample)
            if num_placeholders != num_images:
                raise ValueError(
                    f"Text {index} has {num_placeholders} {self.image_token} placeholders, but {num_images} images "
                    "were given for it."
                )

    def _replace_images(
        self, images: list[list], text: list[str], generation_mode="text", image_markers: bool | None = None, **kwargs
    ) -> tuple[BatchFeature, list[str]]:
        """The model's inputs of images, and what replaces the placeholder of each image."""
        if image_markers is None:
            image_markers = self.drawing_image_markers or generation_mode != "image"
        start, end = (self.image_start_token, self.image_end_token) if image_markers else ("", "")
        processed = self.image_processor(images, **kwargs)
        counts = [1] * sum(len(part) for part in images)
        if self.visual_tokenizer is not None:
            counts = self._tokenize_images(processed)
        # Marks that a text has already are not written twice.
        marks = (re.escape(self.image_start_token), re.escape(self.image_end_token))
        placeholder = re.compile(f"({marks[0]})?{UNMARKED}{re.escape(self.image_token)}({marks[1]})?")
        found = [match for sample in text for match in placeholder.finditer(sample)]
        replacements = [
            ("" if match[1] else start) + self.image_token * count + ("" if match[2] else end)
            for match, count in zip(found, counts, strict=True)
        ]
        return processed, replacements

    @torch.no_grad()
    def _tokenize_images(self, processed: BatchFeature) -> list[int]:
        """Adds the vision features and kept patches of images to `processed`, and returns their numbers of codes."""
        pixel_values = processed["pixel_values"]
        if not torch.is_tensor(pixel_values):
            pixel_values = torch.stack([torch.as_tensor(image) for image in pixel_values])
        # The rest of the visual tokenizer runs in the model.
        features, keep_mask = self.visual_tokenizer.select_patches(pixel_values.to(self.visual_tokenizer.device))
        processed["vision_features"], processed["keep_mask"] = features, keep_mask
        return keep_mask.sum(dim=-1).tolist()

    # The vocabulary, read off the tokenizer

    @property
    def image_token(self) -> str:
        """The placeholder `<image>` that stands for a picture in a text."""
        return self.tokenizer.image_token

    @property
    def image_token_id(self) -> int:
        """Its id, the last of LaVIT's vocabulary: the model replaces it by codes."""
        return self.tokenizer.image_token_id

    @property
    def image_start_token(self) -> str:
        """`[IMG]`, which opens a picture."""
        return self.tokenizer.image_start_token

    @property
    def image_start_token_id(self) -> int:
        """The id of `[IMG]`."""
        return self.tokenizer.image_start_token_id

    @property
    def image_end_token(self) -> str:
        """`[/IMG]`, which closes a picture."""
        return self.tokenizer.image_end_token

    @property
    def image_end_token_id(self) -> int:
        """The id of `[/IMG]`."""
        return self.tokenizer.image_end_token_id

    @property
    def visual_token_offset(self) -> int:
        """Id of code 0; code k is `visual_token_offset + k`."""
        return self.image_end_token_id + 1

    @property
    def codebook_size(self) -> int:
        """The number of codes."""
        return self.image_token_id - self.visual_token_offset

    def check_vocabulary(self, config: PreTrainedConfig) -> None:
        """
        Compares the vocabulary with that of a model, whose ids this processor makes and reads.

        Args:
            config ([`LavitConfig`]): The model's.

        Raises:
            ValueError: If `[IMG]` has another id, or if there are more or fewer codes.
        """
        own = self.image_start_token_id, self.codebook_size
        expected = config.image_start_token_id, config.codebook_size
        if own != expected:
            raise ValueError(
                f"The processor has {self.image_start_token} at id {own[0]} and {own[1]} codes, the model at id "
                f"{expected[0]} and {expected[1]} codes: pass image_start_token_id={expected[0]} and codebook_size="
                f"{expected[1]} to LavitProcessor.from_backbones."
            )

    # From ids back

    def decode_interleaved(
        self, ids: Sequence[int] | torch.Tensor, skip_special_tokens: bool = True
    ) -> list[TextSegment | ImageSegment]:
        """
        Splits one sequence of ids into its texts and images.

        Codes without marks around them, as in drawing prompts, are an image too. Neighbours among those cannot be told
        apart and make one. A lone `[/IMG]` means nothing.

        Args:
            ids (`list[int]` or `torch.LongTensor` of shape `(L,)`): A sequence, as `generate` returns it.
            skip_special_tokens (`bool`, *optional*, defaults to `True`):
                Whether to leave out pads, begin and end of sequence and other special tokens.

        Returns:
            `list[TextSegment | ImageSegment]`. The codes of an image that was given to `generate` as pixels are not in
            the ids, but placeholders: they are None.

        Raises:
            ValueError: an id that is outside the vocabulary.
        """
        ids = _to_list(ids)
        first_code, image_token_id, vocab_size = self.visual_token_offset, self.image_token_id, len(self.tokenizer)
        start, end = self.image_start_token_id, self.image_end_token_id
        skipped = set(self.tokenizer.all_special_ids) - {start, end, image_token_id} if skip_special_tokens else set()
        runs: list[tuple[str, list[int] | None]] = []  # ("text", ids) | ("open" or "closed", codes or None)
        for token in ids:
            if not 0 <= token < vocab_size:
                raise ValueError(f"Id {token} is outside the vocabulary of {vocab_size} tokens.")
            kind, content = runs[-1] if runs else (None, None)
            if token == start:
                runs.append(("open", []))
            elif token == end:
                if kind == "open":
                    runs[-1] = ("closed", content)
            elif token == image_token_id:
                if kind == "open" and not content:
                    runs[-1] = ("open", None)
                else:
                    runs.append(("open", None))
            elif first_code <= token < image_token_id:
                if kind != "open" or content is None:
                    runs.append(("open", []))
                runs[-1][1].append(token - first_code)
            elif token not in skipped:
                if kind != "text":
                    runs.append(("text", []))
                runs[-1][1].append(token)
        segments = [self._segment(kind, content, skip_special_tokens) for kind, content in runs]
        return [segment for segment in segments if segment != TextSegment("")]

    def _segment(self, kind: str, content: list[int], skip_special_tokens: bool) -> TextSegment | ImageSegment:
        if kind == "text":
            return TextSegment(self.tokenizer.decode(content, skip_special_tokens=skip_special_tokens))
        return ImageSegment(content, complete=kind == "closed")

    def batch_decode_interleaved(
        self, batch: Sequence[Sequence[int]] | torch.Tensor, skip_special_tokens: bool = True
    ) -> list[list[TextSegment | ImageSegment]]:
        """[`decode_interleaved`] for a `batch`, (batch_size, sequence_length) or a list; arguments as there."""
        return [self.decode_interleaved(ids, skip_special_tokens=skip_special_tokens) for ids in batch]

    def post_process_image_text_to_text(self, generated_outputs, skip_special_tokens=True, **kwargs) -> list[str]:
        """The texts of generated sequences, without their codes; transformers' pipelines call this.

        Args:
            generated_outputs: (batch_size, sequence_length) ids.
            skip_special_tokens, kwargs: As of the tokenizer's `batch_decode`.
        """
        codes = range(self.visual_token_offset, self.image_token_id + 1)  # and the placeholder
        texts = [[token for token in _to_list(ids) if token not in codes] for ids in generated_outputs]
        return self.tokenizer.batch_decode(texts, skip_special_tokens=skip_special_tokens, **kwargs)

    @overload
    def post_process_multimodal_output(
        self, generated_outputs, skip_special_tokens: bool = ..., *, generation_mode: Literal["image"], **kwargs
    ) -> list[Image.Image]: ...

    @overload
    def post_process_multimodal_output(
        self, generated_outputs, skip_special_tokens: bool = ..., generation_mode: str | None = ..., **kwargs
    ) -> list[str]: ...

    def post_process_multimodal_output(
        self, generated_outputs, skip_special_tokens: bool = True, generation_mode: str | None = None, **kwargs
    ):
        """
        What transformers' "any-to-any" pipeline returns.

        Args:
            generated_outputs: (batch_size, sequence_length) ids; for pictures (batch_size, 3, height, width) in
                [0, 1], as the model's `decode_image_tokens` gives them.
            skip_special_tokens, kwargs: Of texts, as of the tokenizer's `batch_decode`.
            generation_mode: None or `"text"` for texts, `"image"` for PIL pictures.

        Raises:
            ValueError: If the mode is another, or pictures are asked of ids.
        """
        if generation_mode in (None, "text"):
            return self.post_process_image_text_to_text(generated_outputs, skip_special_tokens, **kwargs)
        if generation_mode != "image":
            raise ValueError(f"generation_mode must be 'text' or 'image', got {generation_mode!r}.")
        if generated_outputs.ndim != 4 or not generated_outputs.is_floating_point():
            raise ValueError(
                "Pictures are made of pixels (batch_size, 3, height, width), as model.decode_image_tokens gives them; "
                f"got {generated_outputs.dtype} of shape {tuple(generated_outputs.shape)}."
            )
        pixels = (generated_outputs.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        return [Image.fromarray(picture) for picture in pixels]


def _escape_messages(messages, pattern: re.Pattern):
    """Messages of a chat, or a batch of chats, in whose texts the special tokens that `pattern` matches are marked."""
    if isinstance(messages, list | tuple):
        return [_escape_messages(message, pattern) for message in messages]
    if not isinstance(messages, dict):
        return messages
    content = messages.get("content")
    if isinstance(content, str):
        content = mark_control_tokens(content, pattern)
    elif isinstance(content, list | tuple):
        content = [
            {**part, "text": mark_control_tokens(part["text"], pattern)}
            if isinstance(part, dict) and isinstance(part.get("text"), str)
            else part
            for part in content
        ]
    return {**messages, "content": content} if "content" in messages else messages


def _to_list(ids: Sequence[int] | torch.Tensor) -> list[int]:
    ids = ids.tolist() if hasattr(ids, "tolist") else ids
    try:
        return [operator.index(token) for token in ids]
    except TypeError as error:
        raise ValueError(f"Expected one sequence of integer ids, got {str(ids)[:100]}.") from error


def new_image_processor(
    vision: str | os.PathLike | BaseImageProcessor | None = None,
    image_size: int | dict[str, int] | None = None,
    image_mean: Sequence[float] | None = None,
    image_std: Sequence[float] | None = None,
) -> LavitImageProcessor | LavitImageProcessorPil:
    """
    The image processor of a new LaVIT around a vision backbone; torchvision's, where that is installed.

    Args:
        vision, image_size, image_mean, image_std: See [`LavitProcessor.from_backbones`].

    Raises:
        ValueError: If no image size is known.
    """
    settings = {} if vision is None else _image_settings(vision)
    given = {"size": image_size, "image_mean": image_mean, "image_std": image_std}
    settings.update({name: value for name, value in given.items() if value is not None})
    if "size" not in settings:
        raise ValueError(f"No image size is known for vision={vision!r}: give `image_size`.")
    image_processor_class = LavitImageProcessor if is_torchvision_available() else LavitImageProcessorPil
    return image_processor_class(**settings)


def _image_settings(vision: str | os.PathLike | BaseImageProcessor) -> dict:
    """What LaVIT takes over from a vision backbone's own image processor, empty if the backbone has none."""
    if isinstance(vision, (str, os.PathLike)):
        try:
            vision = AutoImageProcessor.from_pretrained(vision)
        except OSError as error:
            logger.warning(f"{vision} gives no image processor, the mean and deviation of CLIP are used: {error}")
            return {}
    names = ("image_mean", "image_std", "resample", "do_rescale", "rescale_factor", "do_normalize")
    settings = {name: getattr(vision, name, None) for name in names}
    size = vision.crop_size if vision.do_center_crop else vision.size
    if size is not None:
        edge = size.shortest_edge  # LaVIT squashes and needs an exact size: a shortest edge means a square here
        height, width = size.height or edge, size.width or edge
        settings["size"] = {"height": height, "width": width} if height and width else None
    return {name: value for name, value in settings.items() if value is not None}


__all__ = ["LavitProcessor", "new_image_processor"]
