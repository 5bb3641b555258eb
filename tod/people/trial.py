"""A trial whose images come and go."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from tod.data.own_images import UNKNOWN, indices_of
from tod.engine.trial import Experiment, Trial


class PeopleTrial(Trial):
    """The only trial of a run that people label; its saved state knows images by their digests.

    Args:
        experiment: its data and settings.
        digests: of all images, by index.
        is_in_pool: which images may be asked for, (N,) bool: COD trains on them.

    Attributes:
        trained: the fingerprint of what the last cycle that has begun is trained on.
        num_batches: how many batches there were when it began.
        num_written: how many there are now.
    """

    def __init__(
        self, experiment: Experiment, digests: Sequence[str], is_in_pool: np.ndarray
    ) -> None:
        super().__init__(experiment, 1, labeled=np.empty(0, np.int64))
        self.digests = digests
        self.is_in_pool = is_in_pool
        self.trained = ""
        self.num_batches = self.num_written = 0

    @property
    def unlabeled(self) -> np.ndarray:
        """Indices of all images that may be asked for, in order."""
        return np.flatnonzero(self.is_in_pool)

    def state_dict(self) -> dict[str, Any]:
        """All that this or a later round needs."""
        labeled = [self.digests[index] for index in self.labeled.tolist()]
        names = ("trained", "num_batches", "num_written", "draws_from_pool")
        own = {name: getattr(self, name) for name in names}
        return {**super().state_dict(), "labeled": labeled, **own}

    @property
    def draws_from_pool(self) -> bool:
        """Whether a step has unlabelled images too."""
        return self.learner.draws_from(self.unlabeled)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave; images that have lost their label since, or have gone
        themselves, are left out.

        The epoch that was under way begins anew where its other steps would be of another kind:
        in other batches of labelled images, or with unlabelled ones where it had none, or the
        other way round. Otherwise it goes on; each step draws its unlabelled images by itself,
        from the pool as it is now.

        Raises:
            KeyError: another version has saved it.
        """
        labeled = indices_of(state["labeled"], self.digests)
        labeled = labeled[(self.experiment.dataset.train.labels[labeled] != UNKNOWN).numpy()]
        super().load_state_dict({**state, "labeled": torch.from_numpy(labeled)})
        self.trained, self.num_batches = state["trained"], state["num_batches"]
        self.num_written = state.get("num_written", self.num_batches)
        # Earlier versions have not saved whether there was a pool.
        has_same_losses = state.get("draws_from_pool") == self.draws_from_pool
        if len(labeled) < len(state["labeled"]) or not has_same_losses:
            self.learner.restart_epoch()

    def end_cycle(self) -> None:
        """Waits for labels, with this cycle's network as the next one's beginning."""
        self.labeled = self.labeled[:0]
        self.start_next_cycle()
