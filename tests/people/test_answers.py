"""What people's files say: each kind by its content, every name exactly as it was."""

import csv
import hashlib
import io
import json
from pathlib import Path

import pandas as pd
import pytest

from tests.support import loading
from tod.people.answers import Answer, name_finder, read_answers

EXPORTS = Path(__file__).parent / "exports"
"""What Label Studio 1.23.2 gave for a batch of twelve images and these answers, in their order: one
class each; then cat against =ten, cat twice against =ten, nothing, a skip, cat and a skip."""
ONE_CLASS_EACH = [" two  spaces ", "<script>x<", "=ten", 'a,"b"', "cat", "line\nbreak", "Über"]
TWO_CLASSES = [{"value": {"choices": ["a", "b"]}}]
ODD_NAMES = ["=ten", "a,b", 'say "hi"', "two\nlines", "carriage\rreturn", " blank ", "ü", "a;b\tc"]
KINDS = ["json", "min.json", "csv"]
PREDICTIONS = (
    "its column probability tells that it holds a network's predictions, as predict.py writes "
    "them, not people's labels; where people have checked every row, leave that column out"
)


def given(path: Path) -> list[tuple[str, str | None]]:
    return [(answer.file, answer.class_name) for answer in read_answers(path)]


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def refused(path: Path) -> str:
    """The one line that refuses a file of another kind."""
    message = loading.refused(read_answers, path)
    assert message.startswith(f"{path}: cannot be read (")
    assert "--labels takes" in message
    assert message.count(str(path)) == 1
    return message


@pytest.mark.parametrize("kind", KINDS)
def test_an_export_of_a_real_server_says_what_who_and_when_by_its_content(tmp_path, kind):
    path = write(tmp_path / "labels.txt", (EXPORTS / f"export.{kind}").read_bytes())
    found = read_answers(path)
    assert [answer.class_name for answer in found[:7]] == ONE_CLASS_EACH
    assert {len(answer.sha256) for answer in found} == {64}

    expected = {
        f"{each['id']} of {each['created_at']}": (
            task["data"]["file"],
            None if each["was_cancelled"] else each["result"][0]["value"]["choices"][0],
            str(each["completed_by"]),
            each["updated_at"],
        )
        for task in json.loads((EXPORTS / "export.json").read_text())
        for each in task["annotations"]
        if kind == "json" or not each["was_cancelled"]  # skips are in JSON alone
    }
    said = {a.annotation: (a.file, a.class_name, a.annotator, a.updated_at) for a in found}
    assert said == expected
    assert len(found) == len(expected) == 13 + 2 * (kind == "json")


@pytest.mark.parametrize(
    ("completed_by", "annotator"),
    [(7, "7"), ("7", "7"), ({"id": 7, "email": "ann@b"}, "ann@b"), ({"id": 7}, "7"), (None, "")],
)
def test_an_annotator_is_an_address_or_an_id_in_each_format(tmp_path, completed_by, annotator):
    result = [{"from_name": "choice", "value": {"choices": ["cat"]}}]
    times = {"created_at": "2025", "updated_at": "2026-11-30T10:00:00+02:00"}
    annotation = {"id": 5, "completed_by": completed_by, "result": result, **times}
    record = {"file": "a", "choice": "cat", "annotation_id": 5, "annotator": completed_by}
    for tasks in ([{"data": {"file": "a"}, "annotations": [annotation]}], [{**record, **times}]):
        (answer,) = read_answers(write(tmp_path / "export.json", json.dumps(tasks)))
        told = (answer.annotation, answer.annotator, answer.updated_at)
        assert told == ("5 of 2025", annotator, "2026-11-30T08:00:00.000000Z")


DISAGREEMENTS = "file,sha256,batch,votes,source,answers\n"


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("column", ["class", "label", "choice", " Class "])
def test_any_csv_with_names_and_classes_is_taken(tmp_path, delimiter, column):
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerows([["File", "note", column], *([n, "x", n] for n in ODD_NAMES)])
    for content in (text.getvalue(), "\ufeff" + text.getvalue()):
        path = write(tmp_path / "any.csv", content)
        assert given(path) == [(name, name) for name in ODD_NAMES]


