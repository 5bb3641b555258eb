"""Runs that people label, as far as they have got: each stage is made once, and copied."""

import os
from collections.abc import Callable
from functools import cache

import pytest

from tests.support.people import People, stub_figures

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
