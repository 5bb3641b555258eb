"""A run that people label, round by round, through the command line and with real files."""

import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

import main_LL4AL
import main_TOD
from samplers import query_by_score
from tests.support.harness import run_script
from tests.support.people import People, digest, table, write_table
from tod.analysis.results import DIAGNOSTICS
from tod.config import InputError
from tod.data import own_images
from tod.loop import Loop
from tod.people.trial import PeopleTrial
from tod.pool import takes_features


@pytest.fixture
def people(tmp_path) -> People:
    return People(tmp_path)


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Each file in a folder, and when it was written: 0 of a lock, which some filelocks touch."""
    return {
        str(path.relative_to(folder)): (
            path.read_bytes(),
            path.stat().st_mtime_ns if path.parent.name != ".locks" else 0,
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def files(rows: list[dict[str, str]], reason: str | None = None) -> list[str]:
    return [row["file"] for row in rows if reason in (None, row["reason"])]


def labels(people: People) -> dict[str, str]:
    return {row["sha256"]: row["class"] for row in table(people.run / "labels.csv")}


def results(people: People) -> list[dict[str, str]]:
    return table(people.run / "results.csv")


def all_but(*left: int):
    return lambda rows: [row for number, row in enumerate(rows) if number not in left]


def test_a_round_takes_labels_trains_and_asks_for_the_next(people, capsys):
    people.round()
    first = people.batch(0)
    assert [row["rank"] for row in first] == [str(rank) for rank in range(1, 11)]
    assert Counter(row["reason"] for row in first) == {"first": 9, "audit": 1}
    assert {row[key] for row in first for key in ("score", "predicted", "probability")} == {""}
    for number in range(3):
        people.round("--labels", people.answers(number))
        rows = people.batch(number + 1)
        assert Counter(row["reason"] for row in rows) == {"query": 9, "audit": 1}
        scores = [float(row["score"]) for row in rows if row["reason"] == "query"]
        # TOD's first query takes the lowest scores.
        assert scores == sorted(scores, reverse=number > 0)
        assert {row["predicted"] for row in rows} <= {"cat", "dog"}
        assert all(0.5 <= float(row["probability"]) <= 1 for row in rows)
    asked = [row["sha256"] for number in range(4) for row in people.batch(number)]
    assert len({*asked}) == 40
    given = table(people.run / "labels.csv")
    assert [row["sha256"] for row in given] == asked[:30]
    assert [row["batch"] for row in given] == ["0"] * 10 + ["1"] * 10 + ["2"] * 10
    assert all(row["class"] == people.truth[row["sha256"]] for row in given)
    assert [row["num_labeled"] for row in results(people)] == ["9", "18", "27"]
    assert [row["audited"] for row in results(people)] == ["1", "2", "3"]
    # A batch's labels judge the scores of the cycle that asked for it.
    assert [row["score_loss_spearman"] != "" for row in results(people)] == [True, True, False]
    assert capsys.readouterr().out == ""


def test_each_file_of_a_batch_is_there(people):
    people.round()
    assert sorted(path.name for path in (people.run / "batches" / "batch0").iterdir()) == [
        *("batch.csv", "contact_sheet.png", "label.html", "label_config.xml"),
        "label_studio.json",
    ]
    assert not list(people.run.glob("**/*partial*"))


def test_the_same_command_without_labels_says_what_it_waits_for_and_changes_nothing(people, capsys):
    people.round()
    before = contents(people.place)
    people.round()
    assert contents(people.place) == before
    arguments = [each for each in people.command() if each != "--quiet"]
    main_TOD.main(arguments)
    assert contents(people.place) == before
    (line,) = capsys.readouterr().out.splitlines()
    for words in ("batch0: waits for the labels of 10 of 10 images", "--labels", "--partial"):
        assert words in line


def test_the_same_labels_given_twice_change_nothing(people):
    people.round()
    people.round("--labels", people.answers(0))
    before = contents(people.place)
    people.round("--labels", people.place / "labels_batch0.csv")
    assert contents(people.place) == before


def test_a_batch_that_is_not_complete_waits_and_keeps_what_it_has(people):
    people.round()
    people.round("--labels", people.answers(0, all_but(2, 5)))
    assert len(labels(people)) == 8
    assert not (people.run / "results.csv").exists()
    missing = [people.batch(0)[i]["sha256"] for i in (2, 5)]
    people.round("--partial")
    assert len(results(people)) == 1
    # The rest has returned to the pool.
    for number in range(1, 6):
        people.round("--labels", people.answers(number))
    asked = [row["sha256"] for number in range(1, 7) for row in people.batch(number)]
    assert {*missing} <= {*asked}
    assert len(asked) == len({*asked}) == 52


def test_audited_images_are_never_trained_on(people, monkeypatch):
    from tod.training.learner import Learner

    trained: list[list[int]] = []
    original = Learner.train_cycle

    def watched(self, images, targets, labeled, unlabeled, *rest):
        trained.append([*labeled.tolist(), *unlabeled.tolist()])
        original(self, images, targets, labeled, unlabeled, *rest)

    monkeypatch.setattr(Learner, "train_cycle", watched)
    people.round(auxiliary="TOD")
    for number in range(3):
        people.round("--labels", people.answers(number), auxiliary="TOD")
    digests = sorted(people.truth)
    for number, indices in enumerate(trained):
        audits = {
            row["sha256"]
            for earlier in range(number + 1)
            for row in people.batch(earlier)
            if row["reason"] == "audit"
        }
        assert len(audits) == number + 1
        assert {digests[index] for index in indices} == {*digests} - audits


def test_where_people_have_a_test_set_nothing_is_audited(people):
    people.add("test/cat/0.png", "test/dog/1.png", "test/cat/2.png", "test/dog/3.png")
    people.round()
    assert {row["reason"] for row in people.batch(0)} == {"first"}
    people.round("--labels", people.answers(0))
    assert {row["reason"] for row in people.batch(1)} == {"query"}
    (row,) = results(people)
    assert "audited" not in row
    assert float(row["test_accuracy"]) in (0, 25, 50, 75, 100)
    asked = [row["file"] for number in (0, 1) for row in people.batch(number)]
    assert all(file.startswith("unlabeled/") for file in asked)


def test_without_a_test_set_and_audits_the_accuracy_is_unknown(people):
    people.round("--set=active_learning.audit_share=0")
    people.round("--labels", people.answers(0), "--set=active_learning.audit_share=0")
    (row,) = results(people)
    assert (row["test_accuracy"], row["audited"], row["accuracy_low"]) == ("nan", "0", "")
    assert not (people.run / "learning_curve.png").exists()


def test_wilsons_interval_stands_beside_the_accuracy(people):
    for number in range(-1, 3):
        people.round(*(["--labels", people.answers(number)] if number >= 0 else []))
    last = results(people)[-1]
    n, accuracy = int(last["audited"]), float(last["test_accuracy"]) / 100
    z = 1.959964
    centre = (accuracy + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (accuracy * (1 - accuracy) / n + z * z / (4 * n * n)) ** 0.5
    assert float(last["accuracy_low"]) == pytest.approx(100 * (centre - half), abs=1e-3)
    assert float(last["accuracy_high"]) == pytest.approx(100 * (centre + half), abs=1e-3)


def test_images_on_which_people_disagree_are_named_and_asked_again(people):
    people.round()
    rows = people.batch(0)
    other = write_table(
        people.place / "other.csv",
        [
            (row["file"], row["sha256"], "cat" if people.truth[row["sha256"]] == "dog" else "dog")
            for row in (rows[1], rows[4])
        ],
    )
    people.round("--labels", people.answers(0), other)
    ties = table(people.run / "disagreements.csv")
    assert [row["sha256"] for row in ties] == [rows[1]["sha256"], rows[4]["sha256"]]
    assert {row["votes"] for row in ties} == {"cat (1), dog (1)"}
    assert len(labels(people)) == 8
    again = people.batch(1)
    assert [row["sha256"] for row in again[:2]] == [rows[1]["sha256"], rows[4]["sha256"]]
    assert len(again) == 10
    assert [row["reason"] for row in again[:2]] == [
        "audit" if rows[i]["reason"] == "audit" else "query" for i in (1, 4)
    ]
    people.round("--labels", people.answers(1))
    assert labels(people)[rows[1]["sha256"]] == people.truth[rows[1]["sha256"]]
    assert table(people.run / "disagreements.csv") == []


def test_skipped_images_are_set_aside_and_never_asked_or_trained_on(people):
    people.round()
    rows = people.batch(0)
    skips = [(row["file"], row["sha256"], "", "yes") for row in rows[:3]]
    given = [(r["file"], r["sha256"], people.truth[r["sha256"]], "") for r in rows[3:]]
    path = write_table(
        people.place / "page.csv", skips + given, ("file", "sha256", "class", "skipped")
    )
    people.round("--labels", path)
    aside = {row["sha256"] for row in table(people.run / "set_aside.csv")}
    assert aside == {row["sha256"] for row in rows[:3]}
    for number in range(1, 6):
        people.round("--labels", people.answers(number))
    asked = {row["sha256"] for number in range(1, 6) for row in people.batch(number)}
    assert asked.isdisjoint(aside)
    assert len(asked) == 50
    assert not (people.run / "batches" / "batch6").exists()


def test_when_everything_is_labelled_the_run_says_so_and_goes_on_with_new_images(people, capsys):
    loud = [each for each in people.command() if each != "--quiet"]
    people.round()
    for number in range(6):
        people.round("--labels", people.answers(number))
    assert len(results(people)) == 6
    before = contents(people.run)
    main_TOD.main(loud)
    assert "every image has its label" in capsys.readouterr().out
    assert contents(people.run) == before
    people.add("unlabeled/late.png")
    people.round()
    assert files(people.batch(6)) == ["unlabeled/late.png"]
    people.round("--labels", people.answers(6))
    assert len(results(people)) == 8


def test_names_and_places_of_files_do_not_matter(people, tmp_path):
    twin = People(tmp_path / "twin")
    people.round()
    twin.round()
    for index, row in enumerate(twin.batch(0)):
        target = twin.data / f"unlabeled/deep/{'er' * index}/{index}.PNG"
        target.parent.mkdir(parents=True, exist_ok=True)
        (twin.data / row["file"]).rename(target)
    for each in (people, twin):
        each.round("--labels", each.answers(0))
    for key in ("sha256", "score", "predicted", "reason"):
        assert [r[key] for r in people.batch(1)] == [r[key] for r in twin.batch(1)]


def test_files_moved_into_class_folders_are_labels(people):
    people.round()
    for row in people.batch(0):
        source = people.data / row["file"]
        source.rename(people.data / "train" / people.truth[row["sha256"]] / source.name)
    people.round()
    given = table(people.run / "labels.csv")
    assert {row["sha256"] for row in given} == {row["sha256"] for row in people.batch(0)}
    assert {row["source"] for row in given} == {"train"}
    assert {row["batch"] for row in given} == {"0"}
    assert results(people)[0]["audited"] == "1"


def test_with_enough_labels_in_class_folders_training_begins_at_once(people):
    people.add(*(f"train/{('cat', 'dog')[i % 2]}/{i}.png" for i in range(10)))
    people.round()
    assert len(labels(people)) == 10
    assert results(people)[0]["num_labeled"] == "10"
    assert {row["reason"] for row in people.batch(0)} == {"query", "audit"}


def test_how_many_labels_training_begins_with_can_be_said(people):
    people.add(*(f"train/{('cat', 'dog')[i % 2]}/{i}.png" for i in range(10)))
    people.round("--set=active_learning.initial_labels=25")
    assert len(people.batch(0)) == 25
    assert not (people.run / "results.csv").exists()


@pytest.mark.parametrize("is_old", [False, True], ids=["", "of an earlier version"])
def test_another_runs_labels_begin_a_new_one_with_its_audits(people, tmp_path, is_old):
    people.round()
    people.round("--labels", people.answers(0))
    people.round("--labels", people.answers(1))
    given = people.run / "labels.csv"
    if is_old:
        rows = [[*row.values()][:5] for row in table(given)]
        write_table(given, rows, ("file", "sha256", "class", "batch", "source"))
    main_TOD.main([*people.command("--labels", given), f"--output-dir={tmp_path / 'new'}"])
    (run,) = (tmp_path / "new").iterdir()
    new = table(run / "labels.csv")
    assert [row["sha256"] for row in new] == [*labels(people)]
    assert [row["reason"] == "audit" for row in new] == [
        row["reason"] == "audit" for number in (0, 1) for row in people.batch(number)
    ]
    (first,) = table(run / "results.csv")
    assert (first["num_labeled"], first["audited"]) == ("18", "2")
    asked = {row["sha256"] for row in table(run / "batches" / "batch0" / "batch.csv")}
    assert asked.isdisjoint(labels(people))


def test_images_that_come_and_go_are_taken_in_and_left_out_with_a_word(people, capsys):
    people.round()
    waiting = contents(people.run / "batches")
    people.add(*(f"unlabeled/new/{i}.png" for i in range(5)))
    asked = {row["file"] for row in people.batch(0)}
    gone = [file for file in sorted(people.data.glob("unlabeled/*.png"))]
    gone = [file for file in gone if str(file.relative_to(people.data)) not in asked][:3]
    for file in gone:
        file.unlink()
    given = people.answers(0)
    arguments = [each for each in people.command("--labels", given) if each != "--quiet"]
    main_TOD.main(arguments)
    said = capsys.readouterr().out
    assert "5 images new, as unlabeled/new/0.png" in said
    assert f"3 images gone, and left out, as {gone[0].relative_to(people.data)}" in said
    assert contents(people.run / "batches").items() >= waiting.items()


def test_an_image_of_a_waiting_batch_that_is_removed_is_not_waited_for(people, capsys):
    people.round()
    row = people.batch(0)[0]
    (people.data / row["file"]).unlink()
    main_TOD.main([each for each in people.command() if each != "--quiet"])
    assert f"9 of 10 images (1 gone or changed, as {row['file']})" in capsys.readouterr().out
    people.round("--labels", people.answers(0, all_but(0)))
    assert results(people)[0]["num_labeled"] in ("8", "9")


def test_an_image_whose_content_has_changed_is_refused_by_name(people):
    people.round()
    given = people.answers(0)
    row = people.batch(0)[3]
    people.add("elsewhere.png")
    (people.data / "elsewhere.png").replace(people.data / row["file"])
    before = contents(people.place)
    with pytest.raises(InputError) as refusal:
        people.round("--labels", given)
    assert f"{row['file']} has changed since" in str(refusal.value)
    assert contents(people.run) == {
        name.removeprefix(f"{people.run.name}/"): content
        for name, content in before.items()
        if name.startswith(people.run.name)
    }


def test_everything_wrong_in_several_files_is_named_at_once_and_nothing_is_taken(people):
    people.round()
    given = people.answers(0)
    bad = write_table(
        people.place / "bad.csv",
        [
            ("unlabeled/000.png", "", "cta"),
            ("../secret.png", "", "cat"),
            *((f"unlabeled/no{i}.png", "", "cat") for i in range(12)),
        ],
    )
    broken = people.place / "broken.json"
    broken.write_text("[{")
    before = contents(people.place)
    with pytest.raises(InputError) as refusal:
        people.round("--labels", given, bad, broken)
    lines = str(refusal.value).splitlines()
    assert "broken.json: cannot be read" in lines[0]
    assert "cta is no class; the nearest is cat" in lines[1]
    assert "../secret.png is no image of" in lines[2]
    assert lines[-2:] == ["15 problems in all", "no label was taken"]
    assert contents(people.place) == before


def test_relabel_takes_what_contradicts_a_label(people):
    people.round()
    people.round("--labels", people.answers(0))
    row = people.batch(0)[0]
    other = "cat" if people.truth[row["sha256"]] == "dog" else "dog"
    path = write_table(people.place / "new.csv", [(row["file"], row["sha256"], other)])
    with pytest.raises(InputError, match="--relabel takes the new"):
        people.round("--labels", path)
    people.round("--labels", path, "--relabel")
    assert labels(people)[row["sha256"]] == other


def test_copies_of_one_image_are_one_image(people):
    shutil.copy(people.data / "unlabeled" / "000.png", people.data / "unlabeled" / "copy.png")
    people.round("--set=active_learning.query_size=60", "--set=active_learning.subset_size=60")
    assert len(people.batch(0)) == len({row["sha256"] for row in people.batch(0)}) == 60


def test_files_that_are_no_images_are_left_out(people):
    (people.data / "unlabeled" / "broken.png").write_bytes(b"no picture")
    people.round("--set=active_learning.query_size=61", "--set=active_learning.subset_size=61")
    assert len(people.batch(0)) == 60
    assert table(people.run / "unreadable.csv")[0]["file"] == "unlabeled/broken.png"


def test_other_classes_need_another_run(people):
    people.round()
    (people.data / "train" / "bird").mkdir()
    with pytest.raises(InputError) as refusal:
        people.round()
    for words in ("other classes (bird is new)", "--labels", "labels.csv"):
        assert words in str(refusal.value)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda data: shutil.rmtree(data / "unlabeled"), "unlabeled: is missing"),
        (lambda data: shutil.rmtree(data / "train"), "names no class"),
        (lambda data: (data / "train" / "dog").rmdir(), "names 1 classes"),
        (lambda data: (data / "classes.txt").write_text("cat\ncow\n"), "is none of classes.txt"),
        (lambda data: (data / "classes.txt").write_text("cat\ndog\ncat\n"), "names cat twice"),
        (lambda data: (data / "classes.txt").write_bytes(b"cat\xff\ndog"), "it is not UTF-8 text"),
        (lambda data: (data / "train" / "a\x01b").mkdir(), "no page can show"),
        (lambda data: (data / "test" / "cat").mkdir(parents=True), "test: holds no image"),
        (lambda data: (data / "test" / "cow").mkdir(parents=True), "cow: is none of the classes"),
        (
            lambda data: [
                shutil.copy(data / "unlabeled/000.png", data / "train" / name)
                for name in ("cat", "dog")
            ],
            "are one image under two classes",
        ),
    ],
)
def test_a_folder_that_will_not_do_is_refused_before_anything_is_made(people, make, says):
    make(people.data)
    with pytest.raises(InputError, match=says):
        people.round()
    assert not list(people.place.glob("own_images_*"))


def test_classes_may_stand_in_a_file(people):
    shutil.rmtree(people.data / "train")
    (people.data / "classes.txt").write_text("\ufeffdog\r\n\r\n cat \r\n", encoding="utf-8")
    people.round()
    people.round("--labels", people.answers(0))
    assert len(results(people)) == 1


@pytest.mark.parametrize(
    "sampling", [name for name in main_TOD.SAMPLING if name not in ("LOSS", "FULL")]
)
def test_every_strategy_asks_for_a_batch(people, sampling):
    dropout = ["--set=model.dropout=0.5"] * (sampling == "BALD")
    people.round(*dropout, sampling=sampling)
    people.round(*dropout, "--labels", people.answers(0), sampling=sampling)
    rows = people.batch(1)
    assert len(rows) == len({row["sha256"] for row in rows}) == 10
    assert all(row["score"] for row in rows)


@pytest.mark.parametrize("marked", [False, True])
def test_audits_are_scored_among_the_subset_where_a_score_depends_on_it(
    people, monkeypatch, marked
):
    def by_number(pool):
        return query_by_score(pool, torch.full((len(pool.subset),), float(len(pool.subset))))

    monkeypatch.setitem(
        main_TOD.SAMPLING, "TOD", takes_features(by_number) if marked else by_number
    )
    people.round()
    people.round("--labels", people.answers(0))
    (audit,) = [float(row["score"]) for row in people.batch(1) if row["reason"] == "audit"]
    assert audit == (41 if marked else 1)  # subset_size and itself


def test_fresh_weights_are_judged_by_the_network_that_asked(tmp_path):
    judged = []
    for fresh in ("false", "true"):
        people = People(tmp_path / fresh)
        people.round(f"--set=training.fresh_weights={fresh}")
        for number in (0, 1):
            people.round(
                f"--set=training.fresh_weights={fresh}", "--labels", people.answers(number)
            )
        judged.append([results(people)[0][column] for column in DIAGNOSTICS])
    assert judged[0] == judged[1]


def test_learning_loss_works_so_too(people):
    command = people.command(sampling="LL4AL", auxiliary="LL4AL")
    main_LL4AL.main(command)
    main_LL4AL.main([*command, "--labels", str(people.answers(0))])
    assert len(people.batch(1)) == 10


def test_cod_trains_on_the_pool_and_bad_names_come_back(tmp_path):
    people = People(tmp_path, 30, ("=ten", 'a,"b"', "two\nlines", "<script>", " blank "))
    people.add("unlabeled/=x.png", "unlabeled/a,b.png", 'unlabeled/say "hi"\n.png')
    people.round(auxiliary="TOD")
    people.round("--labels", people.answers(0), auxiliary="TOD")
    given = table(people.run / "labels.csv")
    assert [row["class"] for row in given] == [people.truth[row["sha256"]] for row in given]
    for number in (0, 1):
        for row in people.batch(number):
            assert digest(people.data / row["file"]) == row["sha256"]


def test_a_link_that_leads_back_is_entered_once(people):
    (people.data / "unlabeled" / "back").symlink_to(people.data / "unlabeled")
    people.round("--set=active_learning.query_size=60", "--set=active_learning.subset_size=60")
    assert sorted(files(people.batch(0))) == [f"unlabeled/{number:03d}.png" for number in range(60)]


def test_when_everything_is_labelled_further_labels_are_trained_on(people, monkeypatch):
    people.round()
    for number in range(6):
        people.round("--labels", people.answers(number))
    judged = [[row[column] for column in DIAGNOSTICS] for row in results(people)]
    assert [any(row) for row in judged] == [True] * 5 + [False]  # the last has asked for nothing
    people.add("train/cat/late.png", "train/dog/later.png")
    people.round()
    assert [int(row["num_labeled"]) for row in results(people)[-2:]] == [54, 56]
    row = next(row for row in people.batch(1) if row["reason"] == "query")
    other = "cat" if people.truth[row["sha256"]] == "dog" else "dog"
    path = write_table(people.place / "new.csv", [(row["file"], row["sha256"], other)])
    people.round("--labels", path, "--relabel")
    assert len(results(people)) == 8
    again = [[row[column] for column in DIAGNOSTICS] for row in results(people)]
    assert again == [*judged, [""] * len(DIAGNOSTICS), [""] * len(DIAGNOSTICS)]
    people.add("unlabeled/new.png")

    def killed(trial: PeopleTrial) -> None:
        raise SystemExit(137)

    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        patched.setattr(PeopleTrial, "end_cycle", killed)
        people.round()
    assert files(people.batch(6)) == ["unlabeled/new.png"]
    people.round()
    assert not (people.run / "batches" / "batch7").exists()


def test_partial_goes_on_only_where_people_have_said_something(people):
    people.round()
    before = contents(people.place)
    people.round("--partial")
    assert contents(people.place) == before
    given = people.answers(0, all_but(3))
    for _ in range(2):  # as a shell's history would
        people.round("--labels", given, "--partial")
    assert len(results(people)) == 1
    assert not (people.run / "batches" / "batch2").exists()


def tie(people: People, rows: list[dict[str, str]]) -> list[object]:
    """The arguments by which two people take away the labels of a batch's images."""
    paths = [people.place / f"{name}.csv" for name in people.classes]
    for path in paths:
        write_table(path, [(row["file"], row["sha256"], path.stem) for row in rows])
    return ["--labels", *paths, "--relabel"]


