"""A round that is killed anywhere ends, with the same command, as one that was not.

`--kills 1000` kills it before and after every single rename, by which all that a round leaves
becomes visible.
"""

import random
import shutil
import sys
from pathlib import Path

import pytest
import torch

from tests.support import forks
from tests.support.faults import KINDS, failing
from tests.support.harness import PROJECT_DIR
from tests.support.people import People, table, write_table
from tod.config import InputError

KILLED = """
import os, sys
from pathlib import Path

import main_TOD

moment, is_after, name = int(sys.argv[1]), sys.argv[2] == "after", sys.argv[3]
count, replace = 0, Path.replace

def replace_or_die(self, target):
    global count
    count += name in ("", Path(target).name)
    if count == moment and not is_after:
        os.kill(os.getpid(), 9)
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
    process = forks.run(
        [*killed, *people.command(*arguments, **METHOD)],
        cwd=PROJECT_DIR,
    )
    if process.returncode == -9:
        return None
    assert process.returncode == 0, process.stderr
    return process.stdout


METHOD = {"sampling": "TOD", "auxiliary": "TOD"}


def left(people: People) -> dict[str, object]:
    """All that a round leaves and that must be the same, however it went."""
    found: dict[str, object] = {}
    for path in sorted(people.run.rglob("*")):
        name = str(path.relative_to(people.run))
        if path.name == "results.csv":
            found[name] = [{**row, "train_seconds": ""} for row in table(path)]
        elif path.suffix in (".pt", ".pth"):
            state = torch.load(path, weights_only=True)
            found[name] = {**state, "train_seconds": 0}
        elif path.is_file() and path.parent.name != ".locks" and path.suffix != ".txt":
            found[name] = path.read_bytes()
    return found


def assert_same(found: object, expected: object) -> None:
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            assert_same(found[key], expected[key])
    elif isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected)
    elif isinstance(expected, list) and expected and not isinstance(expected[0], str):
        for pair in zip(found, expected, strict=True):
            assert_same(*pair)
    else:
        assert found == expected


@pytest.fixture(scope="module")
def waiting(tmp_path_factory) -> People:
    """A run whose second batch waits; people have answered it: with a tie and a skip."""
    people = People(tmp_path_factory.mktemp("waiting"))
    people.round(**METHOD)
    people.round("--labels", people.answers(0), **METHOD)
    rows = people.batch(1)
    given = [(r["file"], r["sha256"], people.truth[r["sha256"]], "") for r in rows[2:]]
    given += [(rows[0]["file"], "", "cat", ""), (rows[0]["file"], "", "dog", "")]
    given += [(rows[1]["file"], "", "", "yes")]
    columns = ("file", "sha256", "class", "skipped")
    write_table(people.place / "answers.csv", given, columns)
    return people


@pytest.fixture(scope="module")
def ended(waiting, tmp_path_factory) -> tuple[dict[str, object], int]:
    """What an uninterrupted round leaves, and how many renames it takes."""
    people = copied(waiting, tmp_path_factory.mktemp("ended") / "place")
    count = run_and_kill(people, 0, "before", "--labels", people.place / "answers.csv")
    assert people.batch(2)[0]["sha256"] == people.batch(1)[0]["sha256"]
    return left(people), int(count)


def copied(people: People, place: Path) -> People:
    """The same folders in another place; the images keep their time stamps."""
    shutil.copytree(people.place, place)
    twin = object.__new__(People)
    vars(twin).update(vars(people), place=place, data=place / "photos")
    return twin


def test_a_round_that_is_killed_ends_as_any_other(tmp_path, waiting, ended, pytestconfig):
    expected, count = ended
    assert count >= 10
    moments = [(moment, when) for moment in range(1, count + 1) for when in ("before", "after")]
    chosen = random.Random(0).sample(moments, min(pytestconfig.getoption("--kills"), len(moments)))
    for moment, when in chosen:
        people = copied(waiting, tmp_path / f"{moment} {when}")
        command = ("--labels", people.place / "answers.csv")
        assert run_and_kill(people, moment, when, *command) is None
        people.round(*command, **METHOD)
        assert_same(left(people), expected)


def test_a_round_that_is_killed_while_it_trains_goes_on_without_the_labels_file(
    tmp_path, waiting, ended
):
    expected, _ = ended
    people = copied(waiting, tmp_path / "place")
    command = ("--labels", people.place / "answers.csv")
    # The first state of the round says with which labels it has begun.
    assert run_and_kill(people, 1, "after", *command, name="trial1.pt") is None
    state = torch.load(people.run / "progress" / "trial1.pt", weights_only=True)
    assert len(state["labeled"]) > 9
    people.round(**METHOD)
    assert_same(left(people), expected)


def test_the_first_batch_is_the_same_after_any_kill(tmp_path, pytestconfig):
    whole = People(tmp_path / "whole")
    count = int(run_and_kill(whole, 0, "before"))
    moments = range(1, count + 1)
    for moment in moments if pytestconfig.getoption("--kills") > 100 else (moments[-1],):
        people = People(tmp_path / str(moment))
        assert run_and_kill(people, moment, "before") is None
        people.round(**METHOD)
        for name in ("batch.csv", "label.html", "contact_sheet.png", "label_studio.json"):
            paths = [each.run / "batches" / "batch0" / name for each in (people, whole)]
            assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize("kind", ["replace", "write", "open for reading", "fsync", "mkdir"])
def test_a_round_in_which_an_operation_fails_says_so_and_goes_on_with_the_next_command(
    tmp_path, waiting, ended, pytestconfig, kind
):
    expected, _ = ended
    command = ("--labels", "answers.csv")
    counted = copied(waiting, tmp_path / "counted")
    command = ("--labels", counted.place / "answers.csv")
    with failing(kind, counted.run) as fault:
        counted.round(*command, **METHOD)
    assert fault.count > 0
    assert KINDS[kind]
    wanted = min(pytestconfig.getoption("--faults"), fault.count)
    for moment in {1 + i * (fault.count - 1) // max(wanted - 1, 1) for i in range(wanted)}:
        people = copied(waiting, tmp_path / str(moment))
        command = ("--labels", people.place / "answers.csv")
        with failing(kind, people.run, moment):
            try:
                people.round(*command, **METHOD)
            except InputError as error:
                assert len(str(error).splitlines()) == 1
        people.round(*command, **METHOD)
        people.round(*command, **METHOD)
        assert_same(left(people), expected)
