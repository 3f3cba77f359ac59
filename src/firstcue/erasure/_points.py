"""Move points until a function of them is small, inside a box or free: what edited and made data sets rest on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from firstcue._checks import as_tensor, require_finite
from firstcue._progress import Progress, silent

GREY = 1 / 510
"""Half a grey level of an 8-bit image: how near to the walls of the unit box a movable point may start."""

Loss = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Lbfgs:
    """Limited-memory BFGS with a strong Wolfe line search, for `steps` iterations at most."""

    steps: int = 100

    def __call__(self, start: Tensor, loss: Loss, progress: Progress = silent) -> Tensor:
        """The point reached from `start`."""
        point = start.detach().clone().requires_grad_()
        optimizer = torch.optim.LBFGS(
            [point], max_iter=self.steps, max_eval=10 * self.steps, history_size=10, line_search_fn="strong_wolfe"
        )
        calls = 0

        def closure() -> Tensor:
            nonlocal calls
            calls += 1
            progress("moving points", min(calls / self.steps, 1.0))
            optimizer.zero_grad()
            value = loss(point)
            value.backward()
            return value

        with torch.enable_grad():
            optimizer.step(closure)
        return point.detach()


@dataclass(frozen=True)
class Adam:
    """Adam for `steps` steps."""

    steps: int = 100
    learning_rate: float = 1e-2

    def __call__(self, start: Tensor, loss: Loss, progress: Progress = silent) -> Tensor:
        """The point reached from `start`."""
        point = start.detach().clone().requires_grad_()
        optimizer = torch.optim.Adam([point], lr=self.learning_rate)
        with torch.enable_grad():
            for step in range(self.steps):
                optimizer.zero_grad()
                loss(point).backward()
                optimizer.step()
                progress("moving points", (step + 1) / self.steps)
        return point.detach()


@dataclass(frozen=True)
class Box:
    """The same two walls for every feature, such as 0 and 1 for images."""

    low: float
    high: float

    @classmethod
    def of(cls, box: Sequence[float | int] | None) -> "Box | None":
        """None for no walls: `box` is None, or infinite on both sides.

        Raises:
            ValueError: If a wall is missing or they are not in order.
        """
        if box is None or (float(box[0]), float(box[1])) == (-torch.inf, torch.inf):
            return None
        low, high = float(box[0]), float(box[1])
        if not -torch.inf < low < high < torch.inf:
            raise ValueError(
                f"`box` is (low, high), both finite and in order, or (-inf, inf) for no walls; got ({low:g}, {high:g})."
            )
        return cls(low, high)

    def require(self, rows: Tensor) -> None:
        """Refuse rows outside."""
        low, high = (float(rows.min()), float(rows.max())) if rows.numel() else (self.low, self.high)
        slack = 1e-6 * (self.high - self.low)
        if low < self.low - slack or high > self.high + slack:
            raise ValueError(
                f"`x` runs from {low:.4g} to {high:.4g}, outside the box ({self.low:g}, {self.high:g}). Name the range the "
                f"data can take, box=({low:.4g}, {high:.4g}) for example, or (-inf, inf) for none; or scale x into it."
            )

    def unit(self, rows: Tensor) -> Tensor:
        """The box as [0, 1]."""
        return (rows - self.low) / (self.high - self.low)

    def back(self, unit: Tensor) -> Tensor:
        """[0, 1] as the box."""
        return (self.low + unit * (self.high - self.low)).clamp(self.low, self.high)


def moved(
    start: Tensor, loss: Loss, optimise: Callable[..., Tensor], *, bounded: bool, progress: Progress = silent
) -> Tensor:
    """Points that `optimise` reaches from `start` for `loss(points)`; if bounded, inside the unit box by a sigmoid.

    Raises:
        ValueError: If the search ends in NaN or infinity.
    """
    if bounded:
        free = torch.logit(start.clamp(GREY, 1 - GREY))
        found = torch.sigmoid(optimise(free, lambda t: loss(torch.sigmoid(t)), progress))
    else:
        found = optimise(start, loss, progress)
    if not bool(torch.isfinite(found).all()):
        raise ValueError(
            "the search for points diverged (NaN or infinite values). Give x in units near 1 (divide by its standard "
            "deviation), a smaller learning rate, or float64."
        )
    return found


def flat_rows(x: Any, name: str = "x") -> Shaped[Tensor, "n d"]:
    """Finite rows `(n, d)` from vectors `(n, d)` or images `(n, c, h, w)`.

    Raises:
        ValueError: If `x` is one-dimensional, empty, or holds NaN or infinity.
    """
    tensor = as_tensor(x, name).detach()
    if tensor.ndim < 2 or tensor.numel() == 0:
        raise ValueError(
            f"`{name}` has shape {tuple(tensor.shape)}; rows of features (n, d) or images (n, c, h, w) are needed."
        )
    require_finite(tensor, name)
    return tensor.flatten(start_dim=1)


def covariance_of(points: Tensor) -> tuple[Tensor, Tensor]:
    """Mean `(d,)` and covariance `(d, d)` with divisor n, through which gradients pass."""
    mean = points.mean(dim=0)
    centred = points - mean
    return mean, centred.mT @ centred / len(points)
