"""Runs that people label, as far as they have got (each stage is made once, and copied); pages."""

import os
from collections.abc import Callable
from functools import cache

import pytest

from tests.support.browser import chromium
from tests.support.labelling import ANIMALS, FOUR, Labelling
from tests.support.people import People, stub_figures
from tod.people.page import page

Stages = Callable[..., People]


@pytest.fixture(scope="session")
def stages(tmp_path_factory) -> Stages:
    @cache
    def made(answered: int, count: int) -> People:
        place = tmp_path_factory.mktemp("people") / "place"
        if answered < 0:
            return People(place, count)
        people = made(answered - 1, count).copy(place)
        people.rounds([answered - 1])
        return people

    return made


@pytest.fixture
def figures_stubbed(monkeypatch) -> None:
    stub_figures(monkeypatch.setattr)
    monkeypatch.setattr(os, "fsync", lambda _: None)  # no power fails here, and disks may be slow


@pytest.fixture
def after(stages, figures_stubbed, tmp_path) -> Stages:
    """A run of which people have answered so many batches, and the next one waits.

    With -1 answered, there are pictures alone.
    """

    def copied(answered: int, count: int = 60, place: str = "place") -> People:
        return stages(answered, count).copy(tmp_path / place)

    return copied


@pytest.fixture
def people(after) -> People:
    """The pictures, before the first round."""
    return after(-1)


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def labelling(browser, tmp_path):
    """Opens the page of batch 7; at the end, nothing must have been complained of."""
    every = []

    def opened(class_names=ANIMALS, images=FOUR, script=None, is_ready=True, **options):
        context = browser.new_context(**options)
        if script:
            context.add_init_script(script)
        content = page(7, class_names, images)
        every.append(Labelling(context, tmp_path / "batch.html", content, is_ready))
        return every[-1]

    yield opened
    for one in every:
        one.context.close()
        assert one.complaints == []
