"""The loop of the method, and the machinery that a reader of the paper need not know."""

__version__ = "0.2.0"
