"""Figures of one or more runs, alone or beside the paper's curves."""

import io
import logging
import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from tod.analysis import fonts
from tod.analysis.forecast import NoForecastError, forecast, points_of
from tod.analysis.matrix import PenaltyMatrix
from tod.analysis.results import ACCURACY, AUDIT, DIAGNOSTICS, Curve, split_names
from tod.analysis.tables import shared_training_images, summarized
from tod.config import InputError
from tod.config.schema import DATASETS
from tod.config.settings import shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAPER_CURVES = Path(__file__).with_name("paper_curves.csv")
"""Read from the paper's figure to about ±0.2 points."""
PUBLISHED = ("cifar10", "cifar100", "svhn", "caltech101")
"""The datasets for which the paper has curves."""
CURVES_BESIDE_A_LEGEND = 6
"""More, and a legend within the axes would hide them."""
CELLS_WITH_NUMBERS = 30
"""In a row of a matrix; the numbers of more would be too small to read."""
NAMES_ON_AN_AXIS = 150
"""The smallest letters of more would lie upon each other."""
PANELS = (
    ("Spearman ρ of score and true loss", ("score_loss_spearman",), 0.0),
    ("AUROC for misclassified images", ("score_error_auroc",), 0.5),
    ("mean true loss", ("queried_mean_loss", "unqueried_mean_loss"), None),
    ("class entropy of the queried (nats)", ("queried_class_entropy",), None),
)
"""Of the diagnostics: label, columns (solid, dashed), and what a random score reaches."""


def learning_curves(
    curves: Sequence[Curve], paper: str | None = None, target: float | None = None
) -> "Figure":
    """Test accuracy against the number of labels, and against their share if it is known.

    With the dashed curves of the paper for a dataset, it is drawn against the share alone. With a
    target in %, forecasts go on beyond the curves, dashed.
    """
    published = read_published_curves(paper) if paper else {}
    figure = new_figure(7, 4.8)
    (axes,) = figure.axes
    for number, curve in enumerate(curves):
        share = published_share(curve, paper, 1) if paper else 1
        _draw_mean(axes, curve, ACCURACY, number, share)
        if target is not None:
            _draw_forecast(axes, curve, number, target)
    if target is not None:
        axes.axhline(target, color="grey", linewidth=0.8)
    for number, (method, curve) in enumerate(published.items(), start=len(curves)):
        style = {"color": f"C{number % 10}", "label": f"{method} (paper)"}
        if len(curve) == 1:  # with all labels: a point there would stretch the axis tenfold
            axes.axhline(*curve.values(), linestyle=":", **style)
        else:
            axes.plot(*zip(*curve.items(), strict=True), marker=".", linestyle="--", **style)
    size, share = shared_training_images(curves), "share of the training set (%)"
    if size and not paper:
        functions = (lambda n: 100 * n / size, lambda s: s * size / 100)
        axes.secondary_xaxis("top", functions=functions).set_xlabel(share)
    is_audited = all(curve.is_audited for curve in curves)
    measured = "accuracy on audited images (%)" if is_audited else "test accuracy (%)"
    axes.set(xlabel=share if paper else "labelled images", ylabel=measured)
    _add_legend(figure, axes)
    return figure


def published_share(curve: Curve, dataset: str, num_labeled: int) -> float:
    """The share of labels in %, as the paper counts it for this dataset.

    For Caltech-101, it is the share of all images, including the test set.
    """
    facts = DATASETS[dataset]
    ratio = facts.training_images / (facts.paper_images or facts.training_images)
    return 100 * num_labeled / curve.training_images * ratio


def read_published_curves(dataset: str) -> dict[str, dict[float, float]]:
    """The paper's mean accuracies in %, by method and by share of labels in %."""
    if dataset not in PUBLISHED:
        known = ", ".join(PUBLISHED)
        raise InputError(f"--paper: the paper has no curves for {dataset}, only for {known}")
    published = pd.read_csv(PAPER_CURVES, index_col="dataset").loc[dataset]
    return {
        method: dict(zip(curve["labeled_percent"], curve["mean_accuracy"], strict=True))
        for method, curve in published.groupby("method", sort=False)
    }


