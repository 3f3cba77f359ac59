"""Complexity matters: the dynamics of feature learning under spurious correlations (arXiv 2403.03375)."""
