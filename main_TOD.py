"""Active learning by Temporal Output Discrepancy (Huang et al., ICCV 2021).

Trains on a few labelled images, queries labels for those images of the pool on which the network's
output still moves between cycles (--sampling TOD), and trains on; unlabelled images serve through
the COD loss (--auxiliary TOD).

Other strategies, to compare with: RANDOM; the uncertainty of the prediction by its ENTROPY, MARGIN
or LEAST_CONFIDENCE; CORESET, which covers the features; BADGE, which seeks large and diverse
gradients; LOSS, the true loss, which is no real strategy: it is the oracle that TOD estimates, and
looks at the labels that it is to ask for.
"""

import command_line

# The last is the default.
SAMPLING = {
    "RANDOM": "query_at_random",
    "ENTROPY": "query_by_entropy",
    "MARGIN": "query_by_margin",
    "LEAST_CONFIDENCE": "query_by_least_confidence",
    "CORESET": "query_by_core_set",
    "BADGE": "query_by_badge",
    "LOSS": "query_by_true_loss",
    "TOD": "query_by_tod",
}
AUXILIARY = {"NONE": "NoAuxiliary", "TOD": "CODLoss"}


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
