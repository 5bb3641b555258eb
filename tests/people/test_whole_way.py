"""The whole way, as a person goes it: commands, a browser, a file that it has downloaded."""

from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.support.browser import chromium
from tests.support.harness import run_script
from tests.support.people import People, table


def run(people: People, *arguments: object) -> CompletedProcess:
    loud = [each for each in people.command(*arguments) if each != "--quiet"]
    done = run_script("main_TOD.py", *loud)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done


def labelled_in_a_browser(people: People, number: int, place: Path) -> Path:
    """Labels a batch by keyboard, with a reload in the middle, and saves the file."""
    rows = people.batch(number)
    with chromium() as browser:
        page = browser.new_page()
        address = (people.run / "batches" / f"batch{number}" / "label.html").as_uri()
        page.goto(address)
        for position in range(len(rows)):
            if position == len(rows) // 2:
                page.reload()
            file = page.locator("#file").inner_text()
            (row,) = (row for row in rows if row["file"] == file)
            if position == 0:
                page.keyboard.press("-")
                continue
            name = people.truth[row["sha256"]]
            for key in (str(1 + people.classes.index(name)),) if position % 2 else (*name, "Enter"):
                page.keyboard.press(key)
        with page.expect_download() as download:
            page.keyboard.press("Control+s")
        path = place / download.value.suggested_filename
        download.value.save_as(path)
    return path


@pytest.fixture(scope="module")
def labelled(tmp_path_factory) -> tuple[People, list[str]]:
    """A run with two rounds, and what it said."""
    people = People(tmp_path_factory.mktemp("people"))
    said = [run(people).stdout]
    for number in range(2):
        path = labelled_in_a_browser(people, number, people.place)
        assert path.name == f"labels_batch{number}.csv"
        said.append(run(people, "--labels", path).stdout)
    return people, said


def test_labels_given_in_the_page_are_taken_and_skips_are_set_aside(labelled):
    people, said = labelled
    given = table(people.run / "labels.csv")
    assert len(given) == 18
    assert all(row["class"] == people.truth[row["sha256"]] for row in given)
    skipped = [people.batch(number)[0]["sha256"] for number in range(2)]
    assert [row["sha256"] for row in table(people.run / "set_aside.csv")] == skipped
    for number, text in enumerate(said):
        *_, last = text.splitlines()
        assert f"batch{number}: asks for the labels of 10 images" in last
        assert f"--labels labels_batch{number}.csv" in last
    for words in ("takes 9 labels", "Cycle:1 || Label set size:", "audited"):
        assert words in said[1]
    for words in ("it means little", "Spearman correlation of score and true loss"):
        assert words in said[2]


def test_what_was_said_stands_in_the_log(labelled):
    people, said = labelled
    assert (people.run / "log.txt").read_text() == "".join(said)


def test_a_folder_is_classified_beside_what_people_have_said(labelled, tmp_path):
    people, _ = labelled
    output = tmp_path / "predictions.csv"
    done = run_script("predict.py", people.run, people.data / "unlabeled", f"--output={output}")
    assert done.returncode == 0, done.stderr
    rows = table(output)
    assert [*rows[0]] == ["file", "class", "probability", "labelled"]
    assert len(rows) == 60
    given = {row["file"]: row["class"] for row in table(people.run / "labels.csv")}
    assert {f"unlabeled/{row['file']}": row["labelled"] for row in rows if row["labelled"]} == given


def test_the_report_shows_the_audits_and_the_batches(labelled, tmp_path):
    people, _ = labelled
    done = run_script("report.py", people.run, f"--output={tmp_path / 'report.html'}")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "report.html").read_text()
    assert "accuracy on audited images (%)" in page
    assert all(f"Batch {number}" in page for number in range(3))
    done = run_script("plot.py", people.run, f"--output={tmp_path / 'curve.png'}")
    assert done.returncode == 0, done.stderr
    assert "| accuracy on audited images (%) |" in done.stdout
    done = run_script(
        "plot.py", people.run, "--diagnostics", f"--output={tmp_path / 'diagnostics.png'}"
    )
    assert done.returncode == 0, done.stderr


def test_the_example_of_the_docs_asks_for_digits_and_answers_from_the_truth(tmp_path):
    folder = tmp_path / "digits"
    script = "experiments/digits_to_label.py"
    done = run_script(script, folder)
    assert done.returncode == 0, done.stderr
    assert len(list(folder.glob("unlabeled/*.png"))) == 1437
    command = [f"--config={folder / 'digits_to_label.yaml'}", "--quiet", f"--output-dir={tmp_path}"]
    done = run_script("main_TOD.py", *command)
    assert done.returncode == 0, done.stderr
    batch = tmp_path / "digits_to_label_auxiliary_TOD_sampling_TOD_seed0" / "batches" / "batch0"
    done = run_script(script, folder, f"--answer={batch}")
    assert done.returncode == 0, done.stderr
    truth = {row["file"]: row["class"] for row in table(folder / "truth.csv")}
    given = table(folder / "labels_batch0.csv")
    assert [row["sha256"] for row in given] == [row["sha256"] for row in table(batch / "batch.csv")]
    assert all(row["class"] == truth[row["file"]] for row in given)


def test_the_example_spoils_no_folder_that_is_in_use(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "classes.txt").write_text("cat\ndog\n")
    done = run_script("experiments/digits_to_label.py", tmp_path / "photos")
    assert done.returncode == 2
    assert "holds other files" in done.stderr
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["classes.txt"]


def test_a_run_that_waits_for_its_first_labels_is_left_out_of_a_report(labelled, tmp_path):
    people, _ = labelled
    other = People(tmp_path)
    other.round()
    report = tmp_path / "report.html"
    done = run_script("report.py", people.run, other.run, f"--output={report}")
    assert done.returncode == 0, done.stderr
    assert f"{other.run}: has no results yet, and is left out" in done.stderr
    done = run_script("report.py", other.run, f"--output={report}")
    assert done.returncode == 2
