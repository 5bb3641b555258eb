"""Files of labels in a run: what is taken, told, asked again or refused."""

import pytest

from tests.support.loading import refused
from tests.support.people import contents, digest, write_table


def test_images_on_which_people_disagree_are_named_and_asked_again(after):
    people = after(0)
    rows = people.batch(0)
    ties = [rows[1], rows[4]]
    others = [(row["file"], row["sha256"], people.wrong(row)) for row in ties]
    people.round("--labels", people.answers(0), write_table(people.place / "other.csv", others))
    told = [(row["sha256"], row["votes"]) for row in people.table("disagreements.csv")]
    assert told == [(row["sha256"], "cat (1), dog (1)") for row in ties]
    assert len(people.labels()) == 8
    again = people.batch(1)
    assert [(row["sha256"], row["reason"]) for row in again[:2]] == [
        (row["sha256"], "audit" if row["reason"] == "audit" else "check") for row in ties
    ]
    assert len(again) == 10
    people.rounds([1])
    assert people.labels()[rows[1]["sha256"]] == people.truth[rows[1]["sha256"]]
    assert people.table("disagreements.csv") == []


def test_skipped_images_are_set_aside_and_never_asked_or_trained_on(after):
    people = after(0, count=20)
    rows = people.batch(0)
    people.round("--labels", people.says(rows[3:], skips=rows[:3]))
    aside = {row["sha256"] for row in people.table("set_aside.csv")}
    assert aside == {*people.asked([0])[:3]}
    people.rounds([1])
    assert {*people.asked([1])} == {*people.truth} - {*people.asked([0])}
    assert not (people.run / "batches" / "batch2").exists()
    audits = [row["reason"] for row in people.table("labels.csv")].count("audit")
    assert people.results("num_labeled", "audited")[-1] == (str(17 - audits), str(audits))


def test_files_moved_into_class_folders_are_labels(after):
    people = after(0)
    for row in people.batch(0):
        source = people.data / row["file"]
        source.rename(people.data / "train" / people.truth[row["sha256"]] / source.name)
    people.round()
    given = {(row["sha256"], row["source"], row["batch"]) for row in people.table("labels.csv")}
    assert given == {(digest, "train", "0") for digest in people.asked([0])}
    assert people.results("audited") == ["1"]


def test_what_contradicts_a_label_is_taken_with_relabel(people):
    people.add(*(f"train/{('cat', 'dog')[i % 2]}/{i}.png" for i in range(10)))
    people.round()
    assert len(people.labels()) == 10
    moved = people.data / "train" / "dog" / "moved.png"
    (people.data / "train" / "cat" / "0.png").rename(moved)
    assert "is dog here, but cat by train before; --relabel" in refused(people.round, lines=2)
    people.round("--relabel")
    assert people.labels()[digest(moved)] == "dog"
    people.round("--labels", people.answers(0))
    row = people.batch(0)[0]
    path = people.says([row], people.wrong(row))
    assert "--relabel takes the new" in refused(people.round, "--labels", path, lines=2)
    people.round("--labels", path, "--relabel")
    assert people.labels()[row["sha256"]] == people.wrong(row)


def test_everything_wrong_in_several_files_is_named_at_once_and_nothing_is_taken(after):
    people = after(0)
    people.round()
    rows = [("unlabeled/000.png", "", "cta"), ("../secret.png", "", "cat")]
    rows += [(f"unlabeled/no{i}.png", "", "cat") for i in range(12)]
    given, bad = people.answers(0), write_table(people.place / "bad.csv", rows)
    broken, loop = people.place / "broken.json", people.place / "loop.csv"
    broken.write_text("[{")
    loop.symlink_to(loop)
    before = contents(people.place)
    lines = refused(people.round, "--labels", given, bad, broken, loop, lines=0).splitlines()
    said = ["broken.json: cannot be read", "loop.csv: cannot be read"]
    said += ["cta is no class; the nearest is cat", "../secret.png is no image of"]
    assert all(words in line for words, line in zip(said, lines, strict=False))
    assert lines[-2:] == ["16 problems in all", "no label was taken"]
    assert contents(people.place) == before


def test_a_first_command_that_is_refused_leaves_no_folder(people):
    path = write_table(people.place / "bad.csv", [("unlabeled/000.png", "", "cow")])
    assert "cow is no class" in refused(people.round, "--labels", path, lines=2)
    assert not list(people.place.glob("own_images_*"))


def test_a_label_of_a_file_that_cannot_be_read_is_told(after, capsys):
    people = after(0)
    (people.data / "unlabeled" / "broken.png").write_bytes(b"no picture")
    path = write_table(people.place / "b.csv", [("unlabeled/broken.png", "", "cat")])
    people.round("--labels", people.answers(0), path)
    assert "cannot be read is not trained on, as unlabeled/broken.png" in capsys.readouterr().out
    assert len(people.results()) == 1


@pytest.mark.parametrize("answered", [1, 2], ids=["again", "of an old batch"])
def test_a_file_without_news_is_named(after, capsys, answered):
    people = after(answered)
    before, given = contents(people.run), people.place / "labels_batch0.csv"
    people.round("--labels", given, quiet=False)
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"{given}: nothing new in it"
    assert "waits for the labels of 10 of 10 images" in second
    assert contents(people.run) == before


@pytest.mark.parametrize("copies", [1, 2], ids=["the same path twice", "and by a link"])
def test_a_path_given_twice_is_one_file(after, copies):
    people = after(0)
    ties, link = people.disagreeing(people.batch(0)[:1]), people.place / "link.csv"
    link.symlink_to(ties[0])
    people.round("--labels", ties[0], link if copies == 2 else ties[0], ties[1])
    (row,) = people.table("disagreements.csv")
    assert (row["votes"], row["source"]) == ("cat (1), dog (1)", "cat.csv, dog.csv")
