"""Tables that a spreadsheet has saved again: a run's own, and with people's answers in them."""

import csv
import io
from collections.abc import Callable

import pandas as pd
import pytest

from tests.support.loading import refused
from tod.people.answers import read_answers
from tod.people.requests import COLUMNS, read_requests
from tod.system.files import as_csv, read_table

NAMES = ["file", "sha256", "class", "note"]
CELLS = [["unlabeled/a;b.png", "aa", "=ten", ""], ["ü\t.png", "bb", 'a,"b"', ""]]
OWN = as_csv(pd.DataFrame([*CELLS, ["c\nd.png", "cc", "", ""]], columns=NAMES))


def saved(text: str, delimiter: str = ",", change: Callable = lambda cells: cells) -> str:
    """A CSV text as a spreadsheet saves it: with another delimiter, CRLF, and changed rows."""
    out = io.StringIO(newline="")
    rows = csv.reader(io.StringIO(text, newline=""))
    csv.writer(out, delimiter=delimiter).writerows(change(cells) for cells in rows)
    return out.getvalue()


def without_last_cells(cells: list[str]) -> list[str]:
    return cells[: max(place for place, cell in enumerate(cells, start=1) if cell)]


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + OWN.encode(),
        saved(OWN).encode(),
        saved(OWN, ";").encode("utf-8-sig"),
        saved(OWN, "\t").encode("utf-16"),
        b"sep=;\r\n" + saved(OWN, ";").encode(),
        b'"sep=\t"\n' + saved(OWN, "\t").encode(),
        saved(OWN, ";", without_last_cells).encode(),
        saved(OWN).rstrip("\r\n").encode(),
        (saved(OWN, ",", lambda cells: [*cells, "", ""]) + ",,,,,\r\n\r\n").encode(),
        saved(OWN, ",", lambda cells: [*cells[::-1], "mine"]).encode(),
    ],
)
def test_a_runs_own_table_is_read_as_a_spreadsheet_saves_it(tmp_path, content):
    path = tmp_path / "labels.csv"
    path.write_bytes(content)
    rows = [[*zip(NAMES, row, strict=True)] for row in (*CELLS, ["c\nd.png", "cc", "", ""])]
    assert [[*row.items()] for row in read_table(path, NAMES)] == rows


@pytest.mark.parametrize("cut", [2, 3, 5])
def test_a_table_that_is_cut_short_is_not_read_back(tmp_path, cut):
    path = tmp_path / "labels.csv"
    path.write_text(OWN[:-cut])
    assert "cannot be read back" in refused(read_table, path, NAMES)


@pytest.mark.parametrize("written", ["2,5", "2.5", "2,5E+00"])
def test_a_score_may_have_a_decimal_comma(tmp_path, written):
    path = tmp_path / "batch.csv"
    path.write_text(f"{';'.join(COLUMNS)}\r\n1;a;aa;query;{written};cat;0,9\r\n")
    (row,) = read_requests(path)
    assert float(row.score) == 2.5
    path.write_text(path.read_text().replace(written, "02. Mai"))
    assert "cannot be read back (rank 1 has the score 02. Mai)" in refused(read_requests, path)


def test_a_batchs_table_has_the_answers_of_a_further_column_alone(tmp_path):
    rows = ["1,a,aa,query,2.5,dog,0.9,cat", "2,b,bb,query,2.4,dog,0.9,", "3,c,cc,query,2.3,dog,0.9"]
    columns = ",".join(COLUMNS)
    path = tmp_path / "batch.csv"
    path.write_text("\n".join([f"{columns},class", *rows]))
    assert [(answer.file, answer.class_name) for answer in read_answers(path)] == [("a", "cat")]
    path.write_text(f"{columns}\n{rows[2]}\n")
    assert "no column class or label or choice, but rank" in refused(read_answers, path)
    path.write_text(f"{columns.replace('predicted', 'class')}\n{rows[2]}\n")
    # The network's class by another name is still the network's.
    assert "a network's predictions" in refused(read_answers, path)


def test_a_run_goes_on_with_a_batch_that_was_filled_in_in_a_spreadsheet(after):
    people = after(0)
    truth = {digest: people.truth[digest] for digest in people.asked([0])}
    path = people.run / "batches" / "batch0" / "batch.csv"
    classes = iter(["class", *truth.values()])
    filled = saved(path.read_text(), ";", lambda cells: [*cells, next(classes)])
    path.write_bytes(b"\xef\xbb\xbf" + filled.encode())
    people.round("--labels", path)
    assert people.labels() == truth

    labels = people.run / "labels.csv"
    labels.write_bytes(b"\xef\xbb\xbf" + saved(labels.read_text(), ";").encode())
    people.round("--labels", labels)
