"""Runs read for display: what is computed of them, and what the figures and tables contain."""

import csv
import io
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from harness import PROJECT_DIR, run_script, tiny_run, write_run
from PIL import Image
from scipy import stats

import plot
import results
from configuration import InputError
from run_folder import RunFolder

TWO_TRIALS = [[80, 90, 94], [82, 90, 98]]


@pytest.fixture
def pair(tmp_path):
    """A reference of three trials, and a run that lies 1, 2 and 3 points above it at 150 labels."""
    random = write_run(tmp_path, [[80, 88, 90], [81, 87, 92], [79, 86, 91]], sampling="RANDOM")
    tod = write_run(tmp_path, [[80, 89, 93], [81, 89, 94], [79, 89, 95]])
    return [random, tod]


# ------------------------------------------------------------- statistics


def test_the_standard_deviation_is_that_of_a_sample():
    assert results.summarize([1, 2, 3]) == (2.0, 1.0, 3)
    assert results.summarize([7]) == (7.0, None, 1)


def test_the_area_is_the_mean_accuracy_over_the_budget():
    # By hand: 50 labels at (80 + 90) / 2 and 100 at (90 + 94) / 2, over a range of 150.
    area = results.area_under_budget_curve({250: 94, 100: 80, 150: 90})
    assert area == pytest.approx((50 * 85 + 100 * 92) / 150)
    assert results.area_under_budget_curve({10: 60, 20: 60, 90: 60}) == pytest.approx(60)


def test_a_paired_interval_worked_by_hand():
    # Differences 1, 2, 3: mean 2, standard deviation 1, t(0.975; 2) = 4.30265.
    reference = {(0, 1): 50.0, (0, 2): 60.0, (0, 3): 70.0, (1, 1): 0.0}
    values = {(0, 1): 51.0, (0, 2): 62.0, (0, 3): 73.0, (2, 1): 99.0}
    mean, low, high, pairs = results.paired_difference(values, reference)
    assert (mean, pairs) == (2.0, 3)
    assert high - mean == pytest.approx(4.30265 / math.sqrt(3), abs=1e-5)
    assert mean - low == pytest.approx(high - mean)


def test_a_paired_interval_is_that_of_the_paired_t_test():
    random = np.random.default_rng(0)
    a, b = random.normal(90, 1, 8), random.normal(89, 1, 8)
    places = [(seed, trial) for seed in (0, 1) for trial in (1, 2, 3, 4)]
    found = results.paired_difference(
        dict(zip(places, a, strict=True)), dict(zip(places, b, strict=True))
    )
    expected = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_a_difference_that_rounds_to_nothing_has_no_minus(tmp_path):
    runs = [write_run(tmp_path, [[80.1, 80.3, 80.2]], sampling=s) for s in ("RANDOM", "TOD")]
    (runs[1] / "results.csv").write_text(
        (runs[1] / "results.csv").read_text().replace("80.3", "80.2999")
    )
    _, (_, *cells) = results.difference_table(results.read_runs(runs))
    assert cells == ["+0.00 (1)"] * 4


def test_one_pair_has_no_interval_and_no_pair_no_difference():
    assert results.paired_difference({(0, 1): 3.0}, {(0, 1): 1.0}) == (2.0, None, None, 1)
    assert results.paired_difference({(0, 1): 3.0}, {(1, 1): 1.0}) is None


# ------------------------------------------------------------------- runs


def test_an_unfinished_run_is_shown_as_far_as_it_has_got(tmp_path):
    folder = write_run(tmp_path, [[80, 90, 94], [82, 92], [84]])
    curve = results.read_run(folder)
    accuracy = {n: results.summarize(v.values()) for n, v in curve.values("test_accuracy").items()}
    assert accuracy[100] == (82.0, 2.0, 3)
    assert accuracy[150] == pytest.approx((91.0, math.sqrt(2), 2))
    assert accuracy[200] == (94.0, None, 1)
    # Over fewer labels an area would be another quantity.
    assert curve.areas() == {(0, 1): pytest.approx((85 + 92) / 2)}


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
    assert list(curves[0].trials) == [(3, 1), (3, 2), (0, 1), (0, 2)]
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


