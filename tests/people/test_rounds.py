"""What a round takes, measures and asks for."""

from collections import Counter

import pytest
import torch

import main_LL4AL
import main_TOD
import plot
import report
from samplers import query_by_score
from tests.support.loading import refused
from tests.support.people import People, all_but, contents, digest, killed_behind_the_batch
from tod.analysis.results import DIAGNOSTICS
from tod.config.entry_script import Strategy
from tod.engine.learner import Learner


def reasons(people: People, number: int) -> Counter[str]:
    return Counter(row["reason"] for row in people.batch(number))


def in_class_folders(people: People) -> People:
    """The same, with as many labels in class folders as training begins with."""
    people.add(*(f"train/{('cat', 'dog')[i % 2]}/{i}.png" for i in range(10)))
    return people


def test_a_round_takes_labels_trains_and_asks_for_the_next(after):
    people = after(3)
    first = people.batch(0)
    assert [row["rank"] for row in first] == [str(rank) for rank in range(1, 11)]
    assert reasons(people, 0) == {"first": 9, "audit": 1}
    assert {row[key] for row in first for key in ("score", "predicted", "probability")} == {""}
    files = ["batch.csv", "contact_sheet.png", "label.html", "label_config.xml"]
    files += ["label_studio.json", "label_studio_predicted.json"]
    for number, expected in enumerate((files[:-1], files)):
        folder = people.run / "batches" / f"batch{number}"
        assert sorted(path.name for path in folder.iterdir()) == expected
    assert not list(people.run.glob("**/*partial*"))
    for number in (1, 2, 3):
        rows = people.batch(number)
        assert reasons(people, number) == {"query": 9, "audit": 1}
        scores = [float(row["score"]) for row in rows if row["reason"] == "query"]
        # TOD's first query takes the lowest scores.
        assert scores == sorted(scores, reverse=number > 1)
        assert {row["predicted"] for row in rows} <= {"cat", "dog"}
        assert all(0.5 <= float(row["probability"]) <= 1 for row in rows)
    asked = people.asked(range(4))
    assert len({*asked}) == 40
    given = people.table("labels.csv")
    assert [(row["sha256"], row["batch"], row["class"]) for row in given] == [
        (digest, str(place // 10), people.truth[digest]) for place, digest in enumerate(asked[:30])
    ]
    assert people.results("num_labeled", "audited") == [("9", "1"), ("18", "2"), ("27", "3")]
    # A batch's labels judge the scores of the cycle that asked for it.
    assert list(map(bool, people.results("score_loss_spearman"))) == [True, True, False]
    # Wilson's interval stands beside the accuracy.
    last = people.results()[-1]
    n, z, accuracy = 3, 1.959964, float(last["test_accuracy"]) / 100
    centre = (accuracy + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (accuracy * (1 - accuracy) / n + z * z / (4 * n * n)) ** 0.5
    found = [float(last[name]) for name in ("accuracy_low", "accuracy_high")]
    assert found == pytest.approx([100 * (centre - half), 100 * (centre + half)], abs=1e-3)


def test_the_same_command_without_labels_says_what_it_waits_for_and_changes_nothing(after, capsys):
    people = after(0)
    people.round()
    before = contents(people.place)
    for quiet in (True, False):
        assert capsys.readouterr().out == ""
        people.round(quiet=quiet)
        assert contents(people.place) == before
    (line,) = capsys.readouterr().out.splitlines()
    said = ("batch0: waits for the labels of 10 of 10 images", "--labels", "--partial")
    assert all(words in line for words in said)


def test_a_round_that_would_begin_a_second_run_says_which_has_begun(after, capsys):
    people = after(0)
    run, answers = people.run, people.answers(0)
    people.round("--labels", answers, sampling="RANDOM", quiet=False)
    first, *_ = capsys.readouterr().out.splitlines()
    assert f"is a new run; to go on with {run} instead, give its --sampling" in first


def test_a_batch_that_is_not_complete_waits_and_keeps_what_it_has(after):
    people = after(0, count=20)
    people.round("--labels", people.answers(0, all_but(2, 5)))
    assert len(people.labels()) == 8
    assert not (people.run / "results.csv").exists()
    people.round("--partial")
    assert people.results("num_labeled") in (["7"], ["8"])
    # The rest has returned to the pool.
    people.rounds([1])
    asked = people.asked((1, 2))
    assert {people.batch(0)[i]["sha256"] for i in (2, 5)} <= {*asked}
    assert len(asked) == len({*asked}) == 12


def test_partial_goes_on_only_where_people_have_said_something(after):
    people = after(0)
    people.round()
    before = contents(people.place)
    people.round("--partial")
    assert contents(people.place) == before
    given = people.answers(0, all_but(3))
    for _ in range(2):  # as a shell's history would
        people.round("--labels", given, "--partial")
    assert len(people.results()) == 1
    assert not (people.run / "batches" / "batch2").exists()


def test_audited_images_are_never_trained_on(people, monkeypatch):
    trained: list[set[int]] = []
    original = Learner.train_cycle

    def watched(self, images, targets, labeled, unlabeled, *rest):
        trained.append({*labeled.tolist(), *unlabeled.tolist()})
        original(self, images, targets, labeled, unlabeled, *rest)

    monkeypatch.setattr(Learner, "train_cycle", watched)
    people.rounds((-1, 0, 1), auxiliary="TOD")
    digests, audits = sorted(people.truth), set()
    for number, indices in enumerate(trained):
        audits |= {row["sha256"] for row in people.batch(number) if row["reason"] == "audit"}
        assert len(audits) == number + 1
        assert {digests[index] for index in indices} == {*digests} - audits
    assert len(trained) == 2


@pytest.mark.parametrize(("share", "of_26", "of_4"), [(0.9, 23, 3), (0.01, 1, 1)])
def test_of_each_batch_something_is_audited_and_never_all(after, share, of_26, of_4):
    people = after(-1, count=30)
    settings = [f"--set=active_learning.audit_share={share}", "--set=active_learning.query_size=26"]
    people.rounds((-1, 0), *settings)
    assert reasons(people, 0) == {"first": 26 - of_26, "audit": of_26}
    assert reasons(people, 1) == {"query": 4 - of_4, "audit": of_4}


def test_where_people_have_a_test_set_nothing_is_audited(people):
    people.add("test/cat/0.png", "test/dog/1.png", "test/cat/2.png", "test/dog/3.png")
    people.rounds((-1, 0))
    assert (reasons(people, 0), reasons(people, 1)) == ({"first": 10}, {"query": 10})
    (row,) = people.results()
    assert "audited" not in row
    assert float(row["test_accuracy"]) in (0, 25, 50, 75, 100)
    assert all(row["file"].startswith("unlabeled/") for n in (0, 1) for row in people.batch(n))


def test_a_test_set_may_come_later(after, monkeypatch, tmp_path):
    people = after(1)
    people.add("test/cat/0.png", "test/dog/1.png")
    people.rounds([1])
    assert people.results("audited") == ["1", ""]
    monkeypatch.undo()  # so that figures are drawn
    plot.main([str(people.run), f"--output={tmp_path / 'curve.png'}"])
    report.main([str(people.run), f"--output={tmp_path / 'report.html'}"])


def test_without_a_test_set_and_audits_the_accuracy_is_unknown(people):
    people.rounds((-1, 0), "--set=active_learning.audit_share=0")
    found = people.results("test_accuracy", "audited", "accuracy_low")
    assert found == [("nan", "0", "")]
    assert not (people.run / "learning_curve.png").exists()
    line = refused(plot.main, [str(people.run)])
    assert line == f"{people.run}: no accuracy has been measured yet"


def test_how_many_labels_training_begins_with_can_be_said(people):
    in_class_folders(people).round("--set=active_learning.initial_labels=25")
    assert len(people.batch(0)) == 25
    assert not (people.run / "results.csv").exists()


def test_training_begins_with_fewer_where_all_images_have_a_label(tmp_path):
    people = in_class_folders(People(tmp_path, count=0))
    (people.data / "unlabeled").mkdir()
    people.round("--set=active_learning.initial_labels=25")
    assert people.results("num_labeled") == ["10"]
    assert not (people.run / "batches").exists()


@pytest.mark.parametrize(
    "sampling", [name for name in main_TOD.SAMPLING if name not in ("LOSS", "FULL")]
)
def test_every_strategy_asks_for_a_batch_once_there_are_enough_labels(people, sampling):
    dropout = ["--set=model.dropout=0.5"] * (sampling == "BALD")
    loss = main_TOD.SCRIPT.strategy(sampling).needs_auxiliary or "NONE"
    in_class_folders(people).round(*dropout, sampling=sampling, auxiliary=loss)
    assert people.results("num_labeled") == ["10"]
    assert len({*people.asked([0])}) == 10
    assert all(row["score"] for row in people.batch(0))
    assert reasons(people, 0) == {"query": 9, "audit": 1}


def test_learning_loss_works_so_too(people):
    command = in_class_folders(people).command(sampling="LL4AL", auxiliary="LL4AL")
    main_LL4AL.main(command)
    main_LL4AL.main([*command, "--labels", str(people.answers(0))])
    assert len(people.batch(1)) == 10


def test_cod_trains_on_the_pool_and_bad_names_come_back(tmp_path):
    people = People(tmp_path, 30, ("=ten", 'a,"b"', "two\nlines", "<script>", " blank "))
    people.add("unlabeled/=x.png", "unlabeled/a,b.png", 'unlabeled/say "hi"\n.png')
    people.rounds((-1, 0), auxiliary="TOD")
    assert people.labels().items() <= people.truth.items()
    for number in (0, 1):
        for row in people.batch(number):
            assert digest(people.data / row["file"]) == row["sha256"]


@pytest.mark.parametrize("marked", [False, True])
def test_audits_are_scored_among_the_subset_where_a_score_depends_on_it(after, monkeypatch, marked):
    def by_number(pool):
        return query_by_score(pool, torch.full((len(pool.subset),), float(len(pool.subset))))

    people = after(0)
    monkeypatch.setitem(main_TOD.SAMPLING, "TOD", Strategy(by_number, takes_features=marked))
    people.rounds([0])
    (audit,) = [float(row["score"]) for row in people.batch(1) if row["reason"] == "audit"]
    assert audit == (41 if marked else 1)  # subset_size and itself


def test_fresh_weights_are_judged_by_the_network_that_asked(people, after):
    people.rounds((-1, 0, 1), "--set=training.fresh_weights=true")
    assert people.results(*DIAGNOSTICS)[0] == after(2, place="twin").results(*DIAGNOSTICS)[0]


def test_labels_given_after_a_kill_behind_the_batch_are_trained_on_at_once(after, monkeypatch):
    people = after(0)
    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        killed_behind_the_batch(patched)
        people.rounds([0])
    people.rounds([1])
    assert people.results("cycle") == ["1", "2"]
    assert len(people.batch(2)) == 10
