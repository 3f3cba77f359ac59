"""Held-out accuracy of a probe: every row is read by a fit that did not see it, beside the same with shuffled labels."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from firstcue._checks import encode_labels, require_finite, require_rows
from firstcue._rows import feature_rows
from firstcue.moments import Moments
from firstcue.probes.closed_form import CHUNK, Probe, linear_from_means, quadratic_probe
from firstcue.probes.reduce import reduced
from firstcue.probes.split import ProbeResult, Split, balanced_accuracy, drawn, said, stratified
from firstcue.probes.strong import MAX_DIRECTIONS, MAX_ROWS, strong_answers
from firstcue.shrinkage import oas

SHUFFLED_ROWS = 2000
"""Rows of the shuffled-label baseline of a strong probe."""
AMPLE = 10
"""Rows per feature beyond which a linear probe needs no shrinkage."""


def held_out_accuracy(
    kind: str, x: Any, z: Any, *, folds: int = 2, seed: int = 0, rows: int | None = None
) -> ProbeResult:
    """Balanced accuracy with which a probe reads `z` from rows that it was not fitted on.

    Linear probes see all features and shrink their covariance (OAS) below ten rows per feature. Quadratic and strong ones
    see at most 64 whitened principal directions; strong ones at most 5,000 rows. What applied is said in `note`.

    Args:
        kind: "linear", "quadratic" or "strong".
        x: `(n, d)`; read in chunks.
        z: `(n,)` labels of any kind.
        folds: Parts into which every class is dealt out; each is read by a fit on the others.
        seed: Of the folds, the shuffle and the trees.
        rows: Use at most so many rows, thinning large classes first.

    Returns:
        The accuracy with interval and shuffled-label baseline; NaN where fewer than two classes have two rows.

    Raises:
        ValueError: If `kind` is unknown, shapes do not fit, or `x` holds NaN or infinity.

    Example:
        >>> x = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
        >>> found = held_out_accuracy("linear", x, x[:, 0] > 0)
        >>> found.accuracy > 0.9, found.baseline < 0.7
        (True, True)
    """
    if kind not in ("linear", "quadratic", "strong"):
        raise ValueError(f"`kind` is 'linear', 'quadratic' or 'strong'; got {kind!r}.")
    if kind == "strong":
        return strong_probe(x, z, folds=folds, seed=seed, max_rows=MAX_ROWS if rows is None else rows)
    table, split = _prepared(x, z, folds, seed, rows)
    if not split.usable:
        return _nothing(kind, split)
    if kind == "linear":
        (answers, null), note = _linear(table, split, split.shuffled(seed + 1))
    else:
        coordinates, cut = reduced(table, (split.fold >= 0).nonzero()[:, 0], MAX_DIRECTIONS, seed)
        answers, mixed = _quadratic(coordinates, split)
        null, _ = _quadratic(coordinates, split.shuffled(seed + 1))
        note = said(cut, mixed)
    baseline = balanced_accuracy(null, split.shuffled(seed + 1))[0]
    return ProbeResult(kind, *balanced_accuracy(answers, split), baseline, note=said(note, split.note))


def strong_probe(
    x: Any,
    z: Any,
    *,
    folds: int = 2,
    seed: int = 0,
    max_rows: int = MAX_ROWS,
    max_directions: int = MAX_DIRECTIONS,
) -> ProbeResult:
    """The better of logistic regression and boosted trees, chosen on rows inside the fit, measured on others.

    Up to 2,000 rows are all read, across folds; of more, one fold is. The baseline reads at most 2,000.

    Args:
        x: `(n, d)`.
        z: `(n,)` labels of any kind.
        folds: As for `held_out_accuracy`.
        seed: Of rows, folds, directions, trees and the shuffle.
        max_rows: Rows used at the most; large classes are thinned first.
        max_directions: Whitened principal directions used at the most.

    Returns:
        As `held_out_accuracy`.

    Raises:
        ValueError: As `held_out_accuracy`.

    Example:
        >>> x = torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
        >>> strong_probe(x, x[:, 0] * x[:, 1] > 0).accuracy > 0.8  # exclusive or: no linear probe reads it
        True
    """
    table, split = _prepared(x, z, folds, seed, max_rows)
    if not split.usable:
        return _nothing("strong", split)
    answers, note = strong_answers(table, split, seed, max_directions)
    some = drawn(split.ids, SHUFFLED_ROWS, seed)
    less = stratified(split.ids[some], split.names, folds, seed).shuffled(seed + 1)
    baseline = float("nan")
    if less.usable:
        null, _ = strong_answers(table[some.to(table.device)], less, seed, max_directions)
        baseline = balanced_accuracy(null, less)[0]
    return ProbeResult("strong", *balanced_accuracy(answers, split), baseline, note=said(note, split.note))


def _prepared(x: Any, z: Any, folds: int, seed: int, rows: int | None) -> tuple[Tensor, Split]:
    """Checked rows and their folds."""
    if folds < 2:
        raise ValueError(f"`folds` is {folds}; at least two are needed, or no row would be held out.")
    table = feature_rows(x)
    ids, names = encode_labels(z, "z")
    require_rows(table, ids, y_name="z")
    ids = ids.cpu()
    if rows is not None and len(ids) > rows:
        some = drawn(ids, rows, seed)
        table, ids = table[some.to(table.device)], ids[some]
    require_finite(table)
    return table, stratified(ids, names, folds, seed)


def _nothing(kind: str, split: Split) -> ProbeResult:
    nan = float("nan")
    return ProbeResult(kind, nan, 0.0, 1.0, 0, nan, note=said("fewer than two classes with two rows", split.note))


def _linear(x: Tensor, *labellings: Split) -> tuple[list[Tensor], str]:
    """Answers for several labellings of the same folds: they share the covariance, which is most of the work."""
    fold, folds, k = labellings[0].fold, labellings[0].folds, len(labellings[0].names)
    parts = Moments.of_groups(x, fold + 1, folds + 1)  # group 0 holds the rows left out
    centre = parts.mean[1:].mean(dim=0).to(torch.float64 if x.dtype == torch.float64 else torch.float32)
    sums, counts = _class_sums(x, centre, labellings)
    answers, note = [torch.full_like(fold, -1) for _ in labellings], ""
    for f in range(folds):
        whole = _others(parts, f)
        scarce = int(whole.rows) < AMPLE * x.shape[1]
        total, count = sums.sum(dim=1) - sums[:, f], counts.sum(dim=1) - counts[:, f]
        means = centre.double() + total / count.clamp(min=1)[..., None]
        fit = partial(
            linear_from_means, whole, names=labellings[0].names, balanced=True, shrinkage=oas if scarce else None
        )
        probe = _side_by_side([fit(m, c) for m, c in zip(means, count, strict=True)])
        note = f"covariance shrunk, fewer than {AMPLE} rows per feature" if scarce else note
        for part in (fold == f).nonzero()[:, 0].split(CHUNK):
            for answer, logits in zip(answers, probe(x[part.to(x.device)]).split(k, dim=1), strict=True):
                answer[part] = logits.argmax(dim=1).cpu()
    return answers, note


def _side_by_side(probes: list[Probe]) -> Probe:
    """The logits of several linear probes of the same rows, from one product."""
    weight, offset = torch.cat([p.weight for p in probes]), torch.cat([p.offset for p in probes])
    return replace(probes[0], weight=weight, offset=offset)


def _others(parts: Moments, f: int) -> Moments:
    """Moments of all folds but `f`."""
    rest = [parts.group(i + 1) for i in range(len(parts.count) - 1) if i != f]
    whole = rest[0]
    for part in rest[1:]:
        whole = whole.merge(part)
    return whole


def _class_sums(x: Tensor, centre: Tensor, labellings: Sequence[Split]) -> tuple[Tensor, Tensor]:
    """Sums of deviations from `centre` and counts by labelling, fold and class: `(l, folds, k, d)` and `(l, folds, k)`."""
    first = labellings[0]
    used, k = (first.fold >= 0).nonzero()[:, 0], len(first.names)
    cells = torch.stack([(s.fold * k + s.ids)[used] for s in labellings])
    sums = torch.zeros(len(cells), first.folds * k, x.shape[1], dtype=torch.float64, device=x.device)
    for part, cell in zip(used.split(CHUNK), cells.split(CHUNK, dim=1), strict=True):
        away = x[part.to(x.device)].to(centre.dtype) - centre
        for total, mine in zip(sums, cell.to(x.device), strict=True):
            # a product with one-hot rows: adding row by row would wake all threads once per row
            total += one_hot(mine, len(total)).to(away.dtype).mT @ away
    counts = torch.stack([torch.bincount(cell, minlength=first.folds * k) for cell in cells])
    shape = (len(cells), first.folds, k)
    return sums.reshape(*shape, -1), counts.reshape(shape).double().to(x.device)


def _quadratic(x: Tensor, split: Split) -> tuple[Tensor, str]:
    answers, notes = torch.full_like(split.fold, -1), []
    for f in range(split.folds):
        learn = ((split.fold >= 0) & (split.fold != f)).double()
        by_class = Moments.of_groups(x, split.ids, len(split.names), weights=learn)
        if int((by_class.count > 0).sum()) < 2:
            continue
        probe: Probe = quadratic_probe(by_class, balanced=True, pooled=True)
        read = (split.fold == f).nonzero()[:, 0]
        answers[read] = probe(x[read]).argmax(dim=1)
        notes.append(probe.note)
    return answers, said(*notes[-1:])
