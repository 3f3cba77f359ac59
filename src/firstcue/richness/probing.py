"""The square norm of a wide covariance from one pass of thin products: the matrix itself is never formed.

Random probes alone err by several per cent where a few directions hold most of the variance, as in trained networks.
So the first rows give those directions, whose part of the norm is then exact, and probes only measure the rest.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from firstcue._blas import product
from firstcue.richness.alignment import Statistics, rounding_of

CHUNK_ROWS = 1024
COLUMNS = 32
"""Directions of largest variance, found on the first rows."""


class Sketch:
    """Sums over rows of features and outputs, from which `Statistics` follow; memory is p (C + 32 + probes).

    The first call of `add` should bring some hundred rows in random order: the directions found there decide how
    precise the result is, never whether it is right.

    Args:
        probes: Random directions that measure what the 32 largest left over.
        seed: Of both.

    Source:
        Halko, Martinsson and Tropp (2011), Finding structure with randomness, https://arxiv.org/abs/0909.4061, for the
        directions; Meyer, Musco, Musco and Woodruff (2021), Hutch++, https://arxiv.org/abs/2010.09649, for probing only
        what they leave.
    """

    def __init__(self, probes: int = 32, seed: int = 0) -> None:
        if probes < 2:
            raise ValueError(f"`probes` is at least 2; got {probes}.")
        self.probes, self.seed = probes, seed
        self.rows, self.count, self.squared_weights, self.rounding = 0, 0.0, 0.0, 0.0
        self.buffer: Tensor | None = None

    def add(self, features: Tensor, outputs: Tensor, weights: Tensor | None = None) -> None:
        """Take in finite rows.

        Args:
            features: `(n, p)`.
            outputs: `(n, C)`.
            weights: `(n,)` float64, not negative, or None.
        """
        if not len(features):
            return
        if not self.rows:
            self._begin(features, outputs)
        self.rounding = max(self.rounding, rounding_of(outputs))
        for start in range(0, len(features), CHUNK_ROWS):
            part = slice(start, start + CHUNK_ROWS)
            self._add(features[part], outputs[part].double(), None if weights is None else weights[part])

    def _begin(self, features: Tensor, outputs: Tensor) -> None:
        """Choose directions, and an origin and a unit near the data, about which sums lose no digits."""
        generator, p, c = torch.Generator().manual_seed(self.seed), features.shape[1], outputs.shape[1]
        first = features[:CHUNK_ROWS].double()
        self.origin, self.output_origin = first.mean(dim=0), outputs[:CHUNK_ROWS].double().mean(dim=0)
        first = first - self.origin
        self.unit = float(first.square().mean().sqrt()) or 1.0
        self.dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
        largest = _largest_directions((first / self.unit).to(self.dtype), generator)
        signs = torch.randint(0, 2, (p, self.probes), generator=generator).to(largest) * 2 - 1
        self.directions = torch.cat([largest, signs - largest @ (largest.mT @ signs)], dim=1)
        self.products = torch.zeros_like(self.directions, dtype=torch.float64)
        self.cross = self.origin.new_zeros(p, c)
        self.total, self.squares = torch.zeros_like(self.origin), 0.0
        self.output_total, self.output_squares = self.cross.new_zeros(c), self.cross.new_zeros(c, c)

    def _add(self, features: Tensor, outputs: Tensor, weights: Tensor | None) -> None:
        x = (features - self.origin.to(features.dtype)).to(self.dtype).div_(self.unit)
        f = outputs - self.output_origin
        root = None if weights is None else weights.sqrt()
        ones = torch.ones(len(x), 1, dtype=torch.float64, device=x.device) if root is None else root[:, None]
        if root is not None:
            x, f = x * root.to(x)[:, None], f * root[:, None]
        seen = torch.cat([product(x, self.directions), ones.to(x)], dim=1)
        sums = product(x.mT, seen).double()
        self.products += sums[:, :-1]
        self.total += sums[:, -1]
        self.squares += float(torch.linalg.vector_norm(x, dim=1).double().square().sum())
        self.cross += product(self._wide(x).mT, f)
        self.output_total += (f * ones).sum(dim=0)
        self.output_squares += product(f.mT, f)
        self.rows += len(x) if weights is None else int((weights > 0).sum())
        self.count += float(ones.square().sum())
        self.squared_weights += float(ones.pow(4).sum())

    def _wide(self, x: Tensor) -> Tensor:
        """`x` in float64, in memory that is kept: fresh memory costs as much as the product that follows."""
        if x.dtype == torch.float64:
            return x
        if self.buffer is None or self.buffer.shape[0] < len(x):
            self.buffer = torch.empty(x.shape, dtype=torch.float64, device=x.device)
        return self.buffer[: len(x)].copy_(x)

    def statistics(self, count: int) -> Statistics:
        """Moments of the rows so far, the square norm with its standard error; `count` is how many outputs there are."""
        drift, output_drift = self.total / self.count, self.output_total / self.count
        directions = self.directions.double()
        sketch = self.products / self.count - drift[:, None] * (drift @ directions)
        square, error = deflated_square(sketch, directions, directions.shape[1] - self.probes)
        unit = self.unit
        return Statistics(
            rows=self.rows,
            effective=self.count**2 / self.squared_weights,
            trace=unit**2 * (self.squares / self.count - float(drift.square().sum())),
            square=unit**4 * square,
            size=float((self.origin + unit * drift).square().sum()),
            cross=unit * (self.cross / self.count - drift[:, None] * output_drift),
            outputs=self.output_squares / self.count - output_drift[:, None] * output_drift,
            mean=self.output_origin + output_drift,
            num_outputs=count,
            rounding=self.rounding,
            square_error=unit**4 * error,
        )


def _largest_directions(first: Float[Tensor, "n p"], generator: torch.Generator) -> Float[Tensor, "p k"]:
    """Orthonormal columns near the largest principal directions of some centred rows: two rounds of subspace iteration."""
    k = min(COLUMNS, *first.shape)
    found = torch.randn(first.shape[1], k, generator=generator, dtype=torch.float64).to(first)
    for _ in range(2):
        found = torch.linalg.qr(product(first.mT, product(first, found))).Q
    return found


def deflated_square(
    sketch: Float[Tensor, "p q"], directions: Float[Tensor, "p q"], columns: int
) -> tuple[float, float]:
    """||S||_F^2 of a symmetric S from `sketch = S directions`, and its standard error.

    With Q the first columns and N = I - Q Q^T, ||S||^2 = ||Q^T S Q||^2 + 2 ||N S Q||^2 + ||N S N||^2. The first two are
    exact, and |N S N z|^2 has the last as its mean over random signs z.

    Args:
        sketch: S times the directions.
        directions: Orthonormal Q, then columns N z.
        columns: How many belong to Q.
    """
    q, seen = directions[:, :columns], sketch[:, :columns]
    inner = q.mT @ seen
    known = float(inner.square().sum() + 2 * (seen - q @ inner).square().sum())
    rest = sketch[:, columns:]
    each = (rest - q @ (q.mT @ rest)).square().sum(dim=0)
    return known + float(each.mean()), float(each.std() / len(each) ** 0.5)
