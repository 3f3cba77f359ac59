"""The square norm of a wide covariance from one pass of thin products: the matrix itself is never formed.

Random probes alone err by several per cent where a few directions hold most of the variance, as in trained networks.
So some columns catch those directions first, whose part of the norm is then exact, and the probes only measure the rest.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from firstcue._blas import product
from firstcue.linalg import EPS
from firstcue.richness.alignment import Statistics, rounding_of

CHUNK_ROWS = 2048
COLUMNS = 32
"""Random columns that catch the largest directions."""


class Sketch:
    """Sums over rows of features and outputs, from which `Statistics` follow; memory is p (C + 32 + probes).

    Args:
        probes: Columns that measure what the first 32 left over.
        seed: Of both.

    Source:
        Halko, Martinsson and Tropp (2011), Finding structure with randomness, https://arxiv.org/abs/0909.4061; Meyer,
        Musco, Musco and Woodruff (2021), Hutch++, https://arxiv.org/abs/2010.09649
    """

    def __init__(self, probes: int = 64, seed: int = 0) -> None:
        if probes < 2:
            raise ValueError(f"`probes` is at least 2; got {probes}.")
        self.probes, self.seed = probes, seed
        self.rows, self.count, self.squared_weights, self.rounding = 0, 0.0, 0.0, 0.0

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
        generator, p = torch.Generator().manual_seed(self.seed), features.shape[1]
        first = features[:CHUNK_ROWS].double()
        self.origin, self.output_origin = first.mean(dim=0), outputs[:CHUNK_ROWS].double().mean(dim=0)
        self.unit = float((first - self.origin).square().mean().sqrt()) or 1.0
        signs = torch.randint(0, 2, (p, self.probes), generator=generator).double() * 2 - 1
        columns = torch.cat([torch.randn(p, COLUMNS, generator=generator, dtype=torch.float64), signs], dim=1)
        self.directions = columns.to(features.device)
        self.dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
        self.products = torch.zeros_like(self.directions)
        self.total, self.squares = torch.zeros_like(self.origin), 0.0
        self.cross = self.origin.new_zeros(p, outputs.shape[1])
        self.output_total, self.output_squares = (
            torch.zeros_like(self.output_origin),
            self.cross.new_zeros(outputs.shape[1], outputs.shape[1]),
        )

    def _add(self, features: Tensor, outputs: Tensor, weights: Tensor | None) -> None:
        x = (features - self.origin.to(features.dtype)).to(self.dtype).div_(self.unit)
        f = outputs - self.output_origin
        root = None if weights is None else weights.sqrt()
        ones = torch.ones(len(x), 1, dtype=torch.float64, device=x.device) if root is None else root[:, None]
        if root is not None:
            x, f = x * root.to(x)[:, None], f * root[:, None]
        seen = torch.cat([product(x, self.directions.to(x)), ones.to(x)], dim=1)
        sums = product(x.mT, seen).double()
        self.products += sums[:, :-1]
        self.total += sums[:, -1]
        self.squares += float(torch.linalg.vector_norm(x, dim=1).double().square().sum())
        self.cross += product(x.double().mT, f)
        self.output_total += (f * ones).sum(dim=0)
        self.output_squares += product(f.mT, f)
        self.rows += len(x) if weights is None else int((weights > 0).sum())
        self.count += float(ones.square().sum())
        self.squared_weights += float(ones.pow(4).sum())

    def statistics(self) -> Statistics:
        """Moments of the rows so far; the square norm with its standard error."""
        drift, output_drift = self.total / self.count, self.output_total / self.count
        sketch = self.products / self.count - drift[:, None] * (drift @ self.directions)
        square, error = deflated_square(sketch, self.directions, COLUMNS)
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
            rounding=self.rounding,
            square_error=unit**4 * error,
        )


def deflated_square(
    sketch: Float[Tensor, "p q"], directions: Float[Tensor, "p q"], columns: int
) -> tuple[float, float]:
    """||S||_F^2 of a positive semi-definite S from `sketch = S directions`, and its standard error.

    The first `columns` directions give a low-rank approximation L of S (Nystroem). The others are random signs z, and
    |S z|^2 = |L z|^2 + 2 (L z).(S z - L z) + |S z - L z|^2, of whose first term the mean over z is known: ||L||_F^2.
    The estimate is unbiased whatever L is.

    Args:
        sketch: S times the directions.
        directions: Random columns, the last ones independent with entries of +1 and -1.
        columns: How many of them serve the approximation.
    """
    caught, random = sketch[:, :columns], directions[:, columns:]
    core = directions[:, :columns].mT @ caught
    values, vectors = torch.linalg.eigh((core + core.mT) / 2)
    kept = values > max(len(values) * EPS, 1e-7) * values[-1]
    factor = caught @ (vectors[:, kept] / values[kept].sqrt())
    near = factor @ (factor.mT @ random)
    rest = sketch[:, columns:] - near
    each = (2 * near * rest + rest.square()).sum(dim=0)
    return float((factor.mT @ factor).square().sum() + each.mean()), float(each.std() / len(each) ** 0.5)
