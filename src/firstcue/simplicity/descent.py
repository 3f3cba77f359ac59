"""Fewest bits within a budget of divergence: each image has a weight of its own, found while it is simplified.

The weight of the bits rises while the model's answer stays within the budget and falls while it does not (dual ascent on
its logarithm), so one run ends at the budget of every image, and no run is repeated.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from firstcue._allocator import keep_freed
from firstcue._progress import Progress
from firstcue.simplicity.density import Density
from firstcue.simplicity.fidelity import Match, Matcher
from firstcue.simplicity.starts import Coordinates

FIRST_WEIGHT = 0.3
"""Of one bit per value, beside one nat of divergence."""
SPEED = 0.1
"""Largest change of the logarithm of a weight in one step towards more pressure."""
RELIEF = 3.0
"""How much faster it falls than it rises."""
BETAS = (0.9, 0.99)
WEIGHTS = (1e-4, 1e4)
SMALLEST = 1e-6
"""Gradients well below it are rounding errors of a start at the optimum, which Adam would blow up."""


@dataclass(frozen=True)
class Demand:
    """What an image has to fulfil to count."""

    kl_budget: float
    """Nats."""

    decision: Int64[Tensor, " n"]
    """The class that has to be decided for."""

    def met(self, match: Match) -> Bool[Tensor, " n"]:
        """Whether each image keeps the answer."""
        return (match.kl <= self.kl_budget) & (match.logits.argmax(dim=1) == self.decision)


@dataclass
class Best:
    """The cheapest images so far that fulfil the demand; of an image that never did, the one nearest to it."""

    images: Float[Tensor, "n c h w"]
    bits: Float[Tensor, " n"]
    kl: Float[Tensor, " n"]
    distance: Float[Tensor, " n"]
    weight: Float[Tensor, " n"]
    met: Bool[Tensor, " n"]

    @classmethod
    def of(cls, images: Tensor) -> "Best":
        """Nothing yet."""
        worst = torch.full((len(images),), torch.inf, device=images.device)
        return cls(images.clone(), worst, worst.clone(), worst.clone(), worst.clone(), worst.isnan())

    def offer(self, images: Tensor, bits: Tensor, match: Match, weight: Tensor, met: Tensor) -> None:
        """Keep what is better."""
        cheaper = met & (~self.met | (bits < self.bits))
        nearer = ~met & ~self.met & (match.kl < self.kl)
        take = (cheaper | nearer) & bits.isfinite()
        new = (images, bits, match.kl, match.distance, weight)
        for kept, offered in zip((self.images, self.bits, self.kl, self.distance, self.weight), new, strict=True):
            kept[take] = offered.detach()[take].to(kept.dtype)
        self.met |= met & take


@dataclass(frozen=True)
class Descent:
    """Where an optimisation came to."""

    best: Best
    last: Float[Tensor, "n c h w"]
    history: dict[str, list[float]] = field(default_factory=dict)
    """Means over the images, one number per step."""

    skipped: int = 0
    """Steps of single images that were left out because a gradient was not finite."""


def descend(
    places: Coordinates,
    match: Matcher,
    density: Density,
    demand: Demand,
    steps: int,
    *,
    rate: float,
    bits_count: bool = True,
    generator: torch.Generator,
    progress: Progress,
) -> Descent:
    """Lower the bits of images while the model's answer to them stays.

    Args:
        places: Where to begin, and in which coordinates.
        match: How far images are from their originals.
        density: Gives the bits and their gradient.
        demand: What an image has to fulfil.
        steps: Of Adam.
        rate: Its step size, falling to a tenth.
        bits_count: Without, the same is done with no weight on the bits.
        generator: Noise of a density over continuous values.
        progress: Told the fraction done.
    """
    keep_freed()
    adam = torch.optim.Adam(places.free, lr=rate, betas=BETAS, eps=SMALLEST)
    images = places.images(places.free)
    best, size = Best.of(images.detach()), images[0].numel()
    weight = torch.full((len(images),), FIRST_WEIGHT if bits_count else 0.0, device=images.device)
    history: dict[str, list[float]] = {"bits": [], "kl": [], "distance": [], "weight": [], "met": []}
    skipped = 0
    for step in range(steps + 1):
        images = places.images(places.free)
        found = match(images)
        with torch.set_grad_enabled(bits_count):
            bits = density.bits(images, generator=generator)
        met = demand.met(found)
        best.offer(images.detach(), bits.detach(), found, weight, met)
        _note(history, bits, found, weight, met)
        if step == steps:
            break
        loss = found.loss + (weight * bits / size if bits_count else 0)
        skipped += _move(adam, places, loss, rate * (1 - 0.9 * step / steps))
        if bits_count:
            slack = ((demand.kl_budget - found.kl.detach()) / demand.kl_budget).clamp(-RELIEF, 1)
            weight = (weight * (SPEED * torch.where(met, slack, slack.clamp_max(-1))).exp()).clamp(*WEIGHTS)
        progress("simplifying", (step + 1) / steps)
    return Descent(best, images.detach(), history, skipped)


def _move(adam: torch.optim.Adam, places: Coordinates, loss: Tensor, rate: float) -> int:
    """One step; images whose loss or gradient is not finite stay where they are. Returns how many."""
    usable = loss.isfinite()
    gradients = torch.autograd.grad(torch.where(usable, loss, 0.0).sum(), places.free)
    for gradient in gradients:
        usable = usable & gradient.isfinite().flatten(1).all(dim=1)
    for leaf, gradient in zip(places.free, gradients, strict=True):
        leaf.grad = torch.where(usable.reshape(-1, *[1] * (leaf.ndim - 1)), gradient, 0.0)
    adam.param_groups[0]["lr"] = rate
    adam.step()
    return int((~usable).sum())


def _note(history: dict[str, list[float]], bits: Tensor, found: Match, weight: Tensor, met: Tensor) -> None:
    row = {"bits": bits, "kl": found.kl, "distance": found.distance, "weight": weight, "met": met}
    for name, values in row.items():
        history[name].append(float(values.detach().float().mean()))


def denoise(
    places: Coordinates,
    density: Density,
    enough: Float[Tensor, " n"],
    steps: int,
    *,
    rate: float,
    generator: torch.Generator,
) -> tuple[Float[Tensor, "n c h w"], Bool[Tensor, " n"]]:
    """Lower the bits of each image to `enough` with no regard to any model.

    Returns:
        The first images that cost at most `enough`, and which got there; of the others, the last.
    """
    adam = torch.optim.Adam(places.free, lr=rate, betas=BETAS, eps=SMALLEST)
    kept = places.images(places.free).detach().clone()
    there = torch.zeros(len(kept), dtype=torch.bool, device=kept.device)
    for _ in range(steps + 1):
        images = places.images(places.free)
        bits = density.bits(images, generator=generator)
        kept[~there] = images.detach()[~there]
        there |= bits.detach() <= enough
        if bool(there.all()):
            break
        _move(adam, places, bits / images[0].numel(), rate)
    return kept, there
