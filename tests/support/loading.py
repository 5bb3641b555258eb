"""Datasets as a run loads them, and the one line with which something wrong is refused."""

from collections.abc import Callable
from pathlib import Path

import pytest

import tod.config
import tod.data

FEW_LABELS = (
    "active_learning.initial_labels=4",
    "active_learning.query_size=4",
    "active_learning.cycles=2",
)


def load(name: str, data_dir: Path, *overrides: str, seed: int = 0) -> tod.data.Dataset:
    """A dataset of few images, in the folder in which `formats` has written it."""
    config = tod.config.load(name, (*FEW_LABELS, *overrides), str(data_dir))
    return tod.data.load(config, seed)


def refused(call: Callable, *arguments: object, lines: int = 1, **settings: object) -> str:
    """The message, of so many lines or, with 0, of any, with which a function refuses this."""
    with pytest.raises(tod.config.InputError) as caught:
        call(*arguments, **settings)
    message = str(caught.value)
    assert lines in (0, len(message.split("\n")))
    return message


def refusal(name: str, data_dir: Path, *overrides: str, lines: int = 1) -> str:
    """The message with which `load` refuses the dataset."""
    return refused(load, name, data_dir, *overrides, lines=lines)
