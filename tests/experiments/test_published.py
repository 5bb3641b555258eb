"""The published tables, made anew from the raw files that are committed beside them."""

import itertools
import re
import shlex
import shutil
import subprocess
import tarfile
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import pandas as pd
import pytest

import plot
from experiments import forecasts, pack, reproduce, theory
from tests.support.harness import PROJECT_DIR, write_run
from tod.analysis import figures
from tod.system.files import NAMES

PAGES = sorted(path for path in (PROJECT_DIR / "docs").glob("*.md"))
SECTION = re.compile(
    r"<!-- (\S+): written by experiments/reproduce.py -->\n## .*\n\n"
    r"`python experiments/reproduce.py (.*)`$",
    re.MULTILINE,
)
PLOT = re.compile(r"<!-- python plot.py ([^\n]*) -->\n(.*?)\n<!-- end -->", re.DOTALL)
TEXTS = {path.name: path.read_text(encoding="utf-8") for path in PAGES}
SECTIONS = [(page, *found) for page, text in TEXTS.items() for found in SECTION.findall(text)]
PLOTS = [(page, *found) for page, text in TEXTS.items() for found in PLOT.findall(text)]
BOUNDS = re.compile(
    r"<!-- python experiments/theory.py (--from \S+) -->\n(.*?)<!-- end -->", re.DOTALL
)
PAGE = (TEXTS["results.md"], re.MULTILINE)
AREAS = re.compile(r"<!-- areas of ([\w ]+) -->\n(.*?)<!-- end -->", re.DOTALL)
ROWS = re.compile(r"^\| .* area .*\n\|.*\n((?:\|.*\n)+)", re.MULTILINE)
"""Of the tables that end with the area."""

README_ROWS = {
    "RANDOM sampling": "random queries",
    "TOD sampling": "TOD",
    "TOD sampling + COD loss": "TOD, COD loss",
    "LL4AL sampling + LL4AL loss": "LL4AL",
}


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory) -> Path:
    """Where all raw files are unpacked, and copies of the pages; nobody changes the former."""
    place = tmp_path_factory.mktemp("published")
    (place / "results").mkdir()
    for archive in (PROJECT_DIR / "docs" / "results").glob("*.tar.xz"):
        subprocess.run(["tar", "-xf", archive, "-C", place / "results"], check=True)
    (place / "docs").mkdir()
    for path in PAGES:
        shutil.copy(path, place / "docs")
    return place


@pytest.mark.parametrize(("page", "name", "arguments"), SECTIONS)
def test_a_section_is_what_the_raw_files_say(unpacked, monkeypatch, page, name, arguments):
    monkeypatch.chdir(unpacked)
    monkeypatch.setattr(figures, "rendered", lambda *_: b"")  # takes most of the time
    place = unpacked / "docs" / page
    published = place.read_text(encoding="utf-8")
    before, dashes, further = f"{arguments} ".partition(" -- ")
    reproduce.main(shlex.split(f"{before} --only none {dashes}{further}"))
    assert place.read_text(encoding="utf-8") == published


@pytest.mark.parametrize(("page", "arguments", "content"), PLOTS)
def test_a_plots_table_is_what_the_raw_files_say(
    unpacked, monkeypatch, tmp_path, capsys, page, arguments, content
):
    monkeypatch.chdir(unpacked)
    runs = [sorted(Path().glob(pattern)) for pattern in shlex.split(arguments)]
    plot.main([*map(str, itertools.chain(*runs)), f"--output={tmp_path / 'plot.png'}"])
    assert content in capsys.readouterr().out


@pytest.mark.parametrize(("source", "table"), BOUNDS.findall(TEXTS["results.md"]))
def test_the_bounds_are_what_was_measured(monkeypatch, tmp_path, capsys, source, table):
    monkeypatch.chdir(PROJECT_DIR)
    theory.main([*source.split(), f"--output={tmp_path / 'theory.png'}"])
    assert capsys.readouterr().out.startswith(table)


def test_the_forecasts_of_the_small_runs_are_the_published_ones(unpacked, monkeypatch, capsys):
    monkeypatch.chdir(unpacked / "results")
    patterns = ("cifar10_small_network/*", "digits_avx2/*", "digits_bf16/*")
    forecasts.main([str(run) for pattern in patterns for run in sorted(Path().glob(pattern))])
    rows = [row.replace(" sampling", "") for row in capsys.readouterr().out.splitlines()]
    page = (unpacked / "docs/results.md").read_text(encoding="utf-8")
    found = [row for row in rows if row in page and row.startswith(("| cifar10", "| digits"))]
    assert [row.split(" |")[0] for row in found] == [
        "| cifar10_small_network, all",
        "| digits, TOD + COD loss",
    ]


def test_the_readmes_table_is_that_of_the_digits():
    text = (PROJECT_DIR / "docs/results.md").read_text(encoding="utf-8")
    section = text.partition("<!-- digits:")[2].partition("<!-- end of digits")[0]
    rows = re.findall(r"^\| (.*?) \| (.*) \|$", section, re.MULTILINE)
    cells = [(name, cells.split(" | ")) for name, cells in rows]
    readme = (PROJECT_DIR / "README.md").read_text(encoding="utf-8")
    for name, shown in README_ROWS.items():
        accuracies, *others = (found for method, found in cells if method == name)
        expected = [re.sub(r"\d+\.\d\d", with_one_digit, cell[:-5]) for cell in accuracies[:7]]
        differences = [found[-1] for found in others if "[" in found[-1]]
        area = differences[0][:-5].replace("-", "−") if differences else ""
        assert f"| {shown} | {' | '.join(expected)} | {area} |".replace("  ", " ") in readme