def test_pairs_are_matched_by_seed_and_trial(tmp_path):
    folders = [
        write_run(tmp_path, [[80, 80, 80]], sampling="RANDOM", seed=0),
        write_run(tmp_path, [[60, 60, 60], [1, 1, 1]], sampling="RANDOM", seed=1),
        write_run(tmp_path, [[62, 62, 62]], seed=1),
        write_run(tmp_path, [[84, 84, 84], [2, 2, 2]], seed=0),
    ]
    _, row = results.difference_table(results.read_runs(folders))
    # 84 − 80 and 62 − 60; t(0.975; 1) = 12.7062.
    half = 12.7062 * math.sqrt(2) / math.sqrt(2)
    assert row[0] == "digits, TOD sampling, seeds 0, 1"
    assert row[1:] == [f"+3.00 [{3 - half:+.2f}, {3 + half:+.2f}] (2)"] * 4


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"seed": 1}, "no trial of the same seed and number"),
        ({"cycles": 4}, "another active_learning.cycles"),
        ({"data": "y"}, "other images"),
    ],
)
def test_runs_that_cannot_be_paired_are_not(tmp_path, other, why):
    first = write_run(tmp_path, TWO_TRIALS, sampling="RANDOM")
    curves = results.read_runs([first, write_run(tmp_path, TWO_TRIALS, **other)])
    assert results.difference_table(curves) == []
    assert results.unpaired_notes(curves) == [
        f"{curves[1].name}: not paired with the first run ({why})"
    ]


def test_curves_of_one_name_are_told_apart(tmp_path):
    folders = [write_run(tmp_path / name, TWO_TRIALS) for name in ("a", "b")]
    names = [curve.name for curve in results.read_runs(folders)]
    assert names == ["digits, TOD sampling, seed 0 #1", "digits, TOD sampling, seed 0 #2"]
    renamed = folders[0].rename(tmp_path / "my run $x$")
    assert results.read_run(renamed).name == "my run $x$"


# ---------------------------------------------------------------- figures


def test_learning_curves_are_means_with_bands_over_labels_and_their_share(pair):
    curves = results.read_runs(pair)
    figure = plot.learning_curves(curves)
    (axes,) = figure.axes
    assert axes.get_xlabel() == "labelled images"
    assert axes.get_ylabel() == "test accuracy (%)"
    assert [line.get_label() for line in axes.lines] == [curve.name for curve in curves]
    assert [t.get_text() for t in axes.get_legend().get_texts()] == [c.name for c in curves]
    np.testing.assert_allclose(axes.lines[0].get_xydata(), [(100, 80), (150, 87), (200, 91)])
    np.testing.assert_allclose(axes.lines[1].get_xydata(), [(100, 80), (150, 89), (200, 94)])
    band = axes.collections[0].get_paths()[0].vertices
    assert {y for x, y in band if x == 150} == {86.0, 88.0}
    (share,) = axes.child_axes
    assert share.get_xlabel() == "share of the training set (%)"
    plot.rendered(figure)
    left, right = np.array(axes.get_xlim()) * 100 / 1437
    np.testing.assert_allclose(share.get_xlim(), (left, right))


def test_many_curves_are_told_apart_below_the_axes(tmp_path):
    strategies = [f"S{number}" for number in range(19)]
    folders = [
        write_run(tmp_path, TWO_TRIALS, sampling=s, diagnostics=results.DIAGNOSTICS)
        for s in strategies
    ]
    curves = results.read_runs(folders)
    for figure in (plot.learning_curves(curves), plot.diagnostics(curves)):
        lines = figure.axes[0].lines[: len(curves)]
        assert len({(line.get_color(), line.get_marker()) for line in lines}) == len(curves)
        (legend,) = figure.legends
        assert [t.get_text() for t in legend.get_texts()] == [c.name for c in curves]
        figure.draw_without_rendering()
        place = legend.get_window_extent()
        assert place.x0 >= 0 and place.x1 <= figure.bbox.width
        assert all(place.y1 <= axes.get_tightbbox().y0 for axes in figure.axes)


def test_the_share_is_of_the_images_that_the_run_had(tmp_path):
    folder = write_run(tmp_path, TWO_TRIALS, config="cifar10", training_images=400)
    other = write_run(tmp_path, TWO_TRIALS, config="svhn")
    curves = results.read_runs([folder])
    assert results.accuracy_table(curves)[0][1] == "100 labels (25.0 %)"
    # Where the shares differ, no axis can show both.
    assert plot.learning_curves(results.read_runs([folder, other])).axes[0].child_axes == []


def test_a_picture_is_drawn_of_a_single_number_and_of_any_name(tmp_path):
    folder = write_run(tmp_path, [[80]]).rename(tmp_path / "_$\\frac 漢")
    (line,) = plot.learning_curves(results.read_runs([folder])).axes[0].lines
    assert list(line.get_xydata()[0]) == [100, 80]
    with Image.open(
        io.BytesIO(plot.rendered(plot.learning_curves(results.read_runs([folder]))))
    ) as im:
        assert im.size == (840, 576)


