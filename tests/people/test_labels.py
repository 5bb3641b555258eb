"""All that people say: majorities, ties, skips, contradictions; everything taken, or nothing."""

import itertools
import time
from pathlib import Path

import pytest

from tod.data.own_images import Found
from tod.people import labels as tables
from tod.people.answers import Answer, read_answers
from tod.people.label_store import LabelStore
from tod.people.labels import Label, Said, in_table, read_labels, write_labels
from tod.people.requests import Request
from tod.people.taking import answers_by_image, with_answers
from tod.people.votes import Vote, counts

EXPORTS = Path(__file__).parent / "exports"
A = "unlabeled/a.png"
FOUND = Found(
    Path("photos"),
    ["cat", "dog"],
    {"aa": A, "bb": "unlabeled/b.png", "cc": "train/cat/c.png"},
    {A: "aa", "unlabeled/b.png": "bb", "train/cat/c.png": "cc"},
    {"cc": "cat"},
    None,
)
REQUESTS = {
    "aa": Request("1", A, "aa", "", batch="0"),
    "bb": Request("1", "unlabeled/old name.png", "bb", "", batch="2"),
}


def answer(file: str, name: str | None, sha256: str = "") -> Answer:
    return Answer(file, sha256, name, f"labels.csv, {file or sha256}", "labels.csv")


def take(
    before: Said, *answers: Answer | list[Answer], relabel: bool = False, found: Found = FOUND
) -> tuple[Said, list[str]]:
    """What is taken of answers that are each alone in a file, or of lists of answers in a file."""
    problems: list[str] = []
    files = [each if isinstance(each, list) else [each] for each in answers]
    by_image = answers_by_image(files, before, found, REQUESTS, problems)
    return with_answers(before, by_image.items(), found, REQUESTS, relabel, problems), problems


def taken(
    *answers: Answer | list[Answer], before: Said | None = None, relabel: bool = False
) -> Said:
    labels, problems = take(before or {}, *answers, relabel=relabel)
    assert problems == []
    return labels


CAT = Label(A, "cat", "0", "labels.csv")


def undecided(table: str, *votes: Vote, file: str = A, batch: str = "0", reason: str = "") -> Label:
    voters = ", ".join(dict.fromkeys(vote.voter for vote in votes))
    return Label(file, "", batch, voters, reason, votes, table)


def test_a_label_is_of_an_image_known_by_its_digest_or_by_any_way_to_write_its_name():
    ways = (A, "a.png", "./unlabeled/a.png", "unlabeled\\a.png", ".\\a.png")
    for file, digest in (("elsewhere/x.png", "aa"), ("", "aa"), *((way, "") for way in ways)):
        assert taken(answer(file, "cat", digest)) == {"aa": CAT}
    label = Label("unlabeled/b.png", "dog", "2", "labels.csv")
    for file in ("unlabeled/old name.png", ".\\unlabeled\\old name.png"):  # as it was asked for
        assert taken(answer(file, "dog")) == {"bb": label}
    assert taken(answer("", "dog", "cc"))["cc"].batch == ""  # nobody was asked for it


VOTES = {
    "labels": [["cat"], ["cat", "cat"], ["dog", "cat", "cat"], ["cat", None], ["cat", None, None]],
    "disagreements": [["cat", "dog"], ["cat", "dog", None]],
    "set_aside": [[None], [None, None]],
}


@pytest.mark.parametrize(("expected", "votes"), [(e, v) for e, each in VOTES.items() for v in each])
def test_of_several_people_the_majority_of_those_who_name_a_class_counts(expected, votes):
    given = tuple(Vote("labels.csv", vote) for vote in votes)
    label = CAT._replace(votes=given if len(given) > 1 else ())
    if expected != "labels":
        label = undecided(expected, *given)
    assert taken(*(answer(A, vote) for vote in votes)) == {"aa": label}


def test_the_same_answers_given_twice_change_nothing():
    tie = [answer(A, "cat"), answer(A, "dog")]
    given = [*tie, answer("", None, "bb"), answer("", "cat", "cc")]
    once = taken(*given)
    assert {label.table for label in once.values()} == {*tables.TABLES}
    assert taken(*given, before=once) == once


def of(file: str, name: str | None, sha256: str = "aa") -> Answer:
    return answer("", name, sha256)._replace(source=file, content=f"{file}, {name}")


def annotated(name: str | None, annotation: str, annotator: str, updated_at: str = "1") -> Answer:
    return of("x", name)._replace(annotation=annotation, annotator=annotator, updated_at=updated_at)


