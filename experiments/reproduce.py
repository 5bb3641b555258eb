"""The paper's comparison on one dataset: random queries, TOD without and with the COD loss, LL4AL,
and all labels at once; or, with --strategy, any other one.

python experiments/reproduce.py --config digits --trials 5

Runs what is missing, so the same command goes on where it stopped. Once all have ended, it writes a
section about them into a file beside the runs, or into --output: command, seeds, hardware, figures
and tables, with the paper's values where it has some. What stands outside of the section stays.
--only none runs nothing, and writes down what there is and what is missing. --scale 0.25 shortens
epochs, milestones and detach_epoch alike. What follows `--` goes to the entry scripts.
"""

import argparse
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import tod.system.early_interrupt  # noqa: F401 - ahead of what takes seconds
from experiments.cells import PAPER, Cell, cells_of, curves_of, new_parser, parse, run_all
from tod.analysis import figures
from tod.analysis.matrix import PenaltyMatrix, penalty_matrix, strength_table
from tod.analysis.results import ACCURACY, Curve
from tod.analysis.tables import accuracy_tables, diagnostics_tables, markdown
from tod.config import InputError, cli
from tod.config.settings import counted, in_spans
from tod.system.files import cannot, refuse_unwritable, write_atomically

SEEDS = range(5)
"""Of three runs, the order of methods changes with the seeds."""
MOST_SIZES = 8
"""In a table; of more numbers of labels, it shows these many, evenly chosen."""


def paper_rows(curves: Sequence[Curve], dataset: str, header: Sequence[str]) -> list[list[str]]:
    """The paper's accuracies at the same shares of labels, a row for each curve."""
    published = figures.read_published_curves(dataset)
    labels = sorted({n for curve in curves for n in curve.values(ACCURACY).columns})
    rows = []
    for curve in curves:
        name = PAPER.get(f"{curve.run['sampling']}/{curve.run['auxiliary']}")
        if name is None:
            continue
        at_share = {round(share, 1): accuracy for share, accuracy in published[name].items()}
        shares = [round(figures.published_share(curve, dataset, n), 1) for n in labels]
        if curve.labels_everything:
            shares[-1] = 100.0
        cells = [f"{at_share[share]:.1f}" if share in at_share else "–" for share in shares]
        rows.append([f"{name} (paper)", *cells, *["–"] * (len(header) - 1 - len(cells))])
    return rows


def section(
    arguments: argparse.Namespace,
    argv: Sequence[str],
    curves: Sequence[Curve],
    missing: str,
    paper: str | None,
    matrix: PenaltyMatrix | None,
) -> str:
    """The section about the results in Markdown, with the paper's values for a dataset."""
    accuracies, *differences = accuracy_tables(curves)
    if paper is not None:
        accuracies.rows.extend(paper_rows(curves, paper, accuracies.rows[0]))
    runs = [run for curve in curves for run in curve.runs.values()]
    made_on = "{device}, {precision}, Python {python}, PyTorch {torch}"
    seeds = {seed for curve in curves for seed in curve.images}
    of_seeds = f"{counted(len(seeds), 'seed')} ({in_spans(seeds)})"
    sizes = {len(curve.trials) for curve in curves}
    of_trials = f"{counted(max(sizes), 'trial')} {'in all' if len(sizes) == 1 else 'at most'}"
    scaled = f"Epochs, milestones and `detach_epoch` are {arguments.scale:g} of the configured ones"
    command = shlex.join(["python", "experiments/reproduce.py", *argv])
    of_scores = [curve for curve in curves if figures.has_diagnostics(curve)]
    rankings = diagnostics_tables(of_scores)[:1] if of_scores else []
    for table in rankings:
        table.rows[0][0] = table.rows[0][0].replace(table.caption, figures.PANELS[0][0])
    lines = [
        f"## {arguments.name}",
        f"`{re.sub(' --only[= ]none', '', command)}`",  # what runs them, too
        "; ".join(dict.fromkeys(made_on.format(**run) for run in runs)) + ".",
        *([f"{scaled}."] if arguments.scale != 1 else []),
        f"![Test accuracy against the number of labels]({arguments.figure.name})",
        f"Mean ± standard deviation (n − 1) of the last epoch's test accuracy over {of_seeds}, "
        f"{of_trials}. Differences: trial by trial, those of the same seed and number being pairs, "
        "with the 95 % interval of their mean (Student's t).",
        *([f"Of this command's runs, these are missing or unfinished: {missing}."] * bool(missing)),
        *(_shown(table.rows) for table in (accuracies, *differences)),
        *(
            f"Of the images from which it was queried, after the cycle with these many labels:\n\n"
            f"{_shown(table.rows)}"
            for table in rankings
        ),
    ]
    if matrix is not None:
        table = strength_table(matrix)
        lines += [
            f"![Which strategy beats which]({arguments.matrix.name})",
            table.caption,
            markdown(table.rows).rstrip(),
        ]
    return "\n\n".join(lines)


