"""A real browser, in which tests open the pages that the project writes."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Playwright, sync_playwright

NO_BROWSER = (
    "no Chromium to open the page in: install Debian's package chromium, or run "
    "`python -m playwright install chromium`"
)
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_of(playwright))
        yield browser
        browser.close()


def chromium_of(playwright: Playwright) -> str:
    """The path of a Chromium: the system's, or the one that Playwright has downloaded."""
    found = next(filter(None, map(shutil.which, BROWSERS)), playwright.chromium.executable_path)
    if not Path(found).exists():
        pytest.fail(NO_BROWSER)
    return found


def wait_until_ready(page: Page) -> None:
    """Waits until a page for labelling, which was opened or loaded again, can be used."""
    page.locator("#place:not(:empty)").wait_for()
