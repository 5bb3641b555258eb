"""What people's files say: the page's CSV, any CSV, Label Studio's exports."""

import hashlib
import json
import logging
import posixpath
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

from tod.config import InputError
from tod.config.settings import shortened
from tod.data.listing import class_name_of
from tod.system.files import NAMES, decoded, reason, rows_of_csv

log = logging.getLogger("tod")

CONTROL = "choice"
"""Of Label Studio's interface: what gives the class."""
CLASS_COLUMNS = ("class", "label", CONTROL)
LABEL_COLUMNS = ["file", "sha256", "class", "batch", "source"]
"""Those of a run's own `labels.csv`, before `reason`."""
UNDECIDED_COLUMNS = ["file", "sha256", "batch", "votes", "source"]
"""Those of its `set_aside.csv` and `disagreements.csv`, before `answers`."""
SKIPPED, NOT_SKIPPED = ("yes", "true", "1"), ("", "no", "false", "0")
ADVICE = (
    "--labels takes the page's CSV, a CSV with a column file or sha256 and one of class, label or "
    "choice, or an export of Label Studio as JSON, JSON_MIN or CSV"
)


class Answer(NamedTuple):
    """What one person says of one image.

    Attributes:
        file: its name, relative to the data folder; empty where it is known by its digest alone.
        sha256: its digest in hex; empty where it is known by its name alone.
        class_name: None: the person has skipped it.
        place: where the answer stands, for messages.
        source: the name of the file that it stands in.
        content: tells the file's content from another's.
        may_be_gone: whether it stands in a run's own files, whose images may be gone by now.
        reason: in a run's own labels, why it was asked for; empty in an earlier version's.
        batch: there, the number of the batch that asked for it.
        annotation: Label Studio's id of it, and when it was made; empty elsewhere.
        annotator: who has given it, as Label Studio or a column `annotator` says: an e-mail
            address, or an id; else empty.
        updated_at: when it was changed last, in UTC, as `2026-11-30T10:00:00.000000Z`; else empty.
    """

    file: str
    sha256: str
    class_name: str | None
    place: str
    source: str = ""
    content: str = ""
    may_be_gone: bool = False
    reason: str = ""
    batch: str = ""
    annotation: str = ""
    annotator: str = ""
    updated_at: str = ""


def read_answers(path: Path) -> list[Answer]:
    """All answers in a file; an image that was left alone has none, one seen by two people has two.

    Raises:
        InputError: the file cannot be read, or is of no kind that is known.
    """
    place = shortened(str(path), 300)
    try:
        content = path.read_bytes()
        text, digest = decoded(content), hashlib.sha256(content).hexdigest()[:16]
        is_json = text.lstrip()[:1] in ("[", "{")
        found = (_in_json if is_json else _in_csv)(text, place)
        return [answer._replace(source=path.name, content=digest) for answer in found]
    # A file of another kind may be nested in any way.
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        why = reason(error).removeprefix(f"{place}, ")
        raise InputError(f"{path}: cannot be read ({why}); {ADVICE}") from None


def _in_csv(text: str, place: str) -> Iterator[Answer]:
    columns, rows = rows_of_csv(text)
    _refuse_without(("file", "sha256"), columns)
    placed = [(f"{place}, line {line}", row) for line, row in rows]
    if {*UNDECIDED_COLUMNS} <= {*columns}:
        yield from _counted(placed)
        return
    of_a_run = {*LABEL_COLUMNS} <= {*columns}
    yield from _of_rows(placed, columns, place, of_a_run)


def _counted(rows: list[tuple[str, dict[str, Any]]]) -> Iterator[Answer]:
    """What people have said of images, in a run's own `set_aside.csv` or `disagreements.csv`."""
    for here, row in rows:
        said = votes_in(row.get("answers") or "")
        if row.get("votes") and not said:  # an earlier version's
            words = "people disagree there; give the files in which they say so"
            raise ValueError(f"{here} has no answer of one person: {words}")
        for voter, name, answer, at in said or [("", None, "", "")]:
            found = Answer(*_image(row, here), name, here, may_be_gone=True)
            yield found._replace(
                annotator=voter, annotation=answer, updated_at=at, reason=row.get("reason", "")
            )


