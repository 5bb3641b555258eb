"""Learning curves of one or more runs: mean ± standard deviation of the test accuracy over trials.

python plot.py results/digits_auxiliary_TOD_sampling_TOD_seed0 [RUN ...] --output curves.png

Prints the table in Markdown and writes it beside the figure as CSV. Runs that differ in the seed
alone are one curve, over all their trials; differences are to the first run, trial by trial.
"""

import argparse
import csv
import io
import logging
import math
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import command_line
import results
from configuration import InputError
from results import ACCURACY, DIAGNOSTICS, Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAPER_CURVES = Path(__file__).resolve().parent / "docs" / "paper_curves.csv"
PAPER_SHARE = {"caltech101": 7_766 / 8_677}
"""The paper's shares of labels are of the training set, but of all images in Caltech-101."""
CURVES_BESIDE_A_LEGEND = 6
"""More, and a legend within the axes would hide them."""
CHANCE = {"score_loss_spearman": 0.0, "score_error_auroc": 0.5}
"""What a random score reaches."""


# ---------------------------------------------------------------- figures


def _new_figure(width: float, height: float) -> "Figure":
    """An empty figure of its own, in inches; pyplot, which keeps figures, is not involved."""
    # On a machine's first figure matplotlib reports that it reads the fonts: no news to a run.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def learning_curves(curves: Sequence[Curve]) -> "Figure":
    """Test accuracy against the number of labels, and against their share where it is known."""
    figure = _new_figure(7, 4.8)
    axes = figure.subplots()
    for i, curve in enumerate(curves):
        _draw_mean(axes, curve, ACCURACY, _shown_name(curve.name), **_style(i))
    _label(axes, "labelled images", "test accuracy (%)")
    size = results.shared_training_images(curves)
    if size:
        share = axes.secondary_xaxis(
            "top", functions=(lambda n: 100 * n / size, lambda s: s * size / 100)
        )
        share.set_xlabel("share of the training set (%)")
    _add_legend(figure, axes)
    return figure


def published_learning_curves(curves: Sequence[Curve], dataset: str | None = None) -> "Figure":
    """Test accuracy against the share of labels, with the paper's curves dashed.

    Args:
        curves: of the runs.
        dataset: whose curves of the paper are added; None: those of the runs' own.

    Raises:
        InputError: the paper has no curves for it, or the runs are not all of one dataset.
    """
    dataset = dataset or _only_dataset(curves)
    published = read_published_curves(dataset)
    figure = _new_figure(7, 4.8)
    axes = figure.subplots()
    for i, curve in enumerate(curves):
        share = partial(published_share, curve, dataset)
        _draw_mean(axes, curve, ACCURACY, _shown_name(curve.name), share, **_style(i))
    for i, (method, (shares, accuracies)) in enumerate(published.items()):
        color = _style(len(curves) + i)["color"]
        style = {"linestyle": "--", "color": color, "label": f"{method} (paper)"}
        if len(shares) == 1:  # all labels, to which no curve of a tenth of them need be stretched
            axes.axhline(accuracies[0], **{**style, "linestyle": ":"})
        else:
            axes.plot(shares, accuracies, marker=".", **style)
    _label(axes, "share of the training set (%)", "test accuracy (%)")
    _add_legend(figure, axes)
    return figure


def published_share(curve: Curve, dataset: str, num_labeled: int) -> float:
    """The share of labels in %, as the paper counts it for this dataset."""
    return 100 * num_labeled / curve.training_images * PAPER_SHARE.get(dataset, 1.0)


