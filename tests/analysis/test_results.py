"""Runs read for display: which of them are one curve, what it is called, what cannot be read."""

import math

import pytest

from tests.support.harness import PROJECT_DIR, write_run
from tod.analysis import results, tables
from tod.config import InputError

TWO_TRIALS = [[80, 90, 94], [82, 90, 98]]


def test_an_unfinished_run_is_shown_as_far_as_it_has_got(tmp_path):
    folder = write_run(tmp_path, [[80, 90, 94], [82, 92], [84]])
    curve = results.read_run(folder)
    accuracies = tables.summarized(curve.values("test_accuracy"))
    assert accuracies.index.tolist() == [100, 150, 200]
    assert accuracies["trials"].tolist() == [3, 2, 1]
    assert accuracies["mean"].tolist() == [82, 91, 94]
    assert accuracies["std"].tolist() == pytest.approx([2, math.sqrt(2), math.nan], nan_ok=True)
    # Over fewer labels an area would be another quantity.
    (area,) = [row for row in tables.quantities([curve], [tables.AREA])]
    assert (area["mean"], area["trials"]) == (pytest.approx((85 + 92) / 2), 1)


def test_a_quantity_without_a_value_in_a_cycle_is_left_out_of_it(tmp_path):
    folder = write_run(tmp_path, TWO_TRIALS, diagnostics=results.DIAGNOSTICS)
    values = results.read_run(folder).values("queried_mean_loss")
    assert values.columns.tolist() == [100, 150]  # the last cycle queries nothing
    assert values.loc[(0, 2)].tolist() == [1.2, 2.2]


def test_rows_are_read_as_text_and_written_back_as_the_same_bytes(tmp_path):
    path = tmp_path / "results.csv"
    content = (
        b"trial,cycle,num_labeled,test_accuracy,train_loss\n1,1,100,80.5000,0.451510\n1,2,150,91,\n"
    )
    path.write_bytes(content)
    rows = results.read_rows(path)
    assert rows["test_accuracy"].tolist() == ["80.5000", "91"]
    assert rows["train_loss"].tolist() == ["0.451510", ""]
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
    tmp_path, config, other, curves
):
    folders = [
        write_run(tmp_path, TWO_TRIALS, config=config, seed=0),
        write_run(tmp_path, TWO_TRIALS, config=config, seed=1, **other),
    ]
    assert len(results.read_runs(folders)) == curves


def test_curves_of_one_name_are_told_apart(tmp_path):
    folders = [write_run(tmp_path / name, TWO_TRIALS) for name in ("a", "b")]
    names = [curve.name for curve in results.read_runs(folders)]
    assert names == ["digits, TOD sampling, seed 0 #1", "digits, TOD sampling, seed 0 #2"]
    renamed = folders[0].rename(tmp_path / "my run $x$")
    assert results.read_run(renamed).name == "my run $x$"


HEADER = "trial,cycle,num_labeled,test_accuracy,train_loss\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "No columns to parse"),
        (HEADER.encode(), "it holds no results yet"),
        (HEADER.encode() + b"1,1,100,80", "a line has not as many cells as there are columns"),
        (HEADER.encode() + b"1,1,100,80,0.1,5\n", "a line has not as many cells"),
        (HEADER.encode() + b"1,1,100,80,1\n1,2,150,80,0.1,5\n", "Expected 5 fields in line 3"),
        (HEADER.encode() + b"1,1,100,80,0.", "a line has not as many cells"),
        (HEADER.encode() + b"1,1,100\n", "could not convert string to float: ''"),
        (HEADER.encode() + b"1,1,100,80,1\n1,1,100,80,1\n", "a cycle of a trial occurs twice"),
        (HEADER.encode() + b"1,one,100,80,1\n", "'one'"),
        (HEADER.encode() + b"1,1,100,80,low\n", "'low'"),
        (b"trial,cycle,test_accuracy\n1,1,80\n", "it has no column num_labeled"),
        (b"\xff\xfe\x00", "it is not UTF-8 text"),
        (b"\x00" * 200, "it has no column trial"),
        (b"\x89PNG\r\n\x1a\n", "it is not UTF-8 text"),
        (b"a text\nof lines\n", "it has no column trial"),
    ],
)
def test_damaged_results_give_one_line_that_says_why(tmp_path, content, message):
    folder = write_run(tmp_path, TWO_TRIALS)
    path = folder / "results.csv"
    path.write_bytes(content)
    with pytest.raises(InputError) as refused:
        results.read_run(folder)
    assert str(refused.value).startswith(f"{path}: cannot be read (")
    assert str(refused.value).endswith("); name the folder of a run that has ended a cycle")
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_folder_of_runs_is_told_from_a_run(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path, [[1, 2, 3]], seed=seed)
    with pytest.raises(InputError) as refused:
        results.read_runs([tmp_path])
    assert str(refused.value).endswith(f"has ended a cycle, as {tmp_path}/* does: it holds 2")


@pytest.mark.parametrize(
    "content",
    [None, b"", b"run: [", b"run: 3", b"dataset: 3\nrun: {seed: 0}", b"dataset: digits\n", b"\xff"],
)
def test_a_damaged_configuration_gives_one_line(tmp_path, content):
    folder = write_run(tmp_path, TWO_TRIALS)
    (folder / "config.yaml").unlink()
    if content is not None:
        (folder / "config.yaml").write_bytes(content)
    with pytest.raises(InputError, match=r"config\.yaml: cannot be read \(.+\); copy it back"):
        results.read_run(folder)


def test_the_documentation_names_every_column():
    page = (PROJECT_DIR / "docs" / "run_folder.md").read_text(encoding="utf-8")
    assert all(f"`{column}`" in page for column in results.COLUMNS)
