"""Classifies image files with the network of a run.

python predict.py RUN_FOLDER photos/unlabeled --output predictions.csv

Writes a line for each image file below the folder, at any depth: its name relative to the folder,
the class, and the network's probability for it; of a run that people label, also what they have
said of it. The pictures are read as the run's were.
"""

from collections.abc import Sequence
from pathlib import Path

import tod.system.early_interrupt  # noqa: F401 - ahead of what takes seconds
from tod.config import cli
from tod.runs.folder import refuse_output
from tod.system.files import as_csv, write_atomically


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the command line and writes the predictions."""
    parser = cli.Parser(description=__doc__)
    add = parser.add_argument
    add("run", type=cli.path, metavar="RUN_FOLDER", help="the run's folder")
    add("folder", type=cli.path, metavar="FOLDER", help="where the images lie")
    table = {"type": cli.file_type(".csv"), "metavar": "FILE", "help": "default: %(default)s"}
    add("--output", default=Path("predictions.csv"), **table)
    weights = "the run's weights (default: of the last cycle of its first trial)"
    add("--weights", type=cli.path, metavar="FILE", help=weights)
    add("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")
    arguments = parser.parse_args(argv)
    refuse_output(arguments.output)

    from tod.engine import device as devices
    from tod.engine.prediction import predictions

    with devices.explain_out_of_memory():
        device = devices.select_device(arguments.device)
        devices.prepare(device, "fp32", deterministic=False)
        table = predictions(arguments.run, arguments.weights, arguments.folder, device)
    write_atomically(arguments.output, as_csv(table))
    print(f"{arguments.output}: {len(table):,} images")


if __name__ == "__main__":
    with cli.exit_status():
        main()