def kind(labels: Said) -> str:
    """The class of an image, or the table in which it stands without one."""
    return labels["aa"].class_name or labels["aa"].table


TIE = "disagreements"
CAT_OF_ALICE, DOG_OF_BOB = of("alice.csv", "cat"), of("bob.csv", "dog")
SKIP_OF_CAROL = of("carol.csv", None)
ORDERS = [*itertools.permutations((CAT_OF_ALICE, DOG_OF_BOB, SKIP_OF_CAROL))]


def test_a_tie_is_resolved_by_who_has_not_voted_yet():
    tie = taken(CAT_OF_ALICE, DOG_OF_BOB)
    saved_again = CAT_OF_ALICE._replace(content="more rows")
    for again in (CAT_OF_ALICE, DOG_OF_BOB, saved_again, SKIP_OF_CAROL):
        assert kind(taken(again, before=tie)) == TIE
    assert kind(taken(of("dora.csv", "dog"), before=tie)) == "dog"
    assert kind(taken(of("alice.csv", "dog"), before=tie)) == "dog"  # who has thought again
    assert kind(taken(CAT_OF_ALICE, before=tie, relabel=True)) == "cat"  # whose word is to count


@pytest.mark.parametrize("skips", ["together", "first", "last"])
@pytest.mark.parametrize("order", ORDERS)
def test_in_which_order_people_answer_does_not_matter(order, skips):
    votes, skip = [each for each in order if each.class_name], [SKIP_OF_CAROL]
    labels: Said = {}
    for each in {"together": [order], "first": [skip, votes], "last": [votes, skip]}[skips]:
        labels = taken(*each, before=labels)
    assert kind(labels) == TIE
    assert kind(taken(of("dora.csv", "dog"), before=labels)) == "dog"
    assert kind(taken(of("dora.csv", None), before=labels)) == "set_aside"


def test_a_second_disagreement_of_files_with_the_same_names_is_an_answer(tmp_path):
    def both(content: str) -> list[Answer]:
        return [of("answers.csv", name)._replace(content=content + name) for name in ("cat", "dog")]

    before, request = taken(*both("first")), REQUESTS["aa"]._replace(batch="1")
    store = LabelStore(tmp_path, FOUND)
    store.batches = [[request]]
    for answers, is_answered in ((both("first"), False), (both("second"), True)):
        store.said = with_answers(before, [("aa", answers)], FOUND, {"aa": request}, False, [])
        assert kind(store.said) == TIE
        assert (store.waiting() == []) == is_answered


CHECKED = "checked"  # settled, as it was
OF_ANNA = [annotated(*each) for each in (("cat", "", "anna", "1"), ("dog", "", "anna", "2"))]


@pytest.mark.parametrize(
    ("before", "given", "relabel", "expected"),
    [
        (OF_ANNA[0], OF_ANNA[:1], False, "cat"),
        (OF_ANNA[0], [OF_ANNA[0]._replace(content="more rows")], False, "cat"),
        (OF_ANNA[0], [OF_ANNA[0]._replace(updated_at="2")], False, CHECKED),
        (OF_ANNA[0], [OF_ANNA[1]._replace(class_name=None)], False, CHECKED),
        (OF_ANNA[0], OF_ANNA[1:], False, TIE),
        (OF_ANNA[0], OF_ANNA[1:], True, "dog"),
        (OF_ANNA[0], [OF_ANNA[0]._replace(updated_at="2")], True, CHECKED),
        (CAT_OF_ALICE, [CAT_OF_ALICE], False, "cat"),
        (CAT_OF_ALICE, [CAT_OF_ALICE._replace(content="more rows")], False, CHECKED),
        (CAT_OF_ALICE, [of("carol.csv", "cat")], False, CHECKED),
        (CAT_OF_ALICE, [of("alice.csv", "dog")], False, TIE),
        # More people than one say so, but nothing is changed by itself.
        (CAT_OF_ALICE, [DOG_OF_BOB, of("carol.csv", "dog")], False, TIE),
    ],
)
def test_a_check_is_answered_by_what_is_said_later_and_changes_no_class(
    before, given, relabel, expected
):
    first, check = REQUESTS["aa"], REQUESTS["aa"]._replace(batch="3", reason="check")

    def said(labels: Said, request: Request, answers: list[Answer], relabel: bool) -> Said:
        requests, problems = {"aa": request}, []
        by_image = [("aa", answers)]
        labels = with_answers(labels, by_image, FOUND, requests, relabel, problems, True)
        assert problems == []
        return labels

    labels = said(said({}, first, [before], False), check, given, relabel)
    was_answered = expected != "cat"
    assert kind(labels) == ("cat" if expected == CHECKED else expected)
    assert (labels["aa"].batch, labels["aa"].reason) == (
        ("3", "check") if was_answered else ("0", "")
    )
    if expected == TIE:
        assert said(labels, check, given, False) == labels
        again = check._replace(batch="4", reason="query")
        newest = annotated("cat", "", given[0].annotator or "eve", "4")
        assert kind(said(labels, again, [newest], False)) == (TIE if len(given) > 1 else "cat")


