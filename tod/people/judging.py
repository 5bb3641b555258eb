"""What people's labels tell: of the network's accuracy, and of the scores it asked by."""

from collections.abc import Mapping, Sequence

import numpy as np

from losses import task_losses
from tod.analysis.diagnostics import query_diagnostics
from tod.analysis.metrics import accuracy_interval
from tod.analysis.results import AUDIT as AUDIT_COLUMNS
from tod.data.own_images import indices_of
from tod.engine.trial import Trial
from tod.people.labels import Label
from tod.people.requests import AUDIT, Request


def audit_columns(accuracy: float, count: int) -> dict[str, str]:
    """The columns of `results.csv` on an accuracy in %, measured on `count` audited images."""
    cells = (str(count), "", "")
    if count:
        cells = (str(count), *(f"{end:.4f}" for end in accuracy_interval(accuracy, count)))
    return dict(zip(AUDIT_COLUMNS, cells, strict=True))


def judged_scores(
    batch: Sequence[Request],
    labels: Mapping[str, Label],
    digests: Sequence[str],
    trial: Trial,
) -> tuple[dict[str, str], int]:
    """The diagnostics of a batch, as `query_diagnostics` gives them, over its labelled images.

    What was not queried, for these, are the audits: drawn at random.

    Args:
        batch: of a network.
        labels: that people have given.
        digests: of all images, by index.
        trial: whose network has asked for the batch, and has not trained on these labels.

    Returns:
        The columns of `results.csv`, and the number of labelled images; none, if that is 0.
    """
    by_digest = {row.sha256: row for row in batch if row.sha256 in labels}
    indices = indices_of(by_digest, digests)
    if len(indices) == 0:
        return {}, 0
    rows = [by_digest[digests[index]] for index in indices.tolist()]
    pool = trial.pool_of(indices)
    # With fresh weights, the backbone is an untrained one by now.
    logits = pool.previous_logits
    columns = query_diagnostics(
        np.array([float(row.score) for row in rows]),
        task_losses(logits, pool.labels).cpu().numpy(),
        (logits.argmax(dim=1) != pool.labels).cpu().numpy(),
        pool.labels.cpu().numpy(),
        np.array([row.reason != AUDIT for row in rows]),
    )
    return columns, len(rows)
