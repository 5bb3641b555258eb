"""Learning Loss for Active Learning, LL4AL (Yoo & Kweon, CVPR 2019), the baseline of TOD.

Trains on a few labelled images, queries labels for those images of the pool for which a
loss-prediction module predicts the largest loss (--sampling LL4AL), and trains on; the module's
ranking loss trains the backbone too (--auxiliary LL4AL).
"""

from collections.abc import Sequence

import tod.system.early_interrupt  # noqa: F401 - ahead of what takes seconds
import samplers
from losses import DetachedLossPrediction, LossPrediction
from tod.config import cli
from tod.config.entry_script import EntryScript, parse
from tod.engine.launch import launch

SAMPLING = {"RANDOM": samplers.query_at_random, "LL4AL": samplers.query_by_predicted_loss}
AUXILIARY = {"NONE": DetachedLossPrediction, "LL4AL": LossPrediction}
SCRIPT = EntryScript("main_LL4AL.py", __doc__, SAMPLING, AUXILIARY, default="LL4AL")


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the command line, then runs the experiment."""
    launch(SCRIPT, parse(SCRIPT, argv))


if __name__ == "__main__":
    with cli.exit_status():
        main()
