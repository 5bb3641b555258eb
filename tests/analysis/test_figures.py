"""What the figures contain."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.analysis.conftest import write_full_run
from tests.support.harness import write_run
from tod.analysis import figures, results, tables
from tod.analysis.matrix import penalty_matrix


def test_learning_curves_are_means_with_bands_over_labels_and_their_share(pair):
    curves = results.read_runs(pair)
    figure = figures.learning_curves(curves)
    (axes,) = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("labelled images", "test accuracy (%)")
    assert [line.get_label() for line in axes.lines] == [curve.name for curve in curves]
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend == ["RANDOM sampling", "TOD sampling"]
    assert axes.get_legend().get_title().get_text() == "digits, seed 0"
    np.testing.assert_allclose(axes.lines[0].get_xydata(), [(100, 80), (150, 87), (200, 91)])
    np.testing.assert_allclose(axes.lines[1].get_xydata(), [(100, 80), (150, 89), (200, 94)])
    band = axes.collections[0].get_paths()[0].vertices
    assert {y for x, y in band if x == 150} == {86.0, 88.0}
    (share,) = axes.child_axes
    assert share.get_xlabel() == "share of the training set (%)"
    figures.rendered(figure)
    np.testing.assert_allclose(share.get_xlim(), np.array(axes.get_xlim()) * 100 / 1437)


def test_many_curves_are_told_apart_below_the_axes(curves_of):
    strategies = [{"sampling": f"S{n}", "diagnostics": results.DIAGNOSTICS} for n in range(19)]
    curves = curves_of(*strategies)
    for figure in (figures.learning_curves(curves), figures.diagnostics(curves)):
        lines = figure.axes[0].lines[: len(curves)]
        assert len({(line.get_color(), line.get_marker()) for line in lines}) == len(curves)
        (legend,) = figure.legends
        assert legend.get_title().get_text() == "digits, seed 0"
        assert [t.get_text() for t in legend.get_texts()] == [c.method for c in curves]
        figure.draw_without_rendering()
        place = legend.get_window_extent()
        assert place.x0 >= 0 and place.x1 <= figure.bbox.width
        assert all(place.y1 <= axes.get_tightbbox().y0 for axes in figure.axes)


def test_no_axis_shows_shares_where_the_curves_differ_in_them(curves_of):
    curves = curves_of({"config": "cifar10", "training_images": 400}, {"config": "svhn"})
    assert figures.learning_curves(curves).axes[0].child_axes == []


def test_a_picture_is_drawn_of_a_single_number_and_of_any_name(tmp_path):
    folder = write_run(tmp_path, [[80]]).rename(tmp_path / "_$\\frac 漢")
    figure = figures.learning_curves(results.read_runs([folder]))
    (line,) = figure.axes[0].lines
    assert list(line.get_xydata()[0]) == [100, 80]
    with Image.open(io.BytesIO(figures.rendered(figure))) as image:
        assert image.size == (840, 576)


def test_published_curves_are_dashed_over_the_share_of_labels(curves_of):
    curves = curves_of({"config": "cifar10", "training_images": 1000})
    (axes,) = figures.learning_curves(curves, "cifar10").axes
    assert axes.get_xlabel() == "share of the training set (%)"
    own, *published = axes.lines
    np.testing.assert_allclose(own.get_xdata(), [10, 15, 20])
    assert own.get_linestyle() == "-"
    methods = ["TOD sampling + COD loss", "TOD sampling", "LL4AL", "random", "full training"]
    assert [line.get_label() for line in published] == [f"{method} (paper)" for method in methods]
    assert {line.get_linestyle() for line in published[:-1]} == {"--"}
    np.testing.assert_allclose(published[0].get_xdata(), [10, 15, 20, 25, 30, 35, 40])
    assert published[0].get_ydata()[0] == 79.5
    assert set(published[-1].get_ydata()) == {93.1}


def test_the_papers_shares_of_caltech101_are_of_all_its_images(curves_of):
    (curve,) = curves_of({"config": "caltech101", "training_images": 7766})
    assert figures.published_share(curve, "caltech101", 868) == pytest.approx(10.0, abs=0.01)
    axes = figures.learning_curves([curve], "caltech101").axes[0]
    np.testing.assert_allclose(axes.lines[0].get_xdata(), np.array([100, 150, 200]) / 86.77)


def test_every_dataset_of_the_paper_has_its_curves():
    for dataset in figures.PUBLISHED:
        curves = figures.read_published_curves(dataset)
        assert [len(curve) for curve in curves.values()] == [7, 7, 7, 7, 1]


def test_diagnostics_show_how_well_the_scores_estimate_the_loss(curves_of):
    figure = figures.diagnostics(curves_of({"diagnostics": results.DIAGNOSTICS}))
    spearman, auroc, loss, _ = figure.axes
    assert [axes.get_ylabel() for axes in figure.axes] == [
        "Spearman ρ of score and true loss",
        "AUROC for misclassified images",
        "mean true loss",
        "class entropy of the queried (nats)",
    ]
    assert {axes.get_xlabel() for axes in figure.axes} == {"labelled images"}
    for axes in figure.axes:
        # The last cycle queries nothing.
        np.testing.assert_allclose(axes.lines[0].get_xydata(), [(100, 1.15), (150, 2.15)])
    assert [line.get_linestyle() for line in loss.lines] == ["-", "--"]
    assert [t.get_text() for t in loss.get_legend().get_texts()] == ["queried", "not queried"]
    assert set(spearman.lines[-1].get_ydata()) == {0}
    assert set(auroc.lines[-1].get_ydata()) == {0.5}


def test_all_labels_at_once_are_a_line_and_no_method_of_the_matrix(tmp_path):
    folders = [
        write_run(tmp_path, [[80, 90, 94], [82, 90, 95]] * 3, sampling="RANDOM"),
        write_run(tmp_path, [[80, 92, 96], [82, 93, 96]] * 3),
        write_full_run(tmp_path, 98, 99),
    ]
    curves = results.read_runs([folders[2], *folders[:2]])
    assert [curve.folders[0] for curve in curves] == folders  # others are compared with the first
    assert curves[2].why_not_paired(curves[0]) == "it labels everything at once"
    (axes,) = figures.learning_curves(curves).axes[:1]
    dotted = [line for line in axes.lines if line.get_linestyle() == ":"]
    assert [list(line.get_ydata()) for line in dotted] == [[98.5, 98.5]]
    assert axes.get_xlim()[1] < 250
    matrix = penalty_matrix(curves)
    assert list(matrix.shares) == ["RANDOM sampling", "TOD sampling"]
    assert not matrix.notes


def test_a_confusion_matrix_shows_any_class_name():
    names = ["$x", "a_b", "caf\udce9", "line\nbreak", "犬", "<b>", "a" * 300]
    figure = figures.confusion(np.stack([np.eye(7, dtype=int)] * 2), names)
    (axes,) = figure.axes
    assert axes.get_xticklabels()[0].get_text() == r"\$x"
    assert [text.get_text() for text in axes.texts].count("1.00") == 7
    with Image.open(io.BytesIO(figures.rendered(figure))) as picture:
        picture.load()
    # Of many classes, there is no room for numbers.
    many = figures.confusion(np.eye(100, dtype=int)[None], [str(c) for c in range(100)])
    assert not many.axes[0].texts
    figures.rendered(many)


def test_of_a_thousand_classes_as_many_are_named_as_can_be_read():
    count = 1100
    figure = figures.confusion(np.eye(count)[None], [f"class {number}" for number in range(count)])
    figure.draw_without_rendering()
    (axes,) = figure.axes
    for side, labels in ((0, axes.get_xticklabels()), (1, axes.get_yticklabels())):
        corners = np.array([label.get_window_extent().get_points() for label in labels])
        ends = np.sort(corners[:, :, side], axis=0)
        assert len(ends) > 100
        assert (ends[:-1, 1] <= ends[1:, 0]).all()
    # The name stands at its own row.
    assert axes.get_yticklabels()[10].get_text() == f"class {axes.get_yticks()[10]}"


def write_audited_run(root: Path, accuracies: list[float], seed: int = 0) -> Path:
    """A run of one trial, each of whose accuracies was measured on 40 audited images."""
    run = write_run(root, [accuracies], cycles=len(accuracies), seed=seed)
    header, *rows = (run / "results.csv").read_text().splitlines()
    lines = [f"{header},audited,accuracy_low,accuracy_high", *(f"{row},40,1,2" for row in rows)]
    (run / "results.csv").write_text("\n".join(lines) + "\n")
    return run


def test_the_curve_of_an_audited_run_says_so(tmp_path):
    run = write_audited_run(tmp_path, [80, 90])
    (axes,) = figures.learning_curves(results.read_runs([run])).axes
    assert axes.get_ylabel() == "accuracy on audited images (%)"


def test_the_audits_of_runs_that_differ_in_the_seed_count_together(tmp_path):
    runs = [write_audited_run(tmp_path, [70, 80 + 10 * seed], seed) for seed in (0, 1)]
    *_, audits = tables.accuracy_tables(results.read_runs(runs))
    low, high = results.accuracy_interval(85, 80)
    assert audits.rows[1][1:] == ["70.0 [59.2, 78.9] (80)", f"85.0 [{low:.1f}, {high:.1f}] (80)"]
