"""Active learning by Temporal Output Discrepancy (Huang et al., ICCV 2021).

Trains on a few labelled images, queries labels for those images of the pool on which the network's
output still moves between cycles (--sampling TOD), and trains on; unlabelled images serve through
the COD loss (--auxiliary TOD).
"""

import command_line

SAMPLING = {"RANDOM": "query_at_random", "TOD": "query_by_tod"}
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