@pytest.mark.parametrize("lost", ["images", "labels"])
def test_a_round_goes_on_where_labelled_images_are_none_any_more(people, monkeypatch, lost):
    long = [
        *("--set=training.epochs=30", "--set=training.milestones=[]"),
        "--set=training.batch_size=4",
    ]
    people.round(*long)
    given = people.answers(0)
    original = Loop._after_step

    def interrupted_in_the_second_step(loop: Loop) -> None:
        original(loop)
        if (loop.trial.learner.epoch, loop.trial.learner.step) == (20, 1):
            loop.save()
            raise SystemExit(137)

    with monkeypatch.context() as patched:
        patched.setattr(Loop, "_after_step", interrupted_in_the_second_step)
        with pytest.raises(SystemExit):
            people.round("--labels", given, *long)
    rows = people.batch(0)[:5]
    if lost == "images":
        for row in rows:
            (people.data / row["file"]).unlink()
    people.round(*long, *(tie(people, rows) if lost == "labels" else []))
    assert 4 <= int(results(people)[0]["num_labeled"]) <= 5
    assert len(people.batch(1)) == 10
    assert ({row["file"] for row in rows} <= {*files(people.batch(1))}) == (lost == "labels")


def test_where_all_labelled_images_have_gone_people_are_asked_anew(people):
    people.round()
    people.round("--labels", people.answers(0))
    people.round("--labels", people.answers(1, all_but(1)), "--partial")
    for number in range(3):
        for row in people.batch(number):
            (people.data / row["file"]).unlink(missing_ok=True)
    people.round()
    rows = people.batch(3)
    assert len(rows) == 10
    assert {row["score"] for row in rows} == {""}
    people.round("--labels", people.answers(3))
    assert len(results(people)) == 3


