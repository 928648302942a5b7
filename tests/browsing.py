# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Actions of a visitor of the page in a browser, and the results that the browser shows."""

import os
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from PIL import Image


SECONDS = 60  # for what a model does on a slow machine


@contextmanager
def visiting(browser, address: str, width: int = 1280):
    """Opens the page in a window of its own."""
    page = browser.new_page(viewport={"width": width, "height": 860})
    page.set_default_timeout(SECONDS * 1000)
    page.goto(address)
    yield page
    page.close()


def open_tab(page, name: str):
    page.get_by_role("tab").first.wait_for()
    if page.viewport_size["width"] < 500 and name not in ("Describe", "Ask", "Draw"):
        page.get_by_label("More tabs").click()
        page.locator(".overflow-dropdown button", has_text=name).click()
    else:
        page.get_by_role("tab", name=name, exact=True).click()
    return page.get_by_role("tabpanel").locator("visible=true").first


def upload(panel, path: Path) -> None:
    panel.locator("input[type=file]").first.set_input_files(path)


def replace_image(page, panel, path: Path) -> None:
    """Uploads an image and waits until it is shown, since a new image ends what is being made of the one before."""
    image = panel.locator("img").first
    before = image.get_attribute("src")
    upload(panel, path)
    wait_for(lambda: image.get_attribute("src") != before, "The image")
    wait_until_idle(page)


def wait_for(look, label: str):
    """Calls `look` until it returns a result, and returns this result."""
    deadline = time.monotonic() + SECONDS
    while not (found := look()):
        assert time.monotonic() < deadline, f"{label} stays empty"
        time.sleep(0.1)
    return found


def wait_for_text(panel, label: str) -> str:
    """Returns the text of a box once the box has one."""
    return wait_for(panel.get_by_label(label, exact=True).input_value, label)


def wait_for_picture(panel, label: str):
    """Returns the picture in a box once the browser shows it. Previews may take each other's place meanwhile."""
    shown = panel.locator(f".block:has(label:has-text('{label}')) img")
    is_there = "images => images.some(image => image.complete && image.naturalWidth >= 64)"
    wait_for(lambda: shown.evaluate_all(is_there), label)
    return shown.first


def read_pixels(panel, *places: tuple[int, int]) -> list[tuple[int, int, int]]:
    """Returns some pixels of the image that the box of a tab shows now."""
    source = wait_for_picture(panel, "Image").get_attribute("src")
    image = Image.open(urllib.request.urlopen(source)).convert("RGB")
    return [image.getpixel(place) for place in places]


def wait_until_idle(page) -> None:
    page.wait_for_function("!document.querySelector('.generating, .progress-text, .pending')")


def see_result(panel, label: str) -> list[str]:
    """Returns the text of a box and the addresses of all images of a tab."""
    images = panel.locator("img").evaluate_all("images => images.map(image => image.src)")
    return [panel.get_by_label(label, exact=True).input_value(), *images]


def press(page, panel, name: str, label: str, twice: bool = False) -> None:
    """Presses the button of a tab and waits for a result, which differs from that of another input."""
    wait_until_idle(page)
    before = see_result(panel, label)
    button = panel.get_by_role("button", name=name, exact=True)
    button.dblclick() if twice else button.click()
    wait_for(lambda: see_result(panel, label) != before, label)
    wait_until_idle(page)
    wait_for_text(panel, label)


def read_messages(page) -> str:
    """Returns the messages that are shown, of which there is at least one, and closes them."""
    page.get_by_test_id("toast-body").first.wait_for()
    text = "".join(page.get_by_test_id("toast-body").all_inner_texts())
    while page.locator(".toast-close").count():
        page.locator(".toast-close").first.click()
        page.wait_for_timeout(400)  # until it has faded out
    assert "/" not in text.replace("and/or", "")
    return text


def fits(page) -> bool:
    return page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def keep_screenshot(page, name: str) -> None:
    if folder := os.environ.get("LAVIT_PICTURES"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.evaluate("scrollTo(0, 0)")
        page.wait_for_timeout(700)  # until it has faded in
        page.screenshot(path=Path(folder) / f"{name}.png")
