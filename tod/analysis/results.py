"""What runs have left in `results.csv` and `config.yaml`, read for display."""

import io
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from tod import config as configuration
from tod.config import InputError
from tod.config.schema import TRAINING_SET_SIZES
from tod.config.settings import flat, shortened
from tod.system.files import reason

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
PLACE = ("trial", "cycle", "num_labeled")
COLUMNS = (*PLACE, ACCURACY, *METRICS, "train_loss", "train_seconds", *DIAGNOSTICS)
"""Those of `results.csv`, in order; an earlier version's has only the first of them."""
AUDIT = ("audited", "accuracy_low", "accuracy_high")
"""Further ones, where people label and there is no test set: on how many images the accuracy was
measured, and its 95 % interval."""

NO_DIFFERENCE = {"data_dir", "active_learning.trials"}
"""Settings in which runs that are compared may differ."""


def read_rows(path: Path) -> pd.DataFrame:
    """The rows of a `results.csv`, a cycle of a trial each, as the text that stands there.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no such file, or a part of one.
    """
    text = path.read_text(encoding="utf-8")
    rows = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
    for column, kind in {"trial": int, "cycle": int, "num_labeled": int, ACCURACY: float}.items():
        if column not in rows:
            raise ValueError(f"it has no column {column}")
        rows[column].astype(kind)  # raises where a cell is no number
    # Where a line has more cells than the header, pandas takes the first ones for an index.
    if not text.endswith("\n") or not isinstance(rows.index, pd.RangeIndex):
        raise ValueError("a line has not as many cells as there are columns")
    if rows.duplicated(["trial", "cycle"]).any():
        raise ValueError("a cycle of a trial occurs twice")
    return rows


@dataclass(frozen=True, eq=False)
class Curve:
    """The results of one run, or of runs that differ in the seed alone.

    Attributes:
        name: what a legend calls it.
        folders: of the runs.
        config: the configuration, without what the run added.
        run: what the first run added: strategy, seed, class names, versions.
        images: by seed, what identifies the images used.
        rows: `seed`, and the columns of `results.csv` as numbers; NaN where a cell is empty.
    """

    name: str
    folders: tuple[Path, ...]
    config: dict[str, Any]
    run: dict[str, Any]
    images: dict[int, Any]
    rows: pd.DataFrame

    @property
    def training_images(self) -> int | None:
        """How many images a label could be bought for; None where that is not known."""
        return self.run.get("training_images") or TRAINING_SET_SIZES.get(self.config["dataset"])

    @property
    def is_split_by_seed(self) -> bool:
        """Whether another seed has other training and test images."""
        test_share = self.config.get("images", {}).get("test_share")
        imbalance = self.config["active_learning"].get("imbalance")
        is_drawn = test_share is not None or imbalance is not None
        return self.config["dataset"] == "caltech101" or is_drawn

    @property
    def labels_everything(self) -> bool:
        """Whether all training images have a label from the beginning."""
        settings = self.config["active_learning"]
        return settings.get("initial_labels", 0) is None and settings["cycles"] is not None

    @property
    def method(self) -> str:
        """The sampling strategy and the auxiliary loss."""
        return _method(self.run)

    @property
    def losses(self) -> dict[str, bool]:
        """By section of the configuration that is for a loss alone, whether the run has that."""
        return {
            "cod": self.run["auxiliary"] == "TOD",
            "ll4al": "LL4AL" in (self.run["sampling"], self.run["auxiliary"]),
        }

    @property
    def setting(self) -> dict[str, Any]:
        """All that methods must share to be compared: equal ones form a class.

        Settings of a loss are the method's, and the number of trials is how often it was tried.
        """
        of_all = {
            key: value
            for key, value in flat(self.config).items()
            if key not in NO_DIFFERENCE and key.split(".")[0] not in self.losses
        }
        images = None if self.is_split_by_seed else {*self.images.values()}
        return {**of_all, "precision": self.run.get("precision"), "images": images}

    @property
    def is_audited(self) -> bool:
        """Whether the accuracies were measured on images that people have audited."""
        return {*AUDIT} <= {*self.rows}

    @property
    def trials(self) -> set[tuple[int, int]]:
        """Seed and number of each trial: what it shares with the one it is paired with."""
        return set(zip(self.rows["seed"], self.rows["trial"], strict=True))

    def values(self, column: str) -> pd.DataFrame:
        """A column by trial (rows: seed and number) and by number of labels (columns).

        NaN is what has no value; a number of labels at which no trial has any is left out.
        """
        place = ["seed", "trial", "num_labeled"]
        # Where people label, two cycles may have as many labels: the later one counts.
        rows = self.rows.drop_duplicates(place, keep="last")
        values = rows.pivot(index=place[:2], columns=place[2], values=column)
        return values.dropna(axis="columns", how="all")

    def pooled(self, other: "Curve") -> "Curve":
        """Both curves, which differ in the seeds alone, as one."""
        images = {**self.images, **other.images}
        return replace(
            self,
            name=_name(self.folders[0], self.run, sorted(images)),
            folders=(*self.folders, *other.folders),
            images=images,
            rows=pd.concat([self.rows, other.rows], join="inner"),
        )

    def same_but_for_the_seed(self, other: "Curve") -> bool:
        """Whether two curves are of one method, configuration and dataset, from other seeds."""
        images = {*self.images.values(), *other.images.values()}
        method = ("sampling", "auxiliary", "precision", "features")
        return (
            not self.differing_keys(other)
            and all(self.run.get(key) == other.run.get(key) for key in method)
            and self.images.keys().isdisjoint(other.images)
            and (len(images) == 1 or self.is_split_by_seed)
        )

    def why_not_paired(self, first: "Curve") -> str | None:
        """Why the trials of two curves form no pairs; None where they do."""
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
        """The settings in which two configurations differ, but for where the images lie.

        The number of trials is no difference: those there are in both are paired. Nor are settings
        of a loss that one of the two does without.
        """
        a, b = flat(self.config), flat(other.config)
        mine, others = self.losses, other.losses
        not_shared = {loss for loss in mine if not (mine[loss] and others[loss])}
        return [
            k
            for k in {**a, **b}
            if k not in NO_DIFFERENCE and k.split(".")[0] not in not_shared and a.get(k) != b.get(k)
        ]