def test_a_test_set_may_come_later(people, tmp_path):
    people.round()
    people.round("--labels", people.answers(0))
    people.add("test/cat/0.png", "test/dog/1.png")
    people.round("--labels", people.answers(1))
    assert [row["audited"] for row in results(people)] == ["1", ""]
    for script in ("plot.py", "report.py"):
        done = run_script(script, people.run, cwd=tmp_path)
        assert done.returncode == 0, done.stderr


def test_without_any_accuracy_a_plot_is_refused_in_one_line(people, tmp_path):
    settings = "--set=active_learning.audit_share=0"
    people.round(settings)
    people.round(settings, "--labels", people.answers(0))
    done = run_script("plot.py", people.run, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [f"{people.run}: no accuracy has been measured yet"]


@pytest.mark.parametrize("name", ["labels.csv", "batches/batch0/batch.csv"])
@pytest.mark.parametrize("content", [b'file,"', b"file\n", b"\xff\xfe\0"])
def test_a_damaged_file_of_the_run_is_named(people, name, content):
    people.round()
    people.round("--labels", people.answers(0))
    (people.run / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name}: cannot be read back"):
        people.round()


def test_a_class_that_is_none_in_the_runs_labels_is_named(people):
    people.round()
    people.round("--labels", people.answers(0))
    path = people.run / "labels.csv"
    path.write_text(path.read_text().replace(",cat,", ",cta,", 1))
    with pytest.raises(InputError, match="is cta, which is no class"):
        people.round()


def test_audits_are_never_all_of_a_batch(people):
    settings = ["--set=active_learning.audit_share=0.9", "--set=active_learning.query_size=26"]
    people.round(*settings)
    for number in range(3):
        reasons = Counter(row["reason"] for row in people.batch(number))
        size = reasons.total()
        assert reasons["audit"] == min(max(round(0.9 * size), 1), size - 1)
        people.round("--labels", people.answers(number), *settings)


def test_labels_given_after_a_kill_behind_the_batch_are_trained_on_at_once(people, monkeypatch):
    people.round()
    given = people.answers(0)
    with monkeypatch.context() as patched:
        patched.setattr(PeopleTrial, "end_cycle", lambda trial: sys.exit(137))
        with pytest.raises(SystemExit):
            people.round("--labels", given)
    people.round("--labels", people.answers(1))
    assert [row["cycle"] for row in results(people)] == ["1", "2"]
    assert len(people.batch(2)) == 10


def test_a_file_moved_to_another_class_folder_is_relabelled_with_relabel(people):
    people.add(*(f"train/{('cat', 'dog')[i % 2]}/{i}.png" for i in range(10)))
    people.round()
    moved = people.data / "train" / "dog" / "moved.png"
    (people.data / "train" / "cat" / "0.png").rename(moved)
    with pytest.raises(InputError, match="is dog here, but cat by train before; --relabel"):
        people.round()
    people.round("--relabel")
    assert labels(people)[digest(moved)] == "dog"


def test_a_label_of_a_file_that_cannot_be_read_is_told(people, capsys):
    broken = people.data / "unlabeled" / "broken.png"
    broken.write_bytes(b"no picture")
    people.round()
    path = write_table(people.place / "b.csv", [("unlabeled/broken.png", "", "cat")])
    people.round("--labels", people.answers(0), path)
    assert "cannot be read is not trained on, as unlabeled/broken.png" in capsys.readouterr().out
    assert len(results(people)) == 1


def test_other_settings_in_a_later_round_are_refused_with_what_to_do(people):
    people.round()
    with pytest.raises(InputError) as refusal:
        people.round("--set=training.lr=0.01")
    for words in ("another training.lr", "have it as there, or name another place", "--labels"):
        assert words in str(refusal.value)
    assert "--overwrite" not in str(refusal.value)


def test_a_later_round_may_leave_out_what_the_run_has_recorded(people):
    people.round("--set=training.lr=0.01")
    bare = [each for each in people.command() if not each.startswith("--set")]
    main_TOD.main([*bare, "--labels", str(people.answers(0))])
    assert len(people.batch(1)) == 10
    people.round("--set=training.lr=0.01", "--labels", people.answers(1))
    assert len(people.batch(2)) == 10
    with pytest.raises(InputError, match=r"another training.lr \(0.01 there, 0.02 here\)"):
        people.round("--set=training.lr=0.02")


def lose(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("batches/batch0", r"batch0/batch.csv: is missing, and says what was asked"),
        ("batches/batch2", r"batch2/batch.csv: is missing, and says what was asked"),
        ("batches/batch3", r"batch3/batch.csv: is missing, and says what was asked"),
        ("labels.csv", r"labels.csv: lacks 30 rows of those in labels.copy.csv; copy that"),
    ],
)
def test_what_the_run_had_and_has_not_any_more_is_named(people, name, says):
    people.round()
    for number in range(3):
        people.round("--labels", people.answers(number))
    given, kept = people.answers(3), people.place / "kept"
    shutil.copytree(people.run, kept)
    lose(people.run / name)
    before = contents(people.run)
    with pytest.raises(InputError, match=says):
        people.round("--labels", given)
    assert contents(people.run) == before
    for path in (kept / name).glob("batch.csv"):
        (people.run / name).mkdir()
        shutil.copy(path, people.run / name)
    if name == "labels.csv":
        shutil.copy(people.run / "labels.copy.csv", people.run / name)
    people.round("--labels", given)
    assert [row["audited"] for row in results(people)] == ["1", "2", "3", "4"]


