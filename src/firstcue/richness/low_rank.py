"""D_LR: how far the features of the last layer are from holding nothing but the functions that the network learned.

0: every direction of the features is a learned function, all equally strong (rich). Near 1: the learned functions are a
small part of what the features hold (lazy). It needs no labels and no initial network.
"""

from dataclasses import replace
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from firstcue._checks import encode_labels
from firstcue._rows import feature_rows, row_weights
from firstcue.moments import Moments, jackknife
from firstcue.richness.alignment import REFERENCES, gram_statistics, reading, rounding_of, statistics_of, unbiased
from firstcue.richness.joint import joint_moments, moments_through, output_rows
from firstcue.richness.probing import Sketch
from firstcue.richness.result import Debias, Richness, measured, undefined

__all__ = ["Richness", "balanced_weights", "low_rank_measure", "low_rank_of_moments"]

METHODS = ("exact", "probe")


def low_rank_measure(
    features: Any,
    outputs: Any,
    reference: str = "raw",
    debias: Debias = False,
    weights: Any = None,
    method: str = "exact",
    *,
    blocks: int = 0,
    probes: int = 32,
    seed: int = 0,
) -> Richness:
    """D_LR = 1 - CKA(kernel of the features, projector onto the outputs), always centred.

    Args:
        features: `(n, p)` what goes into the last linear layer.
        outputs: `(n, C)` what comes out of it, or the layer itself (`Head`, `nn.Linear`): then its outputs are computed.
        reference: What counts as learned: "raw" the span of the outputs as they are, "centered" of the outputs minus
            their means without directions below 1e-3 of the largest variance, "softmax" also minus their mean over
            outputs, which cross-entropy never trains. All three are in the result.
        debias: False; True, exact for Gaussian features; "auto", True where n is below 20 participation ratios; or
            "hsic", which is unbiased for any distribution and needs equal weights.
        weights: `(n,)`, not negative, for example `balanced_weights(y)`.
        method: "exact", or "probe": the square norm of the covariance from the 32 directions of largest variance and
            random probes for the rest, for thousands of features; its standard error is in `probe_error`.
        blocks: Blocks of rows for a jackknife interval, for example 10; each costs a p x p matrix.
        probes: How many random probes.
        seed: Of the probes.

    Returns:
        Numbers, or NaN with a reason where features or outputs are constant or not finite.

    Raises:
        ValueError: If shapes do not fit, or an option is unknown.

    Source:
        Nam, Fonseca, Lee, Mingard, Goring, El Harzli, Erturk, Hayou and Louis, Decoupling Dynamical Richness from
        Representation Learning, https://arxiv.org/abs/2410.04264

    Example:
        >>> one_hot = torch.eye(4).repeat(5, 1)
        >>> abs(low_rank_measure(one_hot, 3 * one_hot).dlr) < 1e-7
        True
    """
    require_options(reference, debias, method, blocks)
    rows = feature_rows(features, "features")
    (found, count), weight = output_rows(outputs, rows), row_weights(weights, rows)
    if debias == "hsic" and weight is not None:
        raise ValueError('`debias="hsic"` needs equal weights; use debias=True, or leave `weights` out.')
    reason = not_finite(rows, found)
    if reason:
        return undefined(reason, len(rows), rows.shape[1], count, reference, method)
    if method == "probe":
        sketch = Sketch(probes, seed)
        sketch.add(rows, found, weight)
        return measured(sketch.statistics(count), reference, debias, "probe")
    return of_rows(rows, found, count, weight, reference, debias, blocks)


def low_rank_of_moments(
    moments: Moments, outputs: Any, reference: str = "raw", debias: Debias = False, *, rtol: float = 1e-6
) -> Richness:
    """D_LR from moments alone, as several workers or an earlier pass left them.

    Args:
        moments: Of `[features, outputs]` side by side, or of the features with `outputs` a head.
        outputs: How many of the last columns are outputs, or the head (`Head`, `nn.Linear`) that reads the features.
        reference: As for `low_rank_measure`.
        debias: False, True or "auto", as for `low_rank_measure`.
        rtol: Share of the largest output variance below which an output direction counts as rounding. Moments of
            float32 rows need 1e-6; those built with `precision="float64"` can do with 1e-12.

    Raises:
        ValueError: If the moments have a group axis, or `outputs` does not fit them.

    Example:
        >>> x = torch.randn(50, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        >>> head = torch.nn.Linear(6, 3).double()
        >>> a = low_rank_of_moments(Moments.of(x), head).dlr
        >>> abs(a - low_rank_measure(x, head).dlr) < 1e-9
        True
    """
    require_options(reference, debias, "exact", 0)
    if moments.count.ndim:
        raise ValueError("these moments have a group axis; give `moments.pool()`, or one group: `moments.group(i)`.")
    if debias == "hsic":
        raise ValueError('`debias="hsic"` needs the rows themselves; use debias=True, or `low_rank_measure`.')
    if isinstance(outputs, int):
        joint, count, columns = moments, outputs, outputs
    else:
        joint, count = moments_through(moments, outputs)
        columns = len(joint.mean) - len(moments.mean)
    if not 0 < columns < len(joint.mean):
        raise ValueError(f"the moments have {len(joint.mean)} columns, of which {columns} cannot be outputs.")
    weighted = abs(float(joint.count) - int(joint.rows)) > 1e-9 * float(joint.count)
    kish = None if weighted else 1.0
    return of_blocks([joint], columns, count, reference, debias, rounding=0.0, noise=rtol, kish=kish)


