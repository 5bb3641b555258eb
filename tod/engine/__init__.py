"""The experiment: its driver and loop, a trial, the training step, ranks and devices."""
