"""What the operating system gives: files, locks, cores and memory."""
