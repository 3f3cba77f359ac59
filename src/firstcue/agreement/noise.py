"""Do single examples pull the same way? Coherence of their gradients, and how much of the gradient is noise."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from firstcue.agreement._tally import LayerAgreement, layer_agreement, least_sum, together
from firstcue.agreement.examples import example_sums
from firstcue.agreement.gradients import Loss
from firstcue.batch import Batch
from firstcue.forward import left_as_found


@dataclass(frozen=True)
class Coherence:
    """How coherent the gradients of the examples of a batch are."""

    n: int
    """Examples."""

    coherence: float
    """Squared length of the summed gradient over n times the sum of squared lengths: 1 if all are equal, 1 / n if they
    are orthogonal; NaN without any gradient."""

    m_coherence: float
    """n times that: about how many examples the mean example helps; 1 = orthogonal, n = all equal."""

    noise_scale: float
    """Variance of an example's gradient over the squared length of the true one: below this batch size, larger batches
    nearly pay for themselves. Infinite if no true gradient can be told from noise."""

    by_layer: dict[str, float]
    """m-coherence of each parameter."""

    whole: LayerAgreement
    """Sign agreement of examples in all components, beside random signs."""

    layers: dict[str, LayerAgreement]


def example_coherence(
    model: nn.Module,
    loss: Loss,
    batch: Batch | tuple[Any, Any],
    *,
    threshold: float | int = 0.2,
    parameters: Sequence[str] | None = None,
) -> Coherence:
    """Coherence, gradient noise scale and sign agreement of examples, each its own environment.

    The model is in evaluation mode meanwhile and left as found. For linear layers no example's gradient is ever made.

    Args:
        model: Any module.
        loss: `loss(outputs, y)`, the mean over its rows.
        batch: `Batch` or `(x, y)` with n >= 2 rows.
        threshold: Of the AND-mask whose kept share is counted.
        parameters: Names of those measured; all that require a gradient by default.

    Raises:
        ValueError: If there is one row only, or a gradient is not finite.

    Source:
        Coherence: Chatterjee and Zielinski (2020), https://arxiv.org/abs/2008.01217. Noise scale: McCandlish, Kaplan,
        Amodei et al. (2018), https://arxiv.org/abs/1812.06162, here from the examples' own gradients, unbiased above
        and below the line.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> with torch.no_grad():
        ...     _ = model.weight.fill_(0.0)
        >>> found = example_coherence(model, torch.nn.functional.mse_loss, (torch.eye(2), torch.ones(2, 1)))
        >>> found.m_coherence, found.noise_scale
        (1.0, inf)
    """
    n = len(batch.x if isinstance(batch, Batch) else batch[0])
    if n < 2:
        raise ValueError(f"coherence compares examples; the batch has {n}.")
    with left_as_found(model):
        sums = example_sums(model, loss, batch, ("signs", "nonzero", "scatter"), parameters=parameters)
    least = least_sum(float(threshold), n)
    layers = {name: layer_agreement(name, value, least) for name, value in sums.items()}
    variance = sum(float(s.scatter.double().sum()) for s in sums.values() if s.scatter is not None) / (n - 1)
    mean = sum(float(s.mean.double().square().sum()) for s in sums.values())
    squares = sum(float(s.squares.double().sum()) for s in sums.values())
    share = n * mean / squares if squares else math.nan
    return Coherence(
        n=n,
        coherence=share,
        m_coherence=n * share,
        noise_scale=_ratio(variance, mean - variance / n),
        by_layer={name: n * layer.alignment for name, layer in layers.items()},
        whole=together(list(layers.values())),
        layers=layers,
    )


def noise_scale(small: Any, large: Any, small_batch: int, large_batch: int) -> float:
    """The gradient noise scale from squared gradient lengths at two batch sizes, as a training run can log them.

    Args:
        small: `(k,)` squared lengths of gradients of batches of `small_batch` examples.
        large: `(m,)` the same for `large_batch`.
        small_batch: Examples.
        large_batch: Examples, more.

    Returns:
        Variance over squared length; each is averaged before the division. Infinite if the lengths show noise only, 0 if
        they show none.

    Raises:
        ValueError: If the batch sizes are not different, or there is no length.

    Source:
        McCandlish, Kaplan, Amodei et al. (2018), https://arxiv.org/abs/1812.06162, appendix A.1.

    Example:
        >>> noise_scale([1.0 + 8.0 / 2], [1.0 + 8.0 / 4], 2, 4)
        8.0
    """
    if not 0 < small_batch < large_batch:
        raise ValueError(f"two batch sizes are needed, the first smaller; got {small_batch} and {large_batch}.")
    of_small, of_large = np.asarray(small, dtype=np.float64), np.asarray(large, dtype=np.float64)
    if of_small.size == 0 or of_large.size == 0 or not np.isfinite([of_small.mean(), of_large.mean()]).all():
        raise ValueError("squared lengths at both batch sizes are needed, all of them finite.")
    low, high = float(of_small.mean()), float(of_large.mean())
    truth = (large_batch * high - small_batch * low) / (large_batch - small_batch)
    return _ratio((low - high) / (1 / small_batch - 1 / large_batch), truth)


def _ratio(variance: float, truth: float) -> float:
    """Both are estimates that may come out negative where the true number is near zero."""
    if truth <= 0:
        return math.inf if variance > 0 else math.nan
    return max(0.0, variance) / truth