def diagnostics(curves: Sequence[Curve]) -> "Figure":
    """How well the scores estimated the loss, and what was queried, in four panels.

    Raises:
        InputError: a run has recorded nothing of this.
    """
    require_diagnostics(curves)
    from matplotlib.lines import Line2D  # only now: a refusal need not wait for it

    figure = _new_figure(9, 6.6)
    panels = figure.subplots(2, 2).flat
    spearman, auroc, loss, entropy = panels
    for i, curve in enumerate(curves):
        name, style = _shown_name(curve.name), _style(i)
        for axes, column in ((spearman, DIAGNOSTICS[0]), (auroc, DIAGNOSTICS[1])):
            _draw_mean(axes, curve, column, name, **style)
        _draw_mean(loss, curve, "queried_mean_loss", f"{name}: queried", **style)
        not_queried = {**style, "linestyle": "--"}
        _draw_mean(loss, curve, "unqueried_mean_loss", f"{name}: not queried", **not_queried)
        _draw_mean(entropy, curve, "queried_class_entropy", name, **style)
    spearman.axhline(CHANCE["score_loss_spearman"], color="grey", linewidth=0.8)
    auroc.axhline(CHANCE["score_error_auroc"], color="grey", linewidth=0.8)
    for axes, label in (
        (spearman, "Spearman ρ of score and true loss"),
        (auroc, "AUROC for misclassified images"),
        (loss, "mean true loss"),
        (entropy, "class entropy of the queried (nats)"),
    ):
        _label(axes, "labelled images", label)
    solid, dashed = (Line2D([], [], color="grey", linestyle=style) for style in ("-", "--"))
    loss.legend([solid, dashed], ["queried", "not queried"], fontsize="small", handlelength=3)
    _add_legend_below(figure, spearman)
    return figure


def _style(number: int) -> dict[str, str]:
    """Colour and marker of a curve, which no other one has until there are very many."""
    tens, ones = divmod(number, 10)
    return {"color": f"C{ones}", "marker": "osD^vP*X<>"[tens % 10]}


def _add_legend(figure: "Figure", axes: "Axes") -> None:
    if len(axes.get_legend_handles_labels()[0]) <= CURVES_BESIDE_A_LEGEND:
        axes.legend(fontsize="small")
    else:
        _add_legend_below(figure, axes)


def _add_legend_below(figure: "Figure", axes: "Axes") -> None:
    """A legend below all axes, for which the figure grows."""
    handles, labels = axes.get_legend_handles_labels()
    columns = 2 if max(map(len, labels)) * 2 < 12 * figure.get_figwidth() else 1
    figure.set_figheight(figure.get_figheight() + 0.2 * math.ceil(len(labels) / columns))
    figure.legend(
        handles, labels, loc="outside lower center", ncols=columns, fontsize="small", frameon=False
    )


def _draw_mean(
    axes: "Axes",
    curve: Curve,
    column: str,
    label: str,
    abscissa: Callable[[int], float] = float,
    **style: str,
) -> None:
    """A column's mean over trials as a line, and its standard deviation as a band around it."""
    values = curve.values(column)
    summaries = [results.summarize(by_trial.values()) for by_trial in values.values()]
    x = [abscissa(n) for n in values]
    (line,) = axes.plot(x, [s.mean for s in summaries], label=label, **style)
    axes.fill_between(
        x,
        [s.mean - (s.std or 0.0) for s in summaries],
        [s.mean + (s.std or 0.0) for s in summaries],
        color=line.get_color(),
        alpha=0.15,
        linewidth=0,
    )


def _label(axes: "Axes", x: str, y: str) -> None:
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)


def _shown_name(name: str) -> str:
    """A name as matplotlib shows it: a dollar starts a formula, and `_…` is left out of legends."""
    name = name.replace("$", r"\$")
    return f" {name}" if name.startswith("_") else name


def rendered(figure: "Figure", kind: str = "png") -> bytes:
    """The figure as a file of this kind."""
    content = io.BytesIO()
    with warnings.catch_warnings():
        # A letter that the font lacks is drawn as a box.
        warnings.simplefilter("ignore", UserWarning)
        figure.savefig(content, format=kind, dpi=120)
    return content.getvalue()


# ------------------------------------------------------------- what they need


def _published_rows() -> list[dict[str, str]]:
    with PAPER_CURVES.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def published_datasets() -> list[str]:
    """The datasets for which the paper has curves."""
    return list(dict.fromkeys(row["dataset"] for row in _published_rows()))


def read_published_curves(dataset: str) -> dict[str, tuple[list[float], list[float]]]:
    """The paper's curves, read from its figure to about ±0.2 points.

    Returns:
        By method: the shares of labels in %, and the mean accuracies in %.

    Raises:
        InputError: the paper has none for this dataset.
    """
    curves: dict[str, tuple[list[float], list[float]]] = {}
    for row in _published_rows():
        if row["dataset"] == dataset:
            shares, accuracies = curves.setdefault(row["method"], ([], []))
            shares.append(float(row["labeled_percent"]))
            accuracies.append(float(row["mean_accuracy"]))
    if not curves:
        known = ", ".join(published_datasets())
        raise InputError(f"--paper: the paper has no curves for {dataset}, only for {known}")
    return curves