def _in_json(text: str, place: str) -> Iterator[Answer]:
    tasks = json.loads(text)
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise ValueError("it is no list of tasks")
    placed = [(f"{place}, task {number}", task) for number, task in enumerate(tasks, start=1)]
    if any("annotations" in task or "data" in task for task in tasks):
        yield from _of_tasks(placed, place)
    elif tasks:
        for here, task in placed:
            _image(task, here)
        yield from _of_rows(placed, [*dict.fromkeys(key for task in tasks for key in task)], place)


def _of_rows(
    rows: list[tuple[str, dict[str, Any]]],
    columns: Collection[str],
    place: str,
    of_a_run: bool = False,
) -> Iterator[Answer]:
    """The answers in the rows of a CSV, or in the records of JSON_MIN, each with its place."""
    is_export = "annotation_id" in columns
    predicts = [name for name in ("probability", "labelled") if name in columns]
    if predicts and "predicted" not in columns and not is_export:
        raise ValueError(
            f"its column {predicts[0]} tells that it holds a network's predictions, as predict.py "
            "writes them, not people's labels; where people have checked every row, leave that "
            "column out"
        )
    for name in ("file", "sha256", *CLASS_COLUMNS):
        if [*columns].count(name) > 1:
            raise ValueError(f"it has two columns {name}; leave one of them out")
    if not is_export:
        _refuse_without(CLASS_COLUMNS, columns)
    elif not {*CLASS_COLUMNS} & {*columns}:
        _warn_of_other_controls(place)
    filled = {name for name in CLASS_COLUMNS if any(row.get(name) for _, row in rows)}
    column = CONTROL if is_export and CONTROL in columns else _where_classes_are(filled)
    for here, row in rows:
        name = row.get(column)
        name = name.strip() and name if isinstance(name, str) else name
        skipped = str(row.get("skipped") or "").strip()
        if skipped.lower() not in (*SKIPPED, *NOT_SKIPPED):
            words = f"has {shortened(skipped)} under skipped; write yes, or leave it empty"
            raise ValueError(f"{here} {words}")
        is_skipped = skipped.lower() in SKIPPED
        if name and is_skipped:
            raise ValueError(f"{here} has a class, and is skipped; leave one of them out")
        if name or is_skipped:
            told_by = _told_by(row, "annotation_id", "annotator", here)
            class_name = _class(name, here) if name else None
            if of_a_run:
                asked = {key: row.get(key, "") for key in ("reason", "batch")}
                told_by |= {"may_be_gone": True, **asked}
            yield Answer(*_image(row, here), class_name, here, **told_by)


def _of_tasks(tasks: list[tuple[str, dict[str, Any]]], place: str) -> Iterator[Answer]:
    """The answers in Label Studio's JSON: one for each annotation that says a class or skips."""
    for here, task in tasks:
        given = task.get("annotations")
        if not isinstance(given, list) or not all(isinstance(each, dict) for each in given):
            raise ValueError(f"{here} has no annotations: export the tasks once they are labelled")
    controls = {
        name for _, task in tasks for each in task["annotations"] for name in _choices(each)
    }
    control = CONTROL if CONTROL in controls else _where_classes_are(controls)
    if controls and control not in controls:
        _warn_of_other_controls(place)
    for here, task in tasks:
        data = task.get("data")
        image = _image(data if isinstance(data, dict) else {}, here)
        for annotation in task["annotations"]:
            told_by = _told_by(annotation, "id", "completed_by", here)
            choices = _choices(annotation).get(control, [])
            if annotation.get("was_cancelled"):
                yield Answer(*image, None, here, **told_by)
            elif len(choices) > 1:
                raise ValueError(f"{here} has {len(choices)} classes in one annotation")
            elif choices:
                yield Answer(*image, _class(choices[0], here), here, **told_by)


def _refuse_without(needed: Collection[str], columns: Collection[str]) -> None:
    if not {*needed} & {*columns}:
        found = shortened(", ".join(columns), 100) or "none at all"
        raise ValueError(f"it has no column {' or '.join(needed)}, but {found}")


def _where_classes_are(names: Collection[str]) -> str:
    """Which of these columns or controls, in each of which something stands, has the classes."""
    found = [name for name in CLASS_COLUMNS if name in names]
    if len(found) > 1:
        raise ValueError(f"it has classes in {found[0]} and in {found[1]}; leave one of them out")
    return found[0] if found else CONTROL


