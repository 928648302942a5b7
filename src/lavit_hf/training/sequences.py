# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Rows of a dataset as sequences of text and images: captions, drawings, questions, edits, interleaved ones."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from ..data.code_files import CODEBOOK_COLUMN, codes_column, has_codes
from ..data.loading import check_features, column_names
from ..data.texts import one_of, read_questions
from ..modeling.arguments_lavit import check_integer, check_number
from ..modeling.expansion_lavit import IMAGE_INPUTS
from ..processing import read_image
from ..processing.chat_lavit import QUESTION_END, QUESTION_START, TURN_END, one_line
from .parts import ImagePart, Part, TextPart, has_any, image_part, is_supervised, needs_pixels


# The kinds of sequences, and the arguments that name the columns they need.
KINDS = {
    "caption": ("image_column", "caption_column"),
    "draw": ("prompt_column", "image_column"),
    "text": ("text_column",),
    "question": ("image_column", "question_column", "answer_column"),
    "edit": ("image_column", "instruction_column", "edited_image_column"),
    "interleaved": ("segments_column",),  # or the columns in `sequence_columns`
}
# The arguments that may name a column with the plan of an image.
PLANS = {"draw": "plan_column", "edit": "edited_plan_column"}


@dataclass
class SequenceArguments:
    """The kinds of sequences that are made from the rows of a dataset, and which parts of them are labels."""

    mixture: list[str] = field(
        default_factory=lambda: ["caption=1", "draw=1"],
        metadata={
            "help": "The weights of the kinds of sequences: caption, draw, text, question, edit, interleaved. "
            "KIND=WEIGHT ..., in a recipe a mapping."
        },
    )
    prompt_dropout: float = field(
        default=0.1,
        metadata={"help": "The probability that a drawing has no prompt, for classifier-free guidance."},
    )
    supervise_images: bool = field(
        default=True, metadata={"help": "Whether the codes of images that are given, not drawn, are labels."}
    )
    supervise_prompts: bool = field(
        default=True, metadata={"help": "Whether questions, instructions and captions to draw are labels."}
    )
    image_inputs: str = field(
        default="features", metadata={"help": "How images that are read enter the model: 'features' or 'codes'."}
    )
    caption_column: str = field(default="caption", metadata={"help": "Column with a caption, or a list of them."})
    prompt_column: str | None = field(
        default=None, metadata={"help": "Column with a request to draw, or a list of them. Default: caption_column."}
    )
    plan_column: str | None = field(
        default=None,
        metadata={
            "help": "Column with a plan of the image, such as a list of its objects. The model learns to write it "
            "after a prompt and before the image."
        },
    )
    edited_plan_column: str | None = field(default=None, metadata={"help": "Column with a plan of the edited image."})
    plan_dropout: float = field(
        default=0.25, metadata={"help": "The probability that a drawing or an edit has no plan."}
    )
    text_column: str = field(
        default="caption",
        metadata={
            "help": "Column with the text of the kind 'text', or with several texts, of which each sequence has one, "
            'or with the parts of one text as a list of {"text": ..., "supervised": true or false}.'
        },
    )
    question_column: str = field(default="questions", metadata={"help": "Column with a question, or a list of them."})
    answer_column: str = field(
        default="answers",
        metadata={"help": "Column with the answer, or several good ones, or the answers to a list of questions."},
    )
    questions_per_sequence: int = field(
        default=1,
        metadata={"help": "The largest number of questions of a list in one sequence, as turns of a chat."},
    )
    instruction_column: str = field(default="instruction", metadata={"help": "Column with the instruction to edit."})
    edited_image_column: str = field(default="edited_image", metadata={"help": "Column with the edited image."})
    segments_column: str = field(
        default="segments",
        metadata={"help": 'Column with a list of {"type": "text", "text": ...} and {"type": "image", "image": ...}.'},
    )
    sequence_columns: list[str] = field(
        default_factory=list,
        metadata={"help": "Columns of texts and images that are the segments, in this order, in place of a list."},
    )

    def __post_init__(self):
        self.weights = read_numbers("mixture", self.mixture)
        self.prompt_column = self.prompt_column or self.caption_column
        unknown = [kind for kind in self.weights if kind not in KINDS]
        if unknown or not 0 < sum(self.weights.values()) < math.inf or min(self.weights.values()) < 0:
            raise ValueError(
                f"mixture must give some of {', '.join(KINDS)} weights of 0 and more, got {self.mixture}."
            )
        self.weights = {kind: weight for kind, weight in self.weights.items() if weight > 0}
        if self.sequence_columns and "interleaved" not in self.weights:
            raise ValueError(
                f"sequence_columns need the kind 'interleaved', got {self.sequence_columns} with {self.mixture}."
            )
        named = {kind: getattr(self, name) for kind, name in PLANS.items()}
        self.plans = {kind: column for kind, column in named.items() if column is not None and kind in self.weights}
        missing = [kind for kind in PLANS if kind in self.weights and kind not in self.plans]
        if (self.plans and missing) or (any(named.values()) and not self.plans):
            raise ValueError(
                "Either all drawings have plans or none: plan_column is for the kind draw and edited_plan_column for "
                f"the kind edit, got {self.plan_column!r} and {self.edited_plan_column!r} with {self.mixture}."
            )
        for name in ("prompt_dropout", "plan_dropout"):
            check_number(name, getattr(self, name), 0, 1)
        check_integer("questions_per_sequence", self.questions_per_sequence, 1)
        if self.image_inputs not in IMAGE_INPUTS:
            raise ValueError(f"image_inputs must be 'features' or 'codes', got {self.image_inputs!r}.")

    def only(self, kind: str) -> "SequenceArguments":
        """Returns the same arguments with `kind` alone and without dropout, for evaluation."""
        columns = self.sequence_columns if kind == "interleaved" else []
        plans = {name: None for other, name in PLANS.items() if other != kind}
        return replace(
            self, mixture=[f"{kind}=1"], prompt_dropout=0.0, plan_dropout=0.0, sequence_columns=columns, **plans
        )


