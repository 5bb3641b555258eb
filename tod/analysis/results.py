"""The results and configurations of runs, read for display."""

import io
import logging
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import pandas as pd

from tod import config as configuration
from tod.config.schema import DATASETS, Config, DatasetFacts
from tod.config.settings import flat, in_spans, shortened
from tod.system.files import cannot

log = logging.getLogger("tod")

ACCURACY = "test_accuracy"
METRICS = ("balanced_accuracy", "macro_f1", "nll", "ece")
DIAGNOSTICS = (
    "score_loss_spearman",
    "score_error_auroc",
    "queried_mean_loss",
    "unqueried_mean_loss",
    "queried_class_entropy",
)
COLUMNS = (
    *("trial", "cycle", "num_labeled", ACCURACY, *METRICS, "train_loss", "train_seconds"),
    *DIAGNOSTICS,
)
"""The columns of `results.csv`, in order; files of earlier versions have only the first ones."""
AUDIT = ("audited", "accuracy_low", "accuracy_high")
"""Further columns, if people label without a test set: the number of images on which the accuracy
was measured, and its 95 % interval."""
FEW_IMAGES = 30
"""With fewer images, an accuracy means little."""

NO_DIFFERENCE = {"data_dir", "active_learning.trials", "active_learning.target_accuracy"}
"""Settings in which runs that are compared may differ."""
USED_BY = {
    name: {*field.annotation.used_by}
    for name, field in Config.model_fields.items()
    if getattr(field.annotation, "used_by", ())
}
"""For each section that only some methods use, the arguments that choose them."""


def accuracy_interval(accuracy: float, count: int) -> tuple[float, float]:
    """Wilson's interval of 95 % (JASA 1927) about an accuracy on `count` images; all in %."""
    from scipy.stats import binomtest  # takes a second to import

    interval = binomtest(round(accuracy * count / 100), count).proportion_ci(0.95, "wilson")
    return 100 * interval.low, 100 * interval.high


def read_rows(path: Path) -> pd.DataFrame:
    """The rows of a `results.csv`, one for each cycle of a trial, as text.

    OSError or ValueError if it cannot be read or is truncated.
    """
    text = path.read_text(encoding="utf-8")
    rows = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
    for column, kind in {"trial": int, "cycle": int, "num_labeled": int, ACCURACY: float}.items():
        if column not in rows:
            raise ValueError(f"it has no column {column}")
        try:
            rows[column].astype(kind)  # raises where a cell is no number
        except OverflowError:
            raise ValueError(f"a number of {column} is too large") from None
    # If lines have more cells than the header, pandas takes the first ones as an index.
    if not text.endswith("\n") or not isinstance(rows.index, pd.RangeIndex):
        raise ValueError("a line has not as many cells as there are columns")
    for trial, cycles in rows["cycle"].astype(int).groupby(rows["trial"].astype(int)):
        if sorted(cycles) != [*range(1, len(cycles) + 1)]:
            raise ValueError(f"the cycles of trial {trial} are not 1, 2, 3 and so on, each once")
    if not rows[ACCURACY].astype(float).dropna().between(0, 100).all():
        raise ValueError(f"a value of {ACCURACY} is not from 0 to 100")
    return rows


