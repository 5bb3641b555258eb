"""The report: one page that holds all it shows, read back here as a browser does."""

import pytest
from PIL import Image

from tests.analysis.conftest import TWO_TRIALS
from tests.support.browser import assert_ground_is, chromium
from tests.support.harness import run_script, write_run
from tod.analysis import results
from tod.analysis.report import write_report


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


class Opened:
    """A page opened from disk, and what it asked for and complained of."""

    def __init__(self, browser, path):
        self.page = browser.new_page()
        self.requests, self.complaints = [], []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(path.as_uri())
        # A picture within the page is no request, and all else would be one.
        assert (self.complaints, self.requests) == ([], [path.as_uri()])

    def pictures(self):
        """Of each picture: its own width, the height at which it is shown, its description."""
        return self.page.evaluate(
            """Promise.all([...document.images].map(async image => {
                await image.decode();
                return [image.naturalWidth, image.getBoundingClientRect().height, image.alt];
            }))"""
        )

    def texts(self, selector):
        return self.page.locator(selector).all_inner_texts()


def write_sheet(folder, name, width=40):
    path = folder / "queries" / name
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", (width, 30), "red").save(path)
    return path


def opened_report(browser, folder, *runs):
    write_report(folder / "report.html", results.read_runs(runs))
    return Opened(browser, folder / "report.html")


def test_a_finished_run_is_reported_whole(tmp_path, browser, finished):
    process = run_script("report.py", finished, cwd=tmp_path)
    assert (process.returncode, process.stderr, process.stdout) == (0, "", "report.html\n")

    opened = Opened(browser, tmp_path / "report.html")
    assert opened.page.title() == "Active learning on digits"
    pictures = opened.pictures()
    assert all(width > 0 and height > 0 and alt for width, height, alt in pictures)
    for words in ("Learning curves", "after cycle 1", "Confusion matrix"):
        assert sum(words in alt for _, _, alt in pictures) == 1
    _, *captions = [caption.partition(":")[0] for caption in opened.texts("caption")]
    in_each_class = "Accuracy in each class in %, in the last cycle"
    assert captions == ["The test set in the last cycle", in_each_class]
    assert opened.page.locator("table >> nth=2 >> tbody tr").count() == 10
    header = ["40 labels (2.8 %)", "60 labels (4.2 %)", "area under the budget curve"]
    assert opened.texts("table >> nth=0 >> thead th")[1:] == header
    # The configuration as resolved, to the letter.
    assert opened.texts("pre")[0].strip() == (finished / "config.yaml").read_text().strip()
    assert opened.page.locator("script").count() == 0


def test_several_runs_are_compared(tmp_path, browser):
    folders = [
        write_run(tmp_path, TWO_TRIALS, sampling=sampling, diagnostics=results.DIAGNOSTICS)
        for sampling in ("RANDOM", "TOD")
    ]
    for folder in folders:
        for name in ("trial1_cycle2.png", "trial1_cycle10.png", "trial2_cycle1.png"):
            write_sheet(folder, name)
    opened = opened_report(browser, tmp_path, *folders)
    curves, diagnostics, *sheets = (alt for _, _, alt in opened.pictures())
    assert "Learning curves" in curves and "Diagnostics" in diagnostics
    # Of the first trial alone, and cycle 10 after cycle 2.
    shown = [f"Trial 1, after cycle {cycle}" for cycle in (2, 10)] * 2
    assert [alt.partition(":")[0] for alt in sheets] == shown
    assert opened.page.locator("table").count() == 2  # two trials are too few for the matrix
    assert opened.texts("table >> nth=1 >> tbody td")[0] == "+0.00 (2)"
    names = [f"digits, {sampling} sampling, seed 0" for sampling in ("RANDOM", "TOD")]
    assert opened.texts("h2")[2:] == names
    assert opened.texts("section.run > .note") == [f"{folder.name}." for folder in folders]


def test_runs_that_differ_in_the_seed_alone_share_a_section_with_the_first_ones_sheets(
    tmp_path, browser
):
    folders = [
        write_run(tmp_path, TWO_TRIALS, diagnostics=results.DIAGNOSTICS),
        write_run(tmp_path, TWO_TRIALS, seed=1),  # of an earlier version, without diagnostics
    ]
    for folder in folders:
        write_sheet(folder, "trial1_cycle1.png")
    opened = opened_report(browser, tmp_path, *folders)
    curves, sheet = (alt for _, _, alt in opened.pictures())
    assert "Learning curves" in curves
    assert sheet.startswith("Trial 1, after cycle 1:")
    (note,) = opened.texts("section.run > .note")
    assert all(folder.name in note for folder in folders)
    assert opened.page.locator("pre").count() == 1


def test_an_unfinished_run_is_reported_as_far_as_it_has_got(tmp_path, browser):
    folder = write_run(tmp_path, [[80, 90, 94], [82]])
    opened = opened_report(browser, tmp_path, folder)
    # No run has recorded diagnostics, and none has queried.
    assert len(opened.pictures()) == 1
    assert opened.texts("details .note") == ["There are none."]
    cells = ["81.00 ± 1.41 (2)", "90.00 (1)", "94.00 (1)", "88.50 (1)"]
    assert opened.texts("tbody td") == cells


def test_a_half_written_sheet_is_named(tmp_path, browser):
    folder = write_run(tmp_path, TWO_TRIALS)
    path = write_sheet(folder, "trial1_cycle1.png")
    path.write_bytes(path.read_bytes()[:60])
    write_sheet(folder, "trial1_cycle2.png", width=50)
    opened = opened_report(browser, tmp_path, folder)
    assert [width for width, _, _ in opened.pictures()][1:] == [50]
    note = "Trial 1, after cycle 1: trial1_cycle1.png cannot be read."
    assert opened.texts("details .note") == [note]


def test_names_are_text_and_never_markup(tmp_path, browser):
    hostile = '<img src="http://127.0.0.1:9/x" onerror="alert(1)">&amp;'
    folder = write_run(tmp_path, TWO_TRIALS, class_names=[hostile, "</pre><script>fail()</script>"])
    folder = folder.rename(tmp_path / "<script>fail()<&\"' Жук")
    write_sheet(folder, "trial1_cycle1.png")
    opened = opened_report(browser, tmp_path, folder)
    assert opened.page.locator("script").count() == 0
    assert len(opened.pictures()) == 2
    assert opened.texts("h2")[-1] == folder.name
    assert hostile in opened.texts("pre")[0]
    assert opened.texts("tbody th") == [folder.name]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(tmp_path, browser, scheme):
    opened = opened_report(browser, tmp_path, write_run(tmp_path, TWO_TRIALS))
    opened.page.emulate_media(color_scheme=scheme)
    assert_ground_is(scheme, opened.page)


def test_the_page_prints_with_every_picture_within_the_paper(tmp_path, browser):
    folder = write_run(tmp_path, TWO_TRIALS)
    write_sheet(folder, "trial1_cycle1.png", width=3000)
    opened = opened_report(browser, tmp_path, folder)
    opened.page.set_viewport_size({"width": 700, "height": 1000})
    opened.page.emulate_media(media="print")
    assert all(height > 0 for _, height, _ in opened.pictures())
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 700
    pdf = opened.page.pdf(format="A4")
    assert pdf.startswith(b"%PDF")
    # What all runs share, then each run on a page of its own.
    assert pdf.count(b"/Type /Page\n") >= 2
