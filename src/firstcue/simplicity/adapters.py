"""Densities from other libraries: anything with a `log_prob` measures bits, whatever range it was trained on."""

import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from firstcue.simplicity.quantising import dequantised, grey_levels


class Range(NamedTuple):
    """How a density over another range sees the unit image v: as `scale v + offset`."""

    scale: float
    offset: float


def from_log_prob(
    obj: Any,
    in_range: str = "0..1",
    *,
    per_dim: bool = False,
    dequantize: bool = True,
    levels: int = 256,
    shape: tuple[int, ...] | None = None,
    flat: bool | None = None,
    differentiable: bool = True,
) -> "LogProbDensity":
    """A density from anything that gives log-probability densities: a flow, a distribution, a function.

    With v = (q + u) / levels, q the grey level and u uniform noise, the bits are `-log2 p(v) + d log2(levels)`: an upper
    bound, in the mean over u, on the bits of the discrete image. Whatever the range, the result is the same.

    Args:
        obj: An object with `log_prob(x)` (normflows, nflows, pyro, torch.distributions), a zuko flow, or a function
            from images to log densities, in nats: `(n,)`, or one value per element, which are added up.
        in_range: What `obj` was trained on: "0..1" is v, "-0.5..0.5" is v - 0.5, "-1..1" is 2 v - 1, "0..255" is 255 v,
            "0..256" is q + u.
        per_dim: `obj` gives the mean over elements in place of the sum.
        dequantize: Add noise u; without it the middle of the cell (u = 0.5) is asked, which is no bound.
        levels: Number of grey levels.
        shape: `(c, h, w)` of the images that `obj` knows; taken from `obj.event_shape` where there is one.
        flat: Hand over rows `(n, c h w)` in place of images; taken from `obj.event_shape` where there is one.
        differentiable: Whether gradients may be asked of `obj`.

    Returns:
        A density for `fc.bits` and for everything that simplifies. If `obj` is a module its weights move with it.

    Raises:
        ValueError: If `obj` has no `log_prob` and cannot be called, or the range is not one of the five.

    Example:
        >>> unit = torch.distributions.Uniform(0.0, 1.0)
        >>> from_log_prob(unit).bits(torch.rand(1, 1, 4, 4)) / 16
        tensor([8.])
    """
    ranges = {
        "0..1": Range(1, 0),
        "-0.5..0.5": Range(1, -0.5),
        "-1..1": Range(2, -1),
        "0..255": Range(levels - 1, 0),
        "0..256": Range(levels, 0),
    }
    if in_range not in ranges:
        raise ValueError(f"`in_range` is {in_range!r}; one of {', '.join(ranges)} is needed.")
    event = tuple(getattr(obj, "event_shape", ()))
    if shape is None and len(event) == 3:
        shape = event
    as_rows = len(event) == 1 if flat is None else flat
    return LogProbDensity(obj, ranges[in_range], per_dim, dequantize, levels, shape, as_rows, differentiable)


class LogProbDensity(nn.Module):
    """What `from_log_prob` makes; a module, so that the weights of the adapted object are found."""

    def __init__(
        self,
        obj: Any,
        seen: Range,
        per_dim: bool,
        dequantize: bool,
        levels: int,
        shape: tuple[int, ...] | None,
        flat: bool,
        differentiable: bool,
    ) -> None:
        super().__init__()
        self.obj, self.seen, self.per_dim, self.dequantize = obj, seen, per_dim, dequantize
        self.levels, self.shape, self.flat, self.differentiable = levels, shape, flat, differentiable
        log_prob_of(obj)  # refuses early what cannot be asked

    def bits(self, x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Bits of each image for one draw of noise."""
        v = (
            dequantised(x, generator, self.levels)
            if self.dequantize
            else (grey_levels(x, self.levels) + 0.5) / self.levels
        )
        seen = self.seen.scale * v + self.seen.offset
        nats = log_prob_of(self.obj)(seen.flatten(start_dim=1) if self.flat else seen)
        size = x[0].numel() if len(x) else 1
        total = _per_image(nats, len(x), type(self.obj).__name__) * (size if self.per_dim else 1)
        return -total / math.log(2) + size * math.log2(self.levels / self.seen.scale)


def log_prob_of(obj: Any) -> Callable[[Tensor], Tensor]:
    """The function from values to log densities that an object of another library offers.

    Raises:
        ValueError: If there is none.
    """
    if _is_lazy(obj):
        return obj().log_prob  # zuko: a flow without context is a distribution only once it is called
    method = getattr(obj, "log_prob", None)
    if (method is None and isinstance(obj, nn.Module)) or not callable(method or obj):
        raise ValueError(
            f"a {type(obj).__name__} has no `log_prob`; give an object that has one, or a function from values to log "
            f"densities, for example lambda v: -my_loss(v)."
        )
    asked: Callable[..., Tensor] = method or obj
    if _wants_label(asked):
        return lambda values: asked(values, None)  # normflows: a multi-scale flow asks for a class, even if it has none
    return asked


def _is_lazy(obj: Any) -> bool:
    return any(kind.__module__.startswith("zuko.") for kind in type(obj).__mro__) and not hasattr(obj, "log_prob")


def _wants_label(function: Callable[..., Tensor]) -> bool:
    """Whether a second positional argument has to be given."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return False
    needed = [p for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return len(needed) == 2


def _per_image(nats: Any, n: int, kind: str) -> Tensor:
    """`(n,)`, adding up what was given for each element."""
    if not isinstance(nats, Tensor) or nats.ndim == 0 or len(nats) != n:
        found = tuple(nats.shape) if isinstance(nats, Tensor) else type(nats).__name__
        raise ValueError(
            f"{kind} gave log densities of shape {found} for {n} images; one per image (n,) or per element is needed."
        )
    return nats.flatten(start_dim=1).sum(dim=1) if nats.ndim > 1 else nats
