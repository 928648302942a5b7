# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Rows of a dataset as sequences of text and pictures: captions, drawings, questions, edits, interleaved ones."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from ..data.loading import read_picture
from ..processing.chat_lavit import QUESTION_END, QUESTION_START, TURN_END


@dataclass(frozen=True)
class TextPart:
    """A piece of text in a sequence, and whether it is to be predicted."""

    text: str
    supervised: bool = True


@dataclass(frozen=True)
class PicturePart:
    """
    A picture in a sequence.

    Args:
        image: A `PIL.Image.Image`, or what `read_picture` makes one of. None where there are codes.
        codes (`list[int]`, *optional*): Its codes, 0..codebook_size-1, where they are known.
        image_input (`str`): `"features"` or `"codes"`, as of [`LavitForCausalLM.forward`].
        supervised (`bool`): Whether its codes are to be predicted.
        in_drawing_prompt (`bool`): Whether it helps to say what is to be drawn: there its marks may be left out.
    """

    image: Any = None
    codes: Sequence[int] | None = None
    image_input: str = "codes"
    supervised: bool = True
    in_drawing_prompt: bool = False


Part = TextPart | PicturePart


# Kinds of sequences, and what they need: the column of pictures, and columns that the arguments name.
KINDS = {
    "caption": ("image_column", "caption_column"),
    "draw": ("caption_column", "image_column"),
    "text": ("text_column",),
    "question": ("image_column", "question_column", "answer_column"),
    "edit": ("image_column", "instruction_column", "edited_image_column"),
    "interleaved": ("segments_column",),
    "columns": (),  # those of `sequence_columns`
}


@dataclass
class SequenceArguments:
    """Which sequences are made of a dataset's rows, and what of them is predicted."""

    mixture: list[str] = field(
        default_factory=lambda: ["caption=1", "draw=1"],
        metadata={
            "help": "How often each kind of sequence is made of a row that has what it takes: caption, draw, text, "
            "question, edit, interleaved, columns. KIND=WEIGHT ..., in a recipe a mapping."
        },
    )
    prompt_dropout: float = field(
        default=0.1,
        metadata={"help": "How often a drawing goes without its prompt: guidance's other branch."},
    )
    supervise_images: bool = field(
        default=True, metadata={"help": "Whether the codes of pictures that are given, not drawn, are predicted."}
    )
    supervise_prompts: bool = field(
        default=True, metadata={"help": "Whether questions, instructions and captions to draw are predicted."}
    )
    image_inputs: str = field(
        default="features", metadata={"help": "How pictures that are read enter: 'features' or 'codes'."}
    )
    caption_column: str = field(default="caption", metadata={"help": "A caption, or a list of them."})
    text_column: str = field(default="caption", metadata={"help": "Text of the kind 'text'."})
    question_column: str = field(default="questions", metadata={"help": "A question, or a list of them."})
    answer_column: str = field(
        default="answers", metadata={"help": "Its answer or equally good ones, or the answers of a list of questions."}
    )
    questions_per_sequence: int = field(
        default=1,
        metadata={"help": "Most questions of a row's list in one sequence, as turns of a chat; how many is drawn."},
    )
    instruction_column: str = field(default="instruction", metadata={"help": "What an edit is to do."})
    edited_image_column: str = field(default="edited_image", metadata={"help": "The picture after the edit."})
    sequence_columns: list[str] = field(
        default_factory=list,
        metadata={"help": "Columns of texts and pictures that in this order make a sequence of the kind 'columns'."},
    )
    segments_column: str = field(
        default="segments", metadata={"help": 'A list of {"type": "text", "text": ...} and {"type": "image", ...}.'}
    )

    def __post_init__(self):
        self.weights = read_numbers("mixture", self.mixture)
        unknown = [kind for kind in self.weights if kind not in KINDS]
        if unknown or not self.weights or min(self.weights.values()) < 0 or sum(self.weights.values()) == 0:
            raise ValueError(
                f"mixture must give some of {', '.join(KINDS)} weights of 0 and more, got {self.mixture}."
            )
        self.weights = {kind: weight for kind, weight in self.weights.items() if weight > 0}
        if ("columns" in self.weights) != bool(self.sequence_columns):
            raise ValueError(
                "sequence_columns and a weight of the kind 'columns' go together, got "
                f"{self.sequence_columns} and {self.mixture}."
            )
        if not 0 <= self.prompt_dropout <= 1:
            raise ValueError(f"prompt_dropout must be in [0, 1], got {self.prompt_dropout}.")
        if self.questions_per_sequence < 1:
            raise ValueError(f"questions_per_sequence must be at least 1, got {self.questions_per_sequence}.")
        if self.image_inputs not in ("features", "codes"):
            raise ValueError(f"image_inputs must be 'features' or 'codes', got {self.image_inputs!r}.")

    def only(self, kind: str) -> "SequenceArguments":
        """The same with one kind alone, and every prompt in its place: what to evaluate on."""
        columns = self.sequence_columns if kind == "columns" else []
        return replace(self, mixture=[f"{kind}=1"], prompt_dropout=0.0, sequence_columns=columns)

    def columns_of(self, kind: str, image_column: str) -> list[str]:
        """The columns of which a sequence of a kind is made, pictures among them."""
        if kind == "columns":
            return self.sequence_columns
        return [image_column if name == "image_column" else getattr(self, name) for name in KINDS[kind]]


