"""Packs what the tables of an experiment are made from into one small file.

python experiments/pack.py results/digits docs/results/digits.tar.xz

Of each run below the folder it takes results.csv, config.yaml, which names no place of the images
any more, and queries/, where of each image its file is left, or its index if it has none; of what
people were asked for, the files and why.
`tar -xf docs/results/digits.tar.xz -C results` unpacks it, and the command that has made the runs
makes their tables anew, with --only none.
"""

import io
import re
import sys
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import pandas as pd

from tod.analysis.results import read_run
from tod.config import InputError, cli
from tod.system.files import NAMES, as_csv, cannot, refuse_unwritable, write_atomically

DATA_DIR = r"^data_dir: .*\n(?:  .*\n)*"
"""Its lines in a run's config.yaml; a long value has several."""


def packed(folder: Path, runs: Sequence[Path]) -> bytes:
    """Runs below a folder as a tar.xz, whose paths begin with its name; the same for the same."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:xz", preset=9) as tar:
        for run in runs:
            read_run(run)  # or nobody could read the archive's
            try:
                files = [*contents(run)]
            except (OSError, ValueError, KeyError) as error:
                raise cannot(run, "packed", error, "name a folder of whole runs") from None
            for name, text in files:
                content = text.encode("utf-8", NAMES)
                entry = tarfile.TarInfo(str(run.relative_to(folder.parent) / name))
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    return archive.getvalue()


def runs_in(folder: Path) -> list[Path]:
    """The folders of runs that have ended a cycle."""
    found = sorted(path.parent for path in folder.rglob("results.csv"))
    return [run for run in found if (run / "config.yaml").exists()]


def contents(run: Path) -> Iterator[tuple[str, str]]:
    """The files of a run that go into the archive, by name."""
    yield "results.csv", (run / "results.csv").read_text(encoding="utf-8")
    config = (run / "config.yaml").read_text(encoding="utf-8")
    yield "config.yaml", re.sub(DATA_DIR, "data_dir: data\n", config, flags=re.MULTILINE)
    for path in sorted(run.glob("queries/*.csv")):
        queried = _read(path)
        yield f"queries/{path.name}", as_csv(queried[["file" if "file" in queried else "index"]])
    for path in sorted(run.glob("batches/*/batch.csv")):
        yield f"queries/{path.parent.name}.csv", as_csv(_read(path)[["file", "reason"]])


def _read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype=str, keep_default_na=False, encoding_errors=NAMES)


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the command line, and packs."""
    parser = cli.Parser(description=__doc__)
    parser.add_argument("folder", type=cli.path, metavar="FOLDER", help="with the runs' folders")
    archive = {"type": cli.file_type(".tar.xz"), "metavar": "ARCHIVE", "help": "ends in .tar.xz"}
    parser.add_argument("archive", **archive)
    arguments = parser.parse_args(argv)
    folder, archive = arguments.folder.resolve(), arguments.archive
    refuse_unwritable(archive)
    if not (runs := runs_in(folder)):
        raise InputError(f"{arguments.folder}: holds no run that has ended a cycle")
    write_atomically(archive, content := packed(folder, runs))
    print(f"{archive}: {len(content) / 1e6:.2f} MB")


if __name__ == "__main__":
    with cli.exit_status():
        main()
