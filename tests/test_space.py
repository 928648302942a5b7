# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
The page in a real browser: with the small model, what each tab answers; with a tiny one of random weights, what each
button does with every kind of input. With LAVIT_PICTURES=docs/page it leaves an image of each tab there.

Needs the extra "page" and Chromium.
"""

import importlib.util
import json
import os
import re
import shutil
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from lavit_hf.data.shapes import render_scene, sample_scene

from .browsing import (
    SECONDS,
    fits,
    keep_screenshot,
    open_tab,
    press,
    read_messages,
    read_pixels,
    replace_image,
    upload,
    visiting,
    wait_for,
    wait_for_picture,
    wait_for_text,
    wait_until_idle,
)
from .server import running


APP = Path(__file__).parent.parent / "examples" / "space" / "app.py"
BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
MISSING = [name for name in ("gradio", "playwright") if importlib.util.find_spec(name) is None]
MISSING += [] if BROWSER else ["chromium"]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"the page's tests need {', '.join(MISSING)}")

# It keeps to itself: no updates, no services of its maker.
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
FLAGS += ["--disable-sync", "--no-first-run", "--disable-quic"]


@contextmanager
def page_running(home: Path, *arguments: str):
    """The page, started as the README of the Space says."""
    environment = {**os.environ, "GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": str(home / "files")}
    with running([sys.executable, str(APP), *arguments], home / "log", env=environment, cwd=home) as address:
        yield address


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with page_running(tmp_path_factory.mktemp("space")) as address:
        yield address


@pytest.fixture(scope="module")
def tiny_address(tmp_path_factory, converted):
    """The page with a model that answers at once."""
    home = tmp_path_factory.mktemp("tiny_space")
    folder = shutil.copytree(converted, home / "model")
    for name, key, value in (
        (
            "generation_config.json",
            "image_generation",
            {"min_new_tokens": 4, "max_new_tokens": 6, "guidance_scale": 2.0},
        ),
        ("model_index.json", "default_num_inference_steps", 2),
    ):
        content = json.loads((folder / name).read_text(encoding="utf-8"))
        (folder / name).write_text(json.dumps(content | {key: value}), encoding="utf-8")
    with page_running(home, "--model", str(folder)) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(address, browser):
    with visiting(browser, address) as page:
        yield page


@pytest.fixture
def narrow_page(tiny_address, browser):
    """The page with the tiny model on the screen of a telephone."""
    with visiting(browser, tiny_address, width=390) as page:
        yield page


@pytest.fixture(scope="module")
def picture(tmp_path_factory) -> Path:
    """A star, a square and a triangle, of which the star is orange."""
    path = tmp_path_factory.mktemp("pictures") / "scene.png"
    render_scene(sample_scene(6, "test"), 256).save(path)
    return path


@pytest.fixture
def broken(tmp_path) -> Path:
    path = tmp_path / "broken.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n but no image")
    return path


@pytest.fixture
def transparent(tmp_path) -> Path:
    """Half-transparent red, which is (255, 127, 127) over white, beside nothing."""
    image = Image.new("RGBA", (200, 200))
    image.paste((255, 0, 0, 128), (0, 0, 100, 200))
    image.save(tmp_path / "transparent.png")
    return tmp_path / "transparent.png"


def test_describe(page, tmp_path):
    """Another scene than the worked example, with two purple circles."""
    render_scene(sample_scene(11, "test"), 256).save(tmp_path / "scene.png")
    panel = open_tab(page, "Describe")
    upload(panel, tmp_path / "scene.png")
    # The page takes away what was said of the image before.
    wait_for(lambda: panel.get_by_label("Caption").input_value() == "", "The empty caption")
    panel.get_by_role("button", name="Describe").click()
    wait_for(lambda: "purple circle" in panel.get_by_label("Caption").input_value(), "The caption of the circles")
    count, codes = re.fullmatch(r"(\d+) tokens for 64 patches: ([\d ]+)", wait_for_text(panel, "Tokens")).groups()
    assert len(codes.split()) == int(count)
    wait_for_picture(panel, "Kept patches")
    wait_for_picture(panel, "Merged patches")
    keep_screenshot(page, "describe")


def test_ask(page, picture):
    panel = open_tab(page, "Ask")
    replace_image(page, panel, picture)
    panel.get_by_label("Question").fill("what color is the star?")
    panel.get_by_role("button", name="Ask").click()
    assert wait_for_text(panel, "Answer") == "orange"
    keep_screenshot(page, "ask")


def test_draw(page):
    """Previews come before the drawing does."""
    panel = open_tab(page, "Draw")
    panel.get_by_label("What to draw").fill("a large red circle at the top left")
    counts = set()
    panel.get_by_role("button", name="Draw", exact=True).click()
    box, deadline = panel.get_by_label("Tokens", exact=True), time.monotonic() + SECONDS
    while not counts - {""} or page.locator(".progress-text, .generating").count():
        counts.add(box.input_value())
        assert time.monotonic() < deadline
    assert len(counts - {""}) > 1
    assert re.fullmatch(r"\d+ tokens", wait_for_text(panel, "Tokens"))
    source = wait_for_picture(panel, "Drawing").get_attribute("src")
    drawn = Image.open(urllib.request.urlopen(source)).convert("RGB")
    red, green, blue = drawn.resize((4, 4), Image.Resampling.BOX).getpixel((0, 0))
    assert red > green + 40
    assert red > blue + 40
    keep_screenshot(page, "draw")


def test_edit(page, picture):
    panel = open_tab(page, "Edit")
    replace_image(page, panel, picture)
    panel.get_by_label("What to change").fill("paint the star blue")
    panel.get_by_role("button", name="Edit", exact=True).click()
    wait_for_picture(panel, "Edited")
    page.wait_for_function("!document.querySelector('.generating')")
    keep_screenshot(page, "edit")


def test_reconstruct(page, picture):
    panel = open_tab(page, "Reconstruct")
    replace_image(page, panel, picture)
    panel.get_by_role("button", name="Reconstruct", exact=True).click()
    assert re.fullmatch(r"from \d+ tokens", wait_for_text(panel, "Tokens"))
    wait_for_picture(panel, "Reconstruction")
    wait_until_idle(page)
    dial = panel.get_by_role("slider")
    assert "0 is automatic" in dial.get_attribute("aria-label")
    dial.fill("8")
    dial.dispatch_event("pointerup")
    wait_for(lambda: panel.get_by_label("Tokens", exact=True).input_value() == "from 8 tokens", "8 tokens")
    keep_screenshot(page, "reconstruct")


def test_chat(page, picture):
    panel = open_tab(page, "Chat")
    textbox = panel.locator("textarea")
    upload(panel, picture)
    textbox.fill("what color is the star?")
    textbox.press("Enter")
    answer = page.get_by_test_id("bot").first
    answer.wait_for()
    page.wait_for_function("document.querySelector('[data-testid=bot]').innerText.includes('orange')")
    keep_screenshot(page, "chat")
    wait_for(textbox.is_enabled, "the chat")
    textbox.fill("a photo of a cat")
    textbox.press("Enter")
    assert "does not know 'photo', 'cat'. It knows" in read_messages(page)
    wait_for(textbox.is_enabled, "the chat")
    textbox.fill("draw a large red circle")
    textbox.press("Enter")
    page.get_by_test_id("bot").last.locator("img").wait_for()


@pytest.mark.parametrize(
    ("tab", "label"), {"Ask": "Question", "Draw": "What to draw", "Edit": "What to change"}.items()
)
def test_a_text_outside_of_what_the_model_knows(page, tab, label):
    panel = open_tab(page, tab)
    panel.get_by_label(label).fill("a photo of a cat")
    panel.get_by_role("button", name=tab, exact=True).click()
    assert "does not know 'photo', 'cat'. It knows" in (words := read_messages(page))
    assert "Warning" in words
    wait_for_text(panel, "Answer" if tab == "Ask" else "Tokens")  # it is tried all the same


@pytest.mark.parametrize(
    ("tab", "label", "result"), [("Ask", "Question", "Answer"), ("Draw", "What to draw", "Tokens")]
)
def test_what_is_refused_has_no_old_result(narrow_page, tab, label, result):
    page, panel = narrow_page, open_tab(narrow_page, tab)
    button = panel.get_by_role("button", name=tab, exact=True)
    button.click()
    wait_for_text(panel, result)
    wait_until_idle(page)
    for text, message in {"is there a red square? " * 200: "The context holds", "": "first."}.items():
        panel.get_by_label(label).fill(text)
        button.click()
        assert message in read_messages(page)
        wait_for(lambda: panel.get_by_label(result, exact=True).input_value() == "", "The empty result")


def test_the_first_view_is_a_worked_example(page):
    panel = open_tab(page, "Describe")
    assert re.match(r"\d+ tokens for 64 patches", panel.get_by_label("Tokens", exact=True).input_value())
    assert "star" in panel.get_by_label("Caption", exact=True).input_value()
    for label in ("Image", "Kept patches", "Merged patches"):
        wait_for_picture(panel, label)
    assert panel.get_by_text("Image: PNG, JPEG or WebP, at most 10 MB and 50 megapixels").is_visible()


@pytest.mark.parametrize(
    ("tab", "label"),
    {"Describe": "Tokens", "Ask": "Answer", "Draw": "Tokens", "Edit": "Tokens", "Reconstruct": "Tokens"}.items(),
)
def test_every_button(narrow_page, broken, transparent, tab, label):
    page, panel = narrow_page, open_tab(narrow_page, tab)
    button = panel.get_by_role("button", name=tab, exact=True)
    for box in panel.locator("textarea:not([disabled])").all():
        box.fill("")
    if tab == "Draw":
        button.click()
        assert "Say what to draw first." in read_messages(page)
    else:
        panel.get_by_label("Remove Image").click()
        button.click()
        assert "Give an image first." in read_messages(page)
        upload(panel, broken)
        assert "broken.png, a file of 21 bytes, is not a PNG" in read_messages(page)
        button.click()  # the box is empty again
        assert "Give an image first." in read_messages(page)
        upload(panel, transparent)
        over_white = [(255, 127, 127), (255, 255, 255)]
        wait_for(lambda: read_pixels(panel, (50, 50), (150, 50)) == over_white, "Image over white")
        shown = panel.locator("img").first.get_attribute("src")
    if tab in ("Ask", "Edit"):
        button.click()
        assert " first." in read_messages(page)
    for box in panel.locator("textarea:not([disabled])").all():
        box.fill("a red star")
    press(page, panel, tab, label, twice=True)
    examples = panel.locator(".gallery-item")
    examples.nth(1).click()
    if tab == "Draw":
        wait_for(lambda: panel.get_by_label("What to draw").input_value() != "a red star", "What to draw")
    else:
        wait_for(lambda: panel.locator("img").first.get_attribute("src") != shown, "Image")
    press(page, panel, tab, label)
    assert not page.get_by_test_id("toast-body").count()
    assert not panel.get_by_text("Error", exact=True).locator("visible=true").count()
    assert fits(page)
    if tab in ("Draw", "Edit", "Reconstruct"):
        panel.get_by_label("Seed").fill("")
        button.click()
        assert "whole number" in read_messages(page)


def test_every_button_of_the_chat(narrow_page, broken, transparent):
    page, panel = narrow_page, open_tab(narrow_page, "Chat")
    box, files = panel.locator("textarea"), panel.locator("input[type=file]").first
    questions, answers = page.get_by_test_id("user"), page.get_by_test_id("bot")

    def wait_for_turns(count: int) -> None:
        wait_for(lambda: bool(answers.count()) == bool(count) and box.is_enabled(), "the chat")
        turns = panel.locator(".message-row.user-row, .user-row")
        wait_for(lambda: turns.count() == count, f"turn {count}")
        wait_until_idle(page)

    box.fill("  ")
    box.press("Enter")
    assert "Write something or give an image first." in read_messages(page)
    for paths in ([broken], [broken, transparent]):
        files.set_input_files(paths)
        assert read_messages(page).count("broken.png") == 1
        wait_until_idle(page)
        assert not page.get_by_test_id("toast-body").count()
    wait_for(lambda: panel.locator(".thumbnail-item").count() == 1, "the other file")
    assert not questions.count()  # a refused message is not shown
    box.fill("a red star")
    box.press("Enter")
    wait_for_turns(1)
    box.fill("and a blue one")
    panel.get_by_label("Submit").or_(panel.locator(".submit-button")).first.dblclick()
    wait_for_turns(2)
    panel.get_by_label("Retry").last.click()
    wait_for_turns(2)
    panel.get_by_label("Undo").last.click()
    wait_for_turns(1)
    assert fits(page)
    panel.locator("[aria-label=Clear]:visible").first.click()
    wait_for(lambda: not questions.count(), "the cleared chat")
    panel.get_by_text("what color is the star?").click()
    wait_for_turns(1)


def test_a_chat_goes_on_after_a_refusal(narrow_page):
    """The model has no room for so many words."""
    panel = open_tab(narrow_page, "Chat")
    box = panel.locator("textarea")
    box.fill("a star " * 2000)
    box.press("Enter")
    assert "Warning" in read_messages(narrow_page)
    wait_for(box.is_enabled, "the chat")
    box.fill("a star")
    box.press("Enter")
    narrow_page.get_by_test_id("bot").first.wait_for()


def test_messages_go_away(narrow_page):
    panel = open_tab(narrow_page, "Describe")
    panel.get_by_label("Remove Image").click()
    panel.get_by_role("button", name="Describe", exact=True).click()
    message = narrow_page.get_by_test_id("toast-body").first
    message.wait_for()
    message.wait_for(state="detached")
    assert not panel.get_by_text("Error", exact=True).locator("visible=true").count()


def test_two_visitors(tiny_address, browser):
    with visiting(browser, tiny_address) as first, visiting(browser, tiny_address) as second:
        tabs = (first, "Draw", "Tokens"), (second, "Ask", "Answer")
        panels = [open_tab(page, name) for page, name, _ in tabs]
        for panel, (_, name, _) in zip(panels, tabs, strict=True):
            panel.get_by_role("button", name=name, exact=True).click()
        for panel, (page, _, label) in zip(panels, tabs, strict=True):
            wait_for_text(panel, label)
            wait_until_idle(page)
        panels[0].get_by_role("button", name="Draw", exact=True).click()
        first.close()  # a visitor who leaves does not keep the model
        panel = open_tab(second, "Reconstruct")
        panel.get_by_role("button", name="Reconstruct", exact=True).click()
        wait_for_text(panel, "Tokens")


def test_files_of_the_server_are_not_read(tiny_address, picture):
    """A program can send any path in place of an upload."""
    upload = {"path": str(picture), "meta": {"_type": "gradio.FileData"}}
    url, headers = f"{tiny_address}/gradio_api/call/describe", {"Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps({"data": [upload]}).encode(), headers)
    event = json.load(urllib.request.urlopen(request))["event_id"]
    answer = urllib.request.urlopen(f"{url}/{event}").read().decode()
    assert "event: error" in answer
    assert str(picture) not in answer


def test_many_pixels_are_refused(narrow_page, tmp_path):
    Image.new("L", (13000, 13000)).save(tmp_path / "many.png")
    panel = open_tab(narrow_page, "Describe")
    panel.get_by_label("Remove Image").click()
    upload(panel, tmp_path / "many.png")
    assert "50 megapixels" in read_messages(narrow_page)


def test_large_uploads_are_refused(narrow_page, tmp_path):
    large = tmp_path / "large.png"
    large.write_bytes(os.urandom(12_000_000))
    panel = open_tab(narrow_page, "Describe")
    panel.get_by_label("Remove Image").click()
    upload(panel, large)
    assert re.search("maximum.*size|too large", read_messages(narrow_page), re.IGNORECASE)
    assert not panel.get_by_text("Error", exact=True).locator("visible=true").count()
