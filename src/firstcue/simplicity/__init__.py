"""How simple an input is, in bits, and what is left of it when a classifier keeps only what it needs."""