def test_votes_that_have_decided_contradict_nothing_when_they_come_again():
    tie = taken(CAT_OF_ALICE, DOG_OF_BOB)
    settled = taken(of("carol.csv", "cat"), before=tie)
    growing = DOG_OF_BOB._replace(content="more rows")
    for again in ([CAT_OF_ALICE, DOG_OF_BOB], [DOG_OF_BOB], [growing], [of("dora.csv", "cat")]):
        assert taken(*again, before=settled) == settled
    _, (problem,) = take(settled, of("dora.csv", "dog"))
    assert "cat (2), dog (2) here, but cat by carol.csv before" in problem


def test_an_older_answer_of_the_same_person_takes_nothing_back():
    tie = taken(annotated("dog", "", "anna", "2"), CAT_OF_ALICE)
    for at, name, now in (("1", "cat", TIE), ("3", "cat", "cat"), ("3", None, "cat")):
        assert kind(taken(annotated(name, "", "anna", at), before=tie)) == now


def test_an_answer_saved_again_is_no_second_vote_of_its_person():
    tie = taken(annotated("cat", "", "anna", "1"), annotated("dog", "", "ben", "1"))
    again = annotated("cat", "", "anna", "1")._replace(content="more rows")
    assert taken(again, before=tie) == tie


def test_an_audit_of_another_run_stays_one():
    audit = answer("", "cat", "aa")._replace(may_be_gone=True, reason="audit")
    orders = ([audit, CAT_OF_ALICE], [CAT_OF_ALICE, audit])
    for before in ({}, taken(CAT_OF_ALICE, DOG_OF_BOB)):
        labels = [taken(*answers, before=before) for answers in orders]
        assert [each["aa"].reason for each in labels] == ["audit"] * 2
    tie = taken(CAT_OF_ALICE, DOG_OF_BOB, before=taken(audit), relabel=True)
    assert tie["aa"].reason == "audit"
    assert taken(of("carol.csv", "dog"), before=tie)["aa"].reason == "audit"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        # Yesterday's and today's export of one project, in which somebody has thought again.
        ([[("cat", "5", "1")], [("cat", "5", "1"), ("dog", "6", "2")]], TIE),
        ([[("cat", "5", "1")], [("dog", "5", "1", "2")]], "dog"),
        ([[("dog", "5", "1", "2")], [("cat", "5", "1")]], "dog"),
        ([[("cat", "5", "1"), ("cat", "7", "1", "2"), ("dog", "6", "2")]], TIE),
        ([[("cat", "5", "1")], [(None, "5", "1", "2")]], "set_aside"),
        ([[("cat", "5", "1"), ("dog", "6", "2")], [(None, "5", "1", "2")]], "dog"),
        # The same number on two servers is two people.
        ([[("cat", "5 of a", "1")], [("dog", "5 of b", "1")]], TIE),
        # The page's own name of a browser is nobody else's.
        ([[("cat", "", "browser")], [("cat", "", "browser")], [("dog", "", "2")]], TIE),
    ],
)
def test_each_annotator_has_one_vote(files, expected):
    for order in itertools.permutations(files):
        answers = [[annotated(*each) for each in file] for file in order]
        assert kind(taken(*answers)) == expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        # Without times nobody knows which of the two came last.
        ([[("cat", "", "ann", ""), ("dog", "", "ann", "")]], TIE),
        ([[("cat", "", "ann", "")], [("dog", "", "ann", "")]], TIE),
        ([[("cat", "", "", ""), ("cat", "", "", "")], [("dog", "", "bob", "")]], TIE),
    ],
)
def test_nobody_has_two_votes_and_no_order_decides(files, expected):
    for order in itertools.permutations(files):
        for turn in (1, -1):
            answers = [[annotated(*each) for each in file[::turn]] for file in order]
            assert kind(taken(*answers)) == expected


def test_a_person_has_one_vote_of_an_image_however_it_is_named():
    by_name = [answer(way, "cat")._replace(annotator="ann") for way in (A, "a.png", ".\\a.png")]
    by_digest = answer("", "cat", "aa")._replace(annotator="ann")
    bob = answer(A, "dog")._replace(annotator="bob")
    assert kind(taken([*by_name, bob])) == kind(taken(by_name, [by_digest], [bob])) == TIE


