"""Active learning by Temporal Output Discrepancy (Huang et al., ICCV 2021).

Trains on a few labelled images, queries labels for those images of the pool on which the network's
output still moves between cycles (--sampling TOD), and trains on; unlabelled images serve through
the COD loss (--auxiliary TOD).

Other strategies, to compare with: RANDOM; the uncertainty of the prediction by its ENTROPY, MARGIN
or LEAST_CONFIDENCE; CORESET, which covers the features; BADGE, which seeks large and diverse
gradients; BALD, where networks drawn by dropout disagree; NOISE_STABILITY, where noise on the
weights changes the prediction; TYPICLUST and PROBCOVER, typical images, for small budgets;
MAXHERDING, which leaves few images far from a label, and UHERDING, where uncertain ones count most;
BAIT, images that together tell the most about the last layer; DROPQUERY and ALFAMIX, different
images whose prediction flips under dropout, or on the way to another class; TIDAL (with --auxiliary
TIDAL), where a module that follows the training is least sure; FULL, all labels at once; LOSS, the
true loss, which is no real strategy: it is the oracle that TOD estimates, and looks at the labels
that it is to ask for.
"""

from collections.abc import Sequence

import tod.system.early_interrupt  # noqa: F401 - ahead of what takes seconds
import samplers
from losses import CODLoss, NoAuxiliary, TrainingDynamics
from tod.config import cli
from tod.config.entry_script import EntryScript, Strategy, parse
from tod.engine.launch import launch

ALL_LABELS = (
    "active_learning.initial_labels=null",
    "active_learning.initial=random",
    "active_learning.cycles=1",
)
"""What FULL means, whatever the configuration says."""
SAMPLING = {
    "RANDOM": samplers.query_at_random,
    "ENTROPY": samplers.query_by_entropy,
    "MARGIN": samplers.query_by_margin,
    "LEAST_CONFIDENCE": samplers.query_by_least_confidence,
    "CORESET": samplers.query_by_core_set,
    "BADGE": samplers.query_by_badge,
    "BALD": Strategy(samplers.query_by_bald, needs=samplers.needs_dropout),
    "NOISE_STABILITY": samplers.query_by_noise_stability,
    "TYPICLUST": Strategy(samplers.query_by_typiclust, takes_features=True),
    "PROBCOVER": Strategy(samplers.query_by_probcover, takes_features=True),
    "MAXHERDING": Strategy(samplers.query_by_maxherding, takes_features=True),
    "UHERDING": Strategy(samplers.query_by_uherding, takes_features=True),
    "BAIT": Strategy(samplers.query_by_bait, takes_features=True),
    "DROPQUERY": Strategy(samplers.query_by_dropquery, takes_features=True),
    "ALFAMIX": Strategy(samplers.query_by_alfamix, takes_features=True),
    "TIDAL": Strategy(samplers.query_by_dynamics, needs_auxiliary="TIDAL"),
    "FULL": Strategy(
        samplers.query_nothing,
        needs=samplers.needs_all_labels,
        always_with=ALL_LABELS,
    ),
    "LOSS": Strategy(samplers.query_by_true_loss, needs=samplers.needs_all_labels),
    "TOD": samplers.query_by_tod,
}
AUXILIARY = {"NONE": NoAuxiliary, "TOD": CODLoss, "TIDAL": TrainingDynamics}
SCRIPT = EntryScript("main_TOD.py", __doc__, SAMPLING, AUXILIARY, default="TOD")


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the command line, then runs the experiment."""
    launch(SCRIPT, parse(SCRIPT, argv))


if __name__ == "__main__":
    with cli.exit_status():
        main()
