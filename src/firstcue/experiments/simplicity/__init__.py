"""When less is more: simplifying inputs aids neural network understanding (arXiv 2201.05610)."""
