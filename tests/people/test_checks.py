"""Labels that are perhaps wrong: told after each round, and asked for again where a run checks."""

from collections import Counter

import pytest

from tests.support.people import People, write_table

CHECKS = "--set=active_learning.check_share=0.2"
"""Two images of a batch."""


@pytest.fixture
def people(after) -> People:
    """A run that checks; its second batch waits. One label of the first is wrong."""
    people = after(-1)
    people.round(CHECKS)
    people.round("--labels", first_answers(people))
    return people


def first_answers(people: People):
    return answered(people, 0, wrong=[mistaken(people)])


def mistaken(people: People) -> dict[str, str]:
    return next(row for row in people.batch(0) if row["reason"] == "first")


def answered(people: People, number: int, wrong=(), left=(), file: str = ""):
    """A file of one browser's: the truth of a batch, but for what is wrong or left out."""
    rows = []
    for row in people.batch(number):
        if row not in left:
            is_wrong = row["sha256"] in {each["sha256"] for each in wrong}
            name = people.wrong(row) if is_wrong else people.truth[row["sha256"]]
            rows.append((row["file"], row["sha256"], name, "", "browser", f"2026-11-0{number + 1}"))
    columns = ("file", "sha256", "class", "skipped", "annotator", "updated_at")
    return write_table(people.place / (file or f"labels_batch{number}.csv"), rows, columns)


def checks(people: People, number: int) -> list[dict[str, str]]:
    return [row for row in people.batch(number) if row["reason"] == "check"]


def test_what_predictions_doubt_is_told_the_most_doubtful_first(people):
    wrong = mistaken(people)
    rows = people.table("suspects.csv")
    assert [*rows[0]] == ["file", "sha256", "class", "suggested", "probability"]
    first = (wrong["file"], wrong["sha256"], people.wrong(wrong), people.truth[wrong["sha256"]])
    assert tuple(rows[0].values())[:4] == first
    probabilities = [float(row["probability"]) for row in rows]
    assert probabilities == sorted(probabilities)
    assert {row["sha256"] for row in rows} <= {*people.labels()}


def test_the_most_doubtful_are_asked_for_again_within_the_size_of_the_batch(people):
    doubted = [row["sha256"] for row in people.table("suspects.csv")]
    asked = {row["sha256"] for row in checks(people, 1)}
    assert asked == {*doubted[:2]}
    reasons = Counter(row["reason"] for row in people.batch(1))
    assert reasons == {"check": len(asked), "audit": 1, "query": 9 - len(asked)}


def test_without_a_share_nothing_is_asked_for_again(after):
    people = after(0)
    people.round("--labels", first_answers(people))
    assert people.table("suspects.csv")[0]["sha256"] == mistaken(people)["sha256"]
    assert checks(people, 1) == []


def test_a_contradiction_even_of_the_same_person_is_a_disagreement_that_is_asked_again(people):
    wrong = mistaken(people)
    people.round("--labels", answered(people, 1))
    (tie,) = people.table("disagreements.csv")
    assert (tie["sha256"], tie["votes"]) == (wrong["sha256"], "cat (1), dog (1)")
    assert wrong["sha256"] not in people.labels()
    again = people.batch(2)[0]
    assert (again["sha256"], again["reason"]) == (wrong["sha256"], "check")
    # Neither answer settles it when it is given once more; a third does.
    for file in (first_answers(people), answered(people, 1), answered(people, 1, file="copy.csv")):
        people.round("--labels", file)
        assert people.table("disagreements.csv") == [tie]
    people.round("--labels", answered(people, 2))
    assert people.labels()[wrong["sha256"]] == people.truth[wrong["sha256"]]
    assert wrong["sha256"] not in {row["sha256"] for row in checks(people, 3)}


