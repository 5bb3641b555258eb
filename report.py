"""One HTML page about one or more runs: learning curves, tables, contact sheets, configurations.

python report.py results/digits_auxiliary_TOD_sampling_TOD_seed0 [RUN ...] --output report.html

The page holds its pictures, runs no scripts and fetches nothing: it can be mailed, opened from a
disk and printed. Runs that have not finished are shown as far as they have got.
"""

import argparse
import base64
import io
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

from PIL import Image

import command_line
import plot
import results
from results import Curve

STYLE = """
:root { color-scheme: light dark; }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2, h3 { line-height: 1.2; overflow-wrap: anywhere; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid GrayText; }
figure { margin: 1.5rem 0; }
img { max-width: 100%; height: auto; background: white; }
figcaption, caption, .note { color: GrayText; text-align: left; font-size: 0.9rem; }
.wide { overflow-x: auto; }
table {
  border-collapse: collapse; margin: 1rem 0; font-size: 0.85rem;
  font-variant-numeric: tabular-nums;
}
th, td { border-bottom: 1px solid GrayText; padding: 0.3rem 0.5rem; text-align: right; }
th:first-child { text-align: left; min-width: 10rem; }
summary { cursor: pointer; font-weight: bold; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: 0.85rem; }
@media print {
  :root { color-scheme: light; }
  body { max-width: none; margin: 0; font-size: 10pt; }
  table { font-size: 8pt; }
  figure, table, tr { break-inside: avoid; }
  h1, h2, h3, summary, caption { break-after: avoid; }
  section.run { break-before: page; }
  img { max-height: 24cm; }
  .wide { overflow: visible; }
}
"""


def page(curves: Sequence[Curve]) -> str:
    """The page about these runs, as HTML.

    Raises:
        InputError: a run's configuration cannot be read.
    """
    title = "Active learning on " + ", ".join(dict.fromkeys(c.config["dataset"] for c in curves))
    parts = [_learning_curves(curves), _diagnostics(curves)]
    parts += [_run(folder) for curve in curves for folder in curve.folders]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n<header><h1>{escape(title)}</h1></header>\n"
        f"<main>\n{''.join(parts)}</main>\n</body>\n</html>\n"
    )


def _learning_curves(curves: Sequence[Curve]) -> str:
    names = ", ".join(curve.name for curve in curves)
    figure = _figure(
        plot.rendered(plot.learning_curves(curves)),
        f"Learning curves: test accuracy against the number of labelled images, for {names}",
        "Mean and, shaded, standard deviation (of a sample, n − 1) over trials.",
    )
    tables = _table(
        results.accuracy_table(curves),
        "Test accuracy and area under the budget curve in %: mean ± standard deviation (number of "
        "trials). The area is the mean accuracy over the range of labels, of finished trials.",
    ) + _table(
        results.difference_table(curves),
        f"Difference to {curves[0].name}, in points: mean over trials paired by seed and number "
        "[95 % interval, Student's t] (number of pairs).",
    )
    notes = "".join(_note(note) for note in results.unpaired_notes(curves))
    return f"<section>\n<h2>Learning curves</h2>\n{figure}{tables}{notes}</section>\n"


def _diagnostics(curves: Sequence[Curve]) -> str:
    """How well the scores estimated the loss; '' where no run has recorded that."""
    curves = [curve for curve in curves if plot.has_diagnostics(curve)]
    if not curves:
        return ""
    figure = _figure(
        plot.rendered(plot.diagnostics(curves)),
        "Diagnostics in four panels: rank correlation of score and true loss, AUROC for "
        "misclassified images, mean true loss of queried and other images, class entropy",
        "Grey: what a random score reaches. Solid: queried images; dashed: those not queried.",
    )
    return f"<section>\n<h2>Do the scores estimate the loss?</h2>\n{figure}</section>\n"


def _run(folder: Path) -> str:
    """A run's contact sheets and configuration, open, so that they are printed too."""
    config = escape(results.read_config_text(folder))
    return (
        f'<section class="run">\n<h2>{escape(folder.resolve().name)}</h2>\n'
        f"<details open>\n<summary>Contact sheets</summary>\n{_contact_sheets(folder)}</details>\n"
        f"<details open>\n<summary>Configuration</summary>\n<pre>{config}</pre>\n</details>\n"
        "</section>\n"
    )


def _contact_sheets(folder: Path) -> str:
    """Those of the first trial that has any, in the order of the cycles."""
    sheets = {}
    for path in (folder / "queries").glob("trial*_cycle*.png"):
        found = re.fullmatch(r"trial(\d+)_cycle(\d+)", path.stem)
        if found is not None:
            sheets[int(found[1]), int(found[2])] = path
    if not sheets:
        return _note("There are none.")
    first = min(sheets)[0]
    return "".join(
        _contact_sheet(path, f"Trial {trial}, after cycle {cycle}")
        for (trial, cycle), path in sorted(sheets.items())
        if trial == first
    )


def _contact_sheet(path: Path, place: str) -> str:
    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            image.load()
    # Pillow answers a damaged file with errors of many kinds.
    except Exception:
        return _note(f"{place}: {path.name} cannot be read.")
    description = f"{place}: images that were queried and that were not, with class and score"
    return _figure(content, description, f"{place}.")


def _figure(png: bytes, description: str, caption: str) -> str:
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return (
        f'<figure>\n<img src="{source}" alt="{escape(description)}">\n'
        f"<figcaption>{escape(caption)}</figcaption>\n</figure>\n"
    )


def _table(table: Sequence[Sequence[str]], caption: str) -> str:
    """A header and rows, each beginning with what it is about; '' where there are none."""
    if not table:
        return ""
    header = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in table[0])
    rows = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
        + "</tr>\n"
        for row in table[1:]
    )
    return (
        f'<div class="wide">\n<table>\n<caption>{escape(caption)}</caption>\n'
        f"<thead><tr>{header}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table>\n</div>\n"
    )


def _note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>\n'


def main() -> None:
    """Reads the command line and writes the page."""
    parser = command_line.Parser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run's folder")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("report.html"),
        metavar="FILE",
        help="the page (default: %(default)s)",
    )
    arguments = parser.parse_args()
    if arguments.output.suffix.lower() not in (".html", ".htm"):
        parser.error(f"argument --output: {arguments.output} does not end in .html")
    html = page(results.read_runs(arguments.runs))
    # A file's name may hold bytes that are no text; they are shown as question marks.
    plot.write(arguments.output, html.encode("utf-8", "replace"))
    print(arguments.output)


if __name__ == "__main__":
    with command_line.exit_status():
        main()