def test_an_answer_says_where_it_stands_and_in_which_file_and_only_a_runs_own_why(tmp_path):
    path = write(tmp_path / "mine.csv", 'file,class,reason\na,"x\ny",audit\n\nb,z,first\n')
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    assert read_answers(path) == [
        Answer("a", "", "x\ny", f"{path}, line 3", "mine.csv", digest, False),
        Answer("b", "", "z", f"{path}, line 5", "mine.csv", digest, False),
    ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("file\tclass\r\nü.png\tö\r\n".encode("utf-16"), [("ü.png", "", "ö")]),
        # A name that is no text keeps its bytes.
        (b"file,class\ncaf\xe9.png,x\n", [("caf\udce9.png", "", "x")]),
        # What has no class is no answer, and a skip is one.
        (
            "file,sha256,class,skipped\na,,,\nb,,,yes\nc,AB,x,\n",
            [("b", "", None), ("c", "ab", "x")],
        ),
    ],
)
def test_what_a_table_says_is_read_to_the_letter(tmp_path, content, expected):
    found = read_answers(write(tmp_path / "page.csv", content))
    assert [(a.file, a.sha256, a.class_name) for a in found] == expected


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "No such file"),
        ("", "it has no column file or sha256, but none at all"),
        ("file,kind\na,b\n", "no column class or label or choice, but file, kind"),
        ("class\na\n", "no column file or sha256, but class"),
        ("file,class\na,b,c\n", "line 2 has 3 cells"),
        ('file,class\na,"b\n', "unexpected end of data"),
        ("file,class\n,b\n", "line 2 says of no image what file or sha256 it has"),
        ("{}", "no list of tasks"),
        ("[1]", "no list of tasks"),
        ('[{"foo": 1}]', "task 1 says of no image"),
        ('[{"data": {"file": "a"}}]', "task 1 has no annotations"),
        ("[{", "Expecting"),
        ("[" * 100_000, "recursion"),
        ('[{"class": "a"}]', "task 1 says of no image"),
        ('[{"file": 5, "class": "a"}]', "task 1 says of no image"),
        ('[{"file": "a", "class": {"choices": ["a", "b"]}}]', "task 1 has more than one class"),
        ('[{"data": {"file": "a"}, "annotations": [5]}]', "has no annotations"),
        ("file,class,updated_at\na,x,01.12.2026 11:00\n", "line 2 has a time that is not written"),
        ("file,class,skipped\na,,Ja\n", "line 2 has Ja under skipped; write yes, or leave"),
        (f"{DISAGREEMENTS}a,,,,x,[5]\n", "5 is no answer of a person"),
        (f'{DISAGREEMENTS}a,,,,x,"[[1,2,3,4]]"\n', "[1, 2, 3, 4] is no answer of a person"),
        (
            '[{"data": {"file": "a"}, "annotations": [{"result": [{"value": {"choices": [5]}}]}]}]',
            "task 1 has more than one class for an image, or none that is a text",
        ),
        (
            json.dumps([{"data": {"file": "a"}, "annotations": [{"result": TWO_CLASSES}]}]),
            "task 1 has 2 classes in one annotation",
        ),
        ("file,class,label\na,b,\nc,,d\n", "has classes in class and in label; leave one of them"),
        ("file,class,skipped\na,,yes\nb,c,no\nd,e,yes\n", "line 4 has a class, and is skipped"),
        ("file,class,class\na,b,c\n", "has two columns class; leave one of them"),
        ('[{"file": "a", "choice": "b"}, {"file": "c", "label": "d"}]', "in label and in choice"),
        ("file,class\n\xc4pfel.png,\xc4pfel\n".encode("cp1252"), "Windows-1252 (Äpfel); save"),
        ("file,class\na,b\n".encode("utf-16-le"), "UTF-16 without its mark; save it as UTF-8"),
        ("file,class\na,b\n".encode("utf-16-be"), "UTF-16 without its mark; save it as UTF-8"),
        (b"\x89PNG\r\n\x1a\n\0\0", "no column file or sha256"),
        # Whatever its format, what predict.py writes is nobody's label.
        ('[{"file": "a.png", "class": "cat", "probability": 0.9}]', PREDICTIONS),
        ("file,class,probability\na.png,cat,0.9\n", PREDICTIONS),
        ("\ufeffprobability;class;file\r\n0.9;cat;a.png\r\n", PREDICTIONS),
        ("sep=,\r\nnote,Probability,label,sha256\r\nx,0.9,cat,ab\r\n", PREDICTIONS),
        ("file,class,labelled\na,cat,\n", "its column labelled tells"),
    ],
)
def test_a_file_of_another_kind_is_refused_in_one_line(tmp_path, content, says):
    path = tmp_path / "bad.csv"
    if content is not None:
        write(path, content)
    assert says in refused(path)