def test_some_lost_labels_are_named_and_an_earlier_versions_too(people):
    people.round()
    people.round("--labels", people.answers(0))
    path = people.run / "labels.csv"
    rows = [[*row.values()] for row in table(path)]
    write_table(path, rows[:-2], [*table(path)[0]])
    with pytest.raises(InputError, match=r"lacks 2 rows of those in labels.copy.csv"):
        people.round()
    for copy in people.run.glob("*.copy.csv"):
        copy.unlink()
    with pytest.raises(InputError, match=r"has 8 labels, and the last cycle had 10; bring"):
        people.round()


def test_two_first_commands_at_once_lose_no_label(people, monkeypatch):
    given = [
        write_table(
            people.place / f"{i}.csv",
            [(row, people.truth[digest(people.data / row)]) for row in rows],
            ("file", "class"),
        )
        for i, rows in enumerate(
            [f"unlabeled/{n:03d}.png" for n in some] for some in (range(12), range(12, 14))
        )
    ]
    read = own_images.read

    def meanwhile(*arguments):
        monkeypatch.setattr(own_images, "read", read)
        done = run_script("main_TOD.py", *people.command("--labels", given[0]))
        assert done.returncode == 2
        assert "is in use by another process" in done.stderr
        return read(*arguments)

    monkeypatch.setattr(own_images, "read", meanwhile)
    people.round("--labels", given[1])
    people.round("--labels", given[0])
    assert len(labels(people)) == 14


