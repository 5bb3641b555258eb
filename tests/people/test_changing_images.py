"""The data folder: images that come, go, move and change between rounds; what will not do."""

import itertools
import shutil

import pytest

from tests.support.harness import stop_in_step
from tests.support.loading import refused
from tests.support.people import all_but, contents, killed_behind_the_batch
from tod.analysis.results import DIAGNOSTICS


def test_names_and_places_of_files_do_not_matter(after, capsys):
    people, twin = after(1), after(0, place="twin")
    for index, row in enumerate(twin.batch(0)):
        target = twin.data / f"unlabeled/deep/{'er' * index}/{index}.PNG"
        target.parent.mkdir(parents=True, exist_ok=True)
        (twin.data / row["file"]).rename(target)
    twin.rounds([0])
    assert capsys.readouterr().out == ""
    for key in ("sha256", "score", "predicted", "reason"):
        assert [r[key] for r in people.batch(1)] == [r[key] for r in twin.batch(1)]


def test_images_that_come_and_go_are_taken_in_and_left_out_with_a_word(after, capsys):
    people = after(0)
    waiting = contents(people.run / "batches")
    people.add(*(f"unlabeled/new/{i}.png" for i in range(5)))
    gone = people.unasked()[:3]
    for file in gone:
        (people.data / file).unlink()
    people.round("--labels", people.answers(0), quiet=False)
    said = capsys.readouterr().out
    assert "5 images new, as unlabeled/new/0.png" in said
    assert f"3 images gone, and left out, as {gone[0]}" in said
    assert contents(people.run / "batches").items() >= waiting.items()


def test_an_image_of_a_waiting_batch_that_is_removed_is_not_waited_for(after, capsys):
    people = after(0)
    row = people.batch(0)[0]
    (people.data / row["file"]).unlink()
    people.round(quiet=False)
    assert f"9 of 10 images (1 gone or changed, as {row['file']})" in capsys.readouterr().out
    people.round("--labels", people.answers(0, all_but(0)))
    assert people.results("num_labeled") in (["8"], ["9"])


@pytest.mark.parametrize(
    ("change", "row"),
    [
        *itertools.product(("another picture", "changed places"), ("unlabeled/{},,cat", "{},,cat")),
        ("another picture", "unlabeled/{},{sha256},cat"),
    ],
)
def test_a_name_that_shows_another_picture_than_was_asked_for_is_refused(after, change, row):
    people = after(0)
    asked = people.batch(0)[0]
    path, place = people.data / asked["file"], people.data / "place"
    other = people.data / people.unasked()[0]
    path.rename(place)
    other.rename(path)
    if change == "changed places":
        place.rename(other)
    given, before = people.place / "own.csv", contents(people.run)
    given.write_text(f"file,sha256,class\n{row.format(path.name, **asked)}\n")
    line = refused(people.round, "--labels", given, lines=2)
    assert f"unlabeled/{path.name} has changed since" in line
    assert contents(people.run) == before


def test_copies_links_back_and_files_that_are_no_images_are_no_images_more(people):
    folder = people.data / "unlabeled"
    shutil.copy(folder / "000.png", folder / "copy.png")
    (folder / "broken.png").write_bytes(b"no picture")
    (folder / "back").symlink_to(folder)
    people.round("--set=active_learning.query_size=70", "--set=active_learning.subset_size=70")
    assert sorted(people.asked([0])) == sorted(people.truth)
    files = {row["file"] for row in people.batch(0)} - {"unlabeled/copy.png"}
    assert files <= {f"unlabeled/{number:03d}.png" for number in range(60)}
    assert people.table("unreadable.csv")[0]["file"] == "unlabeled/broken.png"


def test_classes_may_stand_in_a_file(people):
    shutil.rmtree(people.data / "train")
    (people.data / "classes.txt").write_text("\ufeffdog\r\n\r\n cat \r\n", encoding="utf-8")
    people.rounds((-1, 0))
    assert len(people.results()) == 1