def has_diagnostics(curve: Curve) -> bool:
    """Whether a curve has any diagnostics, which runs of older versions lack."""
    return set(DIAGNOSTICS) <= {*curve.rows} and curve.rows[[*DIAGNOSTICS]].notna().any(axis=None)


def diagnostics(curves: Sequence[Curve]) -> "Figure":
    """Four panels: how well the scores estimated the loss, and which images were queried."""
    for curve in curves:
        if not has_diagnostics(curve):
            raise InputError(
                f"{curve.folders[0] / 'results.csv'}: --diagnostics finds no {DIAGNOSTICS[0]} "
                "there; it comes with each cycle that queries, in runs of this version"
            )
    from matplotlib.lines import Line2D  # here, so that a refusal need not wait for it

    figure = new_figure(9, 6.6, 2, 2)
    for axes, (label, columns, chance) in zip(figure.axes, PANELS, strict=True):
        for number, curve in enumerate(curves):
            for column, linestyle in zip(columns, ("-", "--"), strict=False):
                _draw_mean(axes, curve, column, number, linestyle=linestyle)
        if chance is not None:
            axes.axhline(chance, color="grey", linewidth=0.8)
        axes.set(xlabel="labelled images", ylabel=label)
    lines = [Line2D([], [], color="grey", linestyle=style) for style in ("-", "--")]
    figure.axes[2].legend(lines, ["queried", "not queried"], fontsize="small", handlelength=3)
    _add_legend(figure, figure.axes[0], below=True)
    return figure


def penalty_matrix(matrix: PenaltyMatrix) -> "Figure":
    """How often the row's method beats the column's, without and with Holm's correction."""
    names = fonts.drawable(list(matrix.shares.index), "method")
    size = 2.5 + 0.55 * len(names)
    figure = new_figure(2 * size + 1, size, 1, 2)
    panels = (("p < 0.05", matrix.shares), ("after Holm's correction", matrix.corrected))
    for axes, (title, shares) in zip(figure.axes, panels, strict=True):
        _draw_shares(axes, shares.to_numpy(), names)
        axes.set_title(f"row beats column: {title}", fontsize="medium")
    figure.axes[1].set_yticks([])  # the same as the first panel's
    return figure


def confusion(matrices: np.ndarray, class_names: Sequence[str]) -> "Figure":
    """The confusion matrix over all trials: the share of each true class (rows) by predicted class.

    `matrices` are the numbers of images, (T, C, C).
    """
    names = fonts.drawable([shortened(name, 30) for name in class_names], "class")
    counts = matrices.sum(axis=0)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = min(2.5 + 0.45 * len(names), 16)
    figure = new_figure(size, size)
    (axes,) = figure.axes
    _draw_shares(axes, shares, names)
    axes.set(xlabel="predicted class", ylabel="true class")
    return figure


def _draw_shares(axes: "Axes", shares: np.ndarray, names: Sequence[str]) -> None:
    """Draws shares (N, N) as shaded squares, with their numbers if there is room.

    Of very many names, only each k-th is shown.
    """
    axes.grid(visible=False)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    has_room = len(names) <= CELLS_WITH_NUMBERS
    for (row, column), share in np.ndenumerate(shares) if has_room else ():
        if not math.isnan(share):
            colour = "white" if share > 0.6 else "black"
            axes.text(column, row, f"{share:.2f}", ha="center", va="center", color=colour)
    letters = {"family": fonts.families(names), "fontsize": "small" if has_room else 5}
    step = math.ceil(len(names) / NAMES_ON_AN_AXIS)
    ticks, shown = range(0, len(names), step), [*map(_plain, names[::step])]
    axes.set_xticks(ticks, shown, rotation=90, **letters)
    axes.set_yticks(ticks, shown, **letters)


