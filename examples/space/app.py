# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
A page to try a LaVIT. It describes images and shows their tokens, answers questions, draws, edits, reconstructs and
chats.

    python app.py                      # the small model that ships with the library
    python app.py --model me/my-lavit  # a folder or a repository of the Hub
"""

import argparse
import os
import threading
from collections.abc import Iterator
from contextlib import closing
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
from lavit_hf.data.shapes import render_scene, sample_scene
from lavit_hf.inference import decode_codes, encode_images, write_texts
from lavit_hf.processing import read_image
from lavit_hf.visualization import find_merge_targets, show_kept_patches, show_merging


MAX_UPLOAD = "10mb"
MAX_WAITING = 32  # visitors in the queue
SHOWN_SIZE = 384  # pixels; small images are enlarged to it
PREVIEW_EVERY = 4  # codes


def read_upload(payload) -> Image.Image | None:
    """Reads and checks the image that a visitor uploads. Raises the error that the visitor sees if it is no image."""
    if payload is None:
        return None
    try:
        return read_image(Path(payload.path).read_bytes(), payload.orig_name or "The file")
    except ValueError as error:
        raise refusal(error) from error


def refusal(words: object) -> gr.Error:
    """Returns an error that is shown to the visitor and not logged as an error of the program."""
    return gr.Error(str(words), duration=None, print_exception=False)


def needs(value, what: str):
    if not value:
        raise refusal(f"{what} first.")
    return value


def read_seed(seed: float | None) -> int:
    if seed is None:
        raise refusal("Give a seed first.")
    return int(seed)


def enlarge(image: Image.Image) -> Image.Image:
    """Enlarges a small image with sharp pixels, which a browser would blur."""
    factor = max(1, SHOWN_SIZE // max(image.size))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def show_part(part: dict) -> str | gr.Image:
    """A part of a message as the chat shows it."""
    return gr.Image(enlarge(part["image"])) if part["type"] == "image" else part["text"]


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

    def _encode(self, image: Image.Image):
        return encode_images(self.model.model.visual_tokenizer, self.processor, [image])

    def _write(self, image: Image.Image, text: str) -> str:
        [written] = write_texts(self.model, self.processor, [text], [[image]], max_new_tokens=64)
        return written.partition("\n")[0]

    def describe(self, image: Image.Image | None) -> tuple[str, str, Image.Image, Image.Image]:
        needs(image, "Give an image")
        with self.turn:
            tokens = self._encode(image)
            targets = find_merge_targets(self.model.model.visual_tokenizer, tokens)[0]
            caption = self._write(image, "")
        codes, kept = tokens.codes.tolist(), tokens.keep_mask[0]
        listed = f"{len(codes)} tokens for {len(kept)} patches: {' '.join(map(str, codes))}"
        return caption, listed, show_kept_patches(image, kept), show_merging(image, targets)

    def ask(self, image: Image.Image | None, question: str) -> str:
        needs(image, "Give an image")
        question = needs(question.strip(), "Write a question")
        with self.turn:
            return self._write(image, self.processor.vqa_prompt.format(question=question))

    def draw(
        self, prompt: str, guidance_scale: float, seed: float, image: Image.Image | None = None
    ) -> Iterator[tuple[Image.Image | None, str]]:
        """Yields the image and the number of its codes while the codes are drawn. With an `image`, edits it."""
        prompt = needs(prompt.strip(), "Say what to draw")
        shown = None
        seed = read_seed(seed)
        conversation = Conversation(self.model, self.processor, self.pipeline, seed=seed)
        settings = {"preview_every": PREVIEW_EVERY, "guidance_scale": guidance_scale}
        pieces = conversation.edit(prompt, image, **settings) if image else conversation.draw(prompt, **settings)
        try:
            with self.turn, closing(pieces):
                set_seed(seed)
                for piece in pieces:
                    if isinstance(piece, StreamedImage):
                        shown = enlarge(piece.image)
                    elif isinstance(piece, ImageSegment):
                        count = len(piece.codes)
                    yield shown, f"{count} tokens"
        except ValueError as error:
            raise refusal(error) from error

    def edit(self, image: Image.Image | None, instruction: str, guidance_scale: float, seed: float):
        needs(image, "Give an image")
        yield from self.draw(instruction, guidance_scale, seed, image)

    def reconstruct(self, image: Image.Image | None, seed: float) -> tuple[Image.Image, str]:
        needs(image, "Give an image")
        seed = read_seed(seed)
        with self.turn:
            tokens = self._encode(image)
            [rebuilt] = decode_codes(self.pipeline, [tokens.codes.tolist()], seed)
        return enlarge(rebuilt), f"from {len(tokens.codes)} tokens"

    def chat(self, message: dict, history: list, conversation: Conversation | None):
        """Yields the answer to a message with files, as the chat shows it, and the conversation."""
        conversation = conversation or Conversation(self.model, self.processor, self.pipeline)
        if not history:
            conversation.messages.clear()
        try:
            content = [read_image(Path(path).read_bytes(), "That file") for path in message["files"]]
        except ValueError as error:
            raise refusal(error) from error
        content += [text] if (text := message["text"].strip()) else []
        needs(content, "Write something or give an image")
        try:
            with self.turn, closing(conversation.answer(*content)) as pieces:
                for _ in pieces:
                    yield [show_part(part) for part in conversation.messages[-1]["content"]], conversation
        except ValueError as error:
            raise refusal(error) from error


def build(page: Page, is_demo: bool) -> gr.Blocks:
    """Builds the page."""
    scenes = [render_scene(sample_scene(index, "test"), 256) for index in (6, 3, 11)] if is_demo else []
    about = "This small model knows only scenes of colored shapes." if is_demo else ""
    drawings = [
        "a large yellow star at the top left, a small blue circle on the right and a large red ring at the bottom",
        "two objects: a small green triangle in the center and a large purple square at the top right",
    ]
    with gr.Blocks(title="LaVIT") as blocks:
        gr.Markdown(f"# LaVIT\nOne model that reads and draws images as a varying number of tokens. {about}")

        def given() -> gr.Image:
            image = gr.Image(label="Image", height=SHOWN_SIZE, sources=["upload", "clipboard"])
            image.preprocess = read_upload  # the one of gradio fails without a message
            if scenes:
                gr.Examples(scenes, image)
            return image

        def knobs() -> tuple[gr.Slider, gr.Number]:
            with gr.Row():
                default = page.model.generation_config.image_generation.guidance_scale
                guidance = gr.Slider(1, 8, default or 1.0, step=0.1, label="Guidance: how closely it follows the text")
                return guidance, gr.Number(0, label="Seed", precision=0, minimum=0)

        with gr.Tab("Describe"), gr.Row():
            with gr.Column():
                image = given()
                button = gr.Button("Describe", variant="primary")
            with gr.Column():
                caption = gr.Textbox(label="Caption", lines=2)
                tokens = gr.Textbox(label="Tokens", lines=2)
                with gr.Row():
                    kept = gr.Image(label="Kept patches", format="png")
                    merged = gr.Image(label="Patches merged into them", format="png")
            button.click(page.describe, image, [caption, tokens, kept, merged])

        with gr.Tab("Ask"), gr.Row():
            with gr.Column():
                image = given()
            with gr.Column():
                question = gr.Textbox(label="Question", placeholder="what color is the star?")
                button = gr.Button("Ask", variant="primary")
                answer = gr.Textbox(label="Answer")
            gr.on([button.click, question.submit], page.ask, [image, question], answer)

        with gr.Tab("Draw"), gr.Row():
            with gr.Column():
                prompt = gr.Textbox(label="What to draw", lines=3)
                if is_demo:
                    gr.Examples(drawings, prompt)
                button = gr.Button("Draw", variant="primary")
                guidance, seed = knobs()
            with gr.Column():
                drawing = gr.Image(label="Drawing", height=SHOWN_SIZE, format="png")
                count = gr.Textbox(label="Tokens")
            gr.on([button.click, prompt.submit], page.draw, [prompt, guidance, seed], [drawing, count])

        with gr.Tab("Edit"), gr.Row():
            with gr.Column():
                image = given()
                instruction = gr.Textbox(label="What to change", placeholder="paint the star blue")
                button = gr.Button("Edit", variant="primary")
                guidance, seed = knobs()
            with gr.Column():
                edited = gr.Image(label="Edited", height=SHOWN_SIZE, format="png")
                count = gr.Textbox(label="Tokens")
            inputs = [image, instruction, guidance, seed]
            gr.on([button.click, instruction.submit], page.edit, inputs, [edited, count])

        with gr.Tab("Reconstruct"), gr.Row():
            with gr.Column():
                image = given()
                button = gr.Button("Reconstruct", variant="primary")
                seed = gr.Number(0, label="Seed", precision=0, minimum=0)
            with gr.Column():
                rebuilt = gr.Image(label="Reconstruction", height=SHOWN_SIZE, format="png")
                count = gr.Textbox(label="Tokens")
            button.click(page.reconstruct, [image, seed], [rebuilt, count])

        with gr.Tab("Chat"):
            conversation = gr.State(None)
            gr.ChatInterface(
                page.chat,
                multimodal=True,
                textbox=gr.MultimodalTextbox(
                    placeholder="Ask, or describe a scene; attach an image with the paper clip",
                    file_types=["image"],
                    file_count="multiple",
                ),
                additional_inputs=[conversation],
                additional_outputs=[conversation],
            )
    return blocks.queue(max_size=MAX_WAITING)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=os.environ.get("LAVIT_MODEL"), help="default: the small model")
    parser.add_argument("--port", type=int, help="default: the first free port from 7860")
    args = parser.parse_args()
    page = Page(args.model or str(demo_checkpoint()))
    build(page, is_demo=args.model is None).launch(server_port=args.port, max_file_size=MAX_UPLOAD, show_error=True)


if __name__ == "__main__":
    main()
