# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The requests for chat completions of OpenAI's API, as far as the server knows them."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from PIL import Image
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator


class _Given(BaseModel):
    """A part of a request, which has no other fields and types than those named here."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _leave_out_nulls(cls, values: Any) -> Any:
        # In OpenAI's API, null stands for a value that is not given.
        return {name: value for name, value in values.items() if value is not None} if type(values) is dict else values


# Scores that are divided by less could overflow. The likeliest token is all that is left of them.
MIN_TEMPERATURE = 1e-5
MAX_SHOWN_VALUE = 40  # characters of a value in an error


class TextPart(_Given):
    """A text in a message."""

    type: Literal["text"]
    text: str


class ImageAddress(_Given):
    """The URL of an image."""

    url: str
    detail: str = "auto"  # has no effect: images are read in one size


class ImagePart(_Given):
    """An image in a message."""

    type: Literal["image_url"]
    image_url: ImageAddress


def says_something(part: TextPart | ImagePart) -> bool:
    """Whether a part is more than a blank text."""
    return isinstance(part, ImagePart) or part.text.strip() != ""


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


NoItems = Annotated[list[Any], Field(max_length=0)]


class Message(_Given):
    """A message of a conversation. A text alone is a content of one part."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[
        list[Part],
        Field(max_length=100),
        BeforeValidator(lambda content: [{"type": "text", "text": content}] if type(content) is str else content),
    ]
    # Answers of other servers have these.
    annotations: NoItems = []
    tool_calls: NoItems = []


def _as_list(text: Any) -> Any:
    return [text] if type(text) is str else text


class StreamOptions(_Given):
    """The options of a stream."""

    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class TextFormat(_Given):
    """The form of an answer."""

    type: Literal["text"]


StopString = Annotated[str, Field(min_length=1, max_length=100)]
OnlyZero = Annotated[float, Field(ge=0, le=0)]


class ChatRequest(_Given):
    """A request for a chat completion."""

    model: str
    messages: Annotated[list[Message], Field(min_length=1, max_length=500)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)] | None = None
    stop: Annotated[list[StopString], Field(max_length=4), BeforeValidator(_as_list)] = []
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    # Many clients send these. Other values would ask for what the server does not do.
    user: str = ""
    safety_identifier: str = ""
    prompt_cache_key: str = ""
    metadata: Annotated[dict[str, str], Field(max_length=0)] = {}
    n: Literal[1] = 1
    presence_penalty: OnlyZero = 0
    frequency_penalty: OnlyZero = 0
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] = {}
    logprobs: Literal[False] = False
    top_logprobs: Literal[0] = 0
    modalities: list[Literal["text"]] = ["text"]
    parallel_tool_calls: bool = True
    response_format: TextFormat | None = None
    service_tier: Literal["auto", "default"] = "auto"
    store: Literal[False] = False
    tools: NoItems = []
    tool_choice: Literal["none", "auto"] = "auto"
    functions: NoItems = []
    function_call: Literal["none", "auto"] = "auto"

    @field_validator("messages")
    @classmethod
    def _check_turn(cls, messages: list[Message]) -> list[Message]:
        if messages[-1].role == "assistant":
            raise ValueError("The last message must ask for an answer, got one of the assistant")
        if len(messages) > 1 and not any(says_something(part) for part in messages[-1].content):
            raise ValueError("The last message must ask for an answer, got one with neither text nor images")
        return messages

    @property
    def parts(self) -> list[TextPart | ImagePart]:
        """The texts and images of all messages."""
        return [part for message in self.messages for part in message.content]

    @property
    def urls(self) -> list[str]:
        """The URLs of all images."""
        return [part.image_url.url for part in self.parts if isinstance(part, ImagePart)]

    def conversation(self, images: Sequence[Image.Image]) -> list[dict]:
        """Returns the messages as chat templates take them, with the images in place of their URLs."""
        left = iter(images)

        def convert(part: TextPart | ImagePart) -> dict:
            return part.model_dump() if isinstance(part, TextPart) else {"type": "image", "image": next(left)}

        return [{"role": each.role, "content": [*map(convert, each.content)]} for each in self.messages]

    @property
    def sampling(self) -> dict[str, Any]:
        """The arguments of `generate` that choose the next token. Without any, those of the model apply."""
        if self.temperature is not None and self.temperature < MIN_TEMPERATURE:
            return {"do_sample": False}
        given = {"temperature": self.temperature, "top_p": self.top_p}
        given = {name: value for name, value in given.items() if value is not None}
        return {"do_sample": True, **given} if given else {}


def explain(error: ValidationError) -> str:
    """Returns what is wrong with a request, in one line."""
    reasons = []
    for item in error.errors(include_url=False)[:3]:
        reason, value = item["msg"].removeprefix("Value error, "), item["input"]
        if item["type"] == "extra_forbidden":
            reason = "The server does not know this field"
        elif item["type"] == "too_long" and item["ctx"]["max_length"] == 0:
            reason = "The server has nothing of this kind, so that it must be empty"
        elif isinstance(value, bool | int | float | str) and len(str(value)) <= MAX_SHOWN_VALUE:
            reason += f", got {value!r}"
        reasons.append(f"{'.'.join(map(str, item['loc']))}: {reason}".removeprefix(": "))
    return "; ".join(reasons)
