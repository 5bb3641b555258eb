"""Many runs with one command: a grid of experiments, and the paper's comparison."""
