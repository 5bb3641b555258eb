"""What a run keeps: damaged, lost, given to another run, in use, and begun with other settings."""

import shutil
from pathlib import Path

import pytest

import main_TOD
from tests.support.harness import run_script
from tests.support.loading import refused
from tests.support.people import contents, digest, table, write_table
from tod.data import own_images


def as_an_earlier_version(labels: Path) -> None:
    """Rewrites a run's labels.csv with the columns of an earlier version."""
    rows = [[*row.values()][:5] for row in table(labels)]
    write_table(labels, rows, ("file", "sha256", "class", "batch", "source"))


@pytest.mark.parametrize("name", ["labels.csv", "batches/batch0/batch.csv"])
@pytest.mark.parametrize("content", [b'file,"', b"file\n", b"\xff\xfe\0"])
def test_a_damaged_file_of_the_run_is_named(after, name, content):
    people = after(1)
    path = people.run / name
    before = path.read_text()
    path.write_bytes(content)
    assert f"{name}: cannot be read back" in refused(people.round)
    path.write_text(before.replace(",cat,", ",cta,", 1))
    if name == "labels.csv":
        assert "is cta, which is no class" in refused(people.round)


@pytest.mark.parametrize(
    "name", ["batches/batch0", "batches/batch2", "batches/batch3", "labels.csv"]
)
def test_what_the_run_had_and_has_not_any_more_is_named(after, name):
    says = "labels.csv: lacks 30 rows of those in labels.copy.csv; copy that"
    if name != "labels.csv":
        says = f"{name}/batch.csv: is missing, and says what was asked"
    people = after(3)
    given, kept = people.answers(3), people.place / "kept"
    (people.run / name).rename(kept)
    before = contents(people.run)
    assert says in refused(people.round, "--labels", given)
    assert contents(people.run) == before
    if name == "labels.csv":
        shutil.copy(people.run / "labels.copy.csv", people.run / name)
    else:
        (people.run / name).mkdir()
        shutil.copy(kept / "batch.csv", people.run / name)
    people.round("--labels", given)
    assert people.results("audited") == ["1", "2", "3", "4"]


def test_some_lost_labels_are_named_and_an_earlier_versions_too(after):
    people = after(1)
    rows = people.table("labels.csv")
    write_table(people.run / "labels.csv", [[*row.values()] for row in rows[:-2]], [*rows[0]])
    assert "lacks 2 rows of those in labels.copy.csv" in refused(people.round)
    for copy in people.run.glob("*.copy.csv"):
        copy.unlink()
    assert "has 8 labels, and the last cycle had 10; bring" in refused(people.round)


def test_a_disagreement_about_a_label_that_is_killed_loses_neither(after, monkeypatch):
    people = after(1)
    row = people.batch(0)[1]
    replace, tie = Path.replace, ("--labels", *people.disagreeing([row]), "--relabel")

    def killed(self: Path, target: Path) -> None:
        replace(self, target)
        if Path(target).name in ("labels.csv", "disagreements.csv"):
            raise SystemExit(137)

    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        patched.setattr(Path, "replace", killed)
        people.round(*tie)
    people.round()
    assert row["sha256"] in people.labels()
    ties = people.table("disagreements.csv")
    assert [each["sha256"] for each in ties] == [row["sha256"]]
    people.round(*tie)
    assert row["sha256"] not in people.labels()


def test_two_first_commands_at_once_lose_no_label(people, monkeypatch):
    files = [f"unlabeled/{number:03d}.png" for number in range(14)]
    rows = [(file, people.truth[digest(people.data / file)]) for file in files]
    first, second = (
        write_table(people.place / f"{len(some)}.csv", some, ("file", "class"))
        for some in (rows[:12], rows[12:])
    )
    read = own_images.read

    def meanwhile(*arguments):
        monkeypatch.setattr(own_images, "read", read)
        done = run_script("main_TOD.py", *people.command("--labels", first))
        assert done.returncode == 2 and "is in use by another process" in done.stderr
        return read(*arguments)

    monkeypatch.setattr(own_images, "read", meanwhile)
    people.round("--labels", second)
    people.round("--labels", first)
    assert len(people.labels()) == 14


