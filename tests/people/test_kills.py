"""A round that is killed anywhere ends, with the same command, as one that was not.

`--kills 1000` kills it before and after every single rename, by which all that a round leaves
becomes visible.
"""

import itertools
import random
import sys
from contextlib import ExitStack

import pytest
import torch
from torch.utils._pytree import tree_flatten

from tests.support import forks
from tests.support.faults import failing, moments, why_it_ends
from tests.support.harness import PROJECT_DIR
from tests.support.people import People, stub_figures, table

KILLED = """
import os, sys
from pathlib import Path

import main_TOD
from tests.support.people import stub_figures

stub_figures()
moment, is_after, name = int(sys.argv[1]), sys.argv[2] == "after", sys.argv[3]
count, replace = 0, Path.replace

def replace_or_die(self, target):
    global count
    count += name in ("", Path(target).name)
    if count != moment or is_after:
        replace(self, target)
    if count == moment:
        os.kill(os.getpid(), 9)

Path.replace = replace_or_die
main_TOD.main(sys.argv[4:])
print(count)
"""


def run_and_kill(
    people: People, moment: int, when: str, *arguments: object, name: str = ""
) -> str | None:
    """Runs a round that is killed at a rename, from 1; says how many there are, if it was not.

    With a `name`, renames to others do not count.
    """
    killed = [sys.executable, "-c", KILLED, str(moment), when, name]
    command = [*killed, *people.command(*arguments, **METHOD)]
    process = forks.run(command, cwd=PROJECT_DIR)
    assert process.returncode in (0, -9), process.stderr
    return process.stdout if process.returncode == 0 else None


pytestmark = pytest.mark.usefixtures("figures_stubbed")
METHOD = {"sampling": "TOD", "auxiliary": "TOD"}
FAILING = ("replace", "write", "open for reading", "fsync", "mkdir")


def left(people: People) -> dict[str, object]:
    """All that a round leaves and that must be the same, however it went."""
    found: dict[str, object] = {}
    for path in people.run.rglob("*"):
        name = str(path.relative_to(people.run))
        if path.name == "results.csv" or path.parent.name == "trials":
            found[name] = [{**row, "train_seconds": ""} for row in table(path)]
        elif path.suffix in (".pt", ".pth"):
            found[name] = plain({**torch.load(path, weights_only=True), "train_seconds": 0})
        elif path.is_file() and path.parent.name != ".locks" and path.suffix != ".txt":
            found[name] = path.read_bytes()
    return found


def plain(state: object) -> object:
    """A saved state whose tensors are bytes, so that it can be compared."""
    leaves, structure = tree_flatten(state)
    for place, leaf in enumerate(leaves):
        if isinstance(leaf, torch.Tensor):
            leaves[place] = leaf.shape, leaf.dtype, leaf.numpy().tobytes()
    return structure, leaves


@pytest.fixture(scope="module")
def waiting(tmp_path_factory) -> People:
    """A run whose second batch waits; people have answered it: with a tie and a skip."""
    people = People(tmp_path_factory.mktemp("waiting"), 30)
    people.rounds((-1, 0), "--set=active_learning.check_share=0.2", **METHOD)
    tie, skip, *others = people.batch(1)
    people.says(others, file="answers.csv", skips=[skip])
    with (people.place / "answers.csv").open("a") as file:
        file.writelines(f"{tie['file']},,{name},\n" for name in people.classes)
    return people


@pytest.fixture(scope="module")
def ended(waiting, tmp_path_factory) -> tuple[dict[str, object], dict[str, int]]:
    """What an uninterrupted round leaves, and how often it does what is to fail."""
    people = waiting.copy(tmp_path_factory.mktemp("ended"))
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patched:
        stub_figures(patched.setattr)
        faults = {kind: stack.enter_context(failing(kind, people.run)) for kind in FAILING}
        faults["rename"] = stack.enter_context(failing("replace", people.place))
        people.round(*answers(people), **METHOD)
    assert people.batch(2)[0]["sha256"] == people.batch(1)[0]["sha256"]
    return left(people), {kind: fault.count for kind, fault in faults.items()}


def answers(people: People) -> tuple[object, ...]:
    return "--labels", people.place / "answers.csv"


def test_a_round_that_is_killed_ends_as_any_other(tmp_path, waiting, ended, pytestconfig):
    expected, count = ended[0], ended[1]["rename"]
    assert count >= 10
    every = [*itertools.product(range(1, count + 1), ("before", "after"))]
    chosen = random.Random(0).sample(every, min(pytestconfig.getoption("--kills"), len(every)))
    for moment, when in chosen:
        people = waiting.copy(tmp_path / f"{moment} {when}")
        assert run_and_kill(people, moment, when, *answers(people)) is None
        people.round(*answers(people), **METHOD)
        assert left(people) == expected


def test_a_round_killed_while_it_trains_goes_on_without_the_labels_file(tmp_path, waiting, ended):
    people = waiting.copy(tmp_path / "place")
    # The first state of the round says with which labels it has begun.
    assert run_and_kill(people, 1, "after", *answers(people), name="trial1.pt") is None
    state = torch.load(people.run / "progress" / "trial1.pt", weights_only=True)
    assert len(state["labeled"]) > 9
    people.round(**METHOD)
    assert left(people) == ended[0]


def test_the_first_batch_is_the_same_after_any_kill(tmp_path, pytestconfig):
    whole = People(tmp_path / "whole")
    count = int(run_and_kill(whole, 0, "before"))
    every = range(1, count + 1)
    for moment in every if pytestconfig.getoption("--kills") > 100 else every[-1:]:
        people = People(tmp_path / str(moment))
        assert run_and_kill(people, moment, "before") is None
        people.round(**METHOD)
        for name in ("batch.csv", "label.html", "contact_sheet.png", "label_studio.json"):
            paths = [each.run / "batches" / "batch0" / name for each in (people, whole)]
            assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize("kind", FAILING)
def test_a_round_says_which_operation_fails_and_goes_on(
    tmp_path, waiting, ended, pytestconfig, kind
):
    expected, count = ended[0], ended[1][kind]
    assert count
    for moment in moments(count, pytestconfig.getoption("--faults")):
        people = waiting.copy(tmp_path / str(moment))
        with failing(kind, people.run, moment) as fault:
            why_it_ends(people.round, *answers(people), **METHOD)
        assert fault.count >= moment
        for _ in range(2):
            people.round(*answers(people), **METHOD)
        assert left(people) == expected
