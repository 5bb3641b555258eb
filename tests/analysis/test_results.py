"""Runs read for display: which of them are one curve, what it is called, what cannot be read."""

import math
import re

import pytest

from tests.analysis.conftest import TWO_TRIALS
from tests.support.harness import PROJECT_DIR, write_run
from tests.support.loading import refused
from tod.analysis import results, tables

HEADER = b"trial,cycle,num_labeled,test_accuracy,train_loss\n"


def test_an_unfinished_run_is_shown_as_far_as_it_has_got(tmp_path):
    curve = results.read_run(write_run(tmp_path, [[80, 90, 94], [82, 92], [84]]))
    accuracies = tables.summarized(curve.values("test_accuracy"))
    assert accuracies.index.tolist() == [100, 150, 200]
    assert accuracies[["trials", "mean"]].values.tolist() == [[3, 82], [2, 91], [1, 94]]
    assert accuracies["std"].tolist() == pytest.approx([2, math.sqrt(2), math.nan], nan_ok=True)
    # Over fewer labels an area would be another quantity.
    (area,) = tables.quantities([curve], [tables.AREA])
    assert (area["mean"], area["trials"]) == (pytest.approx((85 + 92) / 2), 1)


def test_rows_are_read_as_text_and_written_back_as_the_same_bytes(tmp_path):
    path = tmp_path / "results.csv"
    content = HEADER + b"1,1,100,80.5000,0.451510\n1,2,150,91,\n"
    path.write_bytes(content)
    rows = results.read_rows(path)
    assert rows.iloc[:, 3:].values.tolist() == [["80.5000", "0.451510"], ["91", ""]]
    rows.to_csv(tmp_path / "again.csv", index=False, lineterminator="\n")
    assert (tmp_path / "again.csv").read_bytes() == content


def test_runs_that_differ_in_the_seed_alone_are_one_curve(tmp_path):
    folders = [
        write_run(tmp_path, TWO_TRIALS, seed=3),
        write_run(tmp_path, TWO_TRIALS, seed=0),
        write_run(tmp_path, TWO_TRIALS, sampling="RANDOM"),
        write_run(tmp_path, TWO_TRIALS, auxiliary="TOD"),
        write_run(tmp_path / "again", TWO_TRIALS, seed=0),
    ]
    curves = results.read_runs(folders)
    assert [curve.name for curve in curves] == [
        "digits, TOD sampling, seeds 0, 3",
        "digits, RANDOM sampling, seed 0",
        "digits, TOD sampling + COD loss, seed 0",
        "digits, TOD sampling, seed 0",
    ]
    assert curves[0].trials == {(3, 1), (3, 2), (0, 1), (0, 2)}
    assert curves[0].folders == tuple(folders[:2])


@pytest.mark.parametrize(
    ("config", "other", "curves"),
    [
        ("digits", {"data": "y"}, 2),
        ("digits", {"precision": "bf16"}, 2),
        ("caltech101", {"data": "y"}, 1),  # each seed has a split of its own
    ],
)
def test_runs_of_other_images_or_another_precision_are_no_one_curve(
    curves_of, config, other, curves
):
    assert len(curves_of({"config": config}, {"config": config, "seed": 1, **other})) == curves