@pytest.mark.parametrize(
    "way", ["alone", "an earlier version's", "page files too", "page files first", "moved"]
)
def test_another_runs_labels_begin_a_new_one_with_its_audits(after, way):
    people = after(2)
    labels = people.run / "labels.csv"
    pages = [people.place / f"labels_batch{number}.csv" for number in (0, 1)]
    asked = [row for number in (0, 1) for row in people.batch(number)]
    if way == "an earlier version's":
        as_an_earlier_version(labels)
    elif way == "moved":
        audit = next(row for row in asked if row["reason"] == "audit")
        target = people.data / "train" / people.truth[audit["sha256"]] / "moved.png"
        (people.data / audit["file"]).rename(target)
    given = {"page files too": [labels, *pages], "page files first": [*pages, labels]}
    new = people.another_run(*given.get(way, [labels]))
    kept = {row["sha256"]: row["reason"] == "audit" for row in new.table("labels.csv")}
    assert kept == {row["sha256"]: row["reason"] == "audit" for row in asked}
    if way != "moved":  # labels of folders come first
        assert [*kept] == [*people.labels()]
    assert new.results("num_labeled", "audited") == [("18", "2")]
    assert {*new.asked([0])}.isdisjoint(kept)


def test_what_was_trained_on_here_is_no_audit_any_more_and_told(after, capsys):
    people = after(2)
    people.another_run(*(people.place / f"labels_batch{number}.csv" for number in (0, 1)))
    new = people.another_run(people.run / "labels.csv")
    assert "2 audits of another run had a label here before" in capsys.readouterr().out
    assert {row["reason"] for row in new.table("labels.csv")} == {""}


def test_audits_of_an_earlier_version_stay_audits(after):
    people = after(2)
    asked = {row["sha256"]: row["reason"] for row in people.table("labels.csv")}
    as_an_earlier_version(people.run / "labels.csv")
    people.round("--labels", people.answers(2))
    kept = {row["sha256"]: row["reason"] for row in people.table("labels.csv")}
    assert {digest: kept[digest] for digest in asked} == asked
    assert "audit" in asked.values()


def test_an_earlier_versions_labels_without_their_batches_are_refused(after):
    people = after(2)
    as_an_earlier_version(people.run / "labels.csv")
    shutil.rmtree(people.run / "batches" / "batch0")
    line = refused(people.another_run, people.run / "labels.csv", lines=2)
    assert "batch0/batch.csv, which says whether it was an audit" in line
    assert not (people.place / "new").exists()


def test_a_new_run_asks_neither_for_what_was_skipped_nor_for_what_people_have_said(after):
    people = after(0)
    rows = people.batch(0)
    page = people.says(rows[4:], skips=rows[:3])
    people.round("--labels", page, *people.disagreeing(rows[3:4]))
    tables = ("labels.csv", "set_aside.csv", "disagreements.csv")
    new = people.another_run(*(people.run / name for name in tables))
    aside = [row["sha256"] for row in new.table("set_aside.csv")]
    assert aside == people.asked([0])[:3]
    (row,) = new.table("disagreements.csv")
    assert row["votes"] == people.table("disagreements.csv")[0]["votes"]
    assert {*new.asked([0])} & {row["sha256"] for row in rows} == {row["sha256"]}


def test_a_later_round_may_leave_out_what_the_run_has_recorded_and_say_nothing_else(people):
    people.round("--set=training.lr=0.01")
    bare = [each for each in people.command() if not each.startswith("--set")]
    main_TOD.main([*bare, "--labels", str(people.answers(0))])
    assert len(people.batch(1)) == 10
    people.round("--set=training.lr=0.01")
    line = refused(people.round, "--set=training.lr=0.02")
    assert "another training.lr (0.01 there, 0.02 here)" in line
    assert "have it as there, or name another" in line
    assert "--labels" in line and "--overwrite" not in line
