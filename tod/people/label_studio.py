"""A batch for Label Studio: the tasks to import, and their labelling interface."""

import json
import os
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from tod.people.answers import CONTROL
from tod.people.requests import Request

IMAGE = "image"
"""The image's name in the interface and in each task."""


def label_config(class_names: Sequence[str]) -> str:
    """The labelling interface: one image, and one choice among the classes."""
    escaped = {"\n": "&#10;", "\r": "&#13;", "\t": "&#9;"}
    choices = "".join(f"    <Choice value={quoteattr(name, escaped)}/>\n" for name in class_names)
    return (
        f'<View>\n  <Image name="{IMAGE}" value="${IMAGE}"/>\n'
        f'  <Choices name="{CONTROL}" toName="{IMAGE}" choice="single" showInline="true">\n'
        f"{choices}  </Choices>\n</View>\n"
    )


def tasks(number: int, requests: Iterable[Request], with_predictions: bool = False) -> str:
    """The tasks of a batch as JSON; Label Studio shows predictions as ticked choices.

    Its document root is the data folder.
    """
    found = []
    for request in requests:
        data = {
            IMAGE: f"/data/local-files/?d={quote(os.fsencode(request.file))}",
            # A database cannot hold bytes that are no text; the digest identifies the image.
            "file": request.file.encode("utf-8", "replace").decode(),
            "sha256": request.sha256,
            "rank": int(request.rank),
        }
        task: dict[str, Any] = {"data": data}
        if with_predictions and request.predicted:
            choice = {"id": CONTROL, "type": "choices", "from_name": CONTROL, "to_name": IMAGE}
            task["predictions"] = [
                {
                    "model_version": f"batch{number}",
                    "score": float(request.probability),
                    "result": [{**choice, "value": {"choices": [request.predicted]}}],
                }
            ]
        found.append(task)
    return json.dumps(found, indent=1) + "\n"