@dataclass(frozen=True, eq=False)
class Curve:
    """The results of one run, or of runs that differ in the seed alone.

    `runs` has the section `run` of each run, by seed: strategy, images, machine, versions. `rows`
    are `seed` and the columns of `results.csv` as numbers; NaN for empty cells.
    """

    folders: tuple[Path, ...]
    config: dict[str, Any]
    runs: dict[int, dict[str, Any]]
    rows: pd.DataFrame
    mark: str = ""

    @property
    def run(self) -> dict[str, Any]:
        """The section `run` of the first run, whose strategy and class names are those of all."""
        return next(iter(self.runs.values()))

    @property
    def images(self) -> dict[int, Any]:
        """The fingerprint of the images by seed."""
        return {seed: run.get("data") for seed, run in self.runs.items()}

    @property
    def name(self) -> str:
        """Configuration, method and seeds; or the name that a user has given the run's folder.

        The mark distinguishes curves with the same name.
        """
        name, seeds = self.folders[0].resolve().name, self.images
        found = re.fullmatch(r"(.+)_auxiliary_\w+?_sampling_\w+_seed\d+", name)
        if found:
            name = f"{found[1]}, {self.method}"
        if found or len(seeds) > 1:
            name += f", seed{'s' * (len(seeds) > 1)} {in_spans(seeds)}"
        return shortened(name) + self.mark

    @property
    def facts(self) -> DatasetFacts:
        """The facts about the dataset; empty for one that this version does not know."""
        return DATASETS.get(self.config["dataset"], DatasetFacts())

    @property
    def training_images(self) -> int | None:
        """The number of images that could be labelled; None if it is not known."""
        return self.run.get("training_images") or self.facts.training_images

    @property
    def is_split_by_seed(self) -> bool:
        """Whether the training and test images depend on the seed."""
        settings, shares = flat(self.config), ("images.test_share", "active_learning.imbalance")
        return self.facts.split_by_seed or any(settings.get(key) is not None for key in shares)

    @property
    def labels_everything(self) -> bool:
        """Whether all training images have a label from the beginning."""
        settings = self.config["active_learning"]
        return settings.get("initial_labels", 0) is None and settings["cycles"] is not None

    @property
    def method(self) -> str:
        """The sampling strategy and the auxiliary loss."""
        losses = {"NONE": "", "TOD": " + COD loss"}
        loss = losses.get(self.run["auxiliary"], f" + {self.run['auxiliary']} loss")
        features = self.run.get("features")
        on_features = f" on features {features[:6]}" if features else ""
        return f"{self.run['sampling']} sampling{on_features}{loss}"

    @property
    def is_audited(self) -> bool:
        """Whether the accuracies were measured on images that people have audited."""
        return {*AUDIT} <= {*self.rows}

    @property
    def trials(self) -> set[tuple[int, int]]:
        """Seed and number of each trial, by which trials are paired."""
        return set(zip(self.rows["seed"], self.rows["trial"], strict=True))

    @property
    def audits(self) -> pd.DataFrame:
        """By number of labels, how many images people have audited, over all trials, and the
        accuracy on them with its 95 % interval, in %; columns `AUDIT` and `ACCURACY`.
        """
        counts = self.values(AUDIT[0])
        correct = (counts * self.values(ACCURACY) / 100).round().dropna(axis="columns", how="all")
        found = {}
        for labels, right in correct.items():
            count = int(counts.loc[right.notna(), labels].sum())
            accuracy = 100 * right.sum() / count
            found[labels] = accuracy, count, *accuracy_interval(accuracy, count)
        return pd.DataFrame.from_dict(found, "index", columns=[ACCURACY, *AUDIT])

    def values(self, column: str) -> pd.DataFrame:
        """A column by trial (rows: seed and number) and by number of labels (columns).

        Numbers of labels without any value are left out.
        """
        place = ["seed", "trial", "num_labeled"]
        # With people's labels, two cycles may have equally many: the later one counts.
        rows = self.rows.drop_duplicates(place, keep="last")
        values = rows.pivot(index=place[:2], columns=place[2], values=column)
        return values.dropna(axis="columns", how="all")

    def is_of_one_setting_with(self, other: "Curve") -> bool:
        """Whether two curves differ only in the method and its own settings."""
        return (
            all(key.split(".")[0] in USED_BY for key in self.differing_keys(other))
            and self.run.get("precision") == other.run.get("precision")
            and (self.is_split_by_seed or {*self.images.values()} == {*other.images.values()})
        )

    def is_same_but_for_the_seed(self, other: "Curve") -> bool:
        """Whether two curves differ only in their seeds."""
        method = ("sampling", "auxiliary", "precision", "features")
        return (
            not self.differing_keys(other)
            and all(self.run.get(key) == other.run.get(key) for key in method)
            and self.images.keys().isdisjoint(other.images)
            and (self.is_split_by_seed or {*self.images.values()} == {*other.images.values()})
        )

    def why_not_paired(self, first: "Curve") -> str | None:
        """Why the trials of two curves form no pairs; None if they do."""
        if self.labels_everything and not first.labels_everything:
            return "it labels everything at once"
        if keys := self.differing_keys(first):
            return f"another {keys[0]}"
        if any(self.images[s] != first.images[s] for s in self.images if s in first.images):
            return "other images"
        if self.trials.isdisjoint(first.trials):
            return "no trial of the same seed and number"
        return None

    def differing_keys(self, other: "Curve") -> list[str]:
        """The differing settings of two configurations, among those that both methods use."""
        mine, others = flat(self.config), flat(other.config)
        return [
            key
            for key in {**mine, **others}
            if mine.get(key) != others.get(key) and self._uses(key) and other._uses(key)
        ]

    def _uses(self, key: str) -> bool:
        chosen = {f"--{choice} {self.run[choice]}" for choice in ("sampling", "auxiliary")}
        users = USED_BY.get(key.split(".")[0], chosen)
        return key not in NO_DIFFERENCE and not chosen.isdisjoint(users)


