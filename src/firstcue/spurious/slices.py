"""Regions of an embedding in which errors gather: Domino's mixture and Spotlight, and the metadata that explains a slice."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from firstcue._checks import as_tensor, require_finite, require_rows
from firstcue.spurious.intervals import holm, wilson
from firstcue.spurious.properties import properties_of
from firstcue.spurious.slice_line import literals

COMPONENTS = 25
DIRECTIONS = 64
SMALLEST = 20
"""Rows that a slice needs."""

_ENRICHED = 0.01


class Enriched(NamedTuple):
    """A value of the metadata that is commoner inside a slice than outside."""

    column: str
    value: str
    share: float
    """Of the slice's rows."""

    lift: float
    """Share inside over share in all rows."""

    p_value: float
    """Of Fisher's exact test, after Holm's correction over all values of all columns."""


@dataclass(frozen=True)
class ErrorSlice:
    """Rows that lie together and are wrong together."""

    method: str
    rows: np.ndarray
    """`(n,)` bool."""

    error: float
    """Mean error of its rows."""

    overall: float
    """Mean error of all rows."""

    typical: tuple[int, ...]
    """Ids of the rows nearest to its centre."""

    atypical: tuple[int, ...]
    """Ids of its rows farthest from it."""

    explained: tuple[Enriched, ...] = ()
    name: str = ""
    """Its conditions, where it has some; else the metadata that explain it."""

    @property
    def size(self) -> int:
        """Number of rows."""
        return int(self.rows.sum())


