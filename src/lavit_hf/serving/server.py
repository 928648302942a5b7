# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The server: chat completions of OpenAI's API, with images in and text out."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncGenerator, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any

import torch
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from jinja2 import TemplateError
from pydantic import ValidationError
from transformers import AsyncTextIteratorStreamer, StoppingCriteriaList
from transformers.utils import logging

from ..modeling import LavitForCausalLM
from ..modeling.generation_settings_lavit import end_ids
from ..processing import LavitProcessor
from ..processing.chat_lavit import TURN_END
from .images import decode_images, fetch_images
from .requests import ChatRequest, TextPart, explain, says_something


logger = logging.get_logger(__name__)

MAX_REQUESTS = 64  # at a time
MAX_BODY = 16 * 2**20  # bytes of a request
MAX_BODY_SECONDS = 60  # in which they must arrive
MAX_TEXT = 200_000  # characters of a request
MAX_IMAGES = 100  # of a request
MIN_IMAGE_TOKENS = 3  # a code and its two marks
MAX_SHOWN = 500  # characters of an error, which may repeat what the client has sent
MAX_NEW_TOKENS = 1024  # unless the request asks for more


class RefusalError(Exception):
    """
    A reason to give no answer. The default is a mistake of the client.

    Args:
        message (`str`): The reason in words for the client.
        status (`int`, *optional*, defaults to 400), kind (`str`, *optional*): The status and OpenAI's type of error.
    """

    def __init__(self, message: str, status: int = 400, kind: str = "invalid_request_error"):
        super().__init__(message)
        self.status, self.kind = status, kind


def to_error(message: str, kind: str) -> dict[str, Any]:
    """Returns an error in the form of OpenAI's API."""
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


# The log has the error itself, which is none of the client's business.
FAILURE = to_error("The server has failed.", "server_error")


@contextmanager
def refusing_mistakes() -> Iterator[None]:
    """A context that reads what a client has sent, whose mistakes become a [`RefusalError`]."""
    try:
        yield
    except ValidationError as error:
        raise RefusalError(explain(error)) from error
    except (ValueError, TemplateError) as error:
        raise RefusalError(str(error)) from error


