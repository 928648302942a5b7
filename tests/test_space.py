# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
The page in a real browser. With LAVIT_PICTURES=docs/page it leaves an image of each tab there.

Needs what `examples/space/requirements.txt` asks for, playwright, and Chromium.
"""

import importlib.util
import os
import re
import shutil
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from PIL import Image

from lavit_hf.data.shapes import render_scene, sample_scene

from .server import running


APP = Path(__file__).parent.parent / "examples" / "space" / "app.py"
BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
MISSING = [name for name in ("gradio", "playwright") if importlib.util.find_spec(name) is None]
MISSING += [] if BROWSER else ["chromium"]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"the page's tests need {', '.join(MISSING)}")

# It keeps to itself: no updates, no services of its maker.
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
FLAGS += ["--disable-sync", "--no-first-run", "--disable-quic"]
SECONDS = 60  # for what a model does on a slow machine


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The page, started as the README of the Space says."""
    home = tmp_path_factory.mktemp("space")
    environment = {**os.environ, "GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": str(home / "files")}
    with running([sys.executable, str(APP)], home / "log", env=environment, cwd=home) as address:
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
    page = browser.new_page(viewport={"width": 1280, "height": 860})
    page.set_default_timeout(SECONDS * 1000)
    page.goto(address)
    yield page
    page.close()


@pytest.fixture(scope="module")
def picture(tmp_path_factory) -> Path:
    """A star, a square and a triangle, of which the star is orange."""
    path = tmp_path_factory.mktemp("pictures") / "scene.png"
    render_scene(sample_scene(6, "test"), 256).save(path)
    return path


def open_tab(page, name: str):
    page.get_by_role("tab", name=name, exact=True).click()
    return page.get_by_role("tabpanel").locator("visible=true").first


def upload(panel, path: Path) -> None:
    panel.locator("input[type=file]").first.set_input_files(path)


def wait_for(look, label: str):
    """What `look` finds in a box once it finds something."""
    deadline = time.monotonic() + SECONDS
    while not (found := look()):
        assert time.monotonic() < deadline, f"{label} stays empty"
        time.sleep(0.1)
    return found


def wait_for_text(panel, label: str) -> str:
    """What a box says once it says something."""
    return wait_for(panel.get_by_label(label, exact=True).input_value, label)


def wait_for_picture(panel, label: str):
    """The picture in a box, once the browser shows it. Previews may take each other's place meanwhile."""
    shown = panel.locator(f".block:has(label:has-text('{label}')) img")
    is_there = "images => images.some(image => image.complete && image.naturalWidth >= 64)"
    wait_for(lambda: shown.evaluate_all(is_there), label)
    return shown.first


def keep_screenshot(page, name: str) -> None:
    if folder := os.environ.get("LAVIT_PICTURES"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.evaluate("scrollTo(0, 0)")
        page.wait_for_timeout(700)  # until it has faded in
        page.screenshot(path=Path(folder) / f"{name}.png")


def test_describe(page, picture):
    panel = open_tab(page, "Describe")
    upload(panel, picture)
    panel.get_by_role("button", name="Describe").click()
    assert "orange star" in wait_for_text(panel, "Caption")
    count, codes = re.fullmatch(r"(\d+) tokens for 64 patches: ([\d ]+)", wait_for_text(panel, "Tokens")).groups()
    assert len(codes.split()) == int(count)
    wait_for_picture(panel, "Kept patches")
    wait_for_picture(panel, "Patches merged into them")
    keep_screenshot(page, "describe")


def test_ask(page, picture):
    panel = open_tab(page, "Ask")
    upload(panel, picture)
    wait_for_picture(panel, "Image")
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
    upload(panel, picture)
    wait_for_picture(panel, "Image")
    panel.get_by_label("What to change").fill("paint the star blue")
    panel.get_by_role("button", name="Edit", exact=True).click()
    wait_for_picture(panel, "Edited")
    page.wait_for_function("!document.querySelector('.generating')")
    keep_screenshot(page, "edit")


def test_reconstruct(page, picture):
    panel = open_tab(page, "Reconstruct")
    upload(panel, picture)
    wait_for_picture(panel, "Image")
    panel.get_by_role("button", name="Reconstruct", exact=True).click()
    assert re.fullmatch(r"from \d+ tokens", wait_for_text(panel, "Tokens"))
    wait_for_picture(panel, "Reconstruction")
    keep_screenshot(page, "reconstruct")


def test_chat(page, picture):
    textbox = open_tab(page, "Chat").get_by_placeholder("Ask, or describe a scene")
    textbox.wait_for()
    page.get_by_role("tabpanel").locator("visible=true").locator("input[type=file]").first.set_input_files(picture)
    textbox.fill("what color is the star?")
    textbox.press("Enter")
    answer = page.get_by_test_id("bot").first
    answer.wait_for()
    page.wait_for_function("document.querySelector('[data-testid=bot]').innerText.includes('orange')")
    keep_screenshot(page, "chat")


def test_a_broken_file_is_refused_in_words(page, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n but no picture")
    panel = open_tab(page, "Describe")
    upload(panel, broken)
    panel.get_by_role("button", name="Describe").click()
    page.get_by_text("broken.png cannot be read").first.wait_for()


def test_nothing_given_is_said(page):
    panel = open_tab(page, "Ask")
    panel.get_by_role("button", name="Ask").click()
    page.get_by_text("Give an image first").first.wait_for()


def test_a_missing_seed_is_said(page):
    panel = open_tab(page, "Draw")
    panel.get_by_label("What to draw").fill("a small blue star")
    panel.get_by_label("Seed").fill("")
    panel.get_by_role("button", name="Draw").click()
    page.get_by_text("Give a seed first.").wait_for()


def test_large_uploads_are_refused(page, tmp_path):
    large = tmp_path / "large.png"
    large.write_bytes(os.urandom(12_000_000))
    upload(open_tab(page, "Describe"), large)
    page.get_by_text(re.compile("maximum.*size|too large", re.IGNORECASE)).first.wait_for()
