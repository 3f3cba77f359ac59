"""Do the groups agree on what to learn? Gradients of the trained model by value of the cue, beside random groups of rows."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from firstcue._progress import Progress, silent
from firstcue.agreement.coherence import Agreement, measure_agreement
from firstcue.agreement.consistency import Consistency, inconsistency, losses_of
from firstcue.auditing.charted import histogram
from firstcue.auditing.effort import DEFAULT
from firstcue.batch import Batch
from firstcue.finding import Finding
from firstcue.forward import one_tensor
from firstcue.layers import Head

MAX_GROUPS = 8
"""Groups that are compared, the largest first."""
LEAST_ROWS = 20
LEVELS = (0.1, 0.3)
"""Of the consistency score: how far a group's loss may move, as shares of the mean loss."""
SOURCE = "Learning explanations that are hard to vary (Parascandolo et al. 2020, arXiv 2009.00329)"


@dataclass(frozen=True)
class Agreed:
    """What the groups of one cue want of the model."""

    cue: str
    head: str
    whole: Agreement
    deviations: dict[str, float]
    """Standard deviation of `kept`, `only_one_group` and `alignment` when rows are drawn again."""

    score: Consistency | None
    """Of the last layer, features held fixed."""

    null_score: Consistency | None
    """The same for groups of the same sizes drawn at random."""


def measure_groups(
    model: nn.Module,
    rows: Batch,
    features: Tensor | None,
    head: Head | None,
    seed: int,
    progress: Progress = silent,
    *,
    most: int = DEFAULT.gradient_rows,
    draws: int = DEFAULT.gradient_draws,
) -> Agreed | None:
    """Compare the gradients of the groups; None where fewer than two of them have rows.

    Args:
        model: The trained model, left as found.
        rows: Rows with the cue as attribute.
        features: `(n, d)` what the head reads of them.
        head: The last layer.
        seed: Of resampling and random groups.
        progress: Told the fraction done.
        most: Rows of each group whose gradients are taken.
        draws: Times that rows are drawn again for the intervals.
    """
    chosen = _chosen(rows, most, seed)
    if chosen is None:
        return None
    part = rows.rows(chosen)
    assert part.attribute is not None
    groups = [rows.values[v] for v in part.attribute.tolist()]
    progress("comparing gradients of groups", 0.0)
    whole = measure_agreement(model, row_loss, (part.x, part.y), groups, seed=seed)
    drawn = [_resampled(model, part, seed + i) for i in range(draws)]
    deviations = {
        name: _deviation([getattr(a, name) for a in drawn]) for name in ("kept", "only_one_group", "alignment")
    }
    progress("how consistent the minimum is", 0.5)
    scores: Sequence[Consistency | None] = (None, None)
    if features is not None and head is not None:
        shuffled = torch.randperm(len(part), generator=torch.Generator().manual_seed(seed))
        scores = [
            _score(features[chosen], part.y, ids, head, seed) for ids in (part.attribute, part.attribute[shuffled])
        ]
    return Agreed(rows.cue, head.name if head else "", whole, deviations, *scores)


def row_loss(outputs: Any, y: Tensor) -> Tensor:
    """Cross-entropy of whatever a classifier returns: logits, one logit, or an object that holds them."""
    logits = one_tensor(outputs, len(y)).reshape(len(y), -1)
    if logits.shape[1] == 1:
        logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
    return cross_entropy(logits, y)


def _chosen(rows: Batch, most: int, seed: int) -> Tensor | None:
    """Ids of at most so many rows of each of the largest groups."""
    assert rows.attribute is not None
    counts = torch.bincount(rows.attribute)
    groups = [g for g in counts.argsort(descending=True, stable=True)[:MAX_GROUPS].tolist() if counts[g] >= LEAST_ROWS]
    if len(groups) < 2:
        return None
    generator = torch.Generator().manual_seed(seed)
    members = [(rows.attribute == g).nonzero()[:, 0] for g in groups]
    return torch.cat([m[torch.randperm(len(m), generator=generator)[:most]] for m in members]).sort().values


def _resampled(model: nn.Module, part: Batch, seed: int) -> Agreement:
    """Agreement of rows drawn again with replacement, within each group."""
    assert part.attribute is not None
    generator = torch.Generator().manual_seed(seed)
    drawn = [
        members[torch.randint(len(members), (len(members),), generator=generator)]
        for g in part.attribute.unique().tolist()
        if len(members := (part.attribute == g).nonzero()[:, 0])
    ]
    again = part.rows(torch.cat(drawn))
    return measure_agreement(model, row_loss, (again.x, again.y), again.attribute, seed=seed)


def _score(features: Tensor, y: Tensor, groups: Tensor, head: Head, seed: int) -> Consistency:
    """The inconsistency of the last layer: its parameters are varied, its inputs are not."""
    k, d = head.weight.shape
    last = nn.utils.skip_init(
        nn.Linear, d, k, dtype=torch.float64
    )  # fresh weights would draw from the global generator
    with torch.no_grad():
        last.weight.copy_(head.weight)
        last.bias.copy_(head.bias)
    x = features.detach().double()
    base = float(cross_entropy(last(x).detach(), y))
    losses = losses_of(cross_entropy, (x, y), groups)
    levels = [share * max(base, 1e-3) for share in LEVELS]
    return inconsistency(last, losses, levels, steps=12, pairs=4, rays=2, rank=2, seed=seed)


