"""Which rows go against the shortcut, guessed from a network early in training: three published ways, for two classes."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Guess = Bool[Tensor, " n"]
"""True for rows taken to be in the minority."""


def error_set(output: Float[Tensor, " n"], y: Int[Tensor, " n"]) -> Guess:
    """Rows that the network gets wrong.

    Source:
        Liu et al. (2021), https://arxiv.org/abs/2107.09044 (JTT).
    """
    return (output >= 0) != y.bool()


def output_clusters(output: Float[Tensor, " n"], y: Int[Tensor, " n"]) -> Guess:
    """The smaller of two clusters of outputs in each class, by exact 2-means.

    Source:
        Yang et al. (2024), https://arxiv.org/abs/2305.18761 (SPARE).
    """
    side = torch.zeros(len(y), dtype=torch.bool)
    for label in (0, 1):
        side[y == label] = _two_means(output[y == label])
    return _smaller_side(side, y)


def opposed_environments(
    output: Float[Tensor, " n"], y: Int[Tensor, " n"], *, steps: int = 1000, rate: float = 0.01, seed: int = 0
) -> Guess:
    """The smaller side in each class of two environments in which the network's scale would want to change most.

    Soft environments are moved uphill on the mean square, over both, of the loss's derivative in the scale of the output.

    Source:
        Creager et al. (2021), https://arxiv.org/abs/2010.07249 (EIIL).
    """
    sign = 2.0 * y - 1
    slope = -sign * output * torch.sigmoid(-sign * output) / len(y)
    raw = torch.randn(len(y), generator=torch.Generator().manual_seed(seed))
    first, second, tiny = torch.zeros_like(raw), torch.zeros_like(raw), 1e-8
    for step in range(1, steps + 1):
        share = torch.sigmoid(raw)
        one, other = (share * slope).sum(), ((1 - share) * slope).sum()
        uphill = (one - other) * slope * share * (1 - share)  # of (one^2 + other^2) / 2
        first, second = 0.9 * first + 0.1 * uphill, 0.999 * second + 0.001 * uphill.square()
        adapted = (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + tiny)
        raw = raw + rate * adapted
    return _smaller_side(raw > 0, y)


def f1_score(guess: Guess, truth: Guess) -> float:
    """Of the minority."""
    right = int((guess & truth).sum())
    return 2 * right / max(int(guess.sum() + truth.sum()), 1)


def f1_of_all(share: float) -> float:
    """Of the guess that every row is in a minority of that share: what knowing nothing achieves.

    Example:
        >>> round(f1_of_all(0.1), 3)
        0.182
    """
    return 2 * share / (1 + share)


def _two_means(values: Float[Tensor, " n"]) -> Bool[Tensor, " n"]:
    """The cut of sorted values with the least spread within both sides."""
    if len(values) < 2:
        return torch.zeros(len(values), dtype=torch.bool)
    ordered = values.double().sort().values
    n, k = len(values), torch.arange(1, len(values)).double()
    left = ordered.cumsum(0)[:-1]
    between = left.square() / k + (ordered.sum() - left).square() / (n - k)
    cut = ordered[int(between.argmax())]
    return values.double() > cut


def _smaller_side(side: Bool[Tensor, " n"], y: Int[Tensor, " n"]) -> Guess:
    guess = torch.zeros_like(side)
    for label in (0, 1):
        rows = y == label
        guess[rows] = side[rows] if int(side[rows].sum()) * 2 <= int(rows.sum()) else ~side[rows]
    return guess
