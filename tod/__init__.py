"""What serves the method: its loop, and the machinery that a reader of the paper need not know."""
