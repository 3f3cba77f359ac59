"""Memory that one step frees is kept for the next, instead of going back to the system."""

import torch

LARGEST = 31 * 2**20
"""Bytes; blocks above 32 MiB move no threshold."""


def keep_freed() -> None:
    """Let the C library hold on to up to 62 MiB of what a step of training frees.

    glibc returns free memory above a threshold that follows the largest block freed so far, and every page that a step asks
    for again costs a page fault. One block that is freed untouched takes the threshold to its end. Other libraries, and a
    glibc whose thresholds the user has set, do as before.

    Source:
        mallopt(3), "dynamic mmap threshold". Measured with `benchmarks/simplicity.py training`: 5,000 page faults in a step
        of `lookahead`, an eighth of its time.

    Example:
        >>> keep_freed()
    """
    torch.empty(LARGEST, dtype=torch.uint8, device="cpu")