def grouped(curves: Sequence[Curve], alike: Callable[[Curve, Curve], bool]) -> list[list[Curve]]:
    """The curves in groups; within a group all are alike."""
    groups: list[list[Curve]] = []
    for curve in curves:
        for group in groups:
            if all(alike(other, curve) for other in group):
                group.append(curve)
                break
        else:
            groups.append([curve])
    return groups


def split_names(names: Sequence[str]) -> tuple[str, list[str]]:
    """What all names of curves begin and end with, up to a comma; and what tells them apart.

    Seeds stay together.
    """

    def num_alike(parts: Sequence[Sequence[str]]) -> int:
        return len([*takewhile(lambda each: len({*each}) == 1, zip(*parts, strict=False))])

    parts = [re.split(r", (?!\d)", name) for name in names]
    begin, end = num_alike(parts), num_alike([each[::-1] for each in parts])
    if begin + end >= min(map(len, parts)):
        return "", list(names)
    shared = parts[0][:begin] + parts[0][len(parts[0]) - end :]
    return ", ".join(shared), [", ".join(each[begin : len(each) - end]) for each in parts]


def read_runs(folders: Sequence[Path]) -> list[Curve]:
    """The curves of several runs, in their order; runs that differ in the seed alone are pooled.

    A folder that is named twice counts once. Curves of the same name have their parent folder's
    added, or else a number. Those that label everything at once come last, since curves are
    compared with the first.
    """
    # Others that `results/*` names besides runs.
    others = [p for p in folders if p.exists() and not (p / "results.csv").exists()]
    if len(others) == len(folders):
        others = []  # the first one's error says what is wrong
    for path in others:
        why = "has no results yet" if (path / "config.yaml").exists() else "is no run's folder"
        if path.name == "results.csv":
            why += "; name the one that it lies in"
        elif any(path.glob("*/results.csv")):
            why += f"; name those in it, as {path}/* does"
        log.warning(f"{path}: is left out; it {why}")
    found = [read_run(folder) for folder in folders if folder not in others]
    found = [*{curve.folders[0].resolve(): curve for curve in found}.values()]
    curves = [*map(_pooled, grouped(found, Curve.is_same_but_for_the_seed))]
    curves.sort(key=lambda curve: curve.labels_everything)
    alike: dict[str, list[int]] = defaultdict(list)
    for place, curve in enumerate(curves):
        alike[curve.name].append(place)
    for places in (places for places in alike.values() if len(places) > 1):
        parents = [curves[place].folders[0].resolve().parent.name for place in places]
        tells_apart = len({*parents}) == len(places)
        for number, (place, parent) in enumerate(zip(places, parents, strict=True), start=1):
            mark = f" in {shortened(parent)}" if tells_apart else f" #{number}"
            curves[place] = replace(curves[place], mark=mark)
    return curves


def _pooled(curves: Sequence[Curve]) -> Curve:
    """One curve of several that differ only in the seed."""
    folders = tuple(folder for curve in curves for folder in curve.folders)
    runs = {seed: run for curve in curves for seed, run in curve.runs.items()}
    rows = pd.concat([curve.rows for curve in curves], join="inner")
    return replace(curves[0], folders=folders, runs=runs, rows=rows)


def read_run(folder: Path) -> Curve:
    """The curve of one run, which has ended a cycle at least."""
    path = folder / "results.csv"
    try:
        rows = read_rows(path)
        if rows.empty:
            raise ValueError("it holds no results yet")
        known = rows.columns.intersection([*COLUMNS, *AUDIT])
        numbers = rows[known].replace("", "nan").astype(float)
    except (OSError, ValueError) as error:
        runs = len([*folder.glob("*/results.csv")])
        among = f", as {folder}/* does: it holds {runs}" if runs else ""
        advice = f"name the folder of a run that has ended a cycle{among}"
        raise cannot(path, "read", error, advice) from None
    advice = "copy it back from where the run was made"
    config = configuration.read_run(folder, advice)
    run = config.pop("run")
    match {"training_images": None, "class_names": None, **config, **run}:
        case {
            "dataset": str(),
            "active_learning": {"cycles": int() | None},
            "seed": int(),
            "sampling": str(),
            "auxiliary": str(),
            "training_images": int() | None,
            "class_names": list() | None,
        }:
            pass
        case _:
            words = "it lacks settings, or has some of another kind"
            raise cannot(folder / "config.yaml", "read", words, advice)
    numbers = numbers.astype({"trial": int, "num_labeled": int}).assign(seed=run["seed"])
    return Curve((folder,), config, {run["seed"]: run}, numbers)
