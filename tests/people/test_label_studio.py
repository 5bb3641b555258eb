"""What a batch gives to Label Studio: XML and JSON that hold any name."""

import json
from urllib.parse import unquote_to_bytes
from xml.etree import ElementTree

import pytest

from tod.people.batches import Asking
from tod.people.label_studio import label_config, tasks

NAMES = ["cat", "=ten", 'a,"b"', "two\nlines", "<script>", "&amp;", " blank ", "ü", "it's", "a\tb"]


def row(file: str = "unlabeled/a.png", **others: str) -> Asking:
    return Asking("1", file, "ab", "query", **others)


def test_the_interface_offers_each_class_by_its_exact_name():
    view = ElementTree.fromstring(label_config(NAMES))
    assert [choice.get("value") for choice in view.iter("Choice")] == NAMES
    (choices,) = view.iter("Choices")
    assert choices.attrib["choice"] == "single"
    (image,) = view.iter("Image")
    assert choices.get("toName") == image.get("name")
    assert image.get("value") == "$image"


@pytest.mark.parametrize(
    "file", ["unlabeled/a b.png", "unlabeled/ü#?%20&.png", 'a"b\n.png', "unlabeled/caf\udce9.png"]
)
def test_an_image_is_addressed_by_its_exact_name(file):
    ((task,), text) = (json.loads(tasks(0, [row(file)])), tasks(0, [row(file)]))
    url = task["data"]["image"]
    assert url.startswith("/data/local-files/?d=")
    path = url.removeprefix("/data/local-files/?d=")
    assert path.isascii()
    assert not {*path} & {*' #?&"\n'}
    assert unquote_to_bytes(path) == file.encode("utf-8", "surrogateescape")
    # What a database cannot hold must not be there.
    task["data"]["file"].encode()
    assert "\\ud" not in text


def test_a_task_has_what_knows_the_image_and_what_orders_it():
    (task,) = json.loads(tasks(0, [row()]))
    assert task == {
        "data": {
            "image": "/data/local-files/?d=unlabeled/a.png",
            "file": "unlabeled/a.png",
            "sha256": "ab",
            "rank": 1,
        }
    }


def test_the_networks_prediction_is_a_pre_annotation_where_it_is_wanted():
    judged = [row(score="2.5", predicted="=ten", probability="0.75")]
    assert tasks(3, judged) == tasks(3, [row()])
    (task,) = json.loads(tasks(3, judged, with_predictions=True))
    (prediction,) = task["predictions"]
    assert (prediction["model_version"], prediction["score"]) == ("batch3", 0.75)
    (result,) = prediction["result"]
    assert result["value"] == {"choices": ["=ten"]}
    view = ElementTree.fromstring(label_config(NAMES))
    (choices,) = view.iter("Choices")
    assert (result["from_name"], result["to_name"]) == (choices.get("name"), choices.get("toName"))