def test_the_table_of_areas_is_of_the_sections():
    names, published = AREAS.search(TEXTS["results.md"]).groups()
    sections = [
        TEXTS["frozen_features.md"].partition(f"<!-- {name}: ")[2].partition("<!-- end of")[0]
        for name in names.split()
    ]
    areas: dict[str, list[str]] = {}
    for number, section in enumerate(sections):
        accuracies, differences = ROWS.findall(section)[:2]
        for row in (accuracies.splitlines()[0], *differences.splitlines()):
            name, *_, area = row.strip("| ").split(" | ")
            name = name.replace(" sampling", "")
            areas.setdefault(name, ["–"] * len(sections))[number] = area
    rows = [f"| {name} | {' | '.join(cells)} |" for name, cells in areas.items()]
    assert published.splitlines()[2:] == rows


def test_beside_other_peoples_numbers_stand_those_of_the_section():
    header, _, here = re.findall(r"^\| +\| (CORESET .*) \|\n(.*)\n\| here \| (.*) \|$", *PAGE)[0]
    section = TEXTS["frozen_features.md"].partition("<!-- cifar10_21_label_sizes: ")[2]
    rows = ROWS.findall(section)[1].splitlines()
    areas = {row.split()[1]: rounded(re.findall(r"[-+]\d+\.\d+", row)[-3]) for row in rows}
    expected = [areas[name].replace("-", "−") for name in header.split(" | ")]
    assert [cell.removeprefix("+") for cell in here.split(" | ")] == expected


def test_what_people_gain_is_what_was_predicted(unpacked):
    published = re.findall(r"^\| (?:the 1,600 of|2,000 other) .*? \| (.*) \|$", *PAGE)
    for kind, row in zip(("pool", "others"), published, strict=True):
        for sampling, cell in zip(("RANDOM", "MARGIN", "UHERDING"), row.split(" | "), strict=True):
            pattern = f"results/own_photographs_cifar10/*_{sampling}_seed*/predictions/{kind}.csv"
            shares = [right_of(path) for path in sorted(unpacked.glob(pattern))]
            assert ", ".join(map(rounded, shares)) == cell


def right_of(path: Path) -> float:
    """The share in % of the pictures without a label whose class is that in their name."""
    rows = pd.read_csv(path, keep_default_na=False)
    rows = rows[rows["labelled"] == ""]
    return 100 * (rows["file"].str.extract(r"([^/]*)_\d+\.jpg$")[0] == rows["class"]).mean()


def with_one_digit(number: re.Match) -> str:
    return rounded(number[0])


def rounded(number: float | str) -> str:
    return str(Decimal(str(number)).quantize(Decimal("0.1"), ROUND_HALF_UP))


def test_what_is_packed_says_what_the_runs_said_and_no_place(tmp_path):
    folder = write_run(tmp_path / "runs", [[80, 85, 90]])
    config = (folder / "config.yaml").read_text(encoding="utf-8")
    here = config.replace("data_dir: data", "data_dir: /home/me/a long/name\n  of a folder")
    (folder / "config.yaml").write_text(here, encoding="utf-8")
    (folder / "queries").mkdir(exist_ok=True)
    queries = folder / "queries" / "trial1_cycle1.csv"
    queries.write_bytes(
        "index,score,label,class,file\n7,0.5,1,cat,cat/é 1.jpg\n2,0.1,0,ant,ant/".encode()
        + b"\xff.jpg\n"  # no text: a file's name may be any bytes
    )
    (folder / "queries" / "trial1_cycle2.csv").write_text("index,score\n9,0.5\n")
    (folder / "batches" / "batch0").mkdir(parents=True)
    batch = "rank,file,sha256,reason\n1,ant/a.jpg,0,first\n"
    (folder / "batches" / "batch0" / "batch.csv").write_text(batch)
    pack.main([str(tmp_path / "runs"), str(tmp_path / "runs.tar.xz")])
    first = (tmp_path / "runs.tar.xz").read_bytes()
    with tarfile.open(tmp_path / "runs.tar.xz") as tar:
        found = {n: tar.extractfile(n).read().decode(errors=NAMES) for n in tar.getnames()}
    found = {name.removeprefix(f"runs/{folder.name}/"): text for name, text in found.items()}
    assert found["results.csv"] == (folder / "results.csv").read_text()
    assert here != config == found["config.yaml"]
    assert found["queries/trial1_cycle1.csv"] == "file\ncat/é 1.jpg\nant/\udcff.jpg\n"
    assert found["queries/trial1_cycle2.csv"] == "index\n9\n"
    assert found["queries/batch0.csv"] == "file,reason\nant/a.jpg,first\n"
    (folder / "weights").mkdir(exist_ok=True)
    (folder / "weights" / "trial1_cycle1.pth").write_bytes(b"large")
    pack.main([str(tmp_path / "runs"), str(tmp_path / "runs.tar.xz")])
    assert (tmp_path / "runs.tar.xz").read_bytes() == first


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["empty", "new.tar.xz"], "empty: holds no run"),
        (["runs", "new.zip"], "new.zip does not end in .tar.xz"),
        (["half", "new.tar.xz"], "cannot be packed (No columns to parse from file)"),
    ],
)
def test_what_cannot_be_packed_is_one_line(tmp_path, refusal, arguments, said):
    write_run(tmp_path / "runs", [[80, 85, 90]])
    half = write_run(tmp_path / "half", [[80, 85, 90]])
    (half / "queries").mkdir(exist_ok=True)
    (half / "queries" / "trial1_cycle1.csv").touch()
    assert said in refusal(pack.main, *arguments)
    assert not [*tmp_path.glob("new*")]