def test_a_first_command_that_is_refused_leaves_no_folder(people):
    path = write_table(people.place / "bad.csv", [("unlabeled/000.png", "", "cow")])
    with pytest.raises(InputError, match="cow is no class"):
        people.round("--labels", path)
    assert not list(people.place.glob("own_images_*"))


@pytest.mark.parametrize("content", ["again", "of an old batch"])
def test_a_file_without_news_is_named(people, capsys, content):
    people.round()
    given = people.answers(0)
    people.round("--labels", given, given)
    if content == "of an old batch":
        people.round("--labels", people.answers(1))
    before = contents(people.run)
    main_TOD.main([each for each in people.command("--labels", given) if each != "--quiet"])
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"{given}: nothing new in it"
    assert "waits for the labels of 10 of 10 images" in second
    assert contents(people.run) == before


@pytest.mark.parametrize("copies", [1, 2], ids=["the same path twice", "and by a link"])
def test_a_path_given_twice_is_one_file(people, copies):
    people.round()
    rows = people.batch(0)
    ties = [people.place / f"{name}.csv" for name in people.classes]
    for path in ties:
        write_table(path, [(rows[0]["file"], rows[0]["sha256"], path.stem)])
    link = people.place / "link.csv"
    link.symlink_to(ties[0])
    people.round("--labels", ties[0], link if copies == 2 else ties[0], ties[1])
    (row,) = table(people.run / "disagreements.csv")
    assert (row["votes"], row["source"]) == ("cat (1), dog (1)", "cat.csv, dog.csv")