def read_numbers(name: str, entries: list[str]) -> dict[str, float]:
    """
    Reads `["caption=1", "draw=2"]`, or a single JSON mapping, as `{"caption": 1.0, "draw": 2.0}`.

    Returns:
        `dict[str, float]`: The numbers by their names.

    Raises:
        ValueError: If `entries` are something else. The message calls them `name`.
    """
    try:
        if len(entries) == 1 and entries[0].lstrip().startswith("{"):
            return {key: float(value) for key, value in json.loads(entries[0]).items()}
        return {key: float(value) for key, value in (entry.split("=") for entry in entries)}
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name} must be NAME=NUMBER ... or a mapping, got {entries}.") from error


class SequenceReader:
    """
    Makes sequences from rows. The kind of a sequence is drawn, by weight, from those for which the row has a value in
    every column.

    Beside a column of images, a dataset may have a column with their codes, `{column}_codes`. Images that enter as
    codes are not needed then.

    Args:
        arguments ([`SequenceArguments`]): The kinds of sequences and their columns.
        image_column (`str`, *optional*, defaults to `"image"`): The column with the images.
    """

    def __init__(self, arguments: SequenceArguments, image_column: str = "image"):
        self.arguments, self.image_column = arguments, image_column
        self.image_columns = (image_column, arguments.edited_image_column)

    def select(self, dataset) -> Any:
        """
        Returns `dataset` with the columns that are needed.

        Raises:
            ValueError: If the dataset lacks a column, or has classes, or images of another mode than RGB.
        """
        names = column_names(dataset)
        needed: list[tuple[str, str, set[str]]] = []
        for kind in self.arguments.weights:
            columns_of_kind = self._needed(kind)
            is_listed = kind == "interleaved" and self.arguments.sequence_columns
            options = ["sequence_columns"] * len(columns_of_kind) if is_listed else KINDS[kind]
            needed += [(kind, *given) for given in zip(options, columns_of_kind, strict=True)]
        needed += [(kind, PLANS[kind], {column}) for kind, column in self.arguments.plans.items()]
        for kind, option, columns in needed:
            if not columns & set(names):
                wanted = " or ".join(map(repr, sorted(columns)))
                if option == "prompt_column" and self.arguments.prompt_column == self.arguments.caption_column:
                    option = "prompt_column or caption_column"  # which gives the other its default
                raise ValueError(
                    f"Sequences of the kind {kind!r} need a column {wanted}; the dataset has {', '.join(names)}. "
                    f"Set {option}."
                )
        selected = {name for _, _, columns in needed for name in columns}
        # The codes of images that enter as features tell how many positions these take.
        selected |= {codes_column(column) for column in self.image_columns if column in selected}
        selected &= set(names)
        check_features(dataset, selected)
        if dataset.features is None or has_codes({name: dataset.features[name] for name in selected}):
            selected |= {CODEBOOK_COLUMN} & set(names)
        return dataset.select_columns(sorted(selected))

    def _needed(self, kind: str) -> list[set[str]]:
        """Returns the columns that a kind needs, each with the names of which one is enough."""
        named = {**vars(self.arguments), "image_column": self.image_column}
        columns = [named[name] for name in KINDS[kind]]
        if kind == "interleaved" and self.arguments.sequence_columns:
            columns = self.arguments.sequence_columns
        is_image = [column in self.image_columns for column in columns]
        reads = self.arguments.image_inputs == "features" and kind != "edit" and self._reads(is_image)
        return [
            {column, codes_column(column)} if image and not reads else {column}
            for column, image in zip(columns, is_image, strict=True)
        ]

    @staticmethod
    def _reads(is_image: list[bool]) -> bool:
        """Whether the images of a sequence are read: they all come before its text. Otherwise they are drawn."""
        return False in is_image and True not in is_image[is_image.index(False) :]

    def compose(self, row: dict, name: str, rng: Random) -> list[Part]:
        """
        Makes one sequence from a row.

        Args:
            row (`dict`): A row with undecoded images.
            name (`str`): The name of the row in errors.
            rng (`random.Random`):
                Draws the kind, one of several captions or questions, and whether a prompt is dropped.

        Returns:
            `list[TextPart | ImagePart]`: The sequence, with undecoded images.

        Raises:
            ValueError: If no kind fits the row, a list of texts is empty, or a segment is neither text nor an image.
        """
        weights = self.arguments.weights
        fitting = [kind for kind in weights if all(has_any(row, columns) for columns in self._needed(kind))]
        if not fitting:
            needed = [columns for kind in weights for columns in self._needed(kind) if not has_any(row, columns)]
            empty = dict.fromkeys(" or ".join(map(repr, sorted(columns))) for columns in needed)
            raise ValueError(
                f"{name.capitalize()} has no value in {', '.join(empty)} for a sequence of the kinds "
                f"{', '.join(weights)}. broken_images='skip' leaves out such rows."
            )
        (kind,) = rng.choices(fitting, [weights[kind] for kind in fitting])
        makers = {
            "caption": self._caption,
            "draw": self._draw,
            "text": self._text,
            "question": self._question,
            "edit": self._edit,
            "interleaved": self._interleaved,
        }
        try:
            parts = makers[kind](row, rng)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        if kind in ("draw", "edit") and rng.random() < self.arguments.prompt_dropout:
            parts = parts[-1:]
        return parts

    def read(self, item: list[Part], name: str) -> list[Part]:
        """
        Reads the images of a sequence that enter the model as pixels.

        Args:
            item (`list[TextPart | ImagePart]`): A sequence.
            name (`str`): The name of the row in errors.

        Returns:
            `list[TextPart | ImagePart]`: The sequence with RGB `PIL.Image.Image`s.

        Raises:
            ValueError: If an image cannot be read.
        """
        return [
            part
            if isinstance(part, TextPart) or not needs_pixels(part)
            else replace(part, image=read_image(part.image, name))
            for part in item
        ]

    # The kinds, in the forms that the processor gives the prompts of captions, questions and drawings.

    def _caption(self, row: dict, rng: Random) -> list[Part]:
        column = self.arguments.caption_column
        return [self._given_image(row), TextPart(one_of(row[column], column, rng))]

    def _draw(self, row: dict, rng: Random) -> list[Part]:
        column = self.arguments.prompt_column
        request = self._request("draw", one_of(row[column], column, rng), row, rng)
        return [*request, image_part(row, self.image_column)]

    def _request(self, kind: str, text: str, row: dict, rng: Random) -> list[Part]:
        """Returns a request to draw, with the plan of the row if it has one."""
        column, prompt = self.arguments.plans.get(kind), one_line(text)
        # As in `plan_drawings`, an empty prompt has no plan, and an empty plan is none.
        plan = one_of(row[column], column, rng).strip() if column and prompt and has_any(row, {column}) else ""
        if not plan or rng.random() < self.arguments.plan_dropout:
            return [TextPart(prompt if column else text, self.arguments.supervise_prompts)]
        if TURN_END in plan:
            raise ValueError(f"A plan must be a single line, got {plan!r} in column {column!r}.")
        # The mark behind the request is no label: the user writes it to ask for a plan.
        request = TextPart(prompt, self.arguments.supervise_prompts)
        return [request, TextPart(TURN_END, supervised=False), TextPart(f"{plan}{TURN_END}")]

    def _text(self, row: dict, rng: Random) -> list[Part]:
        text = row[self.arguments.text_column]
        if not isinstance(text, list | tuple) or not any(isinstance(part, dict) for part in text):
            return [TextPart(one_of(text, self.arguments.text_column, rng))]
        for part in text:
            is_part = isinstance(part, dict) and isinstance(part.get("text"), str)
            if not is_part or set(part) - {"text", "supervised"}:
                raise ValueError(f'The parts of a text must be {{"text": ..., "supervised": ...}}, got {part!r}.')
        parts: list[Part] = [TextPart(part["text"], is_supervised(part, True)) for part in text]
        if not any(part.supervised and part.text for part in parts):  # type: ignore[union-attr] # texts alone
            raise ValueError(f"A text must have a part that is a label, got {text!r}.")
        return parts

    def _question(self, row: dict, rng: Random) -> list[Part]:
        questions = read_questions(row, self.arguments.question_column, self.arguments.answer_column)
        most = min(self.arguments.questions_per_sequence, len(questions))
        parts: list[Part] = [self._given_image(row)]
        for turn, (question, answers) in enumerate(rng.sample(questions, most)):
            # The start of a question is never a label. Otherwise it would be predicted after an image alone, which is
            # the prompt of a caption, and after an answer, where the sequence is to end.
            parts.append(TextPart(TURN_END * (turn > 0) + QUESTION_START, supervised=False))
            parts.append(TextPart(f"{question}{QUESTION_END}", self.arguments.supervise_prompts))
            parts.append(TextPart(f" {one_of(answers, self.arguments.answer_column, rng)}", ends_turn=True))
        return parts

    def _given_image(self, row: dict) -> ImagePart:
        """Returns an image that is to be described or asked about."""
        arguments = self.arguments
        return image_part(row, self.image_column, arguments.image_inputs, supervised=arguments.supervise_images)

    def _edit(self, row: dict, rng: Random) -> list[Part]:
        arguments = self.arguments
        before = image_part(row, self.image_column, supervised=arguments.supervise_images, in_drawing_prompt=True)
        request = self._request(
            "edit", one_of(row[arguments.instruction_column], arguments.instruction_column, rng), row, rng
        )
        return [before, *request, image_part(row, arguments.edited_image_column)]

    def _interleaved(self, row: dict, rng: Random) -> list[Part]:
        segments = list(self._list_segments(row, rng))
        types = [segment.get("type") for segment in segments]
        if unknown := set(types) - {"text", "image"}:
            raise ValueError(f"A segment must be of type 'text' or 'image', got {unknown.pop()!r}.")
        reads = self._reads([kind == "image" for kind in types])
        parts: list[Part] = []
        for segment in segments:
            if segment["type"] == "text":
                if not isinstance(segment.get("text"), str):
                    raise ValueError(f"A segment of type 'text' needs a text, got {segment!r}.")
                is_prompt = not reads and all(isinstance(part, TextPart) for part in parts) and "image" in types
                supervised = self.arguments.supervise_prompts or not is_prompt
                parts.append(TextPart(segment["text"], is_supervised(segment, supervised)))
                continue
            image_input = self.arguments.image_inputs if reads and "image" in segment else "codes"
            supervised = self.arguments.supervise_images or not reads
            parts.append(
                image_part(
                    {"image": segment.get("image"), codes_column("image"): segment.get("codes")},
                    "image",
                    segment.get("image_input", image_input),
                    supervised=is_supervised(segment, supervised),
                )
            )
        return parts

    def _list_segments(self, row: dict, rng: Random) -> Iterator[dict]:
        if not self.arguments.sequence_columns:
            # `datasets` fills the keys that some segments lack with None.
            segments = row[self.arguments.segments_column]
            if not isinstance(segments, list | tuple) or not all(isinstance(segment, dict) for segment in segments):
                raise ValueError(f"Segments must be a list of mappings, got {segments!r}.")
            for segment in segments:
                yield {key: value for key, value in segment.items() if value is not None}
        follows_text = False
        for column in self.arguments.sequence_columns:
            if column in self.image_columns:
                given = {"image": row.get(column), "codes": row.get(codes_column(column))}
                yield {"type": "image"} | {key: value for key, value in given.items() if value}
                follows_text = False
            else:
                yield {"type": "text", "text": TURN_END * follows_text + one_of(row[column], column, rng)}
                follows_text = True
