"""Which images are under pressure, and how much: gates, tolerances, the weight of the bits, and what to watch.

A gate is the method's safety catch: no bits are taken from an image that the classifier has not, or no longer, solved.
"""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

SMALLEST_TOLERANCE = 0.1
STUCK = 0.02
"""Mean gate below which hardly anything is simplified."""

MISSED = 1.1
"""Bits at the end, over those asked for, from which the reader is told."""

ENOUGH = 10
"""Steps from which a stuck gate can be told from one that has yet to open."""


def solved_gate(losses: Float[Tensor, " n"], tau: int | float) -> Float[Tensor, " n"]:
    """1 for an image whose loss is 0, falling to 0 at a loss of `tau`; a constant to gradients.

    Example:
        >>> solved_gate(torch.tensor([0.0, 0.25, 0.5, 9.0]), 0.5).tolist()
        [1.0, 0.5, 0.0, 0.0]
    """
    return ((tau - losses.detach()) / tau).clamp(0, 1)


def close_gate(
    distances: Float[Tensor, " n"], right: Bool[Tensor, " n"], d_max: int | float, margin: float = 1e-5
) -> Float[Tensor, " n"]:
    """1 for an image that the classifier still sees rightly and as closely as `d_max`, else 0; a constant to gradients.

    Example:
        >>> close_gate(torch.tensor([0.1, 0.1, 0.3]), torch.tensor([True, False, True]), 0.2).tolist()
        [1.0, 0.0, 0.0]
    """
    return ((d_max - distances.detach()) / margin).clamp(0, 1) * right


def automatic_tolerance(losses: Float[Tensor, " n"]) -> float:
    """Half of the images are under pressure from the start, or all whose loss is below 0.1 if those are more.

    Example:
        >>> automatic_tolerance(torch.tensor([0.2, 0.3, 0.9]))
        0.30000001192092896
    """
    finite = losses[torch.isfinite(losses)]
    return max(SMALLEST_TOLERANCE, float(finite.median())) if len(finite) else SMALLEST_TOLERANCE


@dataclass
class Pressure:
    """The weight of the bits over the steps: risen over `ramp` steps, then fixed or, with a target, adapted.

    Args:
        lam: Weight of the mean bits per pixel.
        target: Wanted mean bits per pixel; the logarithm of the weight then answers to how far images are from it, and
            to the sum of that over the steps (dual ascent), each change within `widest`.
        ramp: Steps over which the weight rises from 0.
        speed: Of the dual ascent.
        damping: Of the answer to the present distance, which keeps the ascent from overshooting.
        widest: Largest factor by which the weight departs from `lam`.
    """

    lam: float
    target: float | None = None
    ramp: int = 0
    speed: float = 0.03
    damping: float = 5.0
    widest: float = 1e3

    def __post_init__(self) -> None:
        self._sum = self._recent = 0.0

    def at(self, step: int) -> float:
        """Weight in a step counted from 0."""
        limit = math.log(self.widest)
        factor = math.exp(max(-limit, min(limit, self._sum + self.damping * self._recent)))
        return self.lam * factor * min(1.0, (step + 1) / (self.ramp + 1))

    def arrived(self, bits_per_pixel: float) -> bool:
        """Whether a batch is below the target. It is then left alone: where the task is solved nothing else would hold it."""
        return self.target is not None and bits_per_pixel < self.target

    def heard(self, bits_per_pixel: float) -> None:
        """Adapt to the mean bits of a batch."""
        if self.target is not None and math.isfinite(bits_per_pixel):
            excess = max(-1.0, min(1.0, bits_per_pixel / self.target - 1))
            self._recent = 0.8 * self._recent + 0.2 * excess
            self._sum += self.speed * excess


@dataclass
class PercentileClip:
    """Clips gradients to a percentile of the norms they had lately, so that a spike cannot undo what was learnt.

    Example:
        >>> clip = PercentileClip(percentile=50)
        >>> for _ in range(20):
        ...     steady = clip([torch.tensor([1.0])])
        >>> float(clip([torch.tensor([100.0])])[0])
        1.0
    """

    percentile: int | float = 80
    window: int = 400
    _norms: deque[float] = field(default_factory=deque)

    def __call__(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        norm = math.sqrt(sum(float(g.square().sum()) for g in gradients))
        self._norms.append(norm)
        if len(self._norms) > self.window:
            self._norms.popleft()
        place = min(len(self._norms) - 1, int(self.percentile / 100 * len(self._norms)))
        most = sorted(self._norms)[place]
        return list(gradients) if norm <= most else [g * (most / norm) for g in gradients]


def warnings_of(
    history: Sequence[Mapping[str, Any]], strategy: str, target: int | float | None = None
) -> tuple[str, ...]:
    """What a reader of the history has to be told: a stuck gate, steps without effect, bits above their target per pixel."""
    rows = [row for row in history if row["phase"] == "simplify"]
    if not rows:
        return ()
    told = []
    late = [row["gate"] for row in rows[len(rows) // 2 :] if row["lam"] > 0]
    if strategy != "reconstruction" and len(late) >= ENOUGH and sum(late) / len(late) < STUCK:
        remedy = {
            "lookahead": "train the classifier longer first (raise `warmup`), or raise `tau`",
            "act_grad": "train the classifier longer first (raise `warmup`), raise `d_max`, or lower `lam`",
        }[strategy]
        told.append(
            f"the gate is stuck: on average {100 * sum(late) / len(late):.1f} % of an image's bits counted in the second "
            f"half of {len(rows)} steps, so hardly anything was simplified; {remedy}."
        )
    last = [row["bits_per_pixel"] for row in rows[-len(rows) // 4 :] if row.get("bits_per_pixel") is not None]
    if target is not None and last and sum(last) / len(last) > MISSED * target:
        told.append(
            f"images still take {sum(last) / len(last) / target:.2f} times the bits asked for; raise `steps`, or `lam` as the "
            f"weight to start from."
        )
    skipped = sum(bool(row["skipped"]) for row in rows)
    if skipped:
        told.append(
            f"{skipped} of {len(rows)} steps were skipped because a loss, the bits or a gradient was not finite"
            + ("; lower `rate` or `lam`, or check the density on such images." if skipped > len(rows) / 10 else ".")
        )
    return tuple(told)