@pytest.mark.parametrize("prefix", ["unlabeled/", ""])
@pytest.mark.parametrize("change", ["another picture", "changed places"])
def test_a_name_that_shows_another_picture_than_was_asked_for_is_refused(people, prefix, change):
    people.round()
    (row, *_), asked = people.batch(0), {*files(people.batch(0))}
    path = people.data / row["file"]
    other = next(
        p
        for p in sorted(people.data.glob("unlabeled/*.png"))
        if str(p.relative_to(people.data)) not in asked
    )
    place = people.data / "place"
    path.rename(place)
    other.rename(path)
    if change == "changed places":
        place.rename(other)
    given = write_table(people.place / "own.csv", [(prefix + path.name, "cat")], ("file", "class"))
    with pytest.raises(InputError, match="has changed since"):
        people.round("--labels", given)
    assert not (people.run / "labels.csv").exists()


def test_a_disagreement_about_a_label_that_is_killed_loses_neither(people, monkeypatch):
    people.round()
    people.round("--labels", people.answers(0))
    row = people.batch(0)[1]
    replace = Path.replace

    def killed(self: Path, target: Path) -> Path:
        found = replace(self, target)
        if Path(target).name in ("labels.csv", "disagreements.csv"):
            raise SystemExit(137)
        return found

    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        patched.setattr(Path, "replace", killed)
        people.round(*tie(people, [row]))
    people.round()
    ties = table(people.run / "disagreements.csv")
    assert row["sha256"] in labels(people)
    assert [each["sha256"] for each in ties] == [row["sha256"]]
    people.round(*tie(people, [row]))
    assert row["sha256"] not in labels(people)


