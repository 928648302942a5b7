# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
A page to try a LaVIT. It describes images and shows their tokens, answers questions, draws, edits, reconstructs and
chats.

    python app.py                      # the small model that ships with the library
    python app.py --model me/my-lavit  # a folder or a repository of the Hub
"""

import argparse
import html
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import gradio as gr
import torch
from PIL import Image
from transformers import set_seed

from lavit_hf import (
    Conversation,
    ImageSegment,
    LavitForCausalLM,
    LavitImageDecoderPipeline,
    LavitProcessor,
    StreamedImage,
    demo_checkpoint,
)
from lavit_hf.conversation import DRAW
from lavit_hf.data.shapes import render_scene, sample_scene
from lavit_hf.inference import decode_codes, describe_unknown_words, encode_images, write_texts
from lavit_hf.serving.images import MAX_BYTES, MAX_PIXELS, decode_images
from lavit_hf.visualization import find_merge_targets, name_tokens, show_kept_patches, show_merging


LIMITS = f"PNG, JPEG or WebP, at most {MAX_BYTES >> 20} MB and {MAX_PIXELS // 10**6} megapixels"
MAX_WAITING = 32  # visitors in the queue
SHOWN_SIZE = 384  # pixels; small images are enlarged to it
# The message of an error goes away by itself. The word "Error" over every box would stay.
CSS = "[data-testid=status-tracker]:has(> .error) { display: none }"
PREVIEW_EVERY = 4  # codes
EXAMPLES = (6, 3, 11)  # scenes of the test split
QUESTIONS = ["what color is the star?", "is there a red square?", "how many objects are there?"]
DRAWINGS = [
    "a large yellow star at the top left, a small blue circle on the right and a large red ring at the bottom",
    "Could you draw three little pink stars and a big green box, please?",
]
INSTRUCTIONS = ["paint the star blue", "remove the star"]


def refusal(words: object) -> gr.Error:
    """Returns an error that the visitor sees for a while. It is not logged as an error of the program."""
    return gr.Error(html.escape(str(words), quote=False), print_exception=False)


def warn(words: object) -> None:
    """Shows a warning to the visitor for a while."""
    gr.Warning(html.escape(str(words), quote=False))


def read_upload(upload: dict | None) -> Image.Image:
    """Reads the image in a box. Raises the error that the visitor sees if there is no image that can be read."""
    if upload is None:
        raise refusal("Give an image first.")
    return read_files([upload["path"]])[0]


def read_files(paths: list[str]) -> list[Image.Image]:
    """Reads uploaded files, which keep their names. An error names a file without its place on the server."""
    try:
        return decode_images([Path(path).read_bytes() for path in paths], [Path(path).name for path in paths])
    except ValueError as error:
        raise refusal(error) from error


@lru_cache(maxsize=256)
def find_fault(path: str) -> str | None:
    """Returns why an uploaded file cannot be read, or None. The browser asks whenever the text beside it changes."""
    try:
        read_files([path])
    except gr.Error as error:
        return error.message
    return None


def check_message(message: dict) -> None:
    if not message["files"]:
        read_text(message["text"], "Write something or give an image")
    read_files(message["files"])


def drop_broken_files(message: dict, told: list[str]) -> tuple[dict, list[str]]:
    """
    Takes the files that cannot be read out of a message that is being written, and tells the visitor of them once: the
    browser sends each message with a new file twice. Returns also the files that the second one has not to tell.
    """
    broken = [path for path in message["files"] if find_fault(path)]
    for path in broken:
        if path not in told:
            gr.Warning(find_fault(path))
    kept = [path for path in message["files"] if path not in broken]
    return {**message, "files": kept} if broken else gr.skip(), [path for path in broken if path not in told]


def read_text(text: str, what: str) -> str:
    if not text.strip():
        raise refusal(f"{what} first.")
    return text.strip()


def read_number(number: float | None, most: int, name: str) -> int:
    if number is None or number % 1 or not 0 <= number <= most:
        raise refusal(f"Give a whole number from 0 to {most} as {name}.")
    return int(number)


def read_seed(seed: float | None) -> int:
    return read_number(seed, 2**32 - 1, "seed")


def enlarge(image: Image.Image) -> Image.Image:
    """Enlarges a small image with sharp pixels, which a browser would blur."""
    factor = max(1, SHOWN_SIZE // max(image.size))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def show_part(part: dict) -> str | gr.Image:
    """A part of a message as the chat shows it."""
    return gr.Image(enlarge(part["image"]), format="png") if part["type"] == "image" else part["text"]


class Page:
    """
    The functions of the tabs. Each takes the inputs of a tab and returns its outputs.

    Args:
        path (`str`): Folder or repository of a LaVIT.
    """

    def __init__(self, path: str):
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = LavitForCausalLM.from_pretrained(path).to(device).eval()
        self.processor = LavitProcessor.from_pretrained(path)
        self.pipeline = LavitImageDecoderPipeline.from_pretrained(path, dtype=self.model.dtype).to(device)
        self.pipeline.set_progress_bar_config(disable=True)
        self.turn = threading.Lock()  # visitors share the model and the random numbers

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """A context that has the model to itself, and shows the visitor what the model refuses."""
        try:
            with self.turn:
                yield
        except ValueError as error:
            raise refusal(error) from error

    def _encode(self, image: Image.Image, **settings):
        return encode_images(self.model.model.visual_tokenizer, self.processor, [image], **settings)

    def _write(self, image: Image.Image, text: str, task: str) -> str:
        return write_texts(self.model, self.processor, [text], [[image]], task=task)[0]

    def _warn_of_unknown_words(self, text: str) -> None:
        if description := describe_unknown_words(self.processor, text):
            warn(description)

    def describe(self, upload: dict | None) -> tuple[str, str, Image.Image, Image.Image]:
        image = read_upload(upload)
        with self._alone():
            tokens = self._encode(image)
            targets = find_merge_targets(self.model.model.visual_tokenizer, tokens)[0]
            caption = self._write(image, "", "caption")
        codes, kept = tokens.codes.tolist(), tokens.keep_mask[0]
        listed = f"{name_tokens(len(codes))} for {len(kept)} patches: {' '.join(map(str, codes))}"
        return caption, listed, show_kept_patches(image, kept), show_merging(image, targets)

    def ask(self, upload: dict | None, question: str) -> str:
        image, question = read_upload(upload), read_text(question, "Write a question")
        self._warn_of_unknown_words(question)
        with self._alone():
            return self._write(image, self.processor.vqa_prompt.format(question=question), "answer")

    def draw(
        self, prompt: str, guidance_scale: float, seed: float, image: Image.Image | None = None
    ) -> Iterator[tuple[Image.Image | None, str]]:
        """Yields the image and the number of its codes while the codes are drawn. With an `image`, edits it."""
        prompt, seed, shown = read_text(prompt, "Say what to draw"), read_seed(seed), None
        self._warn_of_unknown_words(prompt)
        conversation = Conversation(self.model, self.processor, self.pipeline, seed=seed)
        settings = {"preview_every": PREVIEW_EVERY, "guidance_scale": guidance_scale}
        pieces = conversation.edit(prompt, image, **settings) if image else conversation.draw(prompt, **settings)
        with self._alone(), closing(pieces):
            set_seed(seed)
            for piece in pieces:
                if isinstance(piece, StreamedImage):
                    shown = enlarge(piece.image)
                elif isinstance(piece, ImageSegment):
                    count = len(piece.codes)
                yield shown, name_tokens(count)

    def edit(self, upload: dict | None, instruction: str, guidance_scale: float, seed: float):
        image, instruction = read_upload(upload), read_text(instruction, "Say what to change")
        yield from self.draw(instruction, guidance_scale, seed, image)

    def reconstruct(self, upload: dict | None, num_codes: float, seed: float) -> tuple[Image.Image, str]:
        """Returns the reconstruction from `num_codes` tokens, or for 0 from as many as the content needs."""
        image, seed = read_upload(upload), read_seed(seed)
        num_codes = read_number(num_codes, self.model.config.num_patches, "number of tokens")
        with self._alone():
            tokens = self._encode(image, num_codes=num_codes or None)
            [rebuilt] = decode_codes(self.pipeline, [tokens.codes.tolist()], seed)
        return enlarge(rebuilt), f"from {name_tokens(len(tokens.codes))}"

    def chat(self, message: dict, history: list, messages: list[dict]):
        """Yields the answer to a message with files, as the chat shows it, and the messages of the conversation."""
        conversation = Conversation(self.model, self.processor, self.pipeline)
        # The visitor may have cleared the chat or taken back its last messages. A message may have no answer.
        turns = sum((first["role"], second["role"]) == ("user", "assistant") for first, second in pairwise(history))
        before = messages[: 2 * turns]
        conversation.messages = list(before)
        images, text = read_files(message["files"]), message["text"].strip()
        if drawing := DRAW.fullmatch(text):
            text = drawing[1]
        pieces = conversation.draw(text, images) if drawing else conversation.answer(*images, *[text] * bool(text))
        self._warn_of_unknown_words(text)
        try:
            with self.turn, closing(pieces):
                for _ in pieces:
                    if latest := conversation.messages[len(before) :]:  # a drawing is added when it is complete
                        yield [show_part(part) for part in latest[-1]["content"]], before + latest
        except ValueError as error:
            warn(error)  # after an error, the chat would take no more messages


def save_examples(folder: Path) -> list[str]:
    """Saves the scenes that a visitor can begin with."""
    paths = [str(folder / f"scene {index}.png") for index in EXAMPLES]
    for index, path in zip(EXAMPLES, paths, strict=True):
        render_scene(sample_scene(index, "test"), 256).save(path)
    return paths


def build(page: Page, is_demo: bool) -> gr.Blocks:
    """Builds the page."""
    with tempfile.TemporaryDirectory() as folder:
        return _build(page, is_demo, save_examples(Path(folder)))


def _build(page: Page, is_demo: bool, scenes: list[str]) -> gr.Blocks:
    about = "This small model knows only scenes of colored shapes." if is_demo else ""
    with gr.Blocks(title="LaVIT") as blocks:
        gr.Markdown(f"# LaVIT\nOne model that reads and draws images as a varying number of tokens. {about}")

        renewals: dict[gr.Image, list] = {}  # the events by which a visitor gives another image

        def given() -> gr.Image:
            label = f"Image: {LIMITS}"
            image = gr.Image(scenes[0], format="png", label=label, height=SHOWN_SIZE, sources=["upload", "clipboard"])
            examples = gr.Examples(scenes, image)
            renewals[image] = [image.upload, image.clear, examples.dataset.click]
            # The box shows what the model sees, or becomes empty again.
            checked = image.upload(read_upload, image, image, preprocess=False, api_visibility="undocumented")
            checked.failure(lambda: None, outputs=image, api_visibility="undocumented")
            return image

        def result(label: str, value: Image.Image | None = None, height: int | None = SHOWN_SIZE) -> gr.Image:
            buttons = ["download", "fullscreen"]
            return gr.Image(value, label=label, height=height, format="png", interactive=False, buttons=buttons)

        def knobs() -> tuple[gr.Slider, gr.Number]:
            with gr.Row():
                default = page.model.generation_config.image_generation.guidance_scale
                guidance = gr.Slider(1, 8, default or 1.0, step=0.1, label="Guidance: how closely it follows the text")
                return guidance, gr.Number(0, label="Seed", precision=0, minimum=0)

        def run(events: list, function, inputs: list, outputs: list) -> None:
            # Images and numbers are read by the functions, which say what is wrong with them.
            running = gr.on(events, function, inputs, outputs, preprocess=False)
            # The browser itself takes away what was made before: of what is refused now, and of another image, which
            # also ends what is still being made.
            js = f"() => Array({len(outputs)}).fill(null)"
            empty = {"outputs": outputs, "js": js, "api_visibility": "undocumented"}
            running.failure(None, **empty)
            if isinstance(inputs[0], gr.Image):
                gr.on(renewals[inputs[0]], None, cancels=running, **empty)

        with gr.Tab("Describe"), gr.Row():
            with gr.Column():
                image = given()
                button = gr.Button("Describe", variant="primary")
            with gr.Column():
                example = page.describe({"path": scenes[0]})
                caption = gr.Textbox(example[0], label="Caption", lines=2)
                tokens = gr.Textbox(example[1], label="Tokens", lines=2)
                with gr.Row():
                    kept = result("Kept patches", example[2], height=None)
                    merged = result("Merged patches", example[3], height=None)
                gr.Markdown(
                    "The kept patches of the image become tokens. Every other patch is merged into one of them, which "
                    "has a frame of the same color."
                )
            run([button.click], page.describe, [image], [caption, tokens, kept, merged])

        with gr.Tab("Ask"), gr.Row():
            with gr.Column():
                image = given()
            with gr.Column():
                question = gr.Textbox(QUESTIONS[0], label="Question")
                gr.Examples(QUESTIONS, question)
                button = gr.Button("Ask", variant="primary")
                answer = gr.Textbox(label="Answer")
            run([button.click, question.submit], page.ask, [image, question], [answer])

        with gr.Tab("Draw"), gr.Row():
            with gr.Column():
                prompt = gr.Textbox(DRAWINGS[0], label="What to draw", lines=3)
                gr.Examples(DRAWINGS, prompt)
                button = gr.Button("Draw", variant="primary")
                guidance, seed = knobs()
            with gr.Column():
                drawing = result("Drawing")
                count = gr.Textbox(label="Tokens")
            run([button.click, prompt.submit], page.draw, [prompt, guidance, seed], [drawing, count])

        with gr.Tab("Edit"), gr.Row():
            with gr.Column():
                image = given()
                instruction = gr.Textbox(INSTRUCTIONS[0], label="What to change")
                gr.Examples(INSTRUCTIONS, instruction)
                button = gr.Button("Edit", variant="primary")
                guidance, seed = knobs()
            with gr.Column():
                edited = result("Edited image")
                count = gr.Textbox(label="Tokens")
            inputs = [image, instruction, guidance, seed]
            run([button.click, instruction.submit], page.edit, inputs, [edited, count])

        with gr.Tab("Reconstruct"), gr.Row():
            with gr.Column():
                image = given()
                button = gr.Button("Reconstruct", variant="primary")
                label = "Number of tokens; 0 is automatic: as many as the content needs"
                dial = gr.Slider(0, page.model.config.num_patches, 0, step=1, label=label)
                seed = gr.Number(0, label="Seed", precision=0, minimum=0)
            with gr.Column():
                rebuilt = result("Reconstruction")
                count = gr.Textbox(label="Tokens")
            run([button.click, dial.release], page.reconstruct, [image, dial, seed], [rebuilt, count])

        with gr.Tab("Chat"):
            messages = gr.State([])
            textbox = gr.MultimodalTextbox(
                placeholder=f"Ask about an image, or write “draw” and a scene. The clip attaches images: {LIMITS}.",
                file_types=["image"],
                file_count="multiple",
            )
            gr.ChatInterface(
                page.chat,
                multimodal=True,
                textbox=textbox,
                validator=check_message,
                examples=[[{"text": question, "files": scenes[:1]}, None] for question in QUESTIONS],
                additional_inputs=[messages],
                additional_outputs=[messages],
                api_visibility="undocumented",  # its answers are components of the page
            )
            # A file that cannot be read is refused and taken out as soon as it is attached.
            told = gr.State([])
            boxes = [textbox, told]
            hidden = {"show_progress": "hidden", "api_visibility": "undocumented"}
            textbox.change(drop_broken_files, boxes, boxes, trigger_mode="multiple", **hidden)
    return blocks.queue(max_size=MAX_WAITING)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=os.environ.get("LAVIT_MODEL"), help="default: the small model")
    parser.add_argument("--port", type=int, help="default: the first free port from 7860")
    args = parser.parse_args()
    page = Page(args.model or str(demo_checkpoint()))
    # An error that nobody foresaw may name files of the server, so that it is written to the log alone.
    blocks = build(page, is_demo=args.model is None)
    blocks.launch(server_port=args.port, max_file_size=MAX_BYTES, show_error=False, css=CSS)


if __name__ == "__main__":
    main()