def _plain(text: str) -> str:
    """Escapes dollars, which begin a formula in matplotlib."""
    return text.replace("$", r"\$")


def rendered(figure: "Figure", kind: str = "png") -> bytes:
    """The figure as a file of this kind."""
    content = io.BytesIO()
    figure.savefig(content, format=kind, dpi=120)
    return content.getvalue()


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1) -> "Figure":
    """A figure with empty axes, its size in inches; made without pyplot, which keeps figures."""
    # For the first figure on a machine, matplotlib reports that it reads the fonts.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    for axes in figure.subplots(rows, columns, squeeze=False).flat:
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    return figure


def _draw_mean(
    axes: "Axes", curve: Curve, column: str, number: int, share: float = 1, linestyle: str = "-"
) -> None:
    """Draws a column's mean over trials as a line, within a band of its standard deviation.

    For an accuracy measured by audits, the band is its 95 % interval. The abscissa is the number of
    labels times `share`. The curve's number gives its colour and marker, unique among a hundred.
    """
    found = summarized(curve.values(column))
    labels, mean, std = found.index * share, found["mean"], found["std"].fillna(0)
    low, high = mean - std, mean + std
    tens, ones = divmod(number, 10)
    colour = f"C{ones}"
    if column == ACCURACY and curve.is_audited:
        audits = curve.audits.reindex(found.index)
        low, high = (audits[end].fillna(mean) for end in AUDIT[1:])
        axes.vlines(labels, low, high, color=colour, alpha=0.5)
    name = _plain(curve.name)  # and legends omit `_…`
    name = f" {name}" if name.startswith("_") else name
    style = {"color": colour, "marker": "osD^vP*X<>"[tens % 10], "linestyle": linestyle}
    band = {"color": colour, "alpha": 0.15, "linewidth": 0}
    if curve.labels_everything:  # a reference line for any number of labels
        axes.axhline(mean.iloc[0], label=name, color=colour, linestyle=":")
        axes.axhspan(low.iloc[0], high.iloc[0], **band)
        return
    axes.plot(labels, mean, label=name, **style)
    axes.fill_between(labels, low, high, **band)


def _draw_forecast(axes: "Axes", curve: Curve, number: int, target: float) -> None:
    """Draws the forecast of a curve, if there is one, as far as the target or to twice its labels.

    The band is the forecast's interval.
    """
    with suppress(NoForecastError):
        found = forecast(points_of(curve))
        _, middle, _ = found.labels_for(target)
        end = max(2 * found.last, min(1.2 * middle, found.horizon))
        labels = np.linspace(found.last, end)
        low, accuracies, high = found.accuracies(labels)
        colour = f"C{number % 10}"
        axes.plot(labels, accuracies, color=colour, linestyle="--", linewidth=1)
        axes.fill_between(labels, low, high, color=colour, alpha=0.1, linewidth=0)


def _add_legend(figure: "Figure", axes: "Axes", below: bool = False) -> None:
    """Adds the legend; one of many curves, or of several axes, goes below a figure that grows.

    Its title is what the names have in common.
    """
    handles, labels = axes.get_legend_handles_labels()
    labels = fonts.drawable(labels, "run")
    letters = {"size": "small", "family": fonts.families(labels)}
    title, labels = split_names(labels)
    given = {"handles": handles, "labels": labels, "prop": letters, "title": title or None}
    if len(labels) <= CURVES_BESIDE_A_LEGEND and not below:
        legend = axes.legend(**given)
    else:
        columns = max(1, min(3, int(12 * figure.get_figwidth() / max(map(len, labels)))))
        lines = math.ceil(len(labels) / columns) + bool(title)
        figure.set_figheight(figure.get_figheight() + 0.2 * lines)
        place = {"loc": "outside lower center", "ncols": columns, "frameon": False}
        legend = figure.legend(**given, **place)
    legend.get_title().set(size="small", family=letters["family"])