def test_published_curves_are_dashed_over_the_share_of_labels(tmp_path):
    folder = write_run(tmp_path, TWO_TRIALS, config="cifar10", training_images=1000)
    figure = plot.published_learning_curves(results.read_runs([folder]))
    (axes,) = figure.axes
    assert axes.get_xlabel() == "share of the training set (%)"
    own, *published = axes.lines
    np.testing.assert_allclose(own.get_xdata(), [10, 15, 20])
    assert own.get_linestyle() == "-"
    assert [line.get_label() for line in published] == [
        f"{method} (paper)"
        for method in (
            "TOD sampling + COD loss",
            "TOD sampling",
            "LL4AL",
            "random",
            "full training",
        )
    ]
    assert {line.get_linestyle() for line in published[:-1]} == {"--"}
    np.testing.assert_allclose(published[0].get_xdata(), [10, 15, 20, 25, 30, 35, 40])
    assert published[0].get_ydata()[0] == 79.5
    assert set(published[-1].get_ydata()) == {93.1}


def test_the_papers_shares_of_caltech101_are_of_all_its_images(tmp_path):
    folder = write_run(tmp_path, TWO_TRIALS, config="caltech101", training_images=7766)
    (curve,) = results.read_runs([folder])
    assert plot.published_share(curve, "caltech101", 868) == pytest.approx(10.0, abs=0.01)
    axes = plot.published_learning_curves([curve]).axes[0]
    np.testing.assert_allclose(axes.lines[0].get_xdata(), np.array([100, 150, 200]) / 86.77)


def test_every_dataset_of_the_paper_has_its_curves():
    for dataset in ("cifar10", "cifar100", "svhn", "caltech101"):
        curves = plot.read_published_curves(dataset)
        assert [len(shares) for shares, _ in curves.values()] == [7, 7, 7, 7, 1]


def test_runs_without_published_curves_are_refused(tmp_path):
    digits = write_run(tmp_path, TWO_TRIALS)
    svhn = write_run(tmp_path, TWO_TRIALS, config="svhn")
    with pytest.raises(InputError, match="--paper: the paper has no curves for digits, only for"):
        plot.published_learning_curves(results.read_runs([digits]))
    with pytest.raises(InputError, match="--paper: name runs of one dataset, not of svhn and dig"):
        plot.published_learning_curves(results.read_runs([svhn, digits]))


def test_diagnostics_show_how_well_the_scores_estimate_the_loss(tmp_path):
    folder = write_run(tmp_path, TWO_TRIALS, diagnostics=results.DIAGNOSTICS)
    figure = plot.diagnostics(results.read_runs([folder]))
    spearman, auroc, loss, entropy = figure.axes
    assert [axes.get_ylabel() for axes in figure.axes] == [
        "Spearman ρ of score and true loss",
        "AUROC for misclassified images",
        "mean true loss",
        "class entropy of the queried (nats)",
    ]
    assert {axes.get_xlabel() for axes in figure.axes} == {"labelled images"}
    for axes in (spearman, auroc, entropy, loss):
        # The last cycle queries nothing.
        np.testing.assert_allclose(axes.lines[0].get_xydata(), [(100, 1.15), (150, 2.15)])
    assert [line.get_linestyle() for line in loss.lines] == ["-", "--"]
    assert [t.get_text() for t in loss.get_legend().get_texts()] == ["queried", "not queried"]
    assert set(spearman.lines[-1].get_ydata()) == {0}
    assert set(auroc.lines[-1].get_ydata()) == {0.5}


def test_diagnostics_of_runs_that_have_none_are_refused(tmp_path):
    old = write_run(tmp_path / "old", TWO_TRIALS)
    started = write_run(tmp_path, [[80]], cycles=1, diagnostics=results.DIAGNOSTICS)
    with pytest.raises(InputError, match="needs the column score_loss_spearman, which is not"):
        plot.diagnostics(results.read_runs([old]))
    with pytest.raises(InputError, match="holds no diagnostics"):
        plot.diagnostics(results.read_runs([started]))


# ----------------------------------------------------------------- script


