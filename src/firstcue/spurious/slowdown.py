"""How much a shortcut that was learned first delays the core: a prediction of ours, not a result of the paper.

Suppose the network first outputs m f_s. Under the logistic loss the best margin is m = log(strength / (1 - strength)). Rows
that agree and rows that do not then weigh the same in the gradient, strength (1 - strength) each, and what is left of the
core's signal is 4 strength (1 - strength) of what it is without a shortcut.
"""

import math


def predicted_slowdown(strength: float) -> float:
    """Time to learn the core over that without a shortcut: 1 / (4 strength (1 - strength)); infinite at 0 and 1.

    A heuristic, checked against training: it holds where the shortcut is learned well before the core, and fails (the
    ratio stays near 1) where it is not.

    Args:
        strength: Probability that the shortcut agrees with the label, in [0, 1].

    Raises:
        ValueError: If `strength` is no probability.

    Example:
        >>> [round(predicted_slowdown(s), 2) for s in (0.5, 0.7, 0.9, 0.95, 0.99)]
        [1.0, 1.19, 2.78, 5.26, 25.25]
    """
    left = 4 * _probability(strength) * (1 - strength)
    return math.inf if left == 0 else 1 / left


def saturated_margin(strength: float) -> float:
    """The margin at which the shortcut alone can lower the logistic loss no further: log(strength / (1 - strength)).

    Raises:
        ValueError: If `strength` is no probability.

    Example:
        >>> round(saturated_margin(0.9), 3), saturated_margin(0.5)
        (2.197, 0.0)
    """
    _probability(strength)
    if strength in (0, 1):
        return math.copysign(math.inf, strength - 0.5)
    return math.log(strength / (1 - strength))


def _probability(strength: float) -> float:
    if not 0 <= strength <= 1:
        raise ValueError(f"`strength` is the probability of agreement, between 0 and 1; got {strength}.")
    return strength
