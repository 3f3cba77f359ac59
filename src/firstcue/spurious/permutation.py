"""Do the rows of two classes lie farther apart than chance would put them? A permutation test, exact and fast."""

import numpy as np
import torch
from torch import Tensor


def permutation_p(x: Tensor, target: Tensor, other: Tensor | None, ridge: float, permutations: int, seed: int) -> float:
    """Share of permutations of `target` within `other` whose classes lie as far apart as the true ones (Pillai's trace).

    Args:
        x: `(n, d)` float64.
        target: `(n,)` ids without holes.
        other: `(n,)` ids whose differences are taken out, or None.
        ridge: Added to the eigenvalues of the correlation matrix; at least `d / n`, where chance would fit any labels.
        permutations: Number of draws.
        seed: Of the draws.

    Exact, and without refits. Held-out labels permuted against fixed predictions would reject pure noise 12 % of the
    time at 5 %: read-outs of different folds share training rows, so their errors go together.
    """
    other = torch.zeros_like(target) if other is None else other
    n, d = x.shape
    member = torch.zeros(int(other.max()) + 1, n, dtype=x.dtype).scatter_(0, other[None], 1.0)
    centred = x - ((member @ x) / member.sum(dim=1, keepdim=True))[other]
    scale = centred.square().mean(dim=0).sqrt()
    whitened = _whitened(centred / torch.where(scale > 0, scale, 1.0), max(ridge, d / n))
    rng, rows = np.random.default_rng(seed), [np.flatnonzero(other == v) for v in other.unique()]
    truth = float(_separation(whitened, target[None])[0])
    above = 0
    for start in range(0, permutations, 100):
        drawn = np.tile(target.numpy(), (min(100, permutations - start), 1))
        for stratum in rows:
            drawn[:, stratum] = rng.permuted(drawn[:, stratum], axis=1)
        above += int((_separation(whitened, torch.from_numpy(drawn)) >= truth * (1 - 1e-12)).sum())
    return (1 + above) / (permutations + 1)


def _whitened(x: Tensor, ridge: float) -> Tensor:
    """`x (x^T x / n + ridge)^-1/2` up to a rotation, in as few columns as rows or features allow."""
    left, size, _ = torch.linalg.svd(x, full_matrices=False) if len(x) <= x.shape[1] else _tall_svd(x)
    return left * (size / (size.square() / len(x) + ridge).sqrt())


def _tall_svd(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Singular value decomposition through the small Gram matrix; precise enough beside a ridge."""
    square, basis = torch.linalg.eigh(x.mT @ x)
    size = square.clamp(min=0).sqrt()
    return (x @ basis) / torch.where(size > 0, size, 1.0), size, basis


def _separation(x: Tensor, target: Tensor) -> Tensor:
    """`(b,)` sums over classes of the squared class mean times the class size, for labels `(b, n)`."""
    total = torch.zeros(len(target), dtype=x.dtype)
    for k in range(int(target.max()) + 1):
        member = (target == k).to(x.dtype)
        total += (member @ x).square().sum(dim=1) / member.sum(dim=1)
    return total
