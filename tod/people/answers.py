"""What people's files say: the page's CSV, any CSV, Label Studio's exports."""

import codecs
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tod.config import InputError
from tod.files import NAMES, reason, rows_of_csv
from tod.settings import shortened

CLASS_COLUMNS = ("class", "label", "choice")
LABEL_COLUMNS = ["file", "sha256", "class", "batch", "source"]
"""Those of a run's own `labels.csv`."""
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
        may_be_gone: whether it stands in a run's own labels, whose images may be gone by now.
        annotation: Label Studio's id of it, of which its server has one; empty elsewhere.
        annotator: who has given it, as Label Studio or a column `annotator` says: an e-mail
            address, or an id; else empty.
        updated_at: when it was changed last, in ISO 8601 as Label Studio writes it; else empty.
    """

    file: str
    sha256: str
    class_name: str | None
    place: str
    source: str = ""
    may_be_gone: bool = False
    annotation: str = ""
    annotator: str = ""
    updated_at: str = ""


def read_answers(path: Path) -> list[Answer]:
    """All answers in a file; an image that was left alone has none, one seen by two people has two.

    Raises:
        InputError: the file cannot be read, or is of no kind that is known.
    """
    try:
        text = _decoded(path.read_bytes())
        is_json = text.lstrip()[:1] in ("[", "{")
        found = (_in_json if is_json else _in_csv)(text, shortened(str(path), 300))
        return [answer._replace(source=path.name) for answer in found]
    # A file of another kind may be nested in any way.
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({reason(error)}); {ADVICE}") from None


def _decoded(content: bytes) -> str:
    """The text of a file in UTF-8 or, as spreadsheets may write it, in UTF-16 with its mark."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16")
    return content.decode("utf-8", NAMES).removeprefix("\ufeff")


def _in_csv(text: str, place: str) -> Iterator[Answer]:
    columns, rows = rows_of_csv(text)
    for needed in (("file", "sha256"), CLASS_COLUMNS):
        if not {*needed} & {*columns}:
            found = shortened(", ".join(columns), 100) or "none at all"
            raise ValueError(f"it has no column {' or '.join(needed)}, but {found}")
    of_a_run = columns == LABEL_COLUMNS
    for line, row in rows:
        for answer in _of_row(row, f"{place}, line {line}"):
            yield answer._replace(may_be_gone=of_a_run)


def _of_row(row: dict[str, Any], place: str) -> Iterator[Answer]:
    """The answer in a row of a CSV, or in a record of JSON_MIN."""
    class_name = next((row[name] for name in CLASS_COLUMNS if row.get(name)), None)
    is_skipped = str(row.get("skipped") or "").strip().lower() in ("yes", "true", "1")
    if class_name is None and not is_skipped:
        return
    if class_name is not None and not isinstance(class_name, str):
        raise ValueError(f"{place} has more than one class for an image, or none that is a text")
    answer = Answer(*_image(row, place), class_name, place)
    yield answer._replace(**_told_by(row, "annotation_id", "annotator"))


def _image(row: dict[str, Any], place: str) -> tuple[str, str]:
    """The name and the digest that a row gives of its image."""
    file, sha256 = (row.get(key) or "" for key in ("file", "sha256"))
    if not isinstance(file, str) or not isinstance(sha256, str) or not (file or sha256):
        raise ValueError(f"{place} says of no image what file or sha256 it has")
    return file, sha256.strip().lower()


def _in_json(text: str, place: str) -> Iterator[Answer]:
    tasks = json.loads(text)
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise ValueError("it is no list of tasks")
    for number, task in enumerate(tasks, start=1):
        here = f"{place}, task {number}"
        if isinstance(task.get("annotations"), list):
            yield from _of_task(task, here)
        elif "data" in task:
            raise ValueError(f"{here} has no annotations: export the tasks once they are labelled")
        else:
            _image(task, here)
            yield from _of_row(task, here)


def _of_task(task: dict[str, Any], place: str) -> Iterator[Answer]:
    """The answers in a task of Label Studio's JSON: one for each annotation."""
    data = task.get("data")
    image = _image(data if isinstance(data, dict) else {}, place)
    for annotation in task["annotations"]:
        told_by = _told_by(annotation, "id", "completed_by")
        if annotation.get("was_cancelled"):
            yield Answer(*image, None, place, **told_by)
        elif choices := _choices(annotation):
            if len(choices) > 1:
                raise ValueError(f"{place} has {len(choices)} classes in one annotation")
            yield Answer(*image, choices[0], place, **told_by)


def _told_by(record: dict[str, Any], annotation: str, annotator: str) -> dict[str, str]:
    """The fields of an answer that say who speaks, and when; two of them have these keys."""
    person = record.get(annotator)
    if isinstance(person, dict):  # JSON_MIN and CSV have the address alone
        person = person.get("email") or person.get("id")
    cells = record.get(annotation), person, record.get("updated_at")
    names = "annotation", "annotator", "updated_at"
    return {k: "" if v is None else str(v).strip() for k, v in zip(names, cells, strict=True)}


def _choices(annotation: dict[str, Any]) -> Sequence[str]:
    values = (result.get("value", {}) for result in annotation.get("result", ()))
    return [choice for value in values for choice in value.get("choices", ())]