def read_runs(folders: Sequence[Path]) -> list[Curve]:
    """The curves of several runs, in their order; runs that differ in the seed alone are pooled.

    Curves of the same name are numbered. Those that label everything at once come last: others are
    compared with the first.

    Raises:
        InputError: a folder holds no run, or its files are damaged.
    """
    # What lies among runs where all of a folder are named, as by results/*.
    others = [p for p in folders if p.exists() and not (p / "results.csv").exists()]
    if len(others) == len(folders):
        others = []  # the first of them says what is wrong
    for path in others:
        has_begun = (path / "config.yaml").exists()
        why = "has no results yet" if has_begun else "is no run's folder"
        log.warning(f"{path}: {why}, and is left out")
    curves: list[Curve] = []
    for curve in map(read_run, (folder for folder in folders if folder not in others)):
        for i, other in enumerate(curves):
            if other.same_but_for_the_seed(curve):
                curves[i] = other.pooled(curve)
                break
        else:
            curves.append(curve)
    curves.sort(key=lambda curve: curve.labels_everything)
    names = [curve.name for curve in curves]
    for i, name in enumerate(names):
        if names.count(name) > 1:
            curves[i] = replace(curves[i], name=f"{name} #{names[: i + 1].count(name)}")
    return curves


def read_run(folder: Path) -> Curve:
    """The curve of one run, finished or not.

    Raises:
        InputError: the folder holds no run that has ended a cycle, or its files are damaged.
    """
    path = folder / "results.csv"
    try:
        rows = read_rows(path)
        if rows.empty:
            raise ValueError("it holds no results yet")
        numbers = (
            rows[rows.columns.intersection([*COLUMNS, *AUDIT])].replace("", "nan").astype(float)
        )
    except (OSError, ValueError) as error:
        runs = len([*folder.glob("*/results.csv")])
        advice = f", as {folder}/* does: it holds {runs}" if runs else ""
        raise InputError(
            f"{path}: cannot be read ({reason(error)}); "
            f"name the folder of a run that has ended a cycle{advice}"
        ) from None
    advice = "copy it back from where the run was made"
    config = configuration.read_run(folder, advice)
    run = config.pop("run")
    settings, choices = {"dataset", "active_learning"}, {"seed", "sampling", "auxiliary"}
    if not (settings <= config.keys() and choices <= run.keys()):
        raise InputError(f"{folder / 'config.yaml'}: cannot be read (it lacks settings); {advice}")
    return Curve(
        name=_name(folder, run, [run["seed"]]),
        folders=(folder,),
        config=config,
        run=run,
        images={run["seed"]: run.get("data")},
        rows=numbers.astype({"trial": int, "num_labeled": int}).assign(seed=run["seed"]),
    )


def _name(folder: Path, run: dict[str, Any], seeds: list[int]) -> str:
    """Configuration, sampling strategy, auxiliary loss and seeds; or the name a user gave it."""
    name = folder.resolve().name
    if found := re.fullmatch(r"(.+)_auxiliary_\w+?_sampling_\w+_seed\d+", name):
        name = f"{found[1]}, {_method(run)}"
    elif len(seeds) == 1:
        return shortened(name)
    plural = "s" if len(seeds) > 1 else ""
    return shortened(f"{name}, seed{plural} {', '.join(map(str, seeds))}")


def _method(run: dict[str, Any]) -> str:
    losses = {"NONE": "", "TOD": " + COD loss"}
    loss = losses.get(run["auxiliary"], f" + {run['auxiliary']} loss")
    features = f" on features {run['features'][:6]}" if run.get("features") else ""
    return f"{run['sampling']} sampling{features}{loss}"
