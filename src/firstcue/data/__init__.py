"""What there is to look at: images that ship with the package, and readers for files of every common form."""

from firstcue.data.catalogue import Entry, available, entry, prepare, write_npz
from firstcue.data.composed import fashion_dominoes, garment_dominoes
from firstcue.data.garments import fashion_mnist
from firstcue.data.images import digits, shipped
from firstcue.data.reading import read

__all__ = [
    "Entry",
    "available",
    "digits",
    "entry",
    "fashion_dominoes",
    "fashion_mnist",
    "garment_dominoes",
    "prepare",
    "read",
    "shipped",
    "write_npz",
]