def annotation(**chosen: str) -> dict:
    """One in which these controls were answered; `note` is a text."""
    result = [
        {"from_name": name, "value": {"text" if name == "note" else "choices": [value]}}
        for name, value in chosen.items()
    ]
    return {"id": 1, "result": result}


def exported(kind: str, *answers: dict[str, str]) -> str:
    """What Label Studio exports of a task for each of these annotations, by the controls' names."""
    if kind == "json":
        tasks = [{"data": {"file": "a"}, "annotations": [annotation(**each)]} for each in answers]
        return json.dumps(tasks)
    records = [{"file": "a", "annotation_id": 1, **each} for each in answers]
    if kind == "min.json":
        return json.dumps(records)
    return pd.DataFrame(records).to_csv(index=False)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("other", ["flag", "note", "label", "class", "a_first"])
def test_a_second_control_of_label_studio_says_nothing_of_the_class(tmp_path, kind, other):
    both = {other: "blurry", "choice": "cat"}
    text = exported(kind, both, {other: "dog"}, {"choice": "dog"}, {other: "cat"})
    assert given(write(tmp_path / "export", text)) == [("a", "cat"), ("a", "dog")]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("only", ["choice", "label", "class"])
def test_an_own_interface_may_have_its_only_classes_by_another_name(tmp_path, kind, only):
    text = exported(kind, {only: "cat"}, {"flag": "blurry"}, {"flag": "x", only: "dog"})
    assert given(write(tmp_path / "export", text)) == [("a", "cat"), ("a", "dog")]
    text = exported(kind, {"label": "cat"}, {"class": "dog"})
    assert "classes in class and in label" in refused(write(tmp_path / "export", text))


@pytest.mark.parametrize("kind", KINDS)
def test_an_export_without_any_class_has_no_answers_and_a_warning(tmp_path, caplog, kind):
    path = write(tmp_path / "export", exported(kind, {"flag": "blurry"}, {"flag": "cat"}))
    with caplog.at_level("WARNING", "tod"):
        assert given(path) == []
    (line,) = caplog.messages
    assert line.startswith(f"{path}: ")
    assert "only the control choice of label_config.xml counts" in line


def test_an_annotation_that_was_skipped_is_a_skip_whatever_else_was_answered(tmp_path):
    skipped = {**annotation(flag="blurry"), "was_cancelled": True}
    tasks = [{"data": {"file": "a"}, "annotations": [skipped, annotation(choice="cat")]}]
    path = write(tmp_path / "export.json", json.dumps(tasks))
    assert given(path) == [("a", None), ("a", "cat")]


MEANT = {
    "unlabeled/sub/\u00fc.png": (
        *("unlabeled/sub/\u00fc.png", "unlabeled/sub/u\u0308.png", "./unlabeled/sub/\u00fc.png"),
        *("unlabeled\\sub\\u\u0308.png", ".\\sub\\\u00fc.png"),
    ),
    "unlabeled/nfd/u\u0308.png": ("nfd/u\u0308.png", "nfd/\u00fc.png"),
    # What is there by its exact name is this one.
    "unlabeled/back\\slash.png": ("unlabeled/back\\slash.png", "back\\slash.png"),
    "unlabeled/back/slash.png": ("back/slash.png",),
    "unlabeled/two\\forms.png": ("./two\\forms.png",),
    # What may be two pictures is none of them.
    "./back/slash.png": ("./back/slash.png",),
    "": ("",),
    ".": (".",),
    "../photos/unlabeled/sub/\u00fc.png": ("../photos/unlabeled/sub/\u00fc.png",),
}


@pytest.mark.parametrize(("written", "meant"), [(w, m) for m, each in MEANT.items() for w in each])
def test_a_file_is_found_by_its_name_as_other_systems_write_it(written, meant):
    files = ("sub/\u00fc", "nfd/u\u0308", "back\\slash", "back/slash", "two\\forms", "two/forms")
    names = [f"unlabeled/{file}.png" for file in files]
    digests = dict(zip(names, "abcdee", strict=True))
    assert name_finder({**digests, "train/cat/c.png": "f"})(written) == meant
