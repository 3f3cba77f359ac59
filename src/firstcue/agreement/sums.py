"""What a rule needs to know of many gradients, held as a few elementwise sums that are filled one gradient after another.

The AND-mask of 32 environments needs the sum of their gradients and of the signs, not 32 gradients side by side. Where a
rule says so (`rule.streamed`), the gradients of a layer are added up and forgotten, and memory is that of two gradients.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

FLOOR = 1e-10
"""Added to magnitudes before the logarithm, as the authors of the AND-mask do."""


@dataclass
class GradientSums:
    """Elementwise sums over the gradients added so far; those not asked for stay None.

    Example:
        >>> sums = GradientSums.of(torch.tensor([[1.0, -2.0], [3.0, 2.0]]), ("signs",))
        >>> sums.mean, sums.agreement
        (tensor([2., 0.]), tensor([1., 0.]))
    """

    total: Tensor
    """`(*shape)` the sum of the gradients."""

    signs: Tensor | None = None
    """`(*shape)` how many are positive minus how many are negative."""

    nonzero: Tensor | None = None
    """`(*shape)` how many are not exactly zero."""

    scatter: Tensor | None = None
    """`(*shape)` the sum of squared deviations from the mean."""

    logs: Tensor | None = None
    """`(*shape)` the sum of log(|g| + floor)."""

    count: int = 0
    """How many gradients were added."""

    floor: float = field(default=FLOOR, repr=False)

    @classmethod
    def empty(cls, like: Tensor, needs: tuple[str, ...] = (), floor: float = FLOOR) -> "GradientSums":
        """Sums over nothing, of the shape of the parameter `like`; half precision is summed in float32."""
        wide = like.detach() if like.dtype in (torch.float32, torch.float64) else like.detach().float()
        sums = cls(torch.zeros_like(wide), floor=floor)
        for name in needs:
            setattr(sums, name, torch.zeros_like(wide))
        return sums

    @classmethod
    def of(cls, gradients: Tensor, needs: tuple[str, ...] = (), floor: float = FLOOR) -> "GradientSums":
        """Sums over the first axis of `(e, *shape)`."""
        sums = cls.empty(gradients[0], needs, floor)
        sums.add(gradients)
        return sums

    def add(self, gradients: Tensor) -> None:
        """Add `(m, *shape)` gradients."""
        g = gradients.to(self.total)
        if self.scatter is not None:
            mean = g.mean(dim=0)
            self._add_scatter((g - mean).square().sum(dim=0), mean, len(g))
        self.total += g.sum(dim=0)
        if self.nonzero is not None:
            self.nonzero += (g != 0).sum(dim=0)
        if self.logs is not None:
            self.logs += (g.abs() + self.floor).log().sum(dim=0)
        if self.signs is not None:
            self.signs += g.sign().sum(dim=0)
        self.count += len(g)

    def add_one(self, gradient: Tensor) -> None:
        """Add one gradient `(*shape)`, whose memory may be overwritten."""
        g = gradient.to(self.total)
        if self.scatter is not None:
            self._add_scatter(torch.zeros_like(g), g, 1)
        self.total += g
        if self.nonzero is not None:
            self.nonzero += g != 0
        if self.logs is not None:
            self.logs += (g.abs() + self.floor).log()
        if self.signs is not None:
            self.signs += g.sign_()
        self.count += 1

    def add_products(self, d: Tensor, a: Tensor) -> None:
        """Add the m gradients `d_i a_i^T` without making one of them; only to empty sums.

        Each sum is a matrix product: that of the signs is sign(d)^T sign(a), that of the squares (d d)^T (a a), and the
        logarithms add (with floor 0).

        Args:
            d: `(m, out)`, derivatives by a linear layer's outputs.
            a: `(m, in)`, its inputs.
        """
        d, a = d.to(self.total), a.to(self.total)
        self.total += d.mT @ a
        if self.signs is not None:
            self.signs += d.sign().mT @ a.sign()
        if self.nonzero is not None:
            self.nonzero += (d != 0).to(d).mT @ (a != 0).to(a)
        if self.scatter is not None:
            squares = d.square().mT @ a.square()
            self.scatter += (squares - self.total.square() / len(d)).clamp(min=0)
        if self.logs is not None:
            self.logs += d.abs().log().sum(dim=0)[:, None] + a.abs().log().sum(dim=0)
        self.count += len(d)

    @property
    def takes_products(self) -> bool:
        """Whether `add_products` is exact for these sums: the floor under a logarithm is not."""
        return self.logs is None or self.floor == 0

    def _add_scatter(self, scatter: Tensor, mean: Tensor, count: int) -> None:
        """Chan, Golub and LeVeque (1979); to be called before the total and the count change."""
        assert self.scatter is not None
        self.scatter += scatter
        if self.count:
            gap = mean - self.mean
            self.scatter += gap.square() * (self.count * count / (self.count + count))

    @property
    def mean(self) -> Tensor:
        """`(*shape)` the mean gradient."""
        return self.total / self.count

    @property
    def variance(self) -> Tensor:
        """`(*shape)` unbiased, over the gradients; NaN for fewer than two."""
        assert self.scatter is not None, "the sums were made without `scatter`"
        return self.scatter / (self.count - 1) if self.count > 1 else torch.full_like(self.total, torch.nan)

    @property
    def squares(self) -> Tensor:
        """`(*shape)` the sum of squares."""
        assert self.scatter is not None, "the sums were made without `scatter`"
        return self.scatter + self.total.square() / self.count

    @property
    def agreement(self) -> Tensor:
        """`(*shape)` |mean sign|, from 0 to 1; an exact zero agrees with nobody."""
        assert self.signs is not None, "the sums were made without `signs`"
        return self.signs.abs() / self.count


@dataclass(frozen=True)
class Streamed:
    """How a rule is computed from sums instead of gradients side by side."""

    needs: Callable[..., tuple[str, ...]]
    """From the rule's keyword arguments: which sums."""

    combine: Callable[..., Tensor]
    """From `GradientSums` and the rule's keyword arguments: `(*shape)`."""
