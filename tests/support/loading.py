"""Datasets as a run loads them, and the one line with which a wrong one is refused."""

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


def refusal(name: str, data_dir: Path, *overrides: str) -> str:
    """The message with which `load` refuses the dataset."""
    with pytest.raises(tod.config.InputError) as caught:
        load(name, data_dir, *overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message