def _only_dataset(curves: Sequence[Curve]) -> str:
    datasets = list(dict.fromkeys(curve.config["dataset"] for curve in curves))
    if len(datasets) > 1:
        raise InputError(f"--paper: name runs of one dataset, not of {' and '.join(datasets)}")
    return datasets[0]


def has_diagnostics(curve: Curve) -> bool:
    """Whether a curve has the columns of the diagnostics, and a value at least."""
    return not _missing_diagnostics(curve) and any(curve.values(c) for c in DIAGNOSTICS)


def _missing_diagnostics(curve: Curve) -> list[str]:
    return [column for column in DIAGNOSTICS if column not in curve.columns]


def require_diagnostics(curves: Sequence[Curve]) -> None:
    """Refuses runs without diagnostics.

    Raises:
        InputError: a run lacks their columns, or has not queried yet.
    """
    for curve in curves:
        path = curve.folders[0] / "results.csv"
        missing = _missing_diagnostics(curve)
        if missing:
            raise InputError(
                f"{path}: --diagnostics needs the column {missing[0]}, which is not there; "
                "make the run anew with this version"
            )
        if not has_diagnostics(curve):
            raise InputError(
                f"{path}: holds no diagnostics; they come with each cycle that queries"
            )


def markdown(table: Sequence[Sequence[str]]) -> str:
    """A table, its header first, in Markdown; '' where there is none."""
    if not table:
        return ""
    rows = [[cell.replace("|", r"\|") for cell in row] for row in table]
    rule = ["---", *["--:"] * (len(rows[0]) - 1)]
    return "".join(f"| {' | '.join(row)} |\n" for row in (rows[0], rule, *rows[1:]))


def tables(curves: Sequence[Curve], of_diagnostics: bool = False) -> list[list[list[str]]]:
    """The tables to a figure, each a header and rows."""
    if of_diagnostics:
        return [results.diagnostics_table(curves, column) for column in DIAGNOSTICS]
    return [t for t in (results.accuracy_table(curves), results.difference_table(curves)) if t]


# ------------------------------------------------------------------ the script


def write(path: Path, content: bytes) -> None:
    """Writes what the user asked for.

    Raises:
        InputError: it cannot be written there.
    """
    try:
        path.write_bytes(content)
    except OSError as error:
        raise InputError(
            f"--output: {path} cannot be written ({error.strerror}); name another place"
        ) from None


def _parse_arguments() -> argparse.Namespace:
    parser = command_line.Parser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run's folder")
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--paper", action="store_true", help="add the paper's published curves, dashed"
    )
    what.add_argument(
        "--diagnostics",
        action="store_true",
        help="draw instead how well the scores estimated the loss, and what was queried",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="the figure, in the format of its ending; the table goes beside it "
        "(default: learning_curve.png, or diagnostics.png)",
    )
    arguments = parser.parse_args()
    default = "diagnostics.png" if arguments.diagnostics else "learning_curve.png"
    arguments.output = arguments.output or Path(default)
    if arguments.output.suffix.lower() not in (".png", ".pdf", ".svg"):
        parser.error(f"argument --output: {arguments.output} does not end in .png, .pdf or .svg")
    table = arguments.output.with_suffix(".csv")
    if table.name == "results.csv" and (table.parent / "config.yaml").exists():
        parser.error(f"argument --output: the table would replace the run's own {table}")
    return arguments


def main() -> None:
    """Reads the command line, draws, and shows the table."""
    arguments = _parse_arguments()
    curves = results.read_runs(arguments.runs)
    if arguments.diagnostics:
        figure, columns = diagnostics(curves), DIAGNOSTICS
    else:
        draw = published_learning_curves if arguments.paper else learning_curves
        figure, columns = draw(curves), (ACCURACY,)
    output = arguments.output
    write(output, rendered(figure, output.suffix[1:].lower()))
    write(output.with_suffix(".csv"), results.tidy_csv(curves, columns).encode())
    print("\n".join(markdown(table) for table in tables(curves, arguments.diagnostics)))
    for note in results.unpaired_notes(curves):
        print(note)
    print(f"{output}, {output.with_suffix('.csv')}")


if __name__ == "__main__":
    with command_line.exit_status():
        main()
