"""A person who labels a batch, in a real browser."""

import csv
import io

from tests.support.browser import wait_until_ready
from tests.support.pictures import plain
from tod.people.page import thumbnail
from tod.people.requests import Request

ANIMALS = ("cat", "dog", "bird")
HEADER = ["file", "sha256", "class", "skipped"]


def noise(side):
    return next(plain(1, side=side))


SMALL, LARGE = thumbnail(noise(8)), thumbnail(noise(300))


def images(count=4, picture=SMALL, said=("cat", "0.834"), file="a/{}.png"):
    return [
        (Request("", file.format(n), f"{n:064x}", "query", "1", *said), picture, f"{n}.png")
        for n in range(count)
    ]


FOUR = images()


class Labelling:
    """A page opened from disk by a person who has not used it before."""

    def __init__(self, context, path, content, is_ready):
        path.write_text(content, encoding="utf-8")
        self.address, self.context, self.complaints, self.questions = path.as_uri(), context, [], []
        self.open(is_ready)

    def open(self, is_ready=True):
        self.page = self.context.new_page()
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", self._answer)
        self.page.goto(self.address)
        if is_ready:
            wait_until_ready(self.page)

    def reload(self):
        self.page.reload()
        wait_until_ready(self.page)

    def _answer(self, dialog):
        self.questions.append(dialog.type)
        dialog.accept()

    def keys(self, *keys):
        for key in keys:
            self.page.keyboard.press(key)

    def wait_for(self, condition):
        """Waits for a condition in the page, which evaluates no strings itself."""
        for _ in range(100):
            if self.page.evaluate(condition):
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(f"never came true: {condition}")

    def text(self, name):
        return self.page.locator(f"#{name}").inner_text()

    def place(self):
        return int(self.text("place").split()[1])

    def shown_classes(self):
        return self.page.locator("#classes button:visible span").all_text_contents()

    def button(self, name):
        return self.page.get_by_role("button", name=name)

    def pressed(self):
        names = ("cat", "dog", "bird", "skip")
        return [n for n in names if self.button(n).get_attribute("aria-pressed") == "true"]

    def saved(self, save=None):
        """The lines of the file that the page downloads, but for who has said so, and when."""
        with self.page.expect_download() as download:
            (save or (lambda: self.keys("Control+s")))()
            self.keys("Enter")
        self.file_name = download.value.suggested_filename
        self.lines = download.value.path().read_bytes().decode()
        rows = list(csv.reader(io.StringIO(self.lines, newline=""), strict=True))
        self.told = [row[4:] for row in rows]
        return [row[:4] for row in rows]

    def names(self):
        return [row[2] for row in self.saved()[1:]]
