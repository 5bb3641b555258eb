"""A run's folder, and what a run is to the system: its log, its ranks, the signals that it gets."""
