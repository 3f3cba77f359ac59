"""Models over time: one training loop, recorders, checkpoints, and repair of the last layer."""
