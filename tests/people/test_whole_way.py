"""The whole way, as a person goes it: commands, a browser, a file that it has downloaded."""

from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser

import main_TOD
import plot
import predict
import report
from experiments import digits_to_label
from tests.support.browser import chromium, wait_until_ready
from tests.support.harness import run_script
from tests.support.loading import refused
from tests.support.people import People, table
from tod.config import InputError
from tod.runs.folder import refuse_output


def said_by(people: People, *arguments: object) -> str:
    done = run_script("main_TOD.py", *people.command(*arguments, quiet=False))
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def labelled_in_a_browser(people: People, number: int, browser: Browser) -> Path:
    """Labels a batch by keyboard, with a reload in the middle, and saves the file."""
    rows, page = people.batch(number), browser.new_page()
    page.goto((people.run / "batches" / f"batch{number}" / "label.html").as_uri())
    for position in range(len(rows)):
        if position == len(rows) // 2:
            page.reload()
        wait_until_ready(page)
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
        page.keyboard.press("Enter")
    path = people.place / download.value.suggested_filename
    download.value.save_as(path)
    return path


@pytest.fixture(scope="module")
def labelled(tmp_path_factory) -> tuple[People, list[str]]:
    """A run with two rounds, and what it said."""
    people = People(tmp_path_factory.mktemp("people"))
    said = [said_by(people)]
    with chromium() as browser:
        for number in range(2):
            path = labelled_in_a_browser(people, number, browser)
            assert path.name == f"labels_batch{number}.csv"
            said.append(said_by(people, "--labels", path))
    return people, said


def test_labels_given_in_the_page_are_taken_skips_are_set_aside_and_both_logged(labelled):
    people, said = labelled
    given = people.labels()
    assert len(given) == 18
    assert given.items() <= people.truth.items()
    skipped = [people.batch(number)[0]["sha256"] for number in range(2)]
    assert [row["sha256"] for row in people.table("set_aside.csv")] == skipped
    for number, text in enumerate(said):
        *_, last = text.splitlines()
        assert f"batch{number}: asks for the labels of 10 images" in last
        assert f"--labels labels_batch{number}.csv" in last
    first = ("takes 9 labels", "Cycle:1 || Label set size:", "audited")
    assert all(words in said[1] for words in first)
    assert "it means little" in said[2]
    assert "Spearman correlation of score and true loss" in said[2]
    assert (people.run / "log.txt").read_text() == "".join(said)


def test_a_folder_is_classified_beside_what_people_have_said(labelled, tmp_path):
    people, _ = labelled
    output = tmp_path / "predictions.csv"
    done = run_script("predict.py", people.run, people.data / "unlabeled", f"--output={output}")
    assert done.returncode == 0, done.stderr
    rows = table(output)
    assert [*rows[0]] == ["file", "class", "probability", "labelled"]
    assert len(rows) == 60
    given = {row["file"]: row["class"] for row in people.table("labels.csv")}
    assert {f"unlabeled/{row['file']}": row["labelled"] for row in rows if row["labelled"]} == given


def test_no_output_replaces_a_file_of_the_run(labelled):
    people, _ = labelled
    own = (path for path in people.run.rglob("*") if ".locks" not in path.parts)
    for file in filter(Path.is_file, own):
        with pytest.raises(InputError, match="is the run's own place"):
            refuse_output(file)
    images, output = people.data / "unlabeled", people.run / "labels.csv"
    told = f"{output}: is the run's own place"
    assert told in refused(predict.main, [str(people.run), str(images), f"--output={output}"])


def test_the_report_shows_the_audits_and_the_batches(labelled, tmp_path, capsys):
    people, _ = labelled
    report.main([str(people.run), f"--output={tmp_path / 'report.html'}"])
    page = (tmp_path / "report.html").read_text()
    assert "accuracy on audited images (%)" in page
    assert all(f"Batch {number}" in page for number in range(3))
    plot.main([str(people.run), f"--output={tmp_path / 'curve.png'}"])
    assert "| accuracy on audited images (%) |" in capsys.readouterr().out
    plot.main([str(people.run), "--diagnostics", f"--output={tmp_path / 'diagnostics.png'}"])
    for name in ("learning_curve.png", "batches/batch1/contact_sheet.png"):
        with Image.open(people.run / name) as image:
            assert min(image.size) > 100


def test_the_docs_example_asks_for_digits_and_tells_the_truth(tmp_path, figures_stubbed, capsys):
    folder = tmp_path / "digits"
    digits_to_label.main([str(folder)])
    assert len(list(folder.glob("unlabeled/*.png"))) == 1437
    config = folder / "digits_to_label.yaml"
    main_TOD.main([f"--config={config}", "--quiet", f"--output-dir={tmp_path}"])
    batch = tmp_path / "digits_to_label_auxiliary_TOD_sampling_TOD_seed0" / "batches" / "batch0"
    digits_to_label.main([str(folder), f"--answer={batch}"])
    truth = {row["file"]: row["class"] for row in table(folder / "truth.csv")}
    given = table(folder / "labels_batch0.csv")
    assert capsys.readouterr().out.endswith(f"labels_batch0.csv: {len(given)} labels\n")
    assert [row["sha256"] for row in given] == [row["sha256"] for row in table(batch / "batch.csv")]
    assert all(row["class"] == truth[row["file"]] for row in given)


def test_the_example_spoils_no_folder_that_is_in_use(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "classes.txt").write_text("cat\ndog\n")
    done = run_script("experiments/digits_to_label.py", tmp_path / "photos")
    assert done.returncode == 2
    assert "holds other files" in done.stderr
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["classes.txt"]


def test_a_run_that_waits_for_its_first_labels_is_left_out_of_a_report(after, tmp_path):
    people, other = after(1), after(0, place="other")
    output = f"--output={tmp_path / 'report.html'}"
    done = run_script("report.py", people.run, other.run, output)
    assert done.returncode == 0, done.stderr
    assert f"{other.run}: is left out; it has no results yet" in done.stderr
    assert "results.csv: cannot be read (" in refused(report.main, [str(other.run), output])
