"""What a curve over training says in one number: when it arrived, and how much of it was lost again."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor


def convergence_time(steps: Sequence[int], values: Any, threshold: float = 0.95, patience: int = 3) -> int | None:
    """The first step from which a curve stays at `threshold` or above for `patience` evaluations.

    Args:
        steps: Increasing training steps at which the curve was evaluated.
        values: One value per step.
        threshold: In the curve's units, often a correlation.
        patience: Evaluations in a row, the first included.

    Returns:
        That step, or None if the run ended first (report it as later than the last step).

    Raises:
        ValueError: If lengths differ, steps do not increase, or a value is NaN.

    Example:
        >>> convergence_time([1, 2, 4, 8, 16], [0.96, 0.5, 0.97, 0.96, 0.99])
        4
    """
    curve = _curve(values)
    if len(steps) != len(curve) or any(b <= a for a, b in zip(steps, list(steps)[1:], strict=False)):
        raise ValueError(
            f"`steps` has {len(steps)} entries for {len(curve)} values; one per value, increasing, is needed."
        )
    if patience < 1:
        raise ValueError(f"`patience` is {patience}; at least one evaluation is needed.")
    run = 0
    for i, value in enumerate(curve):
        run = run + 1 if value >= threshold else 0
        if run == patience:
            return int(steps[i - patience + 1])
    return None


def forgetting_index(decoded_spurious: Any) -> float | None:
    """How much of the cue's decodability is gone at the end: 1 - last / largest; None if it never was decodable.

    Args:
        decoded_spurious: Correlations `2 accuracy - 1` over training, in order.

    Example:
        >>> forgetting_index([0.1, 0.8, 0.4])
        0.5
    """
    curve = _curve(decoded_spurious)
    if len(curve) == 0 or curve.max() <= 0:
        return None
    return float(1 - curve[-1] / curve.max())


def reliance_index(core_correlation: float, spurious_correlation: float) -> float | None:
    """The cue's part of what the predictions go with: spurious / (|core| + |spurious|); None if both are 0.

    Correlations of predictions with class and cue on rows where the two are independent.

    Example:
        >>> reliance_index(0.3, 0.9)
        0.75
    """
    total = abs(core_correlation) + abs(spurious_correlation)
    return round(spurious_correlation / total, 15) if total > 0 else None


def _curve(values: Any) -> np.ndarray:
    curve = np.asarray(values.detach().cpu().numpy() if isinstance(values, Tensor) else values, dtype=float)
    if curve.ndim != 1 or np.isnan(curve).any():
        raise ValueError(
            f"`values` has shape {curve.shape} and {int(np.isnan(curve).sum())} NaN; one number per step is needed."
        )
    return curve
