"""An example to label: scikit-learn's digits as pictures without labels, with a configuration.

python experiments/digits_to_label.py FOLDER
python experiments/digits_to_label.py FOLDER --answer RUN_FOLDER/batches/batch0

The first writes FOLDER/unlabeled/*.png, FOLDER/classes.txt, FOLDER/digits_to_label.yaml, and the
truth beside them, FOLDER/truth.csv. The second answers a batch from the truth, for those who would
not label it by hand.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import pandas as pd
from PIL import Image

from tod import config as configuration
from tod.config import InputError, cli
from tod.config.settings import as_yaml, flat, shortened
from tod.data.published import digits
from tod.people.requests import read_requests
from tod.system.files import as_csv, atomic_file, read_table, refuse_unwritable, write_atomically

AS_DIGITS = (
    "model.width augmentation.flip augmentation.crop_padding active_learning.query_size "
    "active_learning.subset_size training.epochs training.lr training.milestones ll4al.detach_epoch"
)
"""The settings that are those of `config/digits.yaml`."""
NAME = "digits_to_label.yaml"
TRUTH = ["file", "class"]


def write_pictures(folder: Path) -> None:
    """Writes the pictures, the classes, the truth and the configuration."""
    refuse_unwritable(folder / NAME)
    if any(folder.iterdir()) and not (folder / NAME).exists():
        raise InputError(f"{folder}: holds other files; name a folder that is new")
    dataset = digits()
    train, class_names = dataset.train, dataset.class_names
    truth = []
    for index, label in enumerate(train.labels.tolist()):
        truth.append((f"unlabeled/{index:04d}.png", class_names[label]))
        with atomic_file(folder / truth[-1][0]) as file:
            Image.fromarray(train.image(index)[0]).save(file, format="PNG")
    table = pd.DataFrame(truth, columns=TRUTH, dtype=object)
    write_atomically(folder / "truth.csv", as_csv(table))
    write_atomically(folder / "classes.txt", "".join(f"{name}\n" for name in class_names))
    digits_yaml = flat(configuration.load("digits").as_dict())
    settings = [f"{name}={digits_yaml[name]}" for name in AS_DIGITS.split()]
    config = configuration.load("own_images", ["images.size=8", *settings], str(folder))
    write_atomically(folder / NAME, as_yaml(config.as_dict()))
    print(f"{folder}: {len(truth):,} pictures to label, of {len(class_names)} classes")


def answer(folder: Path, batch: Path) -> None:
    """Writes the true labels of a batch."""
    rows = read_requests(batch / "batch.csv")
    truth = {row["file"]: row["class"] for row in read_table(folder / "truth.csv", TRUTH)}
    if unknown := [row.file for row in rows if row.file not in truth]:
        raise InputError(f"{folder / 'truth.csv'}: does not know {shortened(unknown[0])}")
    labels = [{"file": r.file, "sha256": r.sha256, "class": truth[r.file]} for r in rows]
    path = folder / f"labels_{batch.name}.csv"
    write_atomically(path, as_csv(pd.DataFrame(labels, dtype=object)))
    print(f"{path}: {len(labels)} labels")


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the command line, and writes the pictures or the answers."""
    parser = cli.Parser(description=__doc__)
    parser.add_argument("folder", type=cli.path, metavar="FOLDER", help="where the pictures go")
    parser.add_argument("--answer", type=cli.path, metavar="BATCH", help="a batch's folder")
    arguments = parser.parse_args(argv)
    if arguments.answer is None:
        write_pictures(arguments.folder)
    else:
        answer(arguments.folder, arguments.answer.resolve())


if __name__ == "__main__":
    with cli.exit_status():
        main()