def test_a_new_run_asks_neither_for_what_was_skipped_nor_for_what_people_have_said(
    people, tmp_path
):
    people.round()
    rows = people.batch(0)
    skips = [(row["file"], row["sha256"], "", "yes") for row in rows[:3]]
    given = write_table(people.place / "page.csv", skips, ("file", "sha256", "class", "skipped"))
    people.round(
        "--labels", given, people.answers(0, all_but(0, 1, 2, 3)), *tie(people, rows[3:4])[1:3]
    )
    before = [people.run / name for name in ("labels.csv", "set_aside.csv", "disagreements.csv")]
    main_TOD.main([*people.command("--labels", *before), f"--output-dir={tmp_path / 'new'}"])
    (run,) = (tmp_path / "new").iterdir()
    aside = table(run / "set_aside.csv")
    assert [row["sha256"] for row in aside] == [row["sha256"] for row in rows[:3]]
    (row,) = table(run / "disagreements.csv")
    assert row["votes"] == table(people.run / "disagreements.csv")[0]["votes"]
    asked = {row["sha256"] for row in table(run / "batches" / "batch0" / "batch.csv")}
    assert asked & {row["sha256"] for row in rows} == {row["sha256"]}


def new_run(people: People, *labels: Path, name: str = "new") -> Path:
    """The folder of another run, which begins with these labels."""
    output = people.place / name
    main_TOD.main([*people.command("--labels", *labels), f"--output-dir={output}"])
    (run,) = output.iterdir()
    return run