class Answer:
    """
    The text that a model writes for one request.

    Args:
        model ([`LavitForCausalLM`]), processor ([`LavitProcessor`]): The model, and its processor with its tokenizer.
        request (`ChatRequest`): The request.
        contents (`list[bytes]`): The image files of the request.

    Raises:
        ValueError:
            If the request is empty, an image cannot be read, or the context of the model has no room for the request.
        TemplateError: If the chat template of the model does not take the messages.
    """

    def __init__(
        self, model: LavitForCausalLM, processor: LavitProcessor, request: ChatRequest, contents: Sequence[bytes]
    ):
        self.model, self.processor, self.request = model, processor, request
        if sum(len(part.text) for part in request.parts if isinstance(part, TextPart)) > MAX_TEXT:
            raise ValueError(f"The texts of a request may have {MAX_TEXT} characters together.")
        if not any(map(says_something, request.parts)):
            raise ValueError("The messages have neither text nor images.")
        # Reading images takes long, so that those that cannot fit are refused before.
        longest = getattr(model.config.text_config, "max_position_embeddings", None)
        most = MAX_IMAGES if longest is None else min(MAX_IMAGES, longest // MIN_IMAGE_TOKENS)
        if len(contents) > most:
            raise ValueError(f"The messages of a request may have {most} images together, got {len(contents)}.")
        conversation = request.conversation(decode_images(contents))
        inputs: Any = processor.apply_chat_template(
            conversation, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
        )
        self.inputs, self.prompt_length = inputs, inputs["input_ids"].shape[1]
        self.max_new_tokens = request.max_completion_tokens or request.max_tokens or 0
        if longest is not None and self.prompt_length + (self.max_new_tokens or 1) > longest:
            asked = f" and the answer is to have {self.max_new_tokens}" if self.max_new_tokens else ""
            raise ValueError(
                f"The context of the model holds {longest} tokens, but the messages have {self.prompt_length}{asked}."
            )
        room = MAX_NEW_TOKENS if longest is None else min(MAX_NEW_TOKENS, longest - self.prompt_length)
        self.max_new_tokens = self.max_new_tokens or room
        self.num_new_tokens = 0
        self.last_ids = self.inputs["input_ids"][:, -1]
        self.finish_reason = "stop"
        self.is_closed = False

    def _is_over(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs) -> torch.Tensor:
        """The stopping criterion, which also counts the new tokens and keeps the last one."""
        self.num_new_tokens, self.last_ids = input_ids.shape[1] - self.prompt_length, input_ids[:, -1]
        return torch.full((len(input_ids),), self.is_closed, device=input_ids.device)

    def _generate(self, streamer: AsyncTextIteratorStreamer) -> None:
        try:
            if self.is_closed:
                return
            torch.seed() if self.request.seed is None else torch.manual_seed(self.request.seed)
            self.model.generate(
                **self.inputs.to(self.model.device),
                **self.request.sampling,
                max_new_tokens=self.max_new_tokens,
                num_beams=1,  # a stream has one sequence, whatever is saved with the model
                num_return_sequences=1,
                stopping_criteria=StoppingCriteriaList([self._is_over]),
                streamer=streamer,
                tokenizer=self.processor.tokenizer,  # for `stop_strings`, which a model may have of its own
            )
        finally:
            streamer.end()  # otherwise a reader would wait forever after an error

    async def write(self, thread: ThreadPoolExecutor) -> AsyncGenerator[str]:
        """Gives the text piece by piece, until its line ends or a stop string comes."""
        streamer = AsyncTextIteratorStreamer(self.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
        generation = asyncio.get_running_loop().run_in_executor(thread, self._generate, streamer)
        stops = [TURN_END, *self.request.stop]
        text = ""  # that no stop string has been excluded from
        has_begun = False
        try:
            async for piece in streamer:
                text = text + piece if has_begun else piece.lstrip(" ")
                has_begun = has_begun or text != ""
                if ends := [text.index(each) for each in stops if each in text]:
                    yield text[: min(ends)]
                    return
                begun = (size for each in stops for size in range(1, len(each)) if text.endswith(each[:size]))
                final = len(text) - max(begun, default=0)
                yield text[:final]
                text = text[final:]
            await generation
            yield text
            if self.num_new_tokens >= self.max_new_tokens and not self._has_ended():
                self.finish_reason = "length"
        finally:
            self.is_closed = True

    def _has_ended(self) -> bool:
        """Whether the last token is one that ends a text."""
        return int(self.last_ids) in end_ids(self.model.generation_config.eos_token_id)

    @property
    def usage(self) -> dict[str, int]:
        """The numbers of tokens."""
        numbers = {"prompt_tokens": self.prompt_length, "completion_tokens": self.num_new_tokens}
        return numbers | {"total_tokens": sum(numbers.values())}


def build_app(
    model: LavitForCausalLM,
    processor: LavitProcessor,
    name: str,
    hosts: Collection[str] = (),
    folder: Path | None = None,
) -> FastAPI:
    """
    Builds the application.

    Args:
        model ([`LavitForCausalLM`]), processor ([`LavitProcessor`]):
            The model and its processor, which gets the visual tokenizer of the model.
        name (`str`): The name of the model for clients.
        hosts, folder: Same as in [`fetch_images`].

    Raises:
        ValueError: If the visual tokenizer samples which patches are kept, with random numbers that requests share.
    """
    if model.model.visual_tokenizer.config.selection == "sample":
        raise ValueError("A server needs a model whose selection is 'topk' or 'argmax', got 'sample'.")
    processor.visual_tokenizer = model.model.visual_tokenizer  # so that lengths are known before an answer begins
    app = FastAPI(openapi_url=None)
    # Threads wait for other servers, read images, and generate, so that none of these waits for another.
    fetching, preparing, generating = map(ThreadPoolExecutor, (MAX_REQUESTS, 2, 1))
    places = asyncio.Semaphore(MAX_REQUESTS)

    # Connections are not counted: those that send nothing would close the server to everybody.
    async def take_place(request: Request) -> AsyncGenerator[None]:
        if places.locked():
            with refusing_mistakes():
                await _read_body(request, 0)
            raise RefusalError(f"The server takes {MAX_REQUESTS} requests at a time.", 503, "server_error")
        async with places:  # until the response has been sent
            yield

    @app.exception_handler(RefusalError)
    async def refuse(request: Request, error: RefusalError) -> JSONResponse:
        return JSONResponse(to_error(str(error)[:MAX_SHOWN], error.kind), status_code=error.status)

    @app.exception_handler(404)
    @app.exception_handler(405)
    async def miss(request: Request, error: HTTPException) -> JSONResponse:
        message = "The server has POST /v1/chat/completions, which returns text alone, and GET /v1/models."
        return JSONResponse(to_error(message, "invalid_request_error"), status_code=error.status_code)

    @app.exception_handler(Exception)
    async def fail(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse(FAILURE, status_code=500)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    described = {"id": name, "object": "model", "created": 0, "owned_by": "lavit_hf"}

    def check_name(asked: str, status: int = 400) -> None:
        if asked != name:
            raise RefusalError(f"This server has the model {name}, not {asked[:100]}.", status)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [described]}

    @app.get("/v1/models/{asked:path}")
    async def model_of_name(asked: str) -> dict[str, Any]:
        check_name(asked, 404)
        return described

    @app.post("/v1/chat/completions", dependencies=[Depends(take_place)])
    async def complete(request: Request) -> Response:
        run = asyncio.get_running_loop().run_in_executor
        with refusing_mistakes():
            body = await _read_body(request, MAX_BODY + 1)
            # Pages of other sites can make a browser send any other type without asking this server.
            if not request.headers.get("content-type", "").lower().startswith("application/json"):
                raise ValueError("Content-Type must be application/json.")
            if len(body) > MAX_BODY:
                raise ValueError(f"A request may have {MAX_BODY >> 20} MiB.")
            asked = ChatRequest.model_validate_json(body)
            check_name(asked.model)
            contents = await run(fetching, fetch_images, asked.urls, hosts, folder)
            answer = await run(preparing, Answer, model, processor, asked, contents)
        head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": name}
        if asked.stream:
            return StreamingResponse(_stream(answer, generating, head), media_type="text/event-stream")
        text = ""
        async with aclosing(answer.write(generating)) as pieces:
            async for piece in pieces:
                text += piece
                if await request.is_disconnected():
                    break
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": answer.finish_reason, "logprobs": None}
        return JSONResponse(head | {"object": "chat.completion", "choices": [choice], "usage": answer.usage})

    return app


async def _read_body(request: Request, max_bytes: int) -> bytes:
    """
    Reads a request to its end, and keeps its first `max_bytes`. A connection that is closed before the end is reset,
    and its client does not get the answer.

    Raises:
        ValueError: If it does not arrive in time.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(MAX_BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk[: max_bytes - len(body)]
    except TimeoutError as error:
        raise ValueError(f"A request must arrive within {MAX_BODY_SECONDS} seconds.") from error
    return bytes(body)


async def _stream(answer: Answer, thread: ThreadPoolExecutor, head: dict[str, Any]) -> AsyncGenerator[str]:
    """Gives the chunks of an answer as server-sent events, the last of which tells an error if there is one."""

    def chunk(delta: dict[str, str], finish_reason: str | None = None) -> str:
        return event({"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}]})

    def event(content: dict[str, Any]) -> str:
        return f"data: {json.dumps(head | {'object': 'chat.completion.chunk'} | content)}\n\n"

    yield chunk({"role": "assistant", "content": ""})
    try:
        async with aclosing(answer.write(thread)) as pieces:
            async for piece in pieces:
                if piece:
                    yield chunk({"content": piece})
    except Exception:  # the status has been sent by now
        logger.exception("An answer has failed.")
        yield f"data: {json.dumps(FAILURE)}\n\n"
        return
    yield chunk({}, answer.finish_reason)
    if answer.request.stream_options.include_usage:
        yield event({"choices": [], "usage": answer.usage})
    yield "data: [DONE]\n\n"
