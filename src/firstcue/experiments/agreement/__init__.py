"""Claims of "Learning explanations that are hard to vary" (arXiv 2009.00329), run again."""
