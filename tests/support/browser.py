"""A real browser, in which tests open the pages that the project writes."""

import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

INSTALL = "install Debian's package chromium, or run `python -m playwright install chromium`"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def chromium() -> Iterator[Browser]:
    """The system's Chromium, or the one that Playwright has downloaded."""
    with sync_playwright() as playwright:
        path = next(filter(None, map(shutil.which, BROWSERS)), playwright.chromium.executable_path)
        if not Path(path).exists():
            pytest.fail(f"no Chromium to open the page in: {INSTALL}")
        browser = playwright.chromium.launch(executable_path=path)
        yield browser
        browser.close()


def in_grey(page: Page, selector: str) -> Image.Image:
    """How an element looks, in grey."""
    return Image.open(io.BytesIO(page.locator(selector).screenshot())).convert("L")


def assert_ground_is(scheme: str, page: Page) -> None:
    """That the heading stands out from a ground that is light or dark."""
    heading = in_grey(page, "h1")
    darkest, lightest = heading.getextrema()
    assert lightest - darkest > 150
    assert (heading.getpixel((heading.width - 1, 0)) > 128) == (scheme == "light")


def wait_until_ready(page: Page) -> None:
    """Waits until a page for labelling, which was opened or loaded again, can be used."""
    page.locator("#place:not(:empty)").wait_for()