def test_curves_of_one_name_are_told_apart(tmp_path):
    folders = [write_run(tmp_path / name, TWO_TRIALS) for name in ("a", "b", "c/a")]
    marked = (([0], [""]), ([0, 0], [""]), ([0, 1], [" in a", " in b"]), ([0, 2], [" #1", " #2"]))
    for chosen, marks in marked:
        curves = results.read_runs([folders[i] for i in chosen])
        assert [curve.name for curve in curves] == [
            f"digits, TOD sampling, seed 0{mark}" for mark in marks
        ]
    renamed = folders[0].rename(tmp_path / "my run $x$")
    assert results.read_run(renamed).name == "my run $x$"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "No columns to parse"),
        (HEADER, "it holds no results yet"),
        (HEADER + b"1,1,100,80", "a line has not as many cells as there are columns"),
        (HEADER + b"1,1,100,80,0.1,5\n", "a line has not as many cells"),
        (HEADER + b"1,1,100,80,1\n1,2,150,80,0.1,5\n", "Expected 5 fields in line 3"),
        (HEADER + b"1,1,100\n", "could not convert string to float: ''"),
        (HEADER + b"1,1,100,80,1\n1,1,100,80,1\n", "the cycles of trial 1 are not 1, 2, 3"),
        (HEADER + b"1,1,100,80,1\n1,3,200,80,1\n", "the cycles of trial 1 are not 1, 2, 3"),
        (HEADER + b"1,1,100,inf,1\n", "a value of test_accuracy is not from 0 to 100"),
        (HEADER + b"1,one,100,80,1\n", "'one'"),
        (HEADER + b"1,1,100,80,low\n", "'low'"),
        (b"trial,cycle,test_accuracy\n1,1,80\n", "it has no column num_labeled"),
        (b"\xff\xfe\x00", "it is not UTF-8 text"),
        (b"\x00" * 200, "it has no column trial"),
    ],
)
def test_damaged_results_give_one_line_that_says_why(tmp_path, content, message):
    folder = write_run(tmp_path, TWO_TRIALS)
    path = folder / "results.csv"
    path.write_bytes(content)
    line = refused(results.read_run, folder)
    assert line.startswith(f"{path}: cannot be read (")
    assert line.endswith("); name the folder of a run that has ended a cycle")
    assert message in line


def test_a_folder_of_runs_is_told_from_a_run(tmp_path, curves_of):
    curves_of({"seed": 0}, {"seed": 1})
    line = refused(results.read_runs, [tmp_path])
    assert line.endswith(f"has ended a cycle, as {tmp_path}/* does: it holds 2")


@pytest.mark.parametrize(
    "content",
    [None, b"", b"run: [", b"run: 3", b"dataset: 3\nrun: {seed: 0}", b"dataset: digits\n", b"\xff"],
)
def test_a_damaged_configuration_gives_one_line(tmp_path, content):
    folder = write_run(tmp_path, TWO_TRIALS)
    (folder / "config.yaml").unlink()
    if content is not None:
        (folder / "config.yaml").write_bytes(content)
    line = refused(results.read_run, folder)
    assert re.search(r"config\.yaml: cannot be read \(.+\); copy it back", line)


@pytest.mark.parametrize(
    ("setting", "wrong"),
    [
        ("  cycles: 3", "  cycles: three"),
        ("dataset: digits", "dataset: [digits]"),
        ("  seed: 0", "  seed: zero"),
        ("  sampling: TOD", "  sampling: [1]"),
    ],
)
def test_a_setting_of_another_kind_gives_one_line(tmp_path, setting, wrong):
    config = write_run(tmp_path, TWO_TRIALS) / "config.yaml"
    text = config.read_text()
    assert f"{setting}\n" in text, text
    config.write_text(text.replace(f"{setting}\n", f"{wrong}\n"))
    assert "or has some of another kind); copy it back" in refused(results.read_run, config.parent)


def test_the_documentation_names_every_column():
    page = (PROJECT_DIR / "docs" / "run_folder.md").read_text(encoding="utf-8")
    assert all(f"`{column}`" in page for column in results.COLUMNS)


@pytest.mark.parametrize(
    ("names", "shared", "others"),
    [
        (["a, x, seeds 0, 2", "a, y, seeds 0, 2"], "a, seeds 0, 2", ["x", "y"]),
        (["a, x, seeds 0, 2", "a, x, seeds 0, 3"], "a, x", ["seeds 0, 2", "seeds 0, 3"]),
        (["a, x, seed 0", "b, x, seed 1"], "", ["a, x, seed 0", "b, x, seed 1"]),
        (["a, x", "a, x #2"], "a", ["x", "x #2"]),
        (["a, x", "a, x, y"], "", ["a, x", "a, x, y"]),
        (["mine"], "", ["mine"]),
    ],
)
def test_what_all_names_have_in_common_is_said_once(names, shared, others):
    assert results.split_names(names) == (shared, others)