def unfinished(cells: Sequence[Cell]) -> str:
    """The runs that have not ended all their trials, by strategy."""
    seeds: dict[str, list[int]] = {}
    for cell in cells:
        if cell.num_done < cell.num_cycles:
            seeds.setdefault(cell.strategy, []).append(cell.seed)
    return "; ".join(f"{strategy} with seed {in_spans(each)}" for strategy, each in seeds.items())


def refuse_further_trials(curves: Sequence[Curve], chosen: Sequence[int]) -> None:
    """Refuses results of trials that the command does not run."""
    for curve in curves:
        if further := {trial for _, trial in curve.trials} - {*chosen}:
            raise InputError(
                f"{curve.folders[0]}: has results of further trials ({in_spans(further)}); name "
                "another --output-dir, or have all trials behind --trials"
            )


def _shown(rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, of a few sizes."""
    num_sizes = sum(" labels" in cell for cell in rows[0][1:])
    step = max((num_sizes - 1) / (MOST_SIZES - 1), 1)
    left_out = {*range(1, num_sizes + 1)} - {1 + round(step * i) for i in range(MOST_SIZES)}
    kept = [place for place in range(len(rows[0])) if place not in left_out]
    return markdown([[row[place] for place in kept] for row in rows]).rstrip()


def replace_section(text: str, name: str, content: str) -> str:
    """The text with the content between the section's marks, which are added if missing."""
    begin, end = f"<!-- {name}: written by experiments/reproduce.py -->", f"<!-- end of {name} -->"
    # The script's former place.
    text = text.replace(begin.replace("experiments/", "benchmarks/"), begin)
    before, found, rest = text.partition(begin)
    if found and end not in rest:
        raise InputError(f"the section {name} has lost its last line; add it where it ends: {end}")
    after = rest.partition(end)[2] if found else "\n"
    before = before if found or not before else before.rstrip() + "\n\n"
    return f"{before}{begin}\n{content}\n{end}{after}"


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = new_parser(__doc__, Path("results", "reproduce"), SEEDS)
    add = parser.add_argument
    add("--config", nargs=1, default=["digits"], help="a name or path (default: digits)")
    add("--trials", type=cli.positive, help="of each seed (default: the configuration's)")
    add("--name", help="of the section (default: the configuration's)")
    paper = "whose values of the paper stand beside (default: those of the images' own, if any)"
    add("--paper", metavar="DATASET", help=paper)
    output = "the section's file, with its figure beside it (default: results.md beside the runs)"
    add("--output", type=cli.file_type(".md"), metavar="FILE", help=output)
    add("--only", choices=["none"], help="run none: write down what there is (default: run all)")
    arguments = parse(parser, argv)
    arguments.name = arguments.name or Path(arguments.config[0]).stem
    if Path(arguments.name).name != arguments.name:
        parser.error(f"argument --name: {arguments.name} is no name of a file")
    arguments.output = arguments.output or arguments.output_dir / "results.md"
    arguments.figure = arguments.output.parent / f"results_{arguments.name}.png"
    arguments.matrix = arguments.output.parent / f"results_{arguments.name}_matrix.png"
    if arguments.paper is not None:
        figures.read_published_curves(arguments.paper)  # refuses a wrong name before the work
    if arguments.trials is not None:
        arguments.further.append(f"--set=active_learning.trials={arguments.trials}")
    return arguments


def _read(output: Path) -> str:
    try:
        return output.read_text(encoding="utf-8") if output.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        advice = "name a file in Markdown, or a new one, as --output"
        raise cannot(output, "read", error, advice) from None


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the experiments, then writes their section."""
    argv = sys.argv[1:] if argv is None else argv
    arguments = parse_arguments(argv)
    name, output = arguments.name, arguments.output
    refuse_unwritable(output)
    replace_section(_read(output), name, "")  # refuses a broken section before the work
    cells = cells_of(arguments)
    statuses = run_all([] if arguments.only else cells, arguments.processes)
    if status := max(statuses.values(), default=0):
        print(f"{output}: is left as it was until all runs have ended", file=sys.stderr)
        sys.exit(status)
    curves = curves_of(cells)
    if not curves:
        advice = f"leave out --only to run them, or name the folder that has {cells[0].folder.name}"
        raise InputError(f"{arguments.output_dir}: holds none of the runs; {advice}")
    refuse_further_trials(curves, cells[0].command.trials)
    paper = arguments.paper or curves[0].config["dataset"]
    paper = paper if paper in figures.PUBLISHED else None
    matrix = penalty_matrix(curves) if len(curves) > len(PAPER) else None
    if matrix is not None and matrix.tests.empty:  # too few pairs
        matrix = None
    content = section(arguments, argv, curves, unfinished(cells), paper, matrix)
    figure = figures.learning_curves(curves, paper)
    write_atomically(arguments.figure, figures.rendered(figure))
    if matrix is not None:
        write_atomically(arguments.matrix, figures.rendered(figures.penalty_matrix(matrix)))
    # The file may have changed meanwhile.
    write_atomically(output, replace_section(_read(output), name, content))
    print(content)


if __name__ == "__main__":
    with cli.exit_status():
        main()