def test_the_script_draws_and_writes_its_table_in_markdown_and_csv(tmp_path, pair):
    process = run_script("plot.py", *pair, "--output", tmp_path / "curves.png")
    assert (process.returncode, process.stderr) == (0, "")
    with Image.open(tmp_path / "curves.png") as image:
        assert image.size == (840, 576)
    lines = process.stdout.splitlines()
    assert lines[0] == (
        "| test accuracy (%) | 100 labels (7.0 %) | 150 labels (10.4 %) | 200 labels (13.9 %) "
        "| area under the budget curve |"
    )
    assert "| 80.00 ± 1.00 (3) | 87.00 ± 1.00 (3) | 91.00 ± 1.00 (3) |" in lines[2]
    # Half of the interval: t(0.975; 2) / √3 = 2.4841.
    assert "| +2.00 [-0.48, +4.48] (3) |" in process.stdout
    with (tmp_path / "curves.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * (3 + 1)
    (row,) = [r for r in rows if r["difference"] and r["num_labeled"] == "150"]
    assert row["run"] == "digits, TOD sampling, seed 0"
    assert row["quantity"] == "test_accuracy"
    assert float(row["labeled_percent"]) == pytest.approx(100 * 150 / 1437, rel=1e-5)
    assert (float(row["mean"]), float(row["std"]), row["trials"]) == (89.0, 0.0, "3")
    assert (float(row["difference"]), row["pairs"]) == (2.0, "3")
    assert float(row["difference_low"]) == pytest.approx(2 - 4.30265 / math.sqrt(3), abs=1e-5)
    area = [r for r in rows if r["quantity"] == "area_under_budget_curve"]
    assert [r["num_labeled"] for r in area] == ["", ""]
    assert float(area[1]["mean"]) == pytest.approx((84.5 + 91.5) / 2)


def test_the_script_draws_diagnostics_in_any_format(tmp_path):
    folder = write_run(tmp_path, TWO_TRIALS, diagnostics=results.DIAGNOSTICS)
    process = run_script("plot.py", folder, "--diagnostics", "--output=d.pdf", cwd=tmp_path)
    assert (process.returncode, process.stderr) == (0, "")
    assert (tmp_path / "d.pdf").read_bytes().startswith(b"%PDF")
    assert "queried_class_entropy" in (tmp_path / "d.csv").read_text()
    assert process.stdout.startswith("| score_loss_spearman | 100 labels")


HEADER = "trial,cycle,num_labeled,test_accuracy,train_loss\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no results yet; wait"),
        (HEADER.encode(), "holds no results yet; wait"),
        (HEADER.encode() + b"1,1,100,80", "line 2 has not as many cells as there are columns"),
        (HEADER.encode() + b"1,1,100,80,0.1,5\n", "line 2 has not as many cells"),
        (HEADER.encode() + b"1,1,100,80,0.", "its last line is incomplete"),
        (HEADER.encode() + b"1,1,100,80,1\n1,1,100,80,1\n", "a cycle of a trial occurs twice"),
        (HEADER.encode() + b"1,one,100,80,1\n", "line 2: cycle is 'one'"),
        (HEADER.encode() + b"1,0,100,80,1\n", "line 2: cycle is 0"),
        (HEADER.encode() + b"1,1,100,nan,1\n", "line 2: test_accuracy is 'nan'"),
        (HEADER.encode() + b"1,1,100,180,1\n", "line 2: test_accuracy is '180'"),
        (b"trial,cycle,test_accuracy\n1,1,80\n", "it has no column num_labeled"),
        (b"\xff\xfe\x00", "it is not UTF-8 text"),
        (b"\x00" * 200, "results.csv: "),
    ],
)
def test_damaged_results_give_one_line(tmp_path, content, message):
    folder = write_run(tmp_path, TWO_TRIALS)
    (folder / "results.csv").write_bytes(content)
    with pytest.raises(InputError) as refused:
        results.read_run(folder)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", [None, b"", b"run: [", b"dataset: 3\nrun: {seed: 0}", b"\xff"])
def test_a_damaged_configuration_gives_one_line(tmp_path, content):
    folder = write_run(tmp_path, TWO_TRIALS)
    (folder / "config.yaml").unlink()
    if content is not None:
        (folder / "config.yaml").write_bytes(content)
    with pytest.raises(InputError, match=r"config\.yaml: cannot be read \(.+\); copy it back"):
        results.read_run(folder)


@pytest.mark.parametrize("script", ["plot.py", "report.py"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere/results.csv: cannot be read (No such file or directory); name"),
        (["begun"], "begun/results.csv: holds no results yet; wait for the run's first cycle"),
        (["file"], "file/results.csv: cannot be read (Not a directory); name the folder"),
        (["half"], "half/results.csv: cannot be read (line 2 has not as many cells"),
        (["run", "--output=nowhere/a.FORMAT"], "nowhere/a.FORMAT cannot be written (No such file"),
    ],
)
def test_bad_paths_give_one_line_and_status_2(tmp_path, script, arguments, message):
    kind = "png" if script == "plot.py" else "html"
    *arguments, message = (text.replace("FORMAT", kind) for text in (*arguments, message))
    write_run(tmp_path, TWO_TRIALS).rename(tmp_path / "run")
    half = write_run(tmp_path, TWO_TRIALS).rename(tmp_path / "half")
    (half / "results.csv").write_text("trial,cycle,num_labeled,test_accuracy\n1,1,10")
    begun = write_run(tmp_path, TWO_TRIALS).rename(tmp_path / "begun")
    (begun / "results.csv").unlink()
    (tmp_path / "file").touch()
    process = run_script(script, *arguments, cwd=tmp_path)
    assert (process.returncode, process.stdout) == (2, "")
    assert message in process.stderr
    assert process.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output=curves"], "curves does not end in .png, .pdf or .svg"),
        (["--output=curves.csv"], "curves.csv does not end in .png, .pdf or .svg"),
        (["--paper", "--diagnostics"], "not allowed with argument"),
        (["--paper"], "--paper: the paper has no curves for digits"),
        (["--diagnostics"], "--diagnostics needs the column score_loss_spearman"),
    ],
)
def test_plots_that_cannot_be_are_refused(tmp_path, arguments, message):
    folder = write_run(tmp_path, TWO_TRIALS)
    process = run_script("plot.py", folder, *arguments, cwd=tmp_path)
    assert (process.returncode, process.stdout) == (2, "")
    assert message in process.stderr
    assert process.stderr.count("\n") == 1


