"""Learning Loss for Active Learning, LL4AL (Yoo & Kweon, CVPR 2019), the baseline of TOD.

Trains on a few labelled images, queries labels for those images of the pool for which a
loss-prediction module predicts the largest loss (--sampling LL4AL), and trains on; the module's
ranking loss trains the backbone too (--auxiliary LL4AL).
"""

import command_line

SAMPLING = {"RANDOM": "query_at_random", "LL4AL": "query_by_predicted_loss"}
AUXILIARY = {"NONE": "DetachedLossPrediction", "LL4AL": "LossPrediction"}


def main() -> None:
    """Reads the command line, then runs the experiment."""
    run = command_line.parse_arguments(__doc__, SAMPLING, AUXILIARY)

    # Torch takes seconds to import, so nothing imports it before there is work to do.
    import active_learning
    import samplers
    import training

    active_learning.run_experiment(
        run,
        sampling=getattr(samplers, SAMPLING[run.sampling]),
        auxiliary=getattr(training, AUXILIARY[run.auxiliary]),
    )


if __name__ == "__main__":
    with command_line.exit_status():
        main()
