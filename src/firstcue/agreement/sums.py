"""What a rule needs to know of many gradients, held as a few elementwise sums that are filled one gradient after another.

The AND-mask of 32 environments needs the sum of their gradients and of the signs, not 32 gradients side by side. Where a
rule says so (`rule.streamed`), the gradients of a layer are added up and forgotten, and memory is that of two gradients.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from firstcue.agreement._signs import sum_of_signs

FLOOR = 1e-10
"""Added to magnitudes before the logarithm, as the authors of the AND-mask do."""


class GradientSums:
    """Elementwise sums over the gradients added so far; those not asked for, and all before the first, are None.

    Args:
        like: The parameter, for shape and precision; half precision is summed in float32.
        needs: Which sums beside the total: "signs", "nonzero", "scatter", "logs".
        floor: Under magnitudes, before the logarithm.
        total: Whether to sum the gradients themselves.

    Example:
        >>> sums = GradientSums.of(torch.tensor([[1.0, -2.0], [3.0, 2.0]]), ("signs",))
        >>> sums.mean, sums.agreement
        (tensor([2., 0.]), tensor([1., 0.]))
    """

    def __init__(self, like: Tensor, needs: tuple[str, ...] = (), floor: float = FLOOR, total: bool = True):
        self.dtype = like.dtype if like.dtype in (torch.float32, torch.float64) else torch.float32
        self.shape, self.device, self.needs, self.floor = like.shape, like.device, frozenset(needs), floor
        self.count = 0
        """How many gradients were added."""
        self.total: Tensor | None = None
        """`(*shape)` the sum of the gradients."""
        self.signs: Tensor | None = None
        """`(*shape)` how many are positive minus how many are negative."""
        self.nonzero: Tensor | None = None
        """`(*shape)` how many are not exactly zero."""
        self.scatter: Tensor | None = None
        """`(*shape)` the sum of squared deviations from the mean."""
        self.logs: Tensor | None = None
        """`(*shape)` the sum of log(|g| + floor)."""
        self._totals = total or "scatter" in self.needs
        self._slot: Tensor | None = None

    @classmethod
    def of(cls, gradients: Tensor, needs: tuple[str, ...] = (), floor: float = FLOOR) -> "GradientSums":
        """Sums over the first axis of `(e, *shape)`."""
        sums = cls(gradients[0], needs, floor)
        sums.add(gradients)
        return sums

    def add(self, gradients: Tensor, *, owned: bool = False, signs: Tensor | None = None) -> None:
        """Add `(m, *shape)` gradients, with their signs if they are known; if `owned`, their memory may be overwritten."""
        g = gradients.to(self.dtype)
        if "scatter" in self.needs:
            mean = g.mean(dim=0)
            self._add_scatter((g - mean).square().sum(dim=0), mean, len(g))
        if self._totals:
            self._plus("total", _sum(g))
        if "nonzero" in self.needs:
            self._plus("nonzero", (g != 0).sum(dim=0).to(self.dtype))
        if "logs" in self.needs:
            self._plus("logs", (g.abs() + self.floor).log().sum(dim=0))
        if "signs" in self.needs:
            signs = signs if signs is not None else g.sign_() if owned else g.sign()
            self._plus("signs", _sum(signs))
        self.count += len(g)

    def add_one(self, gradient: Tensor) -> None:
        """Add one gradient `(*shape)`, whose memory is overwritten."""
        g = gradient.to(self.dtype)
        if "scatter" in self.needs:
            self._add_scatter(torch.zeros_like(g), g, 1)
        if self._totals:
            self._plus("total", g, keep=True)
        if "nonzero" in self.needs:
            self._plus("nonzero", (g != 0).to(self.dtype))
        if "logs" in self.needs:
            self._plus("logs", (g.abs() + self.floor).log())
        if "signs" in self.needs:
            self._plus("signs", g.sign_(), keep=True)
        self.count += 1

    def slot(self) -> Tensor:
        """Memory in which to write the next gradient for `add_one`: taken once, so that it stays near the processor."""
        if self._slot is None:
            self._slot = torch.empty(self.shape, dtype=self.dtype, device=self.device)
        return self._slot

    def add_products(self, d: Tensor, a: Tensor, signs: tuple[Tensor, Tensor] | None = None) -> None:
        """Add the m gradients `d_i a_i^T` without making one of them; only to empty sums.

        Each sum is a matrix product: that of the signs is sign(d)^T sign(a), that of the squares (d d)^T (a a), and the
        logarithms add (with floor 0).

        Args:
            d: `(m, out)`, derivatives by a linear layer's outputs.
            a: `(m, in)`, its inputs.
            signs: Of both, if they are known.
        """
        d, a = d.to(self.dtype), a.to(self.dtype)
        if self._totals:
            self.total = d.mT @ a
        if "signs" in self.needs:
            of_d, of_a = (d.sign(), a.sign()) if signs is None else signs
            self.signs = sum_of_signs(of_d, of_a)
        if "nonzero" in self.needs:
            self.nonzero = (d != 0).to(d).mT @ (a != 0).to(a)
        if "scatter" in self.needs:
            assert self.total is not None
            self.scatter = (d.square().mT @ a.square() - self.total.square() / len(d)).clamp(min=0)
        if "logs" in self.needs:
            self.logs = d.abs().log().sum(dim=0)[:, None] + a.abs().log().sum(dim=0)
        self.count += len(d)

    @property
    def takes_products(self) -> bool:
        """Whether `add_products` is exact for these sums: the floor under a logarithm is not."""
        return self.count == 0 and ("logs" not in self.needs or self.floor == 0)

    def _add_scatter(self, scatter: Tensor, mean: Tensor, count: int) -> None:
        """Chan, Golub and LeVeque (1979); to be called before the total and the count change."""
        if self.count:
            gap = mean - self.mean
            scatter = scatter + gap.square() * (self.count * count / (self.count + count))
        self._plus("scatter", scatter)

    def _plus(self, name: str, value: Tensor, *, keep: bool = False) -> None:
        """Add to a sum; the first value becomes the sum, copied if its memory is to be used again (`keep`)."""
        before = getattr(self, name)
        if before is None:
            setattr(self, name, value.clone() if keep else value)
        else:
            before += value

    @property
    def mean(self) -> Tensor:
        """`(*shape)` the mean gradient."""
        assert self.total is not None, "the sums were made without a total, or nothing was added"
        return self.total / self.count

    @property
    def variance(self) -> Tensor:
        """`(*shape)` unbiased, over the gradients; NaN for fewer than two."""
        assert self.scatter is not None, "the sums were made without `scatter`"
        return self.scatter / (self.count - 1) if self.count > 1 else torch.full_like(self.scatter, torch.nan)

    @property
    def squares(self) -> Tensor:
        """`(*shape)` the sum of squares."""
        assert self.scatter is not None, "the sums were made without `scatter`"
        assert self.total is not None
        return self.scatter + self.total.square() / self.count

    @property
    def agreement(self) -> Tensor:
        """`(*shape)` |mean sign|, from 0 to 1; an exact zero agrees with nobody."""
        assert self.signs is not None, "the sums were made without `signs`"
        return self.signs.abs().div_(self.count)


def _sum(t: Tensor) -> Tensor:
    """Over the first axis, in the order of the other axes in memory: another order takes four times as long."""
    if t.ndim < 3:
        return t.sum(dim=0)
    order = sorted(range(1, t.ndim), key=t.stride, reverse=True)
    back = sorted(range(len(order)), key=order.__getitem__)
    return t.permute(0, *order).sum(dim=0).permute(back)


@dataclass(frozen=True)
class Streamed:
    """How a rule is computed from sums instead of gradients side by side."""

    needs: Callable[..., tuple[str, ...]]
    """From the rule's keyword arguments: which sums."""

    combine: Callable[..., Tensor]
    """From `GradientSums` and the rule's keyword arguments: `(*shape)`."""
