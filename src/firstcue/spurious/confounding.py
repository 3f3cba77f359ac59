"""The distribution in which a shortcut agrees with the core too often, in numbers: densities, shares, gradients.

With an unbiased spurious function the density relative to uniform signs is 1 + (2 strength - 1) f_s f_c. So whatever
training asks of the data is the core's answer plus the shortcut's, discounted by 2 strength - 1.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from firstcue.spurious.boolean import Layout
from firstcue.spurious.fourier import all_signs
from firstcue.spurious.functions import MOST_TABLE_BITS, BooleanFunction
from firstcue.spurious.sampling import Sampling, require_shortcut


@dataclass(frozen=True)
class Shares:
    """How often what happens, for uniform signs and under the shortcut."""

    core_positive: float
    """P(f_c = +1) for uniform signs."""
    spurious_positive: float
    """P(f_s = +1) for uniform signs."""
    agree: float
    """P(f_s = f_c) for uniform signs: one half if either is unbiased."""
    positive_if_agree: float
    """P(y = 1 | they agree) under the shortcut."""
    positive_if_not: float
    """P(y = 1 | they do not agree)."""


def label_shares(core: BooleanFunction, spurious: BooleanFunction, sampling: Sampling | str = "core-uniform") -> Shares:
    """Class shares among rows that agree and rows that do not: equal to each other unless a function is biased.

    Raises:
        ValueError: If a function is too large for its bias to be known.

    Example:
        >>> from firstcue.spurious.functions import staircase
        >>> shares = label_shares(staircase(14, ties="plus"), staircase(10, ties="plus"), "mixture")
        >>> round(shares.positive_if_agree, 3), round(shares.positive_if_not, 3), round(shares.core_positive, 3)
        (0.717, 0.481, 0.605)
    """
    require_shortcut(0.5, sampling)
    c, s = core.positive_share, spurious.positive_share
    agree = c * s + (1 - c) * (1 - s)
    if sampling == "core-uniform":
        return Shares(c, s, agree, c, c)
    return Shares(
        c, s, agree, c * s / agree if agree else float("nan"), c * (1 - s) / (1 - agree) if agree < 1 else float("nan")
    )


def confounded_density(
    core: BooleanFunction, spurious: BooleanFunction, strength: float, sampling: Sampling | str = "core-uniform"
) -> Float64[Tensor, " m"]:
    """`(2^(c + s),)` probability of every pattern of core and spurious coordinates.

    Args:
        core: Of c coordinates: the lowest bits of an index.
        spurious: Of s coordinates: the bits above. A set bit is a coordinate of -1.
        strength: Probability of agreement, in [0, 1].
        sampling: As in `boolean_data`.

    Raises:
        ValueError: If there are more than 20 coordinates, or what has to be drawn never happens.

    Example:
        >>> from firstcue.spurious.functions import parity
        >>> confounded_density(parity(1), parity(1), 0.75).tolist()
        [0.375, 0.125, 0.125, 0.375]
    """
    require_shortcut(strength, sampling)
    y, a = _values(core), _values(spurious)
    if core.size + spurious.size > MOST_TABLE_BITS:
        raise ValueError(
            f"patterns of {core.size + spurious.size} coordinates are too many; at most {MOST_TABLE_BITS}."
        )
    agree = a[:, None] == y[None, :]
    weight = torch.where(agree, torch.tensor(strength, dtype=torch.float64), 1 - strength)
    if sampling == "mixture":
        number = torch.where(agree, agree.sum(), (~agree).sum())
    else:  # each core pattern has the same probability; rows of the level set share it
        number = torch.where(agree, agree.sum(dim=0), (~agree).sum(dim=0)) * len(y)
    density = (weight / number).flatten()
    if abs(float(density.sum()) - 1) > 1e-9:
        raise ValueError(
            f"{core.name} and {spurious.name} never agree, or never disagree: strength {strength} is impossible."
        )
    return density


def neuron_gradients(
    weight: Float[Tensor, "h k"],
    bias: Float[Tensor, " h"],
    core: BooleanFunction,
    spurious: BooleanFunction,
    strength: float,
    layout: Layout,
    *,
    sampling: Sampling | str = "core-uniform",
) -> Float64[Tensor, "h k"]:
    """The signal E[y relu'(w x + b) x] that each input weight of a hidden neuron gets, over the whole distribution.

    Times the outgoing weight, and times 1/2 for the logistic loss at output zero, it is the population gradient.

    Args:
        weight: `(h, k)` input weights.
        bias: `(h,)`.
        core, spurious, strength, sampling: Of the data, as in `boolean_data`.
        layout: From `boolean_layout`; at most 20 columns, since all patterns are enumerated.

    Raises:
        ValueError: If there are too many columns, or shapes do not fit.
    """
    if weight.shape[1] != layout.size or layout.size != core.size + spurious.size + len(layout.noise):
        raise ValueError(
            f"the weights read {weight.shape[1]} columns, the layout has {layout.size}, and the functions take "
            f"{core.size} and {spurious.size}; make the layout with `boolean_layout(core, spurious, noise)`."
        )
    plain = all_signs(layout.size)
    columns = torch.cat([layout.core, layout.spurious, layout.noise])
    x = torch.empty_like(plain).index_copy_(1, columns, plain)
    density = confounded_density(core, spurious, strength, sampling).repeat(1 << len(layout.noise))
    density = density / (1 << len(layout.noise))
    signed = density * _values(core).double().repeat(1 << (layout.size - core.size))
    total = torch.zeros(weight.shape, dtype=torch.float64)
    for rows in torch.arange(len(x)).split(1 << 14):
        active = (x[rows] @ weight.detach().float().mT + bias.detach().float() > 0).double()
        total += (active * signed[rows, None]).mT @ x[rows].double()
    return total


@dataclass(frozen=True)
class FourierGap:
    """How far the weakest relevant input weight's gradient stands out of that of irrelevant ones; means over neurons."""

    core: float
    """Least |gradient| in the core block minus the greatest in the noise block; negative: the core is hidden."""
    spurious: float
    """The same for the spurious block."""


def fourier_gap(
    model: nn.Module,
    core: BooleanFunction,
    spurious: BooleanFunction,
    strength: float,
    layout: Layout,
    *,
    sampling: Sampling | str = "core-uniform",
) -> FourierGap:
    """Which block of coordinates the hidden neurons of a two-layer network can see at this moment.

    Columns that the functions do not read count as noise.

    Args:
        model: `Sequential(Linear, ReLU, Linear)` on signs.
        core, spurious, strength, layout, sampling: As in `neuron_gradients`.

    Raises:
        ValueError: If the network is another one, there is no noise column, or as `neuron_gradients`.

    Source:
        Barak et al. (2022), https://arxiv.org/abs/2207.08799; Qiu et al. (2024), https://arxiv.org/abs/2403.03375.

    Example:
        >>> from firstcue.spurious.functions import parity
        >>> from firstcue.spurious.boolean import boolean_layout
        >>> net = nn.Sequential(nn.Linear(9, 1, bias=False), nn.ReLU(), nn.Linear(1, 1))
        >>> for weight in (net[0].weight, net[2].weight):
        ...     _ = weight.data.fill_(1.0)
        >>> gap = fourier_gap(net, parity(4), parity(1), 0.9, boolean_layout(parity(4), parity(1), 4))
        >>> round(gap.core, 4), round(gap.spurious, 4)
        (0.0078, 0.4)
    """
    from firstcue.spurious.subnetworks import two_layers

    first, last = two_layers(model)
    bias = first.bias if first.bias is not None else torch.zeros(len(first.weight))
    signal = neuron_gradients(first.weight, bias, core, spurious, strength, layout, sampling=sampling)
    size = (signal * last.weight.detach().double().mT).abs()
    relevant, cue = layout.core[: core.arity], layout.spurious[: spurious.arity]
    rest = torch.tensor(sorted(set(range(layout.size)) - {*relevant.tolist(), *cue.tolist()}), dtype=torch.int64)
    if not len(rest) or not len(relevant) or not len(cue):
        raise ValueError("a gap needs relevant core and spurious columns, and some that are irrelevant; add `noise`.")
    loudest = size[:, rest].amax(dim=1)
    return FourierGap(*(float((size[:, part].amin(dim=1) - loudest).mean()) for part in (relevant, cue)))


def _values(function: BooleanFunction) -> Tensor:
    """`(2^size,)` values for every pattern of the block, irrelevant coordinates included."""
    return torch.from_numpy(np.tile(function.table, 1 << (function.size - function.arity)))