def test_agreement_settles_it_and_it_is_never_asked_for_again(people):
    wrong, before = mistaken(people), people.labels()
    assert wrong["sha256"] in {row["sha256"] for row in checks(people, 1)}
    people.round("--labels", answered(people, 1, wrong=[wrong]))
    (label,) = [row for row in people.table("labels.csv") if row["sha256"] == wrong["sha256"]]
    assert (label["class"], label["batch"], label["reason"]) == (people.wrong(wrong), "1", "check")
    assert [*people.labels()][: len(before)] == [*before]  # in the same order
    for number in (2, 3):
        assert wrong["sha256"] not in {row["sha256"] for row in people.table("suspects.csv")}
        assert wrong["sha256"] not in {row["sha256"] for row in people.batch(number)}
        people.round("--labels", answered(people, number))


def test_old_answers_given_again_answer_no_check(people, capsys):
    before = people.table("labels.csv")
    again = answered(
        people, 0, wrong=[mistaken(people)], file="saved_again.csv", left=[people.batch(0)[9]]
    )
    for file in (first_answers(people), again):
        people.round("--labels", file, quiet=False)
        assert "waits for the labels of 10 of 10 images" in capsys.readouterr().out
        assert people.table("labels.csv") == before


def test_a_check_without_an_answer_is_waited_for_or_keeps_its_label(people, capsys):
    wrong, unchecked = mistaken(people), checks(people, 1)
    people.round("--labels", answered(people, 1, left=unchecked), quiet=False)
    assert f"waits for the labels of {len(unchecked)} of 10 images" in capsys.readouterr().out
    people.round("--partial")
    assert people.labels()[wrong["sha256"]] == people.wrong(wrong)
    assert people.results("num_labeled")[-1] == str(9 + 9 - len(unchecked))
    assert wrong["sha256"] in {row["sha256"] for row in checks(people, 2)}


def test_a_skip_answers_a_check_and_takes_no_label_away(people):
    rows = checks(people, 1)
    people.round(
        "--labels", answered(people, 1, left=rows), people.says([], file="s.csv", skips=rows)
    )
    assert people.labels()[rows[0]["sha256"]]
    assert not (people.run / "set_aside.csv").exists()
    assert not {row["sha256"] for row in rows} & {row["sha256"] for row in people.batch(2)}


def test_a_checked_audit_stays_one(after):
    people = after(-1)
    people.round(CHECKS)
    (audit,) = [row for row in people.batch(0) if row["reason"] == "audit"]
    people.round("--labels", answered(people, 0, wrong=[audit]))
    assert audit["sha256"] in {row["sha256"] for row in checks(people, 1)}
    people.round("--labels", answered(people, 1))
    assert people.results("audited")[-1] == "1"  # that of the second batch
    again = people.batch(2)[0]
    assert (again["sha256"], again["reason"]) == (audit["sha256"], "audit")
    people.round("--labels", answered(people, 2))
    (label,) = [row for row in people.table("labels.csv") if row["sha256"] == audit["sha256"]]
    assert (label["class"], label["reason"]) == (people.truth[audit["sha256"]], "audit")
    assert people.results("audited")[-1] == "3"


def test_a_check_of_what_lies_in_a_class_folder_is_answered_by_a_person_alone(after):
    people = after(-1)
    people.add(*(f"train/{('cat', 'dog')[i % 2]}/{i}.png" for i in range(10)))
    moved = people.data / "train" / "dog" / "moved.png"
    (people.data / "train" / "cat" / "0.png").rename(moved)
    people.round(CHECKS)
    (row, *_) = checks(people, 0)
    assert row["file"] == "train/dog/moved.png"
    people.round("--labels", answered(people, 0, left=checks(people, 0)))
    assert len(people.results()) == 1  # it waits
    people.round("--labels", answered(people, 0))
    (tie,) = people.table("disagreements.csv")
    assert (tie["votes"], tie["source"]) == ("cat (1), dog (1)", "train, browser")
    people.round()
    assert people.table("disagreements.csv") == [tie]


def test_checks_judge_no_scores(people, capsys):
    people.round("--labels", answered(people, 1), quiet=False)
    count = 10 - len(checks(people, 1))
    assert f"over {count} labelled images, before training" in capsys.readouterr().out
