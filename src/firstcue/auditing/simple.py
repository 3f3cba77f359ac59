"""How many bits inputs take, by class and group, and which simpler ones the model answers alike: what survives in the cue?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from firstcue._progress import Progress
from firstcue.auditing.edited import edited_inputs
from firstcue.auditing.effort import DEFAULT, Effort
from firstcue.auditing.splits import some_rows
from firstcue.batch import Batch
from firstcue.finding import Finding, Picture
from firstcue.simplicity.explain import explain_simplify
from firstcue.simplicity.explained import SimplifyResult
from firstcue.simplicity.inspecting import GroupBits, InspectedBits, inspect_bits
from firstcue.simplicity.ranges import fitting_density, unit_images
from firstcue.simplicity.saved import contrast_normalised

PER_GROUP = 2
"""Decisions of each group that are explained, where there are groups enough."""
BUDGET = 0.1
LARGEST = 96 * 96 * 3
"""Values of an image beyond which no decision is explained here: it would take minutes."""
RESAMPLES = 200
SOURCE = "When less is more: Simplifying inputs aids neural network understanding (Schirrmeister et al. 2022, arXiv 2201.05610)"


@dataclass(frozen=True)
class Simple:
    """The inputs in bits and a few simplified decisions."""

    cue: str | None
    density: str
    inspected: InspectedBits
    explained_low: float
    explained_high: float
    result: SimplifyResult | None
    in_cue: Tensor | None
    """`(2, n)` shares of the bits in the cue: surviving, and of the originals."""

    extremes: Tensor
    """`(m, c, h, w)` the simplest and then the most complex images."""

    note: str


def measure_simplicity(
    model: nn.Module, held: Batch, seed: int, progress: Progress, effort: Effort = DEFAULT
) -> Simple | None:
    """Bits of held-out images and of the simplest ones answered alike; None where inputs are no images.

    Args:
        model: The audited model, left as found.
        held: Held-out rows; their editor says where the cue is.
        seed: Of the choice of rows.
        progress: Told the fraction done.
        effort: Images measured, decisions explained, and steps of each explanation.
    """
    unit, rows = unit_images(held.x), some_rows(len(held), effort.measured_images, seed)
    if unit is None:
        return None
    part, pixels = held.rows(rows), unit.images[rows]
    density, name = fitting_density(pixels)
    progress("measuring inputs in bits", 0.0)
    named = _names(part)
    found = inspect_bits(density, pixels, [part.classes[i] for i in part.y.tolist()], named, examples=3, seed=seed)
    low, high = _interval(found.bits.numpy(), part.y.numpy(), seed)
    ends = [*found.overall.simplest, *found.overall.most_complex]
    result, shares = None, None
    if pixels[0].numel() <= LARGEST:
        chosen = _decisions(part, effort.explained, seed)
        result = explain_simplify(
            model, pixels[chosen], density, kl_budget=BUDGET, steps=effort.steps, controls=False,
            to_inputs=unit.to_inputs, seed=seed, progress=progress,
        )  # fmt: skip
        shares = _shares(part, chosen, result, density)
    return Simple(
        held.cue if held.attribute is not None else None,
        name,
        found,
        low,
        high,
        result,
        shares,
        pixels[ends],
        unit.note,
    )


def _names(part: Batch) -> list[str] | None:
    if part.attribute is None:
        return None
    return [
        f"{part.classes[y]}, {part.values[a]}" for y, a in zip(part.y.tolist(), part.attribute.tolist(), strict=True)
    ]


def _decisions(part: Batch, most: int, seed: int) -> Tensor:
    """A few rows of each group."""
    cells, generator = part.groups(), torch.Generator().manual_seed(seed)
    rows = []
    groups = cells.unique().tolist()[: max(1, most // PER_GROUP)]
    for g in groups:
        members = (cells == g).nonzero()[:, 0]
        rows.append(members[torch.randperm(len(members), generator=generator)[: max(1, most // len(groups))]])
    return torch.cat(rows)


def _shares(part: Batch, chosen: Tensor, result: SimplifyResult, density: Any) -> Tensor | None:
    """Share of the bits that lie where an edit of the cue changes pixels, of simplified and of original images."""
    if part.edit is None or not hasattr(density, "bits_map"):
        return None
    rows = part.x[chosen]
    region = torch.zeros(len(rows), *rows.shape[2:], dtype=torch.bool)
    for edited in edited_inputs(part, chosen):
        region |= (edited - rows).abs().amax(dim=1) > 1e-6
    with torch.no_grad():
        maps = [density.bits_map(images).double() for images in (result.simplified, result.original)]
    return torch.stack([(m * region).sum(dim=(1, 2)) / m.sum(dim=(1, 2)).clamp_min(1e-9) for m in maps])


def _interval(bits: np.ndarray, y: np.ndarray, seed: int) -> tuple[float, float]:
    """95 % percentile bootstrap, over rows, of the share of the variance that lies between classes."""
    generator = np.random.default_rng(seed)
    drawn = [generator.integers(len(bits), size=len(bits)) for _ in range(RESAMPLES)]
    shares = [_between(bits[rows], y[rows]) for rows in drawn]
    low, high = np.nanquantile(shares, [0.025, 0.975])
    return float(low), float(high)


def _between(bits: np.ndarray, y: np.ndarray) -> float:
    total = bits.var()
    means = np.bincount(y, bits) / np.maximum(np.bincount(y), 1)
    return float(((means[y] - bits.mean()) ** 2).mean() / total) if total > 0 else float("nan")


def simplicity_findings(found: Simple) -> list[Finding]:
    """One sentence on the bits of the inputs, one on what survives when they are simplified."""
    return [_told(found), *([] if found.result is None else [_survived(found, found.result)])]


def _told(found: Simple) -> Finding:
    bits, size = found.inspected, found.inspected.values
    finite = bits.explained - bits.explained == 0
    parts = bits.by_group or bits.by_class
    cheap, dear = min(parts, key=lambda g: g.mean), max(parts, key=lambda g: g.mean)
    said = (
        f"Inputs take {bits.overall.mean / size:.2f} bits per value under {found.density}, "
        f"from {cheap.mean / size:.2f} ({cheap.name}) to {dear.mean / size:.2f} ({dear.name})"
    )
    alone = f"; the class explains {bits.explained:.0%} of how simple they are" if finite else ""
    return Finding(
        id="simplicity/class/input/bits",
        cue="class",
        kind="simplicity",
        layer="input",
        status="no shortcut found",
        value=bits.explained if finite else None,
        unit="share of the variance of bits between classes, a fraction",
        ci_low=found.explained_low if finite else None,
        ci_high=found.explained_high if finite else None,
        n=bits.overall.n,
        baseline=bits.explained_by_chance if finite else None,
        meaning=f"{said}{alone}. Bits depend on the density.",
        source=SOURCE,
        details={f"bits_per_value {_short(g)}": g.mean / size for g in (*bits.by_class, *bits.by_group)[:24]},
    )


def _short(group: GroupBits) -> str:
    return group.name[:60]


def _survived(found: Simple, result: SimplifyResult) -> Finding:
    same = int((result.decision_before == result.decision_after).sum())
    saved, n = result.share_saved.double(), len(result)
    fewer = f"{n} images keep {1 - float(saved.mean()):.0%} of their bits while the answers move by at most {result.kl_budget:g} nats ({same} of {n} decisions stay)"
    details: dict[str, Any] = {
        "kl_largest": float(result.kl.max()),
        "steps": len(result.history.get("bits", ())),
        "density": found.density,
        "saved": float(saved.mean()),
    }
    common: dict[str, Any] = {
        "kind": "simplicity",
        "layer": "input",
        "status": "no shortcut found",
        "n": n,
        "source": SOURCE,
    }
    if found.in_cue is None:
        low, high = _t_interval(saved)
        return Finding(
            id="simplicity/model/input/saved", cue="model", value=float(saved.mean()), unit="share of bits saved, a fraction",
            ci_low=low, ci_high=high, baseline=0.0, details=details,
            meaning=f"{fewer}. What vanished is not needed for these decisions.", **common,
        )  # fmt: skip
    after, before = found.in_cue
    low, high = _t_interval(after)
    return Finding(
        id=f"simplicity/{found.cue}/input/surviving", cue=str(found.cue), value=float(after.mean()),
        unit="share of the surviving bits that lie in the cue, a fraction", ci_low=low, ci_high=high,
        baseline=float(before.mean()), details=details,
        meaning=(
            f"{fewer}. Of what survives, {float(after.mean()):.0%} lies where editing {found.cue} changes pixels "
            f"({float(before.mean()):.0%} in the originals). It is an exploration: bits that survive need not be used."
        ), **common,
    )  # fmt: skip


def _t_interval(values: Tensor) -> tuple[float | None, float | None]:
    from scipy import stats

    if len(values) < 2:
        return None, None
    half = float(stats.t.ppf(0.975, len(values) - 1)) * float(values.std()) / len(values) ** 0.5
    return float(values.mean()) - half, float(values.mean()) + half


def simplicity_summary(found: Simple) -> dict[str, Any]:
    """What the report keeps under `simplicity`."""
    bits, size = found.inspected, found.inspected.values
    said: dict[str, Any] = {"density": found.density, "bits_per_value": bits.overall.mean / size, "n": bits.overall.n}
    said |= {f"bits_per_value_of_{g.name}": g.mean / size for g in (*bits.by_class, *bits.by_group)[:24]}
    if found.result is not None:
        said |= {
            "explained_decisions": len(found.result),
            "share_of_bits_saved": float(found.result.share_saved.double().mean()),
            "kl_budget": found.result.kl_budget,
        }
    if found.in_cue is not None:
        said |= {
            "surviving_bits_in_the_cue": float(found.in_cue[0].mean()),
            "original_bits_in_the_cue": float(found.in_cue[1].mean()),
        }
    return said


def simplicity_pictures(found: Simple) -> tuple[Picture, ...]:
    """A few decisions before and after, and the extremes of the data."""
    from firstcue.report.figures import picture

    if found.extremes.shape[1] not in (1, 3):
        return ()
    half = len(found.extremes) // 2
    made = [
        picture(
            _large(found.extremes), "Simplest and most complex", "Above the fewest bits, below the most.",
            f"{half} images of fewest bits and, below, {half} of most bits", columns=half,
            finding="simplicity/class/input/bits",
        )
    ]  # fmt: skip
    if found.result is not None:
        kept = found.result
        clear, change = contrast_normalised(kept.simplified), kept.difference
        order = kept.share_saved.argsort(descending=True)[:3].tolist()
        tiles = [image for i in order for image in (kept.original[i], kept.simplified[i], clear[i], change[i])]
        lines = "; ".join(f"{float(kept.bits_before[i]):.0f} to {float(kept.bits_after[i]):.0f} bits" for i in order)
        made.append(
            picture(
                _large(tiles), "The simplest that is answered alike",
                f"From left: original, simplified, the same with its contrast restored, difference. From above: {lines}.",
                f"{len(order)} images, each beside its simplified version, that with contrast restored, and the difference",
                columns=4, finding=_survived(found, kept).id,
            )
        )  # fmt: skip
    return tuple(made)


def _large(images: Sequence[Tensor] | Tensor) -> list[Tensor]:
    """Each pixel repeated so that small images stay sharp."""
    scale = max(1, 84 // images[0].shape[1])
    return [x.float().repeat_interleave(scale, dim=1).repeat_interleave(scale, dim=2) for x in images]