def _warn_of_other_controls(place: str) -> None:
    words = f"only the control {CONTROL} of label_config.xml counts, or one named class or label"
    log.warning(f"{place}: has no class; {words}")


def _class(name: Any, place: str) -> str:
    if not isinstance(name, str):
        raise ValueError(f"{place} has more than one class for an image, or none that is a text")
    if words := not_utf8(name):  # no class has such a name
        raise ValueError(f"{place}: {words}")
    return name


def _image(row: dict[str, Any], place: str) -> tuple[str, str]:
    """The name and the digest that a row gives of its image."""
    file, sha256 = (row.get(key) or "" for key in ("file", "sha256"))
    if not isinstance(file, str) or not isinstance(sha256, str) or not (file or sha256):
        raise ValueError(f"{place} says of no image what file or sha256 it has")
    return file, sha256.strip().lower()


def _told_by(record: dict[str, Any], annotation: str, annotator: str, place: str) -> dict[str, str]:
    """The fields of an answer that say who speaks, and when; two of them have these keys."""
    person = record.get(annotator)
    if isinstance(person, dict):  # JSON_MIN and CSV have the address alone
        person = person.get("email") or person.get("id")
    cells = record.get(annotation), person, record.get("updated_at")
    names = "annotation", "annotator", "updated_at"
    told = {k: "" if v is None else str(v).strip() for k, v in zip(names, cells, strict=True)}
    told["updated_at"] = _in_utc(told["updated_at"], place)
    if told["annotation"]:  # another server counts from 1, too
        told["annotation"] += f" of {record.get('created_at')}"
    return told


def _in_utc(time: str, place: str) -> str:
    """A time in the form in which texts are in the order of times; without a zone it is in UTC."""
    if not time:
        return ""
    try:
        found = datetime.fromisoformat(re.sub("[Zz]$", "+00:00", time))
        found = found.astimezone(timezone.utc) if found.tzinfo else found
    except (ValueError, OverflowError):
        words = "has a time that is not written like 2026-11-30T10:00:00Z"
        raise ValueError(f"{place} {words}, but {shortened(time)}") from None
    return found.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def votes_in(text: str) -> list[list[Any]]:
    """The votes in a cell `answers`: of each the voter, the class, which answer, and its time.

    ValueError if the cell holds anything else.
    """
    votes = json.loads(text or "[]")
    for vote in votes if isinstance(votes, list) else [votes]:
        match vote:
            case [str(), str() | None, str(), str()]:
                continue
        raise ValueError(f"{shortened(json.dumps(vote))} is no answer of a person")
    return votes


def _choices(annotation: dict[str, Any]) -> Mapping[str, list[Any]]:
    """What is chosen in an annotation, by the name of the control."""
    chosen: dict[str, list[Any]] = defaultdict(list)
    for result in annotation.get("result") or ():
        if choices := result.get("value", {}).get("choices"):
            chosen[result.get("from_name", CONTROL)] += choices
    return chosen


def not_utf8(text: str) -> str:
    """What to say of a text of a file whose bytes are not UTF-8; nothing, if they are."""
    if not any("\udc80" <= c <= "\udcff" for c in text):
        return ""
    meant = text.encode("utf-8", NAMES).decode("cp1252", "replace")
    return (
        f"it is not UTF-8 but, as it seems, Windows-1252 ({shortened(meant)}); save the file as "
        "UTF-8 (of a spreadsheet's formats: CSV UTF-8)"
    )


def name_finder(digests: Mapping[str, str]) -> Callable[[str], str]:
    """A function that finds the file meant by a name that another system or a person has written.

    Names are the same in each Unicode form, with `/` or a backslash, with or without a leading
    `./`, and relative to `unlabeled`. `digests` are those of the files that there are, by name.
    Where no file is meant, or several that differ may be, the function returns the given name.
    """
    names: dict[str, list[str]] = defaultdict(list)
    for name in digests:
        names[_normal(name)].append(name)

    def find(name: str) -> str:
        wanted = (name, f"unlabeled/{name}")
        exact = next((each for each in wanted if each in digests), None)
        if exact is not None:
            return exact
        for alike in (names.get(_normal(each), ()) for each in wanted):
            if len({digests[each] for each in alike}) == 1:
                return alike[0]
        return name

    return find


def _normal(name: str) -> str:
    return posixpath.normpath(class_name_of(name).replace("\\", "/"))