def _deviation(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1))


def agreement_findings(found: Agreed) -> list[Finding]:
    """What the groups keep in common, what one alone wants, and how far the minimum is from being shared."""
    said = [_kept(found), _only_one(found)]
    return said if found.score is None else [*said, _consistency(found, found.score)]


def _kept(found: Agreed) -> Finding:
    whole, control = found.whole, _control(found)
    beside = f"(groups drawn at random {control.kept:.0%}, random signs {whole.expected:.0%})"
    verb = "agree less than random groups do" if whole.kept + 2 * found.deviations["kept"] < control.kept else "agree"
    return _finding(
        found,
        "all-parameters/kept",
        value=whole.kept,
        deviation=found.deviations["kept"],
        baseline=control.kept,
        unit="share of the gradient on whose sign all groups agree, a fraction",
        meaning=f"On {whole.kept:.0%} of the gradient the {len(whole.sizes)} groups of {found.cue} {verb} {beside}.",
        details={
            "alignment": whole.alignment,
            "alignment_random_groups": control.alignment,
            "pairs_in_conflict": whole.conflicting,
            "last_layer_kept": _layer(whole, found.head, lambda layer: layer.kept),
            "least_agreeing_layer": min(whole.layers.values(), key=lambda layer: layer.kept).name,
            **{f"kept/{name}": layer.kept for name, layer in whole.layers.items()},
        },
    )


def _only_one(found: Agreed) -> Finding:
    whole, control = found.whole, _control(found)
    most = max(whole.only_one_by_group, key=lambda name: whole.only_one_by_group[name])
    return _finding(
        found,
        "all-parameters/only-one-group",
        value=whole.only_one_group,
        deviation=found.deviations["only_one_group"],
        baseline=control.only_one_group,
        unit="share of the mean gradient that one group alone wants, a fraction",
        meaning=(
            f"{whole.only_one_group:.0%} of the update is wanted by one group of {found.cue} alone, most by {most} "
            f"(groups drawn at random {control.only_one_group:.0%})."
        ),
        details={f"wanted_by/{name}": share for name, share in whole.only_one_by_group.items()},
    )


def _consistency(found: Agreed, score: Consistency) -> Finding:
    ratio = float(np.atleast_1d(score.normalised)[-1])
    null = float(np.atleast_1d(found.null_score.normalised)[-1]) if found.null_score else math.nan
    a, b = score.pair
    return _finding(
        found,
        f"{found.head or 'head'}/inconsistency",
        value=ratio,
        deviation=math.nan,
        baseline=null,
        unit="times as far as its own band, a lower bound",
        meaning=(
            f"Around this minimum of the last layer there is a step that group {a} barely notices and that moves the loss of "
            f"group {b} at least {ratio:,.1f} times as far (groups drawn at random {null:,.1f} times)."
        ),
        details={
            "band": float(np.atleast_1d(score.eps)[-1]),
            "quadratic_approximation": float(np.atleast_1d(score.quadratic_centred)[-1]),
            "gap_at_the_minimum": score.gap,
            "gradient_norm": score.gradient_norm,
            **{f"loss/{name}": value for name, value in score.losses.items()},
        },
    )


def _control(found: Agreed) -> Agreement:
    assert found.whole.random_groups is not None
    return found.whole.random_groups


def _layer(whole: Agreement, head: str, read: Callable[[Any], float]) -> float | None:
    layer = whole.layers.get(f"{head}.weight")
    return None if layer is None else read(layer)


def _finding(
    found: Agreed, what: str, *, value: float, deviation: float, baseline: float, unit: str, meaning: str, details: dict
) -> Finding:
    half = 1.96 * deviation
    return Finding(
        id=f"agreement/{found.cue}/{what}",
        cue=found.cue,
        kind="agreement",
        layer=what.partition("/")[0],
        status="no shortcut found",
        value=value,
        unit=unit,
        ci_low=max(value - half, 0.0),
        ci_high=value + half,
        n=sum(found.whole.sizes),
        baseline=baseline,
        meaning=meaning,
        source=SOURCE,
        details=details,
    )


def agreement_summary(found: Agreed) -> dict[str, Any]:
    """What the report keeps under `agreement`."""
    whole, control = found.whole, _control(found)
    return {
        "environments": list(whole.environments),
        "kept": _plain(whole.kept, found.deviations["kept"], control.kept),
        "only_one_group": _plain(whole.only_one_group, found.deviations["only_one_group"], control.only_one_group),
        "alignment": _plain(whole.alignment, found.deviations["alignment"], control.alignment),
        "expected_of_random_signs": whole.expected,
        "inconsistency": None if found.score is None else float(np.atleast_1d(found.score.normalised)[-1]),
        "n": sum(whole.sizes),
        "histogram": histogram(whole),
    }


def _plain(value: float, deviation: float, random_groups: float) -> dict[str, float]:
    return {
        "value": value,
        "ci_low": max(value - 1.96 * deviation, 0.0),
        "ci_high": value + 1.96 * deviation,
        "random_groups": random_groups,
    }
