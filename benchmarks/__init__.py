"""What is measured: steps, data, memory, and how cost grows."""
