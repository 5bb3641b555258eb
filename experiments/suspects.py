"""How well wrong labels are found: some of a folder's labels are flipped, and looked for.

python experiments/suspects.py FOLDER --classes 20 --alike

FOLDER holds a folder of pictures for each class. Where k labels are flipped, the precision of a
ranking is that of its first k labels, its recall that of its first 2k; means over five draws. Where
cleanlab is installed, its rankings and its list stand beside ours, on the same probabilities.
"""

import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from scipy.spatial.distance import cdist
from sklearn.preprocessing import normalize

from models.extractor import LITE0, Extractor
from tod.analysis.suspects import out_of_sample
from tod.config import InputError, cli
from tod.data import extraction, picture
from tod.data.listing import listed, refuse

SHARES, DRAWS = (0.01, 0.05, 0.1), 5
"""The shares of the labels that are flipped; of pictures and flips."""


def features_of(folder: Path, files: Sequence[str], extractor: Extractor) -> np.ndarray:
    """The features (N, F) of files, kept in a hidden file of the folder."""
    problems: list[str] = []
    pictures = extraction.pictures_in(folder, files, extractor.side, picture.as_shown, problems)
    store = extraction.store_of(folder, "image_folder", pictures, extractor)
    kept, failures = extraction.load(store, pictures, extractor, torch.device("cpu"))
    refuse(problems + [f"{folder / files[index]}: {why}" for index, why in failures.items()])
    return kept.values[kept.rows]


def found(probabilities: np.ndarray, labels: np.ndarray) -> tuple[dict, dict]:
    """Rankings, whose lowest values are the most doubtful, and lists of labels (N,), by name."""
    own = probabilities[np.arange(len(labels)), labels]
    means = np.array([own[labels == c].mean() for c in range(probabilities.shape[1])])
    rankings = {"self-confidence": own, "beside its class's mean": own - means[labels]}
    lists = {"predicted otherwise": probabilities.argmax(axis=1) != labels}
    with suppress(ImportError):
        from cleanlab.filter import find_label_issues
        from cleanlab.rank import get_label_quality_scores as scores

        for method in ("self_confidence", "normalized_margin", "confidence_weighted_entropy"):
            rankings[f"cleanlab {method}"] = scores(labels, probabilities, method=method)
        lists["cleanlab find_label_issues"] = find_label_issues(labels, probabilities)
    return rankings, lists


def most_alike(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """For each class (C,) another one, with the nearest mean of the features of unit length."""
    means = [normalize(features)[labels == c].mean(axis=0) for c in range(labels.max() + 1)]
    distances = cdist(means, means)
    np.fill_diagonal(distances, np.inf)
    return distances.argmin(axis=1)


def figures_of(
    features: np.ndarray, truth: np.ndarray, share: float, alike: bool, seed: int
) -> dict:
    """The figures of each ranking and list, by name, after flips drawn by the seed."""
    random, labels = np.random.default_rng(seed), truth.copy()
    count = max(round(share * len(truth)), 1)
    wrong, num_classes = random.choice(len(truth), count, replace=False), truth.max() + 1
    labels[wrong] = (truth[wrong] + random.integers(1, num_classes, count)) % num_classes
    if alike:
        labels[wrong] = most_alike(features, truth)[truth[wrong]]
    rankings, lists = found(out_of_sample(features, labels), labels)
    figures, is_wrong = {}, labels != truth
    for name, scores in rankings.items():
        in_order = is_wrong[np.argsort(scores, kind="stable")]
        figures[name] = (count, in_order[:count].mean(), in_order[: 2 * count].sum() / count)
    for name, is_listed in lists.items():
        hits = (is_wrong & is_listed).sum()
        figures[name] = (is_listed.sum(), hits / max(is_listed.sum(), 1), hits / count)
    return figures


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the command line and prints the tables."""
    parser = cli.Parser(description=__doc__)
    parser.add_argument("folder", type=cli.path, metavar="FOLDER")
    for name, default in (("--classes", 10), ("--labels", 300), ("--size", None)):
        least = partial(cli.whole_number, minimum=2 if default else 32, maximum=10**6)
        parser.add_argument(
            name, type=least, default=default, help=f"default: {default or 'its own'}"
        )
    parser.add_argument("--alike", action="store_true", help="flip to the class most alike")
    arguments = parser.parse_args(argv)
    problems: list[str] = []
    scan = listed(arguments.folder, problems)
    refuse(problems)
    files, classes = np.array([*scan.labels]), np.array([*scan.labels.values()])
    extractor, draws = Extractor(LITE0, arguments.size), []
    for seed in range(DRAWS):
        random = np.random.default_rng(seed)
        chosen = np.sort(random.permutation(len(scan.class_names))[: arguments.classes])
        places = random.permutation(np.flatnonzero(np.isin(classes, chosen)))[: arguments.labels]
        truth = np.searchsorted(chosen, classes[places])
        if np.bincount(truth, minlength=arguments.classes).min() < 5:
            raise InputError(f"{arguments.folder}: a class has under 5 labels; ask for others")
        draws.append((features_of(arguments.folder, files[places].tolist(), extractor), truth))
    for share in SHARES:
        print(f"\n| {share:.0%} flipped | labels | precision | recall |\n|---|--:|--:|--:|")
        each = [figures_of(*draw, share, arguments.alike, seed) for seed, draw in enumerate(draws)]
        for name in each[0]:
            first, *others = np.mean([figures[name] for figures in each], axis=0)
            print(f"| {name} | {first:.0f} |", " | ".join(f"{x:.0%}" for x in others), "|")


if __name__ == "__main__":
    with cli.exit_status():
        main()
