"""The accuracy that people want: how far it is, where it is reached, and how a run goes on."""

import re

import pytest
import torch
import yaml
from sklearn.metrics import cohen_kappa_score

from models.resnet import ResNet18
from tests.support.people import contents
from tod.config import load
from tod.data import own_images

TARGET = "--set=active_learning.target_accuracy="


@pytest.mark.parametrize("tested", [False, True])
def test_a_run_that_has_reached_its_target_asks_for_no_more_until_told_to(after, tested, capsys):
    people = after(2)
    if tested:
        people.add(*(f"test/{('cat', 'dog')[i % 2]}/{i}.png" for i in range(12)))
    path = people.run / "config.yaml"
    recorded = re.sub(r",\s+target_accuracy: null", "", path.read_text())
    assert recorded != path.read_text()
    path.write_text(recorded)  # an earlier version's
    people.round("--labels", people.answers(2), f"{TARGET}2", quiet=False)
    images = "12 test" if tested else "3 audited"
    said = rf"the target of 2 % is reached: [\d.]+ % on {images} images \(95 % interval: [\d.]+ to "
    shown = capsys.readouterr().out
    assert len(re.findall(said, shown)) == 1
    assert "Cohen's κ" in shown and "asks for the labels" not in shown
    assert len(people.results()) == 3
    assert not (people.run / "batches" / "batch3").exists()
    before = contents(people.place)
    people.round(quiet=False)
    assert re.match(said, capsys.readouterr().out)
    assert contents(people.place) == before
    # A higher one goes on, and later commands know it.
    people.round(f"{TARGET}99.5")
    assert len(people.batch(3)) == 10
    people.rounds([3])
    assert len(people.batch(4)) == 10
    assert yaml.safe_load(path.read_text())["active_learning"]["target_accuracy"] == 99.5
    people.round("--labels", people.answers(4), f"{TARGET}2")
    assert not (people.run / "batches" / "batch5").exists()
    people.round(f"{TARGET}null")
    assert len(people.batch(5)) > 0


def test_each_round_says_how_many_labels_the_next_accuracy_takes_from_the_fourth_on(after, capsys):
    people = after(-1)
    people.add(*(f"test/{('cat', 'dog')[i % 2]}/{i}.png" for i in range(12)))
    people.rounds(range(-1, 4), quiet=False)
    shown = capsys.readouterr().out
    early = r"^too early to forecast: (\d) of 4 label sizes with an accuracy(; Cohen's κ .*)?$"
    assert [bool(kappa) for _, kappa in re.findall(early, shown, re.M)] == [False, True, True]
    said = r"^(80|90|95|99) % (at|since|not in sight) .*; Cohen's κ|^no forecast: |^Cohen's κ"
    assert len(re.findall(said, shown, re.M)) == 1


def test_kappa_compares_two_rounds_networks_on_the_images_that_come_first_by_their_digests(
    after, capsys
):
    people = after(1)
    people.round("--labels", people.answers(1), quiet=False)
    (said,) = re.findall(
        r"κ with the previous round's network: (-?[\d.]+)", capsys.readouterr().out
    )
    recorded = yaml.safe_load((people.run / "config.yaml").read_text())
    images = load("own_images", ["images.size=8"]).images
    read = own_images.read(own_images.find(people.data), images)
    assert read.digests == sorted(read.digests)
    mean, std = (torch.tensor(recorded["run"][name]).view(3, 1, 1) for name in ("mean", "std"))
    pixels = (read.images.pixels / 255 - mean) / std
    predicted = []
    for cycle in (1, 2):
        network = ResNet18(2, width=4).eval()
        path = people.run / "weights" / f"trial1_cycle{cycle}.pth"
        network.load_state_dict(torch.load(path)["state_dict_backbone"])
        predicted.append(network(pixels)[0].argmax(dim=1).numpy())
    assert float(said) == pytest.approx(cohen_kappa_score(*predicted), abs=1e-3)
    assert len(predicted[0]) == 60
