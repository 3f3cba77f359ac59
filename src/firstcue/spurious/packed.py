"""Signs as bits: a row of +1 and -1 is kept as one 64-bit word, in which a set bit stands for -1.

A whole row is then drawn, compared and repaired in one integer operation, and becomes floats only at the end, by a table of
the 256 bytes.
"""

import numpy as np
from jaxtyping import Bool, Float32, UInt64

Words = UInt64[np.ndarray, " n"]
"""One row of at most 64 signs each; bit j stands for coordinate j."""

MOST_BITS = 64

_BYTES = (1 - 2 * ((np.arange(256)[:, None] >> np.arange(8)) & 1)).astype(np.float32)
"""`(256, 8)` the signs of every byte, lowest bit first."""


def low_bits(count: int) -> np.uint64:
    """The word whose lowest `count` bits are set."""
    return np.uint64((1 << count) - 1)


def words_of(signs: np.ndarray) -> Words:
    """Rows of signs `(n, k)`, k at most 64, as words."""
    bits = np.zeros((len(signs), MOST_BITS), dtype=bool)
    bits[:, : signs.shape[1]] = signs < 0
    return np.packbits(bits, axis=1, bitorder="little").view("<u8")[:, 0].astype(np.uint64)


def signs_of(words: Words, size: int) -> Float32[np.ndarray, "n k"]:
    """Words as rows of `size` signs."""
    signs = np.empty((len(words), size), dtype=np.float32)
    write_signs(words, signs)
    return signs


def write_signs(words: Words, out: Float32[np.ndarray, "n k"]) -> None:
    """Put the signs of words into the columns of `out`."""
    size = out.shape[1]
    width = -(-size // 8)
    if width == 0 or len(words) == 0:
        return
    octets = words.astype("<u8", copy=False).view(np.uint8).reshape(len(words), 8)[:, :width]
    if size == 8 * width and out.flags.c_contiguous:
        np.take(_BYTES, octets, axis=0, out=out.reshape(len(words), width, 8), mode="clip")
    else:
        out[...] = np.take(_BYTES, octets, axis=0, mode="clip").reshape(len(words), 8 * width)[:, :size]


def count_negative(words: Words, mask: np.uint64) -> np.ndarray:
    """`(n,)` how many of the coordinates in `mask` are -1."""
    return np.bitwise_count(words & mask)


def running_products(words: Words, size: int) -> Words:
    """Bit j of the result stands for the product of the coordinates 0 to j."""
    shift = 1
    while shift < size:
        words = words ^ (words << np.uint64(shift))
        shift *= 2
    return words


def flipped(words: Words, rows: Bool[np.ndarray, " n"], mask: np.uint64) -> Words:
    """The same words with the signs in `mask` changed in some rows."""
    return words ^ (rows.astype(np.uint64) * mask)


def random_words(rng: np.random.Generator, n: int) -> Words:
    """`n` words of 64 fair coins."""
    return rng.bit_generator.random_raw(n)
