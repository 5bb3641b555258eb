"""How near people's run is to the accuracy that they want, and when it has got there."""

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch

import models
from models.inference import logits_alone
from tod.analysis import forecast
from tod.analysis.results import ACCURACY, AUDIT, accuracy_interval, read_run
from tod.config import Config
from tod.config.settings import counted
from tod.engine.trial import Trial, Views

log = logging.getLogger("tod")

LEVELS = (80, 90, 95, 99)
"""Accuracies in % of which the next one is forecast where there is no target."""
SAMPLE = 1000
"""Bloodgood and Vijay-Shanker have 2,000; so many give a κ of 0.99 to about ±0.003."""


def evidence(row: Mapping[str, str], config: Config, num_test: int) -> str:
    """What shows that a row of results has reached the target; '' if there is nothing.

    The lower end of the 95 % interval has to pass it. `num_test` is the size of the test set.
    """
    target = config.active_learning.target_accuracy
    accuracy, count = float(row.get(ACCURACY, "nan")), int(row.get(AUDIT[0]) or num_test)
    if target is None or accuracy != accuracy:
        return ""
    low, high = accuracy_interval(accuracy, count)
    if low < target:
        return ""
    kind = "audited image" if row.get(AUDIT[0]) else "test image"
    return (
        f"the target of {target:g} % is reached: {accuracy:.1f} % on {counted(count, kind)} (95 % "
        f"interval: {low:.1f} to {high:.1f} %)"
    )


def say(
    run_folder: Path, config: Config, reached: str, disputed: int, kappa: float | None = None
) -> None:
    """Logs that the target is reached, or how many labels it, or the next of `LEVELS`, takes.

    `disputed` is the number of images about which people disagree.
    """
    agrees = [] if kappa is None else [f"Cohen's κ with the previous round's network: {kappa:.3f}"]
    if reached:
        open_ones = [f"people disagree about {counted(disputed, 'image')}"] if disputed else []
        log.info(
            f"{'; '.join([reached, *agrees, *open_ones])}; no more labels are asked for. The same "
            "command goes on with --set active_learning.target_accuracy=null, or with a higher one"
        )
        return
    curve = read_run(run_folder)
    measured = curve.rows[ACCURACY].iloc[-1]
    next_level = next((level for level in LEVELS if not measured >= level), None)
    target = config.active_learning.target_accuracy or next_level
    said = [forecast.in_words(curve, target)] if target else []
    if said or agrees:
        log.info("; ".join([*said, *agrees]))


def agreement(trial: Trial) -> float | None:
    """Cohen's κ between what this cycle's network and the previous one predict; None in the first.

    It is taken over the images that come first by their digests: a random sample that stays the
    same, whatever comes to it, as long as there are enough (Bloodgood & Vijay-Shanker, CoNLL 2009).
    All ranks take part.
    """
    if trial.cycle == 1:  # an untrained network stands in for the previous one
        return None
    from sklearn.metrics import cohen_kappa_score  # takes seconds

    experiment = trial.experiment
    sample = torch.arange(min(SAMPLE, len(experiment.dataset.train)))
    views = Views(experiment, experiment.train_images, sample)
    first, second = (
        experiment.run(models.fold_batch_norm(network), logits_alone, views)[0].argmax(dim=1)
        for network in (trial.previous, trial.backbone)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where both predict one class for all, there is no κ
        kappa = float(cohen_kappa_score(first.cpu().numpy(), second.cpu().numpy()))
    return kappa if kappa == kappa else 1.0
