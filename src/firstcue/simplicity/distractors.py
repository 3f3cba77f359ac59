"""Images with a distraction added whose parts are known, so that what a simplifier removed is measured, not looked at.

The clean parts come back with the images. The same images serve two tasks: once the core is what the label is about, once
the distractor (`swapped`); what should survive changes, the images do not.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from firstcue._checks import as_tensor, encode_labels, require_rows
from firstcue.simplicity._beds import DRAWN, Made, patch, resized, side_by_side
from firstcue.simplicity.density import Uniform, require_inputs

STRENGTHS = {"side": 0.5, "blend": 0.5, "stripes": 0.3, "noise": 0.5, "uniform": 0.5, "patch": 0.95}


@dataclass(frozen=True, eq=False)
class Distracted:
    """Images made of a core and a distractor, with both in the clean.

    Example:
        >>> bed = distract(torch.rand(6, 1, 8, 8), "stripes", labels=[0, 1] * 3)
        >>> bed.images.shape, bed.swapped().labels.equal(bed.other_labels)
        (torch.Size([6, 1, 8, 8]), True)
    """

    images: Any
    """`(n, c, h, w)` in [0, 1]."""

    labels: Tensor | None
    """`(n,)` class of the core, if labels were given."""

    other_labels: Tensor | None
    """`(n,)` class of the distractor: of its image, direction of its stripes, place of its patch; None for noise."""

    components: dict[str, Any]
    """"core" and "distractor", `(n, c, h, w)` each: the images are made of nothing else."""

    kind: str
    """How they were put together."""

    classes: tuple[str, ...] = ()
    """Names of `labels`."""

    other_classes: tuple[str, ...] = ()
    """Names of `other_labels`."""

    partner: Tensor | None = None
    """`(n,)` row of the distractor of each image, if distractors were images."""

    def swapped(self) -> "Distracted":
        """The same images for the other task: the distractor is now what the label is about.

        Raises:
            ValueError: If the distractor has no classes.
        """
        if self.other_labels is None:
            raise ValueError(
                f'a distractor of kind "{self.kind}" has no classes to learn here; give `distractor_labels`, or take "stripes" '
                f'or "patch", which bring their own.'
            )
        parts = {"core": self.components["distractor"], "distractor": self.components["core"]}
        return replace(
            self, labels=self.other_labels, other_labels=self.labels, components=parts,
            classes=self.other_classes, other_classes=self.classes,
        )  # fmt: skip


def distract(
    x: Any,
    kind: str = "side",
    *,
    labels: Any = None,
    distractor: Any = None,
    distractor_labels: Any = None,
    strength: int | float | None = None,
    seed: int = 0,
) -> Distracted:
    """Add a distraction to images, and keep the parts.

    Args:
        x: Images `(n, c, h, w)` in [0, 1], the core.
        kind: "side": core and distractor side by side in random order, squeezed to the width of one. "blend":
            `(1 - s) core + s distractor`. "stripes": the same with a sine wave, across or down by the flip of a coin.
            "noise": `core (1 - s + s u)` with u uniform in each value, so noise where there is ink. "uniform": `(1 - s) core +
            s g` with one random grey g per image. "patch": a white square whose place agrees with the label with probability
            s and is that of another class otherwise.
        labels: `(n,)` classes of the core, of any kind; "patch" needs them.
        distractor: Images for "side" and "blend"; of another size they are resized. Each image gets a random one, all
            about equally often; if they are the very images of `x`, never itself.
        distractor_labels: `(m,)` classes of the distractor images.
        strength: s in [0, 1]; 0.5 for blend, noise and uniform, 0.3 for stripes, 0.95 for patch. "side" has none.
        seed: Of every draw.

    Returns:
        Images, labels of both tasks and the clean parts, in the type of `x`. The images are a sum of multiples of the
        parts: of the core and of what was added (for "noise", of `core (u - 1/2)`).

    Raises:
        ValueError: If images are outside [0, 1], a distractor or labels are missing, lengths differ, or `strength` is no
            fraction.

    Example:
        >>> core, other = torch.zeros(3, 1, 4, 4), torch.ones(5, 1, 4, 4)
        >>> distract(core, "blend", distractor=other).images.unique()
        tensor([0.5000])
    """
    if kind not in STRENGTHS:
        raise ValueError(f"there is no distractor of kind {kind!r}; one of {', '.join(STRENGTHS)} is needed.")
    s = STRENGTHS[kind] if strength is None else float(strength)
    if not 0 <= s <= 1:
        raise ValueError(f"`strength` is {strength}; a number from 0 to 1 is needed.")
    images = require_inputs(Uniform(), x)
    core = images if images.dtype == torch.float64 else images.float()
    ids, classes = (None, ()) if labels is None else encode_labels(labels, "labels")
    if ids is not None:
        require_rows(core, ids, "x", "labels")
    generator = torch.Generator().manual_seed(seed)
    partner = None
    if kind in ("side", "blend"):
        made, partner = _with_images(core, kind, s, distractor, distractor_labels, distractor is x, generator)
    elif kind == "patch":
        made = patch(core, ids, classes, s, generator)
    else:
        made = DRAWN[kind](core, s, generator)
    give = _giver(x, images.dtype)
    parts = {"core": give(made.core), "distractor": give(made.distractor)}
    return Distracted(give(made.images.clamp(0, 1)), ids, made.value, parts, kind, classes, made.names, partner)


def _giver(x: Any, dtype: torch.dtype) -> Callable[[Tensor], Any]:
    """From a computed tensor to the type of what was given."""
    return lambda made: made.to(dtype) if isinstance(x, Tensor) else made.to(dtype).numpy()


def _with_images(
    core: Tensor, kind: str, s: float, distractor: Any, labels: Any, same: bool, generator: torch.Generator
) -> tuple[Made, Tensor]:
    if distractor is None:
        raise ValueError(f'"{kind}" needs images to distract with: distract(x, "{kind}", distractor=other_images).')
    others = require_inputs(Uniform(), distractor, "distractor").to(core)
    if others.shape[1] != core.shape[1] or len(others) == 0 or (same and len(others) < 2):
        raise ValueError(
            f"`distractor` has shape {tuple(others.shape)}; at least one image with the {core.shape[1]} channels of `x` is needed."
        )
    if others.shape[2:] != core.shape[2:]:
        others = resized(others, core.shape[2], core.shape[3])
    partner = _partners(len(core), len(others), same, generator)
    value, names = (None, ()) if labels is None else encode_labels(labels, "distractor_labels")
    if value is not None:
        require_rows(others, value, "distractor", "distractor_labels")
        value = value[partner]
    other = others[partner]
    if kind == "blend":
        return Made((1 - s) * core + s * other, core, other, value, names), partner
    first, second = side_by_side(core, other, generator)
    return Made(first + second, first, second, value, names), partner


def _partners(n: int, m: int, same: bool, generator: torch.Generator) -> Tensor:
    """A random row of m for each of n, all about equally often; never its own if both are the same images."""
    rounds = [torch.randperm(m, generator=generator) for _ in range(-(-n // m))]
    partner = torch.cat(rounds)[:n] if rounds else torch.empty(0, dtype=torch.int64)
    if same:
        alone = (partner == torch.arange(n)).nonzero().flatten()
        partner[alone] = (partner[alone] + 1 + torch.randint(m - 1, (len(alone),), generator=generator)) % m
    return partner


@dataclass(frozen=True)
class Kept:
    """How much of each part is in simplified images."""

    core: float
    """Coefficient of the core."""

    distractor: float
    """Coefficient of the distractor."""

    core_correlation: float
    """Mean over images of the correlation with the core; an image without contrast keeps nothing (0)."""

    distractor_correlation: float
    """The same for the distractor; NaN if no distractor varies within its image."""

    n: int
    """Images."""

    @property
    def ratio(self) -> float:
        """Distractor for each unit of core: what a simplifier that knows its task brings down."""
        return self.distractor / self.core if self.core != 0 else float("nan")


def coefficients(simplified: Any, bed: Distracted) -> Kept:
    """What simplified images are made of: least squares on [1, core, distractor] over all pixels of all images.

    Args:
        simplified: `(n, c, h, w)`, one for each image of the bed.
        bed: From `distract`.

    Returns:
        Coefficients and correlations; NaN for a part that cannot be told from the others (a blank one, say).

    Raises:
        ValueError: If shapes differ or values are not finite.

    Example:
        >>> bed = distract(torch.rand(20, 1, 8, 8), "blend", distractor=torch.rand(20, 1, 8, 8))
        >>> kept = coefficients(bed.images, bed)
        >>> round(kept.core, 3), round(kept.distractor, 3)
        (0.5, 0.5)
    """
    found = as_tensor(simplified, "simplified").detach().double()
    core, other = (as_tensor(bed.components[name]).detach().double() for name in ("core", "distractor"))
    if found.shape != core.shape:
        raise ValueError(
            f"`simplified` has shape {tuple(found.shape)}; the images of the bed have {tuple(core.shape)}."
        )
    if len(found) == 0 or not bool(torch.isfinite(found).all()):
        raise ValueError("`simplified` is empty or has NaN or infinite values; nothing can be said about it.")
    weights = _least_squares(found.flatten(), torch.stack([core.flatten(), other.flatten()]))
    return Kept(weights[0], weights[1], _correlation(found, core), _correlation(found, other), len(found))


def _least_squares(y: Tensor, parts: Tensor) -> list[float]:
    """Coefficients of both parts beside a constant; NaN for both if they cannot be told apart."""
    centred, wanted = parts - parts.mean(dim=1, keepdim=True), y - y.mean()
    products = centred @ centred.T
    spread = products.diagonal().sqrt()
    usable = spread > 1e-9 * max(1.0, float(parts.abs().max())) * parts.shape[1] ** 0.5
    if bool(usable.all()) and float(products[0, 1].abs()) < (1 - 1e-9) * float(spread.prod()):
        return torch.linalg.solve(products, centred @ wanted).tolist()
    if int(usable.sum()) == 1:  # the other part is blank: what is known of this one is known
        alone = (centred @ wanted) / products.diagonal()
        return torch.where(usable, alone, torch.nan).tolist()
    return [float("nan"), float("nan")]


def _correlation(found: Tensor, part: Tensor) -> float:
    a, b = (v.flatten(start_dim=1) - v.flatten(start_dim=1).mean(dim=1, keepdim=True) for v in (found, part))
    spread_a, spread_b = a.norm(dim=1), b.norm(dim=1)
    varies = spread_b > 1e-6
    flat = spread_a < 1e-6
    each = torch.where(flat, 0.0, (a * b).sum(dim=1) / (spread_a * spread_b).clamp(min=1e-300))
    return float(each[varies].mean()) if bool(varies.any()) else float("nan")
