"""What people's labels say of the network, and it of them: how good it is, and which it doubts."""

import logging
from collections.abc import Container, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from losses import task_losses
from tod.analysis.diagnostics import query_diagnostics
from tod.analysis.results import AUDIT as AUDIT_COLUMNS
from tod.analysis.results import FEW_IMAGES, accuracy_interval
from tod.analysis.suspects import suspects
from tod.config.settings import counted
from tod.data.own_images import UNKNOWN, indices_of
from tod.engine.trial import Experiment, Trial, Views
from tod.people.label_store import LabelStore
from tod.people.requests import AUDIT, CHECK, Request

log = logging.getLogger("tod")


def audited(accuracy: float, count: int) -> dict[str, str]:
    """Logs the accuracy in % on `count` audited images; returns its columns of `results.csv`."""
    if not count:
        log.info("no image is audited yet: the accuracy is unknown")
        return dict(zip(AUDIT_COLUMNS, ("0", "", ""), strict=True))
    low, high = (f"{end:.4f}" for end in accuracy_interval(accuracy, count))
    few = f"; under {FEW_IMAGES} images it means little" if count < FEW_IMAGES else ""
    log.info(
        f"accuracy on {counted(count, 'audited image')}: {accuracy:.1f} % "
        f"(95 % interval: {float(low):.1f} to {float(high):.1f} %){few}"
    )
    return dict(zip(AUDIT_COLUMNS, (str(count), low, high), strict=True))


def diagnostics(
    scores: np.ndarray, logits: Tensor, labels: Tensor, is_queried: np.ndarray
) -> dict[str, str]:
    """`query_diagnostics` of images with these scores (N,), logits (N, C) and labels (N,)."""
    losses, is_wrong = task_losses(logits, labels), logits.argmax(dim=1) != labels
    of_images = (tensor.cpu().numpy() for tensor in (losses, is_wrong, labels))
    return query_diagnostics(scores, *of_images, is_queried)


def judged_scores(
    batch: Sequence[Request], labels: Container[str], digests: Sequence[str], trial: Trial
) -> dict[str, str]:
    """The `query_diagnostics` of a batch, over its labelled images.

    The audits, drawn at random, stand for the images that were not queried; checks had a label
    before. The network of `trial` asked for the batch and has not yet trained on its labels.
    `digests` holds those of all images, by index.
    """
    asked = [request for request in batch if request.reason != CHECK]
    by_digest = {request.sha256: request for request in asked if request.sha256 in labels}
    indices = indices_of(by_digest, digests)
    if len(indices) == 0:
        return {}
    requests = [by_digest[digests[index]] for index in indices.tolist()]
    pool = trial.pool_of(indices)
    # With fresh weights, the backbone is untrained by now.
    logits = pool.previous_logits
    scores = np.array([float(request.score) for request in requests])
    is_queried = np.array([request.reason != AUDIT for request in requests])
    columns = diagnostics(scores, logits, pool.labels, is_queried)
    found = columns["score_loss_spearman"]
    shown = f"{float(found):.2f}" if found else "unknown"
    log.info(
        f"batch {batch[0].batch}: Spearman correlation of score and true loss {shown} over "
        f"{counted(len(requests), 'labelled image')}, before training on them"
    )
    return columns


def doubted(store: LabelStore, digests: Sequence[str], trial: Trial, writes: bool) -> list[int]:
    """The images whose label is perhaps wrong and unchecked so far, the most doubtful first.

    Rank 0 alone computes and `writes` the list; `digests` holds those of all images, by index.
    """
    dataset, checked = trial.experiment.dataset, store.checked()
    indices = np.flatnonzero(dataset.train.labels != UNKNOWN)
    labels = dataset.train.labels[indices].numpy()
    found = trial.experiment.ranks.from_main(
        lambda: suspects(_inputs(indices, trial.experiment), labels)
    )
    rows = [
        (index, dataset.class_names[suggested], probability)
        for index, suggested, probability in zip(
            indices[found.places].tolist(), *(each.tolist() for each in found[1:]), strict=True
        )
        if digests[index] not in checked
    ]
    if writes:
        store.write_suspects((digests[index], *others) for index, *others in rows)
    return [index for index, *_ in rows]


def _inputs(indices: np.ndarray, experiment: Experiment) -> np.ndarray:
    """What the networks see of images, (N, F): features, or pixels, averaged to 32×32 at most.

    The features of a network that learns from the pixels are no witness: it has learnt the wrong
    labels too.
    """
    views = Views(experiment, experiment.train_images, torch.from_numpy(indices))
    found = [
        batch
        if batch.ndim == 2
        else adaptive_avg_pool2d(batch, min(batch.shape[-1], 32)).flatten(1)
        for batch in views()
    ]
    return torch.cat(found).float().cpu().numpy()
