"""What there is to look at: images that ship with the package, and readers for files of every common form."""

from firstcue.data.images import digits, shipped

__all__ = ["digits", "shipped"]