@pytest.fixture
def two_rounds(people) -> People:
    people.round()
    people.round("--labels", people.answers(0))
    people.round("--labels", people.answers(1))
    return people


@pytest.mark.parametrize("way", ["page files too", "page files first", "moved into train"])
def test_another_runs_audits_are_never_trained_on(two_rounds, way):
    people = two_rounds
    (audit,) = [row for row in people.batch(0) if row["reason"] == "audit"]
    given = [people.run / "labels.csv"]
    if way == "page files too":
        given += [people.place / f"labels_batch{number}.csv" for number in (0, 1)]
    elif way == "page files first":
        given = [*(people.place / f"labels_batch{number}.csv" for number in (0, 1)), *given]
    else:
        target = people.data / "train" / people.truth[audit["sha256"]] / "moved.png"
        (people.data / audit["file"]).rename(target)
    (row,) = table(new_run(people, *given) / "results.csv")
    assert (row["num_labeled"], row["audited"]) == ("18", "2")


def test_what_was_trained_on_here_is_no_audit_any_more_and_told(two_rounds, capsys):
    people = two_rounds
    pages = [people.place / f"labels_batch{number}.csv" for number in (0, 1)]
    run = new_run(people, *pages)
    again = [*people.command("--labels", people.run / "labels.csv"), f"--output-dir={run.parent}"]
    main_TOD.main(again)
    assert "2 audits of another run had a label here before" in capsys.readouterr().out
    assert {row["reason"] for row in table(run / "labels.csv")} == {""}


def test_an_earlier_versions_labels_without_their_batches_are_refused(two_rounds):
    people = two_rounds
    path = people.run / "labels.csv"
    rows = [[*row.values()][:5] for row in table(path)]
    write_table(path, rows, ("file", "sha256", "class", "batch", "source"))
    shutil.rmtree(people.run / "batches" / "batch0")
    with pytest.raises(InputError, match=r"batch0/batch.csv, which says whether it was an audit"):
        new_run(people, path)
    assert not list((people.place / "new").iterdir())


def test_a_link_that_leads_to_itself_is_refused_in_one_line(people):
    link = people.place / "link.csv"
    link.symlink_to(link)
    with pytest.raises(InputError, match=r"link.csv: cannot be read"):
        people.round("--labels", link)


def test_a_class_folder_that_was_renamed_is_named_and_not_the_labels(two_rounds):
    (two_rounds.data / "train" / "dog").rename(two_rounds.data / "train" / "hound")
    with pytest.raises(InputError, match=r"other classes \(hound is new\)"):
        two_rounds.round()
