"""Which environment wants what: who alone is for a step, who alone is against it, and who conflicts with whom."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

_CHUNK = 1 << 22
"""Gradient entries that are compared at one time."""


@dataclass
class Wants:
    """Sums over components; layers are added one after another.

    Args:
        environments: Their number.
        least: The smallest |sum of signs| that the mask keeps.
        seed: Of the random signs beside which the shares are shown.
    """

    environments: int
    least: int
    seed: int = 0

    def __post_init__(self) -> None:
        count = self.environments
        self.gram = torch.zeros(count, count, dtype=torch.float64)
        self.alone = torch.zeros(count, dtype=torch.float64)
        """Mass of the mean gradient in components whose direction only this environment wants."""
        self.alone_by_chance = 0.0
        self.against = torch.zeros(count, dtype=torch.float64)
        """Components in which this environment alone is against all others."""
        self.mass = self.mass_by_chance = 0.0
        self.components = 0
        self.squares = self.kept_squares = 0.0
        self._generator = torch.Generator().manual_seed(self.seed)

    def add(self, gradients: Float[Tensor, "e *shape"]) -> None:
        """Add one parameter's gradients."""
        for part in gradients.flatten(start_dim=1).split(max(1, _CHUNK // self.environments), dim=1):
            self._add(part.cpu().float() if part.element_size() < 4 else part.cpu())

    def _add(self, g: Float[Tensor, "e p"]) -> None:
        self.components += g.shape[1]
        self.gram += (g @ g.mT).double()
        mean, signs = g.mean(dim=0), g.sign()
        total = signs.sum(dim=0)
        self.squares += float(mean.double().square().sum())
        self.kept_squares += float(mean[total.abs() >= self.least].double().square().sum())
        self.alone += _alone(mean, signs)
        self.mass += float(mean.double().abs().sum())
        if self.environments > 2:
            lonely = (signs != 0).all(dim=0) & (total.abs() == self.environments - 2)
            self.against += (lonely & (signs == -total.sign())).sum(dim=1)
        flips = torch.randint(0, 2, g.shape, generator=self._generator, dtype=torch.int8) * 2 - 1
        thrown = g * flips
        chance = thrown.mean(dim=0)
        self.alone_by_chance += float(_alone(chance, thrown.sign()).sum())
        self.mass_by_chance += float(chance.double().abs().sum())

    @property
    def cosines(self) -> Float[Tensor, "e e"]:
        """NaN for an environment without gradient."""
        length = self.gram.diagonal().sqrt()
        cosine = (self.gram / length / length[:, None]).clamp(-1, 1)
        return torch.where(torch.isfinite(cosine), cosine, torch.nan)

    @property
    def alignment(self) -> float:
        """Squared length of the mean gradient over the mean squared length."""
        total = float(self.gram.trace())
        return float(self.gram.sum()) / self.environments / total if total else float("nan")


def _alone(mean: Tensor, signs: Tensor) -> Tensor:
    """`(e,)` mass of `mean` where one environment alone has its sign, by that environment."""
    agrees = (signs == mean.sign()) & (mean != 0)
    return (agrees & (agrees.sum(dim=0) == 1)).double() @ mean.double().abs()