def test_a_name_and_a_digest_of_two_images_are_refused():
    said, (problem,) = take({}, answer(A, "cat", "bb"))
    assert not said and "is one image, and its sha256 is unlabeled/b.png's; leave out" in problem


def test_a_class_that_is_none_is_named_also_where_images_have_moved():
    moved = answer("unlabeled/elsewhere/a.png", "cow", "aa")._replace(may_be_gone=True)
    said, (problem,) = take({}, moved)
    assert not said and "cow is no class" in problem


def test_what_contradicts_a_label_taken_before_is_refused_unless_relabel():
    before, cat, dog = taken(answer(A, "cat")), answer(A, "cat"), answer(A, "dog")
    for given, said, now in (([dog], "dog", "dog"), ([cat, dog], "cat (1), dog (1)", TIE)):
        after, (problem,) = take(before, *given)
        assert after == before
        words = f"labels.csv, {A}: {A} is {said} here, but cat by labels.csv before; --relabel"
        assert words in problem
        assert kind(taken(*given, before=before, relabel=True)) == now


def test_an_image_in_a_class_folder_is_relabelled_by_moving_it():
    before = taken(answer("", "cat", "cc"))
    cat, dog = (answer("", name, "cc") for name in ("cat", "dog"))
    for given, relabel in (([dog], False), ([dog], True), ([cat, dog], True)):
        after, (problem,) = take(before, *given, relabel=relabel)
        assert after == before
        said = "train/cat/c.png is dog here, " if cat not in given else ""
        assert f"{said}but lies in cat's folder; move it" in problem


def test_a_runs_own_labels_may_be_of_images_that_are_gone():
    gone = answer("unlabeled/z.png", "cat", "zz")._replace(may_be_gone=True)
    assert taken(gone) == {}
    (problem,) = take({}, gone._replace(file="unlabeled/a.png"))[1]
    assert "has changed since" in problem


def test_a_skip_takes_no_label_away_and_a_label_ends_a_skip():
    labelled, skipped = (taken(answer(A, name)) for name in ("cat", None))
    assert taken(answer(A, None), before=labelled) == labelled
    assert kind(taken(answer(A, "cat"), before=skipped)) == "cat"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (answer(A, "caat"), "caat is no class; the nearest is cat"),
        (answer(A, "DOG"), "DOG is no class; the nearest is dog"),
        (answer("unlabeled/z.png", "cat"), "unlabeled/z.png is no image of photos"),
        (answer("../photos/unlabeled/a.png", "cat"), "is no image of photos"),
        (answer("/etc/passwd", "cat"), "/etc/passwd is no image of photos"),
        (answer("", "cat", "zz"), "zz is no image of photos"),
        (answer(A, "cat", "zz"), "unlabeled/a.png has changed since"),
        (
            answer("unlabeled/\udcc4pfel.png", "cat"),
            "is no image of photos: it is not UTF-8 but, as it seems, Windows-1252 "
            "(unlabeled/Äpfel.png); save the file as UTF-8",
        ),
    ],
)
def test_what_is_wrong_is_named_where_it_stands(given, says):
    after, (problem,) = take({}, given)
    assert after == {}
    assert problem.startswith(f"{given.place}: ")
    assert says in problem


@pytest.mark.parametrize("given", [(A, "cat"), ("", "cat", "aa")])
def test_what_was_asked_for_and_has_changed_is_refused_and_what_is_gone_may_be_labelled(given):
    changed = FOUND._replace(files={"dd": A}, digests={**FOUND.digests, A: "dd"})
    _, (problem,) = take({}, answer(*given), found=changed)
    assert "unlabeled/a.png has changed since" in problem
    gone = FOUND._replace(files={"bb": "unlabeled/b.png"}, digests={"unlabeled/b.png": "bb"})
    labels, problems = take({}, answer(*given), found=gone)
    assert ([*labels], problems) == (["aa"], [])


def test_a_wrong_file_of_many_rows_and_classes_is_refused_at_once():
    found = FOUND._replace(class_names=[f"class of things {number}" for number in range(1000)])
    wrong = [answer(A, f"another label {number}") for number in range(2000)]
    begun = time.process_time()
    _, problems = take({}, *wrong, found=found)
    assert time.process_time() - begun < 5
    assert len(problems) == len(wrong)
    assert all("is no class; the nearest is class of things" in each for each in problems[:10])


