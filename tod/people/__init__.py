"""People's labels: batches to label, and the answers."""