def read_numbers(name: str, entries: list[str]) -> dict[str, float]:
    """
    `["caption=1", "draw=2"]`, or a JSON mapping as its only entry, to `{"caption": 1.0, "draw": 2.0}`.

    Raises:
        ValueError: something else, under the argument's `name`.
    """
    try:
        if len(entries) == 1 and entries[0].lstrip().startswith("{"):
            return {key: float(value) for key, value in json.loads(entries[0]).items()}
        return {key: float(value) for key, value in (entry.split("=") for entry in entries)}
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name} must be NAME=NUMBER ... or a mapping, got {entries}.") from error


class RowReader:
    """
    Makes sequences of rows. A row is taken for one of those kinds of the mixture for which none of its columns is
    empty.

    Args:
        arguments ([`SequenceArguments`]): What is made.
        column_names (`Sequence[str]`): Of the dataset. Beside a column of pictures there may be one with their codes,
            `{column}_codes`, as in a tokenized dataset: where codes are what goes in, no pictures are needed then.
        image_column (`str`): The pictures.

    Raises:
        ValueError: a column that the mixture needs and the dataset lacks.
    """

    def __init__(self, arguments: SequenceArguments, column_names: Sequence[str], image_column: str = "image"):
        self.arguments, self.image_column = arguments, image_column
        self.columns = set()
        for kind in arguments.weights:
            for alternatives in self._needed(kind):
                if not alternatives & set(column_names):
                    wanted = " or ".join(map(repr, sorted(alternatives)))
                    raise ValueError(
                        f"Sequences of the kind {kind!r} need a column {wanted}; "
                        f"the dataset has {', '.join(column_names)}."
                    )
                # Codes beside pictures that enter as features tell how many positions these take.
                codes = {f"{column}_codes" for column in alternatives if self._is_picture(column)}
                self.columns |= (alternatives | codes) & set(column_names)

    def _needed(self, kind: str) -> list[set[str]]:
        """What a kind needs, each with the names of the columns of which one will do."""
        needed, nothing_written = [], kind != "edit"  # there the first picture is part of a drawing's prompt
        for column in self.arguments.columns_of(kind, self.image_column):
            nothing_written &= self._is_picture(column)
            is_read = nothing_written and self.arguments.image_inputs == "features"
            codes_do = self._is_picture(column) and not is_read
            needed.append({column, f"{column}_codes"} if codes_do else {column})
        return needed

    def _is_picture(self, column: str) -> bool:
        return column in (self.image_column, self.arguments.edited_image_column)

    def make(self, row: dict, name: str, rng: Random, decode: bool = True) -> list[Part]:
        """
        One sequence of a row.

        Args:
            row (`dict`): With undecoded pictures.
            name (`str`): What errors call it.
            rng (`random.Random`): Draws the kind, one of several captions or questions, and whether a prompt goes.
            decode (`bool`): Whether to read the pictures.

        Raises:
            ValueError: no kind fits the row; a segment that is neither text nor a picture.
            BrokenPictureError: a picture that cannot be read.
        """
        weights = self.arguments.weights
        fitting = [kind for kind in weights if all(self._has_any(row, columns) for columns in self._needed(kind))]
        if not fitting:
            raise ValueError(f"{name} lacks what a sequence of the kinds {', '.join(weights)} is made of.")
        (kind,) = rng.choices(fitting, [weights[kind] for kind in fitting])
        try:
            parts = getattr(self, f"_{kind}")(row, rng)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        if kind in ("draw", "edit") and rng.random() < self.arguments.prompt_dropout:
            parts = parts[-1:]
        return [self._decode(part, name) for part in parts] if decode else parts

    @staticmethod
    def _has_any(row: dict, columns: set[str]) -> bool:
        values = (row.get(column) for column in columns)
        return any(not (value is None or value in ("", [])) for value in values)

    @staticmethod
    def _decode(part: Part, name: str) -> Part:
        if isinstance(part, TextPart) or (part.codes is not None and part.image_input == "codes"):
            return part
        return replace(part, image=read_picture(part.image, name))

    # The kinds, in the forms that the processor gives the prompts of captions, questions and drawings.

    def _caption(self, row: dict, rng: Random) -> list[Part]:
        return [self._read(row, self.image_column), TextPart(one_of(row[self.arguments.caption_column], rng))]

    def _draw(self, row: dict, rng: Random) -> list[Part]:
        caption = one_of(row[self.arguments.caption_column], rng)
        return [TextPart(caption, self.arguments.supervise_prompts), _picture(row, self.image_column)]

    def _text(self, row: dict, rng: Random) -> list[Part]:
        return [TextPart(one_of(row[self.arguments.text_column], rng))]

    def _question(self, row: dict, rng: Random) -> list[Part]:
        questions, answers = row[self.arguments.question_column], row[self.arguments.answer_column]
        if isinstance(questions, str):
            questions, answers = [questions], [answers]
        most = min(self.arguments.questions_per_sequence, len(questions))
        parts: list[Part] = [self._read(row, self.image_column)]
        for turn, index in enumerate(rng.sample(range(len(questions)), most)):
            # That a question begins is never predicted: it would follow a bare picture, the prompt of a caption, and
            # an answer, where the sequence is to end.
            parts.append(TextPart(TURN_END * (turn > 0) + QUESTION_START, supervised=False))
            parts.append(TextPart(f"{questions[index]}{QUESTION_END}", self.arguments.supervise_prompts))
            parts.append(TextPart(f" {one_of(answers[index], rng)}"))
        return parts

    def _edit(self, row: dict, rng: Random) -> list[Part]:
        supervise_images, supervise_prompts = self.arguments.supervise_images, self.arguments.supervise_prompts
        before = _picture(row, self.image_column, supervised=supervise_images, in_drawing_prompt=True)
        instruction = TextPart(one_of(row[self.arguments.instruction_column], rng), supervise_prompts)
        return [before, instruction, _picture(row, self.arguments.edited_image_column)]

    def _columns(self, row: dict, rng: Random) -> list[Part]:
        parts: list[Part] = []
        for column in self.arguments.sequence_columns:
            if not self._is_picture(column):
                turn_end = TURN_END if parts and isinstance(parts[-1], TextPart) else ""
                is_prompt = all(isinstance(part, TextPart) for part in parts)
                supervised = self.arguments.supervise_prompts or not is_prompt
                parts.append(TextPart(turn_end + one_of(row[column], rng), supervised))
            elif any(isinstance(part, TextPart) for part in parts):
                parts.append(_picture(row, column))
            else:
                parts.append(self._read(row, column))
        return parts

    def _interleaved(self, row: dict, rng: Random) -> list[Part]:
        # `datasets` fills the keys that some segments lack.
        segments = [
            {key: value for key, value in segment.items() if value is not None}
            for segment in row[self.arguments.segments_column]
        ]
        types = [segment.get("type") for segment in segments]
        if unknown := set(types) - {"text", "image"}:
            raise ValueError(f"A segment must be of type 'text' or 'image', got {unknown.pop()!r}.")
        # Pictures that all stand before the text are read. Where one comes after text, pictures are drawn.
        reads = "text" in types and "image" not in types[types.index("text") :]
        return [self._segment(segment, reads) for segment in segments]

    def _segment(self, segment: dict, reads: bool) -> Part:
        if segment["type"] == "text":
            return TextPart(segment["text"], segment.get("supervised", True))
        default = self.arguments.image_inputs if reads and "image" in segment else "codes"
        return _picture(
            {"image": segment.get("image"), "image_codes": segment.get("codes")},
            "image",
            image_input=segment.get("image_input", default),
            supervised=segment.get("supervised", self.arguments.supervise_images or not reads),
        )

    def _read(self, row: dict, column: str) -> PicturePart:
        """A picture that is to be described or asked about."""
        arguments = self.arguments
        return _picture(row, column, image_input=arguments.image_inputs, supervised=arguments.supervise_images)


def _picture(row: dict, column: str, image_input: str = "codes", **kwargs) -> PicturePart:
    codes = row.get(f"{column}_codes") or None
    is_coded = codes is not None and image_input == "codes"
    return PicturePart(None if is_coded else row[column], codes, image_input, **kwargs)


def one_of(texts: str | dict | Sequence, rng: Random) -> str:
    """
    Returns a text, or one of several. VQAv2 has each answer with who gave it.

    Raises:
        ValueError: no text.
    """
    if isinstance(texts, str):
        return texts
    if isinstance(texts, dict):
        return texts["answer"]
    if not texts:
        raise ValueError(f"A question needs an answer, and a list of texts one of them at least, got {texts!r}.")
    return one_of(rng.choice(texts), rng)


__all__ = ["PicturePart", "RowReader", "SequenceArguments", "TextPart", "read_numbers"]
