"""Edits of representations that remove a concept: from what a linear probe can read, or from all first and second moments."""