def test_names_that_look_the_same_are_one_class(caplog):
    for class_name, given in (("Gr\u00fcn", "Gru\u0308n"), ("cat", " cat ")):
        assert caplog.text == ""
        found = FOUND._replace(class_names=[class_name, "dog"])
        labels, problems = take({}, answer(A, given), found=found)
        assert (problems, kind(labels)) == ([], class_name)
    assert "' cat ' is taken without the blanks around it (1 such in all)" in caplog.text


def test_what_is_written_is_read_back_exactly(tmp_path):
    names = ["=ten", "a,b", 'say "hi"', "two\nlines", "carriage\rreturn", " b ", "ü", "caf\udce9"]
    votes = tuple(Vote(name, name, "1", "2026") for name in names)
    labels = {f"{i}": Label(name, name, "", name, "audit", votes) for i, name in enumerate(names)}
    labels["x"] = undecided("set_aside", Vote("a", None), file="two\nlines", reason="first")
    labels["y"] = undecided(TIE, *votes)
    write_labels(labels, tmp_path, {})
    assert read_labels(tmp_path, {}) == labels
    assert read_labels(tmp_path / "empty", {}) == {}
    first = (tmp_path / "labels.csv").read_bytes().splitlines()[0]
    assert first.replace(b'"', b"") == b"file,sha256,class,batch,source,reason,answers"


def test_what_an_earlier_version_has_written_is_read(tmp_path):
    (tmp_path / "labels.csv").write_text("file,sha256,class,batch,source\na,aa,cat,0,b.csv\n")
    header = "file,sha256,batch,votes,source\n"
    (tmp_path / "set_aside.csv").write_text(f"{header}b,bb,1,,b.csv\n")
    tie = 'c,cc,1,"cat (2), dog (2)","b.csv, c.csv"\n'
    (tmp_path / "disagreements.csv").write_text(header + tie)
    labels = read_labels(tmp_path, {("aa", "0"): "audit", ("aa", "1"): "query"})
    assert labels["aa"] == Label("a", "cat", "0", "b.csv", "audit")
    assert labels["bb"] == undecided("set_aside", Vote("b.csv", None), file="b", batch="1")
    assert [vote.class_name for vote in labels["cc"].votes] == ["cat", "cat", "dog", "dog"]
    found = FOUND._replace(files={**FOUND.files, "cc": "c"})
    settled, _ = take(labels, of("d.csv", "dog", "cc"), found=found)
    assert settled["cc"].class_name == "dog"


IN_EACH_TABLE = [
    {"aa": CAT},
    {"aa": undecided("set_aside", Vote("a", None))},
    {"aa": undecided(TIE, Vote("a", "cat"), Vote("b", "dog"))},
]


@pytest.mark.parametrize(("before", "after"), [*itertools.permutations(IN_EACH_TABLE, 2)])
def test_an_image_comes_to_a_table_before_it_leaves_one(tmp_path, monkeypatch, before, after):
    write_labels(before, tmp_path, {})
    write = tables.write_atomically

    def written(path: Path, content: str) -> None:
        write(path, content)
        assert read_labels(tmp_path, {}) in (before, after)

    monkeypatch.setattr(tables, "write_atomically", written)
    write_labels(after, tmp_path, before)
    assert read_labels(tmp_path, {}) == after


@pytest.mark.parametrize("name", ["export.json", "export.min.json", "export.csv"])
def test_the_exports_of_a_real_server_give_the_same_labels_in_each_format(name):
    answers = read_answers(EXPORTS / name)
    everything = read_answers(EXPORTS / "export.json")
    found = FOUND._replace(
        class_names=[" two  spaces ", "<script>x<", "=ten", 'a,"b"', "cat", "line\nbreak", "Über"],
        files={each.sha256: each.file for each in everything},
        digests={each.file: each.sha256 for each in everything},
        labels={},
    )
    # All annotations are of one person here; whoever wrote them posed as several.
    answers = [a._replace(annotator=a.annotation) for a in answers]
    said, problems = take({}, answers, found=found)
    assert problems == []
    labels, ties, skips = (in_table(said, table).values() for table in tables.TABLES)
    by_file = {label.file: label.class_name for label in labels}
    assert [*by_file.values()] == [*found.class_names, "cat", "cat"]
    assert by_file["unlabeled/sub dir/b.png"] == by_file["unlabeled/o'p.png"] == "cat"
    assert [counts(tie.votes) for tie in ties] == ["=ten (1), cat (1)"]
    expected = ["unlabeled/m\nn.png"] if name == "export.json" else []
    assert [skip.file for skip in skips] == expected
