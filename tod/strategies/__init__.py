"""What strategies pick with: the pool that they look at, and the pickers."""
