"""What people get of a batch, and what of it they must not see."""

import json
import re
from unittest.mock import Mock
from urllib.parse import unquote_to_bytes
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from tod.analysis import contact_sheet
from tod.people.batch_files import write_batch
from tod.people.label_studio import label_config, tasks
from tod.people.requests import AUDIT, CHECK, Request

FILES = ("a b.png", "ü#?%20&.png", "caf\udce9: x.png")
NETWORK = [
    Request("1", FILES[0], "aa", "query", "2.5", "cat", "0.75"),
    Request("2", FILES[1], "bb", "audit", "0.123456", "what it says", "0.654321"),
    Request("3", FILES[2], "cc", "query", "1.5", "dog", "0.5"),
]
DRAWN = [Request(*row[:3], "audit" if row.reason == "audit" else "first") for row in NETWORK]


@pytest.fixture
def written(tmp_path):
    """Writes a batch of three images, and gives its folder."""
    (tmp_path / "photos").mkdir()
    for number, file in enumerate(FILES):
        Image.fromarray(np.full((8, 8, 3), 50 * number, np.uint8)).save(tmp_path / "photos" / file)

    def write(rows):
        return write_batch(tmp_path / "run", 0, rows, tmp_path / "photos", ("cat", "dog"))

    return write


def images_of_page(folder):
    (content,) = re.findall('id="batch">(.*?)</script>', (folder / "label.html").read_text())
    return json.loads(content)["images"]


@pytest.mark.parametrize("reason", [AUDIT, CHECK])
def test_nobody_who_labels_an_audit_or_a_check_sees_what_the_network_says_of_it(written, reason):
    folder = written([NETWORK[0], NETWORK[1]._replace(reason=reason), NETWORK[2]])
    told = re.compile(rb"what it says|0\.123456|0\.654321|65 %")
    for path in {*folder.iterdir()} - {folder / "batch.csv"}:
        assert not told.search(path.read_bytes())
    assert [image["prediction"] for image in images_of_page(folder)] == [
        *("cat, 75 %", None, "dog, 50 %")
    ]


def test_label_studio_ticks_nothing_unless_the_other_file_is_imported_and_then_no_audit(written):
    folder = written(NETWORK)
    names = ("label_studio.json", "label_studio_predicted.json")
    plain, predicted = (json.loads((folder / name).read_text()) for name in names)
    assert plain == [{"data": task["data"]} for task in predicted]
    address = {"image": "/data/local-files/?d=a%20b.png", "file": FILES[0]}
    assert plain[0]["data"] == {**address, "sha256": "aa", "rank": 1}
    view = ElementTree.fromstring((folder / "label_config.xml").read_text())
    (choices,) = view.iter("Choices")
    (first,), (), (third,) = (task.get("predictions", ()) for task in predicted)
    for prediction, name, probability in ((first, "cat", 0.75), (third, "dog", 0.5)):
        assert (prediction["model_version"], prediction["score"]) == ("batch0", probability)
        (result,) = prediction["result"]
        assert result["value"] == {"choices": [name]}
        names = (choices.get("name"), choices.get("toName"))
        assert (result["from_name"], result["to_name"]) == names


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (NETWORK, [("cat", "2.5"), ("rank 2", "audit"), ("dog", "1.5")]),
        ([NETWORK[1]._replace(reason=CHECK)], [("rank 2", "check")]),
        (DRAWN, [("rank 1", "first"), ("rank 2", "audit"), ("rank 3", "first")]),
    ],
)
def test_the_contact_sheet_says_what_is_an_audit_or_a_check(written, monkeypatch, rows, expected):
    noted = Mock(wraps=contact_sheet.of_batch)
    monkeypatch.setattr(contact_sheet, "of_batch", noted)
    assert (written(rows) / "contact_sheet.png").exists()
    assert [*noted.call_args.args[2]] == expected


def test_the_page_knows_where_the_original_lies(written, tmp_path):
    folder = written(NETWORK)
    for image, file in zip(images_of_page(folder), FILES, strict=True):
        assert image["original"].isascii() and not {*image["original"]} & {*" #?&:"}
        path = unquote_to_bytes(image["original"]).decode("utf-8", "surrogateescape")
        assert (folder / path).resolve() == tmp_path / "photos" / file


NAMES = ["cat", "=ten", 'a,"b"', "two\nlines", "<script>", "&amp;", " blank ", "ü", "it's", "a\tb"]


def test_the_interface_offers_each_class_by_its_exact_name():
    view = ElementTree.fromstring(label_config(NAMES))
    assert [choice.get("value") for choice in view.iter("Choice")] == NAMES
    (choices,), (image,) = view.iter("Choices"), view.iter("Image")
    assert (choices.get("choice"), image.get("value")) == ("single", "$image")
    assert choices.get("toName") == image.get("name")


@pytest.mark.parametrize("file", ["u/a b.png", "u/ü#?%20&.png", 'a"b\n.png', "u/caf\udce9.png"])
def test_an_image_is_addressed_by_its_exact_name(file):
    text = tasks(0, [Request("1", file, "ab", "query")])
    (task,) = json.loads(text)
    begins, path = task["data"]["image"].split("=", 1)
    assert begins == "/data/local-files/?d" and path.isascii()
    assert not {*path} & {*' #?&"\n'}
    assert unquote_to_bytes(path) == file.encode("utf-8", "surrogateescape")
    # What a database cannot hold must not be there.
    task["data"]["file"].encode()
    assert "\\ud" not in text
