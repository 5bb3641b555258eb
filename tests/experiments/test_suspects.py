"""How well wrong labels are found, measured on flipped ones."""

import re

import numpy as np
import pytest
from PIL import Image

from experiments import suspects


@pytest.fixture
def folder(tmp_path):
    """Three classes of 20 pictures each, which their features tell apart."""
    random = np.random.default_rng(0)
    for name, colour in (("day", (220, 200, 60)), ("dusk", (150, 60, 90)), ("night", (10, 20, 70))):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i in range(20):
            pixels = np.clip(random.normal(colour, 25, (32, 32, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pictures" / name / f"{i}.png")
    return tmp_path / "pictures"


@pytest.mark.parametrize("alike", [[], ["--alike"]])
def test_flipped_labels_of_plain_classes_are_found(folder, capsys, alike):
    suspects.main([str(folder), "--classes=3", "--labels=60", "--size=32", *alike])
    row = r"^\| (?:self-confidence|predicted otherwise) \| (\d+) \| (\d+)% \| (\d+)% \|$"
    rows = [[*map(int, found)] for found in re.findall(row, capsys.readouterr().out, re.MULTILINE)]
    assert [labels for labels, *_ in rows[::2]] == [1, 3, 6]  # 1, 5 and 10 %
    assert min(min(others) for _, *others in rows) >= 75


def test_a_label_is_flipped_to_the_class_most_alike():
    features = np.eye(3)[[0, 0, 1, 1, 2, 2]] + np.array([0, 0, 0.2])
    features[:2, 1] += 0.5  # the first class leans towards the second
    assert suspects.most_alike(features, np.array([0, 0, 1, 1, 2, 2])).tolist() == [1, 0, 1]


def test_classes_with_too_few_labels_are_one_line(folder, refusal):
    for path in sorted((folder / "dusk").iterdir())[4:]:
        path.unlink()
    assert "a class has under 5 labels; ask for others" in refusal(
        suspects.main, folder, "--classes=3", "--labels=32", "--size=32"
    )
