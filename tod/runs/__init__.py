"""A run as files and processes: its folder, log, ranks and signals."""
