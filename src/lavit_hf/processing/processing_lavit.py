# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The processor of LaVIT: text and images to token sequences and pixels, and token sequences back to segments."""

import copy
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import (
    MODEL_MAPPING,
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    BatchFeature,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.image_processing_utils import BaseImageProcessor
from transformers.image_utils import ImageInput
from transformers.processing_utils import ProcessorMixin
from transformers.utils.chat_template_utils import mark_control_tokens

from .chat_lavit import CHAT_TEMPLATE, VQA_PROMPT
from .image_processing_lavit import new_image_processor
from .kwargs_lavit import DECISION, HUB, LOADING, NOT_ESCAPED, LavitProcessorKwargs, check_arguments
from .placeholders_lavit import MARK_START, check_texts, find_placeholders, mark_messages, special_tokens
from .segments_lavit import ImageSegment, TextSegment, split_sequence, to_list
from .tokenization_lavit import check_tokenizer, extend_tokenizer


class LavitProcessor(ProcessorMixin):
    """
    Processor of LaVIT (arXiv 2309.04669).

    Args:
        image_processor (`BaseImageProcessor`):
            A [`LavitImageProcessor`], or another that gives `pixel_values` of the vision tower's size.
        tokenizer (`PreTrainedTokenizerBase`): A tokenizer with LaVIT's vocabulary, see [`extend_tokenizer`].
        chat_template (`str`, *optional*):
            Jinja template. By default, texts of users become questions, and images alone ask for a caption.
        drawing_image_markers (`bool`, *optional*, defaults to `True`):
            Whether images stand between `[IMG]` and `[/IMG]` also in prompts of drawings. The released model was
            trained to see them without these marks there.
        domain (`dict`, *optional*):
            The `description` of what a model of a narrow domain knows, all `words` that it knows, in lower case, and
            `max_images`, the most images of a conversation.

    Attributes:
        visual_tokenizer ([`LavitVisualTokenizer`], *optional*):
            With a visual tokenizer, the processor gives each image one placeholder for each of its codes, so that the
            lengths of sequences are known before the model runs. It is not saved. Default: none, and one placeholder
            for each image, which the model expands.
        image_token, image_start_token, image_end_token (`str`):
            The placeholder `<image>`, and the marks `[IMG]` and `[/IMG]` around an image.
        image_token_id, image_start_token_id, image_end_token_id (`int`): Their ids.
        visual_token_offset (`int`): The id of code 0. The id of code k is `visual_token_offset + k`.
        codebook_size (`int`): The number of codes.

    Raises:
        ValueError: If the tokenizer lacks LaVIT's vocabulary.
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
        domain: dict[str, Any] | None = None,
    ):
        check_tokenizer(tokenizer)
        self.drawing_image_markers, self.domain = drawing_image_markers, domain
        self.image_token, self.image_token_id = tokenizer.image_token, tokenizer.image_token_id
        self.image_start_token, self.image_start_token_id = tokenizer.image_start_token, tokenizer.image_start_token_id
        self.image_end_token, self.image_end_token_id = tokenizer.image_end_token, tokenizer.image_end_token_id
        self.visual_token_offset = self.image_end_token_id + 1
        self.codebook_size = self.image_token_id - self.visual_token_offset
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
        Loads a processor. Same arguments as `ProcessorMixin.from_pretrained`, plus:

        Args:
            visual_tokenizer (`bool` or [`LavitVisualTokenizer`], *optional*, defaults to `False`):
                True loads the visual tokenizer of the same folder or repository; `model.model.visual_tokenizer` is the
                one of a loaded model. With either, lengths are known before the model runs.
            num_codes, max_codes, keep_scale (*optional*):
                With `visual_tokenizer=True`, values of its configuration, see [`LavitVisualTokenizerConfig`].
            dtype, device_map, attn_implementation (*optional*): With `visual_tokenizer=True`, those of its model.

        Raises:
            ValueError: If the visual tokenizer is to be loaded and lavit_hf is not installed, or if the number of
                codes is given and no visual tokenizer is to be loaded.
        """
        settings = {name: kwargs.pop(name) for name in DECISION if name in kwargs}
        if visual_tokenizer is not True and any(value is not None for value in settings.values()):
            raise ValueError(f"{', '.join(settings)} can only be given with visual_tokenizer=True.")
        processor = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        if visual_tokenizer is True:
            hub = {name: value for name, value in kwargs.items() if name in HUB}
            config = AutoConfig.from_pretrained(pretrained_model_name_or_path, **hub)
            config = getattr(config, "visual_tokenizer_config", config)
            if type(config) not in MODEL_MAPPING:  # without lavit_hf, the Auto classes know whole models alone
                raise ValueError(
                    "visual_tokenizer=True needs lavit_hf to be installed: pass model.model.visual_tokenizer of a "
                    "loaded model instead."
                )
            config = type(config).from_dict(config.to_dict() | settings)
            loading = hub | {name: kwargs[name] for name in LOADING if name in kwargs}
            visual_tokenizer = AutoModel.from_pretrained(pretrained_model_name_or_path, config=config, **loading)
        processor.visual_tokenizer = visual_tokenizer or None
        return processor

    @classmethod
    def from_backbones(
        cls,
        *,
        vision: str | os.PathLike | BaseImageProcessor | PreTrainedConfig | None = None,
        text: str | os.PathLike | PreTrainedTokenizerBase,
        codebook_size: int,
        image_start_token_id: int | None = None,
        image_size: int | dict[str, int] | None = None,
        image_mean: Sequence[float] | None = None,
        image_std: Sequence[float] | None = None,
        **kwargs,
    ) -> "LavitProcessor":
        """
        Builds the processor of a new LaVIT from its two backbones.

        Args:
            vision, image_size, image_mean, image_std: Same as in [`new_image_processor`].
            text (`str`, `os.PathLike` or `PreTrainedTokenizerBase`):
                Folder, repository or tokenizer of the language model.
            codebook_size, image_start_token_id: Same as in [`extend_tokenizer`].
            kwargs: `chat_template`, `drawing_image_markers` and `domain`.

        Raises:
            ValueError: If no image size is known, or if the tokenizer cannot be extended.
        """
        tokenizer = AutoTokenizer.from_pretrained(text) if isinstance(text, (str, os.PathLike)) else text
        image_processor = new_image_processor(vision, image_size, image_mean, image_std)
        return cls(image_processor, extend_tokenizer(tokenizer, codebook_size, image_start_token_id), **kwargs)

    # Text and images to inputs of the model

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
                Without text, a flat list stands for as many captions. See [`load_images`] for what an image may be.
            text (`str` or `list[str]`, *optional*):
                Texts with one `<image>` for each image. Special tokens in them, such as `[IMG]`, are read as such
                unless `split_special_tokens=True`: pass what a person typed through [`~LavitProcessor.escape`].
            kwargs:
                `generation_mode`, `split_special_tokens`, `return_tensors`, and all arguments of the tokenizer and
                the image processor. With a `visual_tokenizer` also `num_codes`, `max_codes` and `keep_scale`.

        Returns:
            `BatchFeature`:

            - `input_ids` and `attention_mask` (`torch.LongTensor` of shape `(batch_size, sequence_length)`), padded on
              the left, without tokens of begin and end. Each image has one placeholder or, with a `visual_tokenizer`,
              one for each code.
            - With images, `pixel_values` (`torch.FloatTensor` of shape `(num_images, 3, height, width)`) over the
              whole batch in reading order.
            - With images and a `visual_tokenizer`, `vision_features` (`torch.FloatTensor` of shape `(num_images,
              num_patches, hidden_size)`) and `keep_mask` (`torch.BoolTensor` of shape `(num_images, num_patches)`),
              with which the model does not run its vision tower again.

        Raises:
            ValueError: If images and placeholders do not match, or if an image or a text cannot be used.
            TypeError: If an argument is unknown.
        """
        check_arguments(self, kwargs)
        decision = {name: kwargs.pop(name) for name in DECISION if name in kwargs}
        images = [] if images is None else self.image_processor.fetch_images(images)
        images = images if isinstance(images, list) else [images]
        if text is None and not images:
            raise ValueError(f"{type(self).__name__} needs text or images, got neither.")
        if text is None:
            text = [self.image_token * (len(part) if isinstance(part, list) else 1) for part in images]
        text = check_texts(text)
        split = kwargs.get("split_special_tokens")
        if self.tokenizer.split_special_tokens if split is None else split:
            # The placeholders of images that are given stay.
            parts = (sample.split(self.image_token) if images else [sample] for sample in text)
            text = [self.image_token.join(map(self.escape, part)) for part in parts]
        placeholders = find_placeholders(text, images, self.tokenizer)
        # transformers sets it for chats alone. With it, the tokenizer reads marked tokens as text.
        kwargs["sanitize_control_tokens"] = any(MARK_START in sample for sample in text)
        if kwargs["sanitize_control_tokens"] and (asked := [name for name in NOT_ESCAPED if kwargs.get(name)]):
            raise ValueError(
                f"{asked[0]} does not go with texts in which special tokens are escaped, nor does "
                "return_assistant_tokens_mask: transformers gives the ids and the mask of such texts alone."
            )

        data: BatchFeature | dict = {}
        counts = [1] * len(placeholders)
        if placeholders:
            # No public method sorts out the arguments of images. The processors of transformers call this one, too.
            images_kwargs = self._merge_kwargs(**kwargs)["images_kwargs"]
            data = self.image_processor(images, **images_kwargs)
            if self.visual_tokenizer is not None:
                counts = self._select_patches(data, **decision)
                if (kind := images_kwargs.get("return_tensors")) == "np":  # which has no bfloat16
                    data["vision_features"] = data["vision_features"].float()
                data.convert_to_tensors(kind)
        has_marks = self.drawing_image_markers or kwargs.get("generation_mode") != "image"
        start, end = (self.image_start_token, self.image_end_token) if has_marks else ("", "")
        replacements = [
            ("" if match[1] else start) + self.image_token * count + ("" if match[2] else end)
            for match, count in zip(placeholders, counts, strict=True)
        ]
        # The processors of transformers call it where they replace placeholders. Its offsets, which it takes with
        # `return_assistant_tokens_mask`, are those of the replaced text.
        text, offsets = self.get_text_with_replacements(text, replacements)
        inputs = super().__call__(text=text, **kwargs)
        inputs.update(data)
        if "text_replacement_offsets" in inputs:
            inputs["text_replacement_offsets"] = offsets
        for name in ("input_ids", "attention_mask"):
            if torch.is_tensor(inputs.get(name)):
                inputs[name] = inputs[name].long()  # a batch of empty texts comes as float
        return inputs

    def validate_inputs(self, *args, **kwargs) -> None:
        """Does nothing, since `__call__` compares images and placeholders before it expands the placeholders."""

    def escape(self, text: str) -> str:
        """
        Marks the special tokens in a text that a person typed, so that the processor reads them as plain text:
        `processor(text=f"<image>{processor.escape(typed)}", images=image)`. Chat templates do this by themselves.
        """
        return mark_control_tokens(text, special_tokens(self.tokenizer))

    def _normalize_conversations(self, conversation) -> tuple[list, bool]:
        """Marks special tokens in the texts of messages. `apply_chat_template` passes messages of all kinds here."""
        conversations, is_batched = super()._normalize_conversations(conversation)
        return mark_messages(conversations, special_tokens(self.tokenizer)), is_batched

    @torch.no_grad()
    def _select_patches(self, data: BatchFeature, **decision) -> list[int]:
        """Adds the vision features and the kept patches of images to `data`, and returns the numbers of codes."""
        pixel_values = torch.stack([torch.as_tensor(image) for image in data["pixel_values"]])
        # The rest of the visual tokenizer runs in the model.
        pixel_values = pixel_values.to(self.visual_tokenizer.device)
        features, keep_mask = self.visual_tokenizer.select_patches(pixel_values, **decision)
        data["vision_features"], data["keep_mask"] = features, keep_mask
        return keep_mask.sum(dim=-1).tolist()

    # Sequences of ids to segments, texts and images

    def decode_interleaved(
        self, ids: Sequence[int] | torch.Tensor, skip_special_tokens: bool = True
    ) -> list[TextSegment | ImageSegment]:
        """
        Splits one sequence of ids into its texts and images.

        Codes without marks around them, as in prompts of drawings, are an image too. Neighboring images of this kind
        cannot be told apart and make one. A `[/IMG]` without an image before it is left out.

        Args:
            ids (`list[int]` or `torch.LongTensor` of shape `(sequence_length,)`):
                A sequence, as `generate` returns it.
            skip_special_tokens (`bool`, *optional*, defaults to `True`):
                Whether to leave out pads, begin and end of sequence and other special tokens.

        Returns:
            `list[TextSegment | ImageSegment]`: The segments. The codes of an image that was given to `generate` as
            pixels are None, since the ids hold placeholders in their place.

        Raises:
            ValueError: If an id is outside the vocabulary.
        """
        return split_sequence(ids, self.tokenizer, skip_special_tokens)

    def batch_decode_interleaved(
        self, batch: Sequence[Sequence[int]] | torch.Tensor, skip_special_tokens: bool = True
    ) -> list[list[TextSegment | ImageSegment]]:
        """Splits each sequence of a batch. Same arguments as [`~LavitProcessor.decode_interleaved`]."""
        return [self.decode_interleaved(ids, skip_special_tokens=skip_special_tokens) for ids in batch]

    def post_process_image_text_to_text(self, generated_outputs, skip_special_tokens=True, **kwargs) -> list[str]:
        """
        Returns the texts of generated sequences without their codes. The pipelines of transformers call this.

        Args:
            generated_outputs (`torch.LongTensor` of shape `(batch_size, sequence_length)`): Sequences of ids.
            skip_special_tokens, kwargs: Same as in the tokenizer's `batch_decode`.
        """
        codes = range(self.visual_token_offset, self.image_token_id + 1)  # and the placeholder
        texts = [[token for token in to_list(ids) if token not in codes] for ids in generated_outputs]
        return self.tokenizer.batch_decode(texts, skip_special_tokens=skip_special_tokens, **kwargs)

    def post_process_multimodal_output(
        self, generated_outputs, skip_special_tokens: bool = True, generation_mode: str | None = None, **kwargs
    ) -> Any:
        """
        Turns what a model generates into texts or images. The "any-to-any" pipeline of transformers calls this.

        Args:
            generated_outputs (`torch.Tensor`):
                Ids of shape `(batch_size, sequence_length)`; for images, pixels of shape `(batch_size, 3, height,
                width)` in [0, 1], as `model.decode_image_tokens` gives them.
            skip_special_tokens, kwargs: For texts, same as in the tokenizer's `batch_decode`.
            generation_mode (`str`, *optional*): `"image"` for images; None or `"text"` for texts.

        Returns:
            `list[str]` or `list[PIL.Image.Image]`: The texts or the images.

        Raises:
            ValueError: If the mode is another one, or if images are asked of ids.
        """
        if generation_mode in (None, "text"):
            return self.post_process_image_text_to_text(generated_outputs, skip_special_tokens, **kwargs)
        if generation_mode != "image":
            raise ValueError(f"generation_mode must be 'text' or 'image', got {generation_mode!r}.")
        if generated_outputs.ndim != 4 or not generated_outputs.is_floating_point():
            raise ValueError(
                "Pixels must be floats of shape (batch_size, 3, height, width), as model.decode_image_tokens returns "
                f"them, got {generated_outputs.dtype} of shape {tuple(generated_outputs.shape)}."
            )
        pixels = (generated_outputs.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        return [Image.fromarray(image) for image in pixels]

    def check_vocabulary(self, config: PreTrainedConfig) -> None:
        """
        Compares the vocabulary with that of a model, whose ids this processor makes and reads.

        Args:
            config ([`LavitConfig`]): The configuration of the model.

        Raises:
            ValueError: If `[IMG]` has another id, or if the number of codes differs.
        """
        own = self.image_start_token_id, self.codebook_size
        expected = config.image_start_token_id, config.codebook_size
        if own != expected:
            raise ValueError(
                f"The processor has {self.image_start_token} at id {own[0]} and {own[1]} codes, the model at id "
                f"{expected[0]} and {expected[1]} codes: pass image_start_token_id={expected[0]} and codebook_size="
                f"{expected[1]} to LavitProcessor.from_backbones."
            )

    # Saving

    def to_dict(self, *args, **kwargs) -> dict:
        """Same as `ProcessorMixin.to_dict`, without the visual tokenizer, which is a model and is saved with it."""
        bare = copy.copy(self)  # other threads use the processor meanwhile
        bare.__dict__.pop("visual_tokenizer", None)
        return super(LavitProcessor, bare).to_dict(*args, **kwargs)

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs) -> list[str]:
        """Saves the processor. Same arguments as `ProcessorMixin.save_pretrained`."""
        files = super().save_pretrained(os.fspath(save_directory))
        # Saving notes the place of the code in the processor itself, where a loaded processor has no such note.
        self.__dict__.pop("auto_map", None)
        # tokenizer.json holds all added tokens. Without this entry transformers copies every code out of there once
        # more when it loads the tokenizer, which then takes more than twice the time.
        path = Path(save_directory) / "tokenizer_config.json"
        config = {**json.loads(path.read_text(encoding="utf-8")), "added_tokens_decoder": {}}
        complete = path.with_name(f".{path.name}.{os.getpid()}")
        complete.write_text(json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
        complete.replace(path)
        if push_to_hub:
            self.push_to_hub(kwargs.pop("repo_id", Path(save_directory).absolute().name), **kwargs)
        return files

    def __repr__(self) -> str:
        # The base shows the tokenizer with its added tokens, that is every code on a line of its own.
        return f"{type(self).__name__}(codebook_size={self.codebook_size}) {self.to_json_string()}"
