"""The pool of a sampling strategy, and the pickers of images."""
