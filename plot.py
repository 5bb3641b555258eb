"""Learning curves of one or more runs: mean ± standard deviation of the test accuracy over trials.

python plot.py results/digits_auxiliary_TOD_sampling_TOD_seed0 [RUN ...] --output curves.png
"""

import argparse
import csv
import re
from pathlib import Path

import command_line
from configuration import InputError


def read_curve(folder: Path) -> dict[int, list[float]]:
    """Test accuracies in % by number of labels, one for each trial that has got there.

    Raises:
        InputError: the folder holds no results.
    """
    path = folder / "results.csv"
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        curve: dict[int, list[float]] = {}
        for row in rows:
            curve.setdefault(int(row["num_labeled"]), []).append(float(row["test_accuracy"]))
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read ({error}); name the folder of a run that has ended a cycle"
        ) from None
    return dict(sorted(curve.items()))


def label_of(folder: Path) -> str:
    """What a run's curve is called: configuration, sampling strategy, auxiliary loss and seed."""
    name = folder.resolve().name
    found = re.fullmatch(r"(.+)_auxiliary_(\w+?)_sampling_(\w+)_seed(\d+)", name)
    if found is None:
        return name
    config, auxiliary, sampling, seed = found.groups()
    loss = {"NONE": "", "TOD": " + COD loss"}.get(auxiliary, f" + {auxiliary} loss")
    return f"{config}, {sampling} sampling{loss}, seed {seed}"


def draw(folders: list[Path], output: Path) -> None:
    """Draws the curves of all runs into one figure."""
    import matplotlib

    matplotlib.use("Agg")
    import numpy as np
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for folder in folders:
        curve = read_curve(folder)
        labels = list(curve)
        means = np.array([np.mean(values) for values in curve.values()])
        deviations = [np.std(v, ddof=1) if len(v) > 1 else 0.0 for v in curve.values()]
        (line,) = axes.plot(labels, means, marker="o", label=label_of(folder))
        axes.fill_between(
            labels, means - deviations, means + deviations, color=line.get_color(), alpha=0.15
        )
    axes.set_xlabel("labelled images")
    axes.set_ylabel("test accuracy (%)")
    axes.grid(alpha=0.3)
    axes.legend()
    try:
        figure.savefig(output, dpi=120)
    except (OSError, ValueError) as error:
        raise InputError(f"--output {output}: cannot be written ({error})") from None
    pyplot.close(figure)


def main() -> None:
    """Reads the command line and draws."""
    parser = command_line.Parser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run's folder")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("learning_curve.png"),
        metavar="FILE",
        help="the figure, in the format of its ending (default: %(default)s)",
    )
    arguments = parser.parse_args()
    if not arguments.output.suffix:
        parser.error(f"argument --output: {arguments.output} has no ending, such as .png")
    draw(arguments.runs, arguments.output)
    print(arguments.output)


if __name__ == "__main__":
    with command_line.exit_status():
        main()
