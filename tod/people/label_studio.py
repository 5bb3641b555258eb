"""A batch for Label Studio: the tasks to import, and the labelling interface that they need."""

import json
import os
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from tod.people.answers import CONTROL
from tod.people.batches import Asking

NAME, IMAGE = CONTROL, "image"
"""Of the choice and of the image, in the interface and in each task."""


def label_config(class_names: Sequence[str]) -> str:
    """The labelling interface: one image, and one choice among the classes."""
    escaped = {"\n": "&#10;", "\r": "&#13;", "\t": "&#9;"}
    choices = "".join(f"    <Choice value={quoteattr(name, escaped)}/>\n" for name in class_names)
    return (
        f'<View>\n  <Image name="{IMAGE}" value="${IMAGE}"/>\n'
        f'  <Choices name="{NAME}" toName="{IMAGE}" choice="single" showInline="true">\n'
        f"{choices}  </Choices>\n</View>\n"
    )


def tasks(number: int, rows: Iterable[Asking], with_predictions: bool = False) -> str:
    """The tasks of a batch, one for each of its rows, as JSON.

    The images lie below Label Studio's document root, which is the data folder. Label Studio shows
    a prediction as already ticked.
    """
    return json.dumps([_task(number, row, with_predictions) for row in rows], indent=1) + "\n"


def _task(number: int, row: Asking, with_predictions: bool) -> dict[str, Any]:
    data = {
        IMAGE: f"/data/local-files/?d={quote(os.fsencode(row.file))}",
        # What is no text cannot be kept by a database; the digest knows the image.
        "file": row.file.encode("utf-8", "replace").decode(),
        "sha256": row.sha256,
        "rank": int(row.rank),
    }
    if not (with_predictions and row.predicted):
        return {"data": data}
    result = {
        "id": NAME,
        "type": "choices",
        "from_name": NAME,
        "to_name": IMAGE,
        "value": {"choices": [row.predicted]},
    }
    prediction = {
        "model_version": f"batch{number}",
        "score": float(row.probability),
        "result": [result],
    }
    return {"data": data, "predictions": [prediction]}
