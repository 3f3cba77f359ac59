"""What charts of a report need beside single numbers: the curves of a spectrum, and how many weights groups agree on."""

from typing import Any

import numpy as np

from firstcue.agreement.coherence import Agreement
from firstcue.richness.spectrum import Spectrum

MOST_POINTS = 40
"""Points of a curve over the directions of wide features, spread evenly over their logarithm."""


def spectra(by_class: Spectrum, by_cue: Spectrum | None = None, cue: str | None = None) -> dict[str, Any] | None:
    """Width of the directions of the features, and the shares that the widest of them hold; None without curves.

    Args:
        by_class: The spectrum with the class as target.
        by_cue: The same features with the cue as target.
        cue: Its name.

    Returns:
        `directions` counted from the widest, and at each of them `size`, `targets` by name and `head`.

    Example:
        >>> from firstcue.richness.spectrum import feature_spectrum
        >>> x = np.random.default_rng(0).normal(size=(60, 3)) * [3, 2, 1]
        >>> spectra(feature_spectrum(x, x[:, :2], x[:, 0] > 0))["directions"]
        [1, 2, 3]
    """
    size = np.asarray(by_class.size, dtype=np.float64)
    if not len(size):
        return None
    spread = np.geomspace(1, len(size), MOST_POINTS).round().astype(int)
    at = np.arange(1, len(size) + 1) if len(size) <= MOST_POINTS else np.unique(spread)
    targets = {"class": by_class.quality} | ({cue: by_cue.quality} if by_cue is not None and cue is not None else {})
    return {
        "directions": at.tolist(),
        "size": _at(size, at),
        "targets": {name: _at(values, at) for name, values in targets.items()},
        "head": _at(by_class.use, at),
    }


def histogram(found: Agreement) -> dict[str, list[float]]:
    """Shares of the weights by how many more groups pull one way than the other, and the same of random groups and signs.

    Args:
        found: Agreement of the gradients of some groups.

    Returns:
        `groups`, `random_groups` and `random_signs`, each with entries for 0, 1, ..., number of groups.
    """
    whole, drawn = found.whole, found.random_groups
    shares = {"groups": whole.histogram, "random_signs": whole.null_histogram}
    if drawn is not None:
        shares["random_groups"] = drawn.whole.histogram
    return {name: [float(count) / whole.size for count in counts] for name, counts in shares.items()}


def _at(values: Any, at: np.ndarray) -> list[float | None]:
    """Entries at those directions; None for a number that is none."""
    known = np.asarray(values, dtype=np.float64)
    return [float(v) if np.isfinite(v) else None for v in known[np.minimum(at, len(known)) - 1]] if len(known) else []