def test_before_any_label_a_run_with_other_classes_may_go(people):
    people.round()
    (people.data / "train" / "bird").mkdir()
    line = refused(people.round)
    assert f"other classes (bird is new); have it as there, or remove {people.run} (nobody" in line


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda train: (train / "bird").mkdir(), "bird is new"),
        (lambda train: (train / "dog").rename(train / "hound"), "hound is new"),
    ],
)
def test_other_classes_need_another_run(after, make, says):
    people = after(2)
    make(people.data / "train")
    line = refused(people.round)
    assert all(words in line for words in (f"other classes ({says})", "--labels", "labels.csv"))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda data: shutil.rmtree(data / "unlabeled"), "unlabeled: is missing"),
        (lambda data: shutil.rmtree(data / "train"), "names no class"),
        (lambda data: (data / "train" / "dog").rmdir(), "names 1 classes"),
        (lambda data: (data / "classes.txt").write_text("cat\ncow\n"), "no class of classes.txt"),
        (lambda data: (data / "classes.txt").write_text("cat\ndog\ncat\n"), "names cat twice"),
        (lambda data: (data / "classes.txt").write_bytes(b"cat\xff\ndog"), "it is not UTF-8 text"),
        (lambda data: (data / "train" / "a\x01b").mkdir(), "no page can show"),
        (lambda data: (data / "test" / "cat").mkdir(parents=True), "test: holds no image"),
        (lambda data: (data / "test" / "cow").mkdir(parents=True), "cow: is no class of train or"),
        (
            lambda data: [
                shutil.copy(data / "unlabeled/000.png", to) for to in data.glob("train/*")
            ],
            "are one image under two classes",
        ),
    ],
)
def test_a_folder_that_will_not_do_is_refused_before_anything_is_made(people, make, says):
    make(people.data)
    assert says in refused(people.round, lines=0)
    assert not list(people.place.glob("own_images_*"))


def test_when_everything_is_labelled_the_run_says_so_and_goes_on_with_new_images(after, capsys):
    people = after(2, count=20)
    assert len(people.results()) == 2
    before = contents(people.run)
    people.round(quiet=False)
    assert "every image has its label" in capsys.readouterr().out
    assert contents(people.run) == before
    people.add("unlabeled/late.png")
    people.rounds((-1, 2))
    assert [row["file"] for row in people.batch(2)] == ["unlabeled/late.png"]
    assert len(people.results()) == 4


def test_when_everything_is_labelled_further_labels_are_trained_on(after, monkeypatch):
    people = after(2, count=20)
    judged = people.results(*DIAGNOSTICS)
    assert [any(row) for row in judged] == [True, False]  # the last has asked for nothing
    people.add("train/cat/late.png", "train/dog/later.png")
    people.round()
    assert people.results("num_labeled") == ["9", "18", "20"]
    row = next(row for row in people.batch(1) if row["reason"] == "query")
    people.round("--labels", people.says([row], people.wrong(row)), "--relabel")
    assert people.results(*DIAGNOSTICS) == [*judged, *[("",) * len(DIAGNOSTICS)] * 2]
    people.add("unlabeled/new.png")
    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        killed_behind_the_batch(patched)
        people.round()
    assert [row["file"] for row in people.batch(2)] == ["unlabeled/new.png"]
    people.round()
    assert not (people.run / "batches" / "batch3").exists()


def test_where_all_labelled_images_have_gone_people_are_asked_anew(after):
    people = after(1)
    people.round("--labels", people.answers(1, all_but(1)), "--partial")
    for number in range(3):
        for row in people.batch(number):
            (people.data / row["file"]).unlink(missing_ok=True)
    people.round()
    assert [row["score"] for row in people.batch(3)] == [""] * 10
    people.rounds([3])
    assert len(people.results()) == 3


@pytest.mark.parametrize("lost", ["images", "labels"])
def test_a_round_goes_on_where_labelled_images_are_none_any_more(after, monkeypatch, lost):
    people, steps = after(1), stop_in_step(monkeypatch, 4)  # of three in each of two epochs
    with pytest.raises(SystemExit):
        people.rounds([1])
    rows, tie = people.batch(0)[:5], ()
    if lost == "images":
        for row in rows:
            (people.data / row["file"]).unlink()
    else:
        tie = ("--labels", *people.disagreeing(rows), "--relabel")
    people.round(*tie)
    assert len(steps) == 4 + 2  # the epoch begins anew, with fewer images
    audits = [row["reason"] for row in rows].count("audit")
    assert people.results("num_labeled") == ["9", str(18 - 5 + audits)]
    assert len(people.batch(2)) == 10
    assert ({row["sha256"] for row in rows} <= {*people.asked([2])}) == (lost == "labels")