def test_a_table_never_replaces_a_runs_results(tmp_path):
    folder = write_run(tmp_path, TWO_TRIALS)
    before = (folder / "results.csv").read_bytes()
    refused = run_script("plot.py", folder, "--output", folder / "results.png")
    assert refused.returncode == 2
    assert "would replace the run's own" in refused.stderr
    assert (folder / "results.csv").read_bytes() == before
    free = run_script("plot.py", folder, "--output", tmp_path / "results.png")
    assert free.returncode == 0, free.stderr


def test_what_nobody_reads_and_what_cannot_be_encoded_is_no_error(tmp_path):
    folder = write_run(tmp_path, TWO_TRIALS)
    shown = run_script("plot.py", folder, cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "81.00 ? 1.41 (2)" in shown.stdout
    command = [sys.executable, PROJECT_DIR / "plot.py", folder]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_help_waits_for_no_import(tmp_path):
    for script in ("plot.py", "report.py"):
        source = (PROJECT_DIR / script).read_text()
        assert "import torch" not in source
        process = run_script(script, "--help", PYTHONPROFILEIMPORTTIME="1")
        imported = {line.rpartition("|")[2].strip() for line in process.stderr.splitlines()}
        assert process.returncode == 0
        assert imported.isdisjoint({"torch", "scipy.stats", "matplotlib"})


# --------------------------------------------------------------- in a run


def redraw(output_dir: Path) -> None:
    """Draws the learning curve as a run does, from whatever results lie there."""
    folder = RunFolder(tiny_run(output_dir))
    folder._lock_trials()
    folder.write_learning_curve()


def test_a_run_draws_its_learning_curve(tmp_path):
    folder = write_run(tmp_path, TWO_TRIALS, auxiliary="TOD")
    redraw(tmp_path)
    with Image.open(folder / "learning_curve.png") as image:
        assert image.size == (840, 576)


def test_a_picture_that_cannot_be_drawn_stops_no_run(tmp_path, monkeypatch, caplog):
    def broken(curves):
        raise RuntimeError("no fonts")

    folder = write_run(tmp_path, TWO_TRIALS, auxiliary="TOD")
    monkeypatch.setattr(plot, "learning_curves", broken)
    redraw(tmp_path)
    assert "learning_curve.png: cannot be drawn (no fonts)" in caplog.text
    assert not (folder / "learning_curve.png").exists()


def test_a_picture_that_cannot_be_written_is_reported_as_results_are(tmp_path):
    folder = write_run(tmp_path, TWO_TRIALS, auxiliary="TOD")
    (folder / "learning_curve.png").mkdir()
    with pytest.raises(InputError, match=r"learning_curve\.png: cannot be written \(Is a direc"):
        redraw(tmp_path)
