"""The loop of the method, and the machinery that a reader of the paper need not know."""
