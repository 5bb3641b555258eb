"""A round that was interrupted within an epoch, and whose images have come or gone since."""

import pytest

from tests.support.harness import stop_in_step
from tests.support.people import People
from tod.engine.learner import Learner

COD = {"sampling": "RANDOM", "auxiliary": "TOD"}
STEPS = 2 * 3
"""Two epochs of 18 labelled images in batches of 8: two of the 20 asked for are audits."""


def unlabeled_file_that_goes(people: People) -> None:
    (people.data / people.unasked()[0]).unlink()


@pytest.mark.parametrize(
    ("count", "change", "is_restarted"),
    [
        (20, lambda people: people.add("unlabeled/new1.png", "unlabeled/new2.png"), True),
        (22, unlabeled_file_that_goes, True),  # one is left, on which batch norm cannot train
        (20, lambda people: people.add("unlabeled/new1.png"), False),
        (24, unlabeled_file_that_goes, False),
    ],
    ids=["pool appears", "vanishes", "stays empty", "shrinks"],
)
def test_an_epoch_begins_anew_where_losses_change(after, monkeypatch, count, change, is_restarted):
    people = after(-1, count)
    people.rounds((-1, 0), **COD)
    steps = stop_in_step(monkeypatch, 2)
    with pytest.raises(SystemExit):
        people.rounds([1], **COD)
    change(people)
    began, train_cycle = [], Learner.train_cycle

    def noted(learner: Learner, *arguments: object) -> None:
        began.append((learner.epoch, learner.step))
        train_cycle(learner, *arguments)

    monkeypatch.setattr(Learner, "train_cycle", noted)
    people.round(**COD)
    assert began == [(0, 0 if is_restarted else 2)]
    assert len(steps) == STEPS + (2 if is_restarted else 0)
    assert float(people.results("train_loss")[-1]) > 0