def domino_slices(
    embeddings: Any,
    y: Any,
    outputs: Any,
    *,
    most: int = 3,
    components: int = COMPONENTS,
    sharpness: int | float = 10.0,
    iterations: int = 30,
    seed: int = 0,
) -> tuple[ErrorSlice, ...]:
    """Regions around clusters of rows alike in embedding, class and decision, those with the most errors first.

    A mixture of Gaussians with axis-parallel spread, times `p(y|k)^sharpness p(decision|k)^sharpness`, so that rows of a
    cluster are wrong in the same way. A cluster of wrong rows is all wrong by making; what counts is how wrong its
    neighbourhood is. More components are fitted than slices returned.

    Args:
        embeddings: `(n, d)`, reduced to at most 64 principal directions.
        y: `(n,)` class ids.
        outputs: `(n, K)` logits, or probabilities.
        most: Slices returned.
        components: Of the mixture.
        sharpness: Weight of classes and decisions against the embedding.
        iterations: Of expectation-maximisation.
        seed: Of the start.

    Raises:
        ValueError: If shapes do not fit or values are not finite.

    Source:
        Eyuboglu et al., "Domino" (2022), https://arxiv.org/abs/2203.14960.
    """
    labels, decisions, z = _read(embeddings, y, outputs)
    wrong = labels != decisions
    if not wrong.any():
        return ()
    k = min(components, max(1, len(z) // SMALLEST))
    share = _mixture(z, labels, decisions, wrong, k, float(sharpness), iterations, seed)
    regions = [_region(z, share[:, j]) for j in range(share.shape[1])]
    found: list[ErrorSlice] = []
    for rows, distance in sorted(regions, key=lambda r: -_sure_error(wrong[r[0]])):
        known = any((rows & s.rows).sum() > 0.5 * min(rows.sum(), s.size) for s in found)
        if len(found) < most and rows.sum() >= SMALLEST and not known and wrong[rows].mean() > wrong.mean():
            found.append(_slice("Domino", rows, wrong, distance))
    return tuple(found)


def _region(z: np.ndarray, share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All rows, whatever their class and decision, as near to a component as nine tenths of its own, and their distances."""
    mass = share.sum() + 1e-12
    mean = share @ z / mass
    spread = share @ (z - mean) ** 2 / mass + 1e-3 * z.var(axis=0).mean() + 1e-12
    distance = ((z - mean) ** 2 / spread).sum(axis=1)
    own = share > 0.5
    if own.sum() < SMALLEST // 4:
        return np.zeros(len(z), dtype=bool), distance
    return distance <= np.quantile(distance[own], 0.9), distance


def _sure_error(wrong: np.ndarray) -> float:
    """The error rate that these rows have at least, so that a few rows do not lead by chance."""
    return wilson(float(wrong.sum()), float(len(wrong)))[0]


def spotlight(
    embeddings: Any,
    losses: Any,
    *,
    most: int = 3,
    share: int | float = 0.05,
    steps: int = 30,
    starts: int = 4,
    seed: int = 0,
) -> tuple[ErrorSlice, ...]:
    """Balls in embedding space in which the mean loss is highest, one after the other.

    Rows weigh `max(1 - |z - centre|^2 / radius^2, 0)`; the radius is such that weights add up to `share` of the rows, and
    the centre climbs the weighted mean loss from several starts. Rows under a spotlight lose that weight of their loss
    before the next one is lit.

    Args:
        embeddings: `(n, d)`, reduced to at most 64 principal directions.
        losses: `(n,)` nonnegative.
        most: Spotlights.
        share: Total weight over the number of rows.
        steps: Of the climb.
        starts: Climbs, from the best of sixteen times as many rows drawn by their loss.
        seed: Of the starts.

    Raises:
        ValueError: If shapes do not fit or values are not finite.

    Source:
        d'Eon et al., "The Spotlight" (2021), https://arxiv.org/abs/2107.00758.
    """
    z = torch.from_numpy(_reduced(embeddings))
    loss = as_tensor(losses, "losses").detach().cpu().double()
    require_rows(z, loss, "embeddings", "losses")
    require_finite(loss, "losses")
    mass = max(share * len(z), min(float(SMALLEST), len(z) / 2))
    left, found = loss.clone(), []
    for i in range(most):
        if float(left.sum()) <= 0:
            break
        weight = _brightest(z, left, mass, steps, starts, seed + i)
        rows = (weight > 0).numpy()
        near = np.where(rows, -weight.numpy(), np.inf)
        found.append(_slice("Spotlight", rows, loss.numpy(), near))
        left = left * (1 - weight)
    return tuple(s for s in found if s.error > s.overall)


def enrichment(rows: np.ndarray, table: Mapping[str, Any], *, most: int = 3) -> tuple[Enriched, ...]:
    """Which values of which columns are commoner among `rows` than elsewhere, the rarest by chance first.

    Args:
        rows: `(n,)` bool, the slice.
        table: Columns `(n,)` by name; numbers are cut into four bins.
        most: Values returned; only those with a corrected p-value below .01.

    Example:
        >>> place = np.array(["sea"] * 20 + ["land"] * 60)
        >>> [(e.value, e.lift) for e in enrichment(np.arange(80) < 20, {"place": place})]
        [('sea', 4.0)]
    """
    from scipy.stats import fisher_exact

    seen = []
    for column in properties_of(None, table):
        for value, holds in literals(column):
            inside, outside = int(holds[rows].sum()), int(holds[~rows].sum())
            cells = [[inside, int(rows.sum()) - inside], [outside, int((~rows).sum()) - outside]]
            p_value = float(fisher_exact(cells, alternative="greater").pvalue)
            share = inside / max(int(rows.sum()), 1)
            seen.append(Enriched(column.name, value, share, share / max(float(holds.mean()), 1e-12), p_value))
    corrected = holm([e.p_value for e in seen])
    kept = [e._replace(p_value=p) for e, p in zip(seen, corrected, strict=True) if p < _ENRICHED]
    return tuple(sorted(kept, key=lambda e: (e.p_value, -e.lift))[:most])


def _slice(method: str, rows: np.ndarray, errors: np.ndarray, distance: np.ndarray) -> ErrorSlice:
    order = np.argsort(np.where(rows, distance, np.inf), kind="stable")[: int(rows.sum())]
    return ErrorSlice(
        method=method,
        rows=rows,
        error=float(errors[rows].mean()),
        overall=float(errors.mean()),
        typical=tuple(int(i) for i in order[:5]),
        atypical=tuple(int(i) for i in order[::-1][:5]),
    )


def _from_centre(z: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return np.asarray(((z - z[rows].mean(axis=0)) ** 2).sum(axis=1))


def _read(embeddings: Any, y: Any, outputs: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    labels = as_tensor(y, "y").detach().cpu().long()
    logits = as_tensor(outputs, "outputs").detach().cpu()
    require_rows(logits, labels, "outputs")
    require_finite(logits, "outputs")
    z = _reduced(embeddings)
    require_rows(torch.from_numpy(z), labels, "embeddings")
    one = logits.ndim == 1 or logits.shape[1] == 1
    decisions = (logits.flatten() > 0).long() if one else logits.argmax(dim=1)
    return labels.numpy(), decisions.numpy(), z


def _reduced(embeddings: Any) -> np.ndarray:
    """Centred, of total variance 1, on at most 64 principal directions."""
    z = as_tensor(embeddings, "embeddings").detach().cpu().flatten(start_dim=1).double()
    require_finite(z, "embeddings")
    z = z - z.mean(dim=0)
    if z.shape[1] > DIRECTIONS:
        z = z @ torch.linalg.eigh(z.mT @ z).eigenvectors[:, -DIRECTIONS:]
    size = z.square().sum(dim=1).mean().sqrt()
    return np.asarray((z / size if size > 0 else z).numpy())


def _mixture(
    z: np.ndarray,
    y: np.ndarray,
    decisions: np.ndarray,
    wrong: np.ndarray,
    k: int,
    sharpness: float,
    iterations: int,
    seed: int,
) -> np.ndarray:
    """`(n, k)` responsibilities."""
    classes = max(int(y.max()), int(decisions.max())) + 1
    said = np.concatenate([np.eye(classes)[y], np.eye(classes)[decisions]], axis=1)
    share = _start(z, said, wrong, k, seed)
    for _ in range(iterations):
        mass = share.sum(axis=0) + 1e-6
        mean = (share.T @ z) / mass[:, None]
        spread = (share.T @ z**2) / mass[:, None] - mean**2
        spread = np.maximum(spread, 0) + 1e-3 * z.var(axis=0).mean() + 1e-12
        kinds = (share.T @ said + 1e-3) / (mass[:, None] + 2e-3 * classes)
        fit = -0.5 * (
            z**2 @ (1 / spread).T - 2 * z @ (mean / spread).T + (mean**2 / spread + np.log(spread)).sum(axis=1)
        )
        fit = fit + sharpness * (said @ np.log(kinds).T) + np.log(mass / mass.sum())
        fit -= fit.max(axis=1, keepdims=True)
        share = np.exp(fit)
        share /= share.sum(axis=1, keepdims=True)
    return share


def _start(z: np.ndarray, said: np.ndarray, wrong: np.ndarray, k: int, seed: int) -> np.ndarray:
    """Every row to the nearest of k rows, half of them wrong ones, rows of another class or decision being far."""
    rng = np.random.default_rng(seed)
    bad, good = np.flatnonzero(wrong), np.flatnonzero(~wrong)
    half = min(len(bad), k // 2) if len(good) else k
    picked = np.concatenate([rng.permutation(bad)[:half], rng.permutation(good)[: k - half]])
    both = np.concatenate([z, 2 * said], axis=1)
    centre = both[picked]
    distance = (both**2).sum(axis=1)[:, None] - 2 * both @ centre.T + (centre**2).sum(axis=1)
    return np.eye(len(picked))[distance.argmin(axis=1)]


def _brightest(z: Tensor, loss: Tensor, mass: float, steps: int, starts: int, seed: int) -> Tensor:
    """Weights of the best spotlight over several starts."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.multinomial(loss.clamp(min=0) + 1e-12, min(16 * starts, len(z)), generator=generator)
    lit = torch.tensor([float((w * loss).sum() / w.sum()) for w in (_light(z, z[i], mass)[0] for i in draws)])
    best, weight = -torch.inf, torch.zeros(len(z), dtype=torch.float64)
    for start in draws[lit.argsort(descending=True, stable=True)[:starts]]:
        centre = z[start].clone()
        for step in range(steps):
            w, radius = _light(z, centre, mass)
            value = float((w * loss).sum() / w.sum())
            if value > best:
                best, weight = value, w
            # ascent of the weighted mean loss in the centre, the radius held; the step shrinks as it goes
            inside = w > 0
            pull = ((loss - value)[inside, None] * (z[inside] - centre)).sum(dim=0)
            size = pull.norm()
            if size <= 1e-12:
                break
            centre = centre + pull / size * radius**0.5 * 0.2 * (1 - step / steps)
    return weight


def _light(z: Tensor, centre: Tensor, mass: float) -> tuple[Tensor, float]:
    """Weights that add up to `mass`, and the squared radius: with the distances in order, it is found in one pass."""
    distance = (z - centre).square().sum(dim=1)
    ordered = distance.sort().values
    count = torch.arange(1, len(z) + 1, dtype=torch.float64)
    needed = ordered.cumsum(0) / (count - mass).clamp(min=1e-12)  # the radius if exactly the first j rows are inside
    fits = (
        (count > mass) & (needed >= ordered) & (needed <= torch.cat([ordered[1:], ordered.new_full((1,), torch.inf)]))
    )
    radius = float(needed[fits][0]) if bool(fits.any()) else float(ordered[-1]) * 2 + 1e-12
    return (1 - distance / max(radius, 1e-12)).clamp(min=0), radius