def balanced_weights(y: Any) -> Tensor:
    """`(n,)` weights under which every class counts alike: 1 / (classes times rows of the class).

    Example:
        >>> balanced_weights(["a", "a", "b"])
        tensor([0.2500, 0.2500, 0.5000], dtype=torch.float64)
    """
    ids, names = encode_labels(y)
    return (1 / (len(names) * torch.bincount(ids, minlength=len(names)).double()))[ids]


def require_options(reference: str, debias: Debias, method: str, blocks: int) -> None:
    """Refuse options that are not among those known."""
    if reference not in REFERENCES:
        raise ValueError(f"`reference` is one of {', '.join(REFERENCES)}; got {reference!r}.")
    if debias not in (False, True, "auto", "hsic"):
        raise ValueError(f'`debias` is False, True, "auto" or "hsic"; got {debias!r}.')
    if method not in METHODS:
        raise ValueError(f"`method` is one of {', '.join(METHODS)}; got {method!r}.")
    if method == "probe" and (blocks or debias == "hsic"):
        raise ValueError('`method="probe"` gives no jackknife blocks and no "hsic"; use method="exact" for these.')
    if blocks == 1 or blocks < 0:
        raise ValueError(f"the jackknife needs two blocks or more (0 for none); got {blocks}.")


def of_blocks(
    blocks: list[Moments],
    columns: int,
    count: int,
    reference: str,
    debias: Debias,
    *,
    rounding: float,
    noise: float = 0.0,
    kish: float | None = 1.0,
) -> Richness:
    """From moments of `[features, outputs]` of disjoint blocks of rows, with an interval if there are several."""

    def measure(joint: Moments, debias: Debias) -> Richness:
        stats = statistics_of(joint, columns, count, rounding=rounding, noise=noise, kish=kish)
        return measured(stats, reference, debias, "exact")

    found = measure(reduce(Moments.merge, blocks), debias)
    filled = [block for block in blocks if int(block.rows)]
    if len(filled) < 2 or found.reason:
        return found
    from scipy.special import stdtrit

    error = jackknife(lambda joint: measure(joint, bool(found.debiased)).dlr, filled)[1]
    reach = float(stdtrit(len(filled) - 1, 0.975)) * error
    return replace(found, ci_low=max(0.0, found.dlr - reach), ci_high=min(1.0, found.dlr + reach))


def of_rows(
    features: Tensor,
    outputs: Tensor,
    count: int,
    weights: Tensor | None,
    reference: str,
    debias: Debias,
    blocks: int = 0,
) -> Richness:
    """Exactly, from finite rows at hand; `count` is how many outputs the columns stand for."""
    options = {"rounding": rounding_of(outputs), "kish": _kish(weights)}
    if blocks:
        cut = [
            joint_moments(features[i::blocks], outputs[i::blocks], None if weights is None else weights[i::blocks])
            for i in range(min(blocks, len(features)))
        ]
        return of_blocks(cut, outputs.shape[1], count, reference, debias, **options)
    if len(features) < features.shape[1]:
        stats = gram_statistics(features, outputs, count, weights, **options)
    else:
        stats = statistics_of(joint_moments(features, outputs, weights), outputs.shape[1], count, **options)
    if debias != "hsic":
        return measured(stats, reference, debias, "exact")
    wide = features.double()
    unbiased_numbers = {name: unbiased(wide, outputs.double() @ reading(stats, name)) for name in REFERENCES}
    return measured(stats, reference, debias, "exact", unbiased_numbers)


def not_finite(features: Tensor, outputs: Tensor) -> str:
    """What is wrong with the rows, if something is."""
    for name, rows in (("features", features), ("outputs", outputs)):
        if not bool(torch.isfinite(rows.sum())) and not bool(torch.isfinite(rows).all()):
            bad = int((~torch.isfinite(rows).all(dim=1)).sum())
            return f"the {name} are NaN or infinite in {bad} of {len(rows)} rows: training has diverged."
    return "" if len(features) else "there are no rows."


def _kish(weights: Tensor | None) -> float:
    """Effective rows over rows."""
    if weights is None or not float(weights.sum()):
        return 1.0
    return float(weights.sum() ** 2 / weights.square().sum()) / int((weights > 0).sum())
