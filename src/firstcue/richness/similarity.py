"""How alike two sets of features are, whatever the basis: centred kernel alignment (CKA), from moments.

Between a network now and at its start it says how much training changed the features (1 = not at all); between features
and labels, how far they are aligned with the task. No n x n matrix is ever made where there are more rows than features.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor, nn

from firstcue._blas import product
from firstcue._checks import as_tensor, encode_labels, require_finite, require_rows
from firstcue._rows import feature_rows
from firstcue.forward import parts, run, unwrap
from firstcue.layers import activations, list_layers
from firstcue.moments import Moments
from firstcue.pooling import Pool

FEWEST_UNBIASED = 4
"""Rows below which the unbiased estimate does not exist."""


def cka(a: Any, b: Any, *, debias: bool = False) -> float:
    """Centred linear CKA of two sets of features of the same rows.

    Unchanged by rotations, scales and offsets of either side. With few rows the plain value is too high (two unrelated sets
    of d features have about d / n); the debiased one is right on average, and may come out slightly below zero.

    Args:
        a: `(n, p)` array or tensor.
        b: `(n, q)`, the same rows in the same order.
        debias: Use the unbiased estimate of each of the three terms.

    Returns:
        From 0 (unrelated) to 1 (equal up to rotation and scale); NaN where a side is constant, or where a debiased
        denominator is not positive.

    Raises:
        ValueError: If rows differ in number, are fewer than two (four, debiased), or are not finite.

    Source:
        Kornblith et al. (2019), https://arxiv.org/abs/1905.00414; unbiased terms: Song et al. (2012), Feature selection via
        dependence maximization, JMLR 13.

    Example:
        >>> x = torch.randn(50, 4)
        >>> turn = torch.linalg.qr(torch.randn(4, 4)).Q
        >>> round(cka(x, 3 * x @ turn + 100), 4)
        1.0
    """
    left, right = _checked(a, "a"), _checked(b, "b")
    require_rows(left, right, "a", "b")
    fewest = FEWEST_UNBIASED if debias else 2
    if len(left) < fewest:
        raise ValueError(f"`a` has {len(left)} rows; CKA {'without bias ' if debias else ''}needs at least {fewest}.")
    left, right = centred_rows(left), centred_rows(right)
    inner = _unbiased if debias else shared
    return ratio(inner(left, right), inner(left, left), inner(right, right))


def cka_of_moments(joint: Moments, width: int) -> float:
    """CKA of the first `width` features with the others, from joint moments: streams, merges, and allows weights.

    Args:
        joint: `Moments` of `[a, b]` side by side, `(n, p + q)`.
        width: p.

    Raises:
        ValueError: If `width` leaves one side empty, or the moments have groups.

    Example:
        >>> x = torch.randn(20, 3)
        >>> round(cka_of_moments(Moments.of(torch.cat([x, 2 * x], dim=1)), 3), 6)
        1.0
    """
    if joint.count.ndim or not 0 < width < len(joint.mean):
        raise ValueError(
            f"`joint` holds moments of [a, b] without groups, and `width` columns of it are a; got "
            f"{tuple(joint.mean.shape)} and {width}."
        )
    return _of_blocks(joint.scatter, slice(0, width), slice(width, None))


def label_alignment(features: Any, y: Any, *, debias: bool = False) -> float:
    """CKA of features with the labels: one-hot classes, or regression targets as they are.

    Args:
        features: `(n, d)`.
        y: `(n,)` class labels of any kind, or `(n, c)` one-hot or real targets.
        debias: As in `cka`.

    Returns:
        From 0 to 1, where 1 means that features are a rotated copy of the centred labels.

    Raises:
        ValueError: As `cka`; also if there is a single class (its alignment is not defined).

    Source:
        Cristianini et al. (2001), On kernel-target alignment, NeurIPS; centred as in Cortes et al. (2012),
        https://arxiv.org/abs/1203.0550.

    Example:
        >>> round(label_alignment(torch.eye(3)[[0, 1, 2, 2]] * 5, ["a", "b", "c", "c"]), 6)
        1.0
    """
    return cka(features, targets(y), debias=debias)


@dataclass(frozen=True)
class LayerSimilarity:
    """CKA between every layer of one model and every layer of another (or of the same)."""

    values: Float64[Tensor, "a b"]

    rows: tuple[str, ...]
    """Names of the layers of the first model."""

    columns: tuple[str, ...]
    """Names of the layers of the second."""

    n: int
    """Number of inputs."""

    def to_rows(self) -> list[dict[str, Any]]:
        """One row per pair of layers."""
        return [
            {"layer": a, "other": b, "cka": float(self.values[i, j]), "n": self.n}
            for i, a in enumerate(self.rows)
            for j, b in enumerate(self.columns)
        ]


def layer_similarity(
    model: nn.Module,
    x: Tensor | np.ndarray,
    layers: str | Sequence[str],
    *,
    other: nn.Module | None = None,
    other_layers: str | Sequence[str] | None = None,
    pool: Pool = "mean",
    batch_size: int = 512,
) -> LayerSimilarity:
    """CKA between layers of a model, or of two models such as two checkpoints, in one pass over the rows.

    Memory is the square of all widths together, whatever the number of rows.

    Args:
        model: Any module; left as found.
        x: `(n, ...)` inputs.
        layers: Names or patterns, as in `list_layers`.
        other: The second model; the first one again without it.
        other_layers: Layers of the second model; the same names without it.
        pool: As in `pooled`: maps and sequences are averaged.
        batch_size: Rows per call.

    Raises:
        ValueError: If a layer does not exist, does not run once per input row, or is not finite.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> layer_similarity(model, torch.randn(30, 4), "*").values.shape
        torch.Size([3, 3])
    """
    inputs = as_tensor(x)
    require_finite(inputs)
    first, second = unwrap(model), unwrap(model if other is None else other)
    names = list_layers(first, layers), list_layers(second, layers if other_layers is None else other_layers)
    twice = second is first and names[1] == names[0]
    joint, blocks = _joint(inputs, [(first, names[0])] if twice else [(first, names[0]), (second, names[1])], pool, batch_size)  # fmt: skip
    values = [[_of_blocks(joint.scatter, a, b) for b in blocks[-len(names[1]) :]] for a in blocks[: len(names[0])]]
    return LayerSimilarity(torch.tensor(values, dtype=torch.float64), tuple(names[0]), tuple(names[1]), int(joint.rows))


def _joint(
    inputs: Tensor, models: Sequence[tuple[nn.Module, list[str]]], pool: Pool, batch_size: int
) -> tuple[Moments, list[slice]]:
    """Moments of all layers of all models side by side, and where each layer is."""
    joint, widths = Moments.of(torch.zeros(0, 1)), []
    for start, part in parts(inputs, batch_size):
        vectors = [v for model, names in models for v in _outputs(model, part, names, pool)]
        widths = [v.shape[1] for v in vectors]
        found = Moments.of(torch.cat(vectors, dim=1))
        joint = found if start == 0 else joint.merge(found)
    return joint, [slice(end - width, end) for end, width in zip(accumulate(widths), widths, strict=True)]


def _outputs(model: nn.Module, part: Tensor, names: Sequence[str], pool: Pool) -> list[Tensor]:
    """What each layer returned for these rows, `(n, d)` each, in the order of `names`."""
    with activations(model, names, pool) as seen:
        run(model, part)
    for name in names:
        if len(seen[name]) != 1 or len(seen[name][0]) != len(part):
            raise ValueError(
                f"layer {name!r} ran {len(seen[name])} times for {len(part)} rows; CKA needs layers that give one vector per "
                f"row, once. Name other layers."
            )
        require_finite(seen[name][0], f"output of layer {name!r}")
    return [seen[name][0].to("cpu", torch.float32) for name in names]


def _of_blocks(scatter: Tensor, one: slice, two: slice) -> float:
    blocks = (scatter[one, two], scatter[one, one], scatter[two, two])
    cross, a, b = (float(block.square().sum()) for block in blocks)
    return ratio(cross, a, b)


def shared(a: Tensor, b: Tensor) -> float:
    """||a^T b||^2 of centred rows, by the smaller of the two products."""
    if a.dtype != b.dtype:
        a, b = a.double(), b.double()
    if len(a) < min(a.shape[1], b.shape[1]):
        return float((product(a, a.mT).double() * product(b, b.mT).double()).sum())
    return float(product(a.mT, b).double().square().sum())


def _unbiased(a: Tensor, b: Tensor) -> float:
    """n (n - 3) HSIC_1 of Song et al. for linear kernels, whose diagonal is left out; the factor cancels in CKA."""
    a, b, n = a.double(), b.double(), len(a)  # a difference of large sums
    own_a, own_b = a.square().sum(dim=1), b.square().sum(dim=1)
    # rows are centred, so every row of a kernel sums to zero, and without its diagonal to minus that
    pairs = shared(a, b) - float(own_a @ own_b)
    return pairs + float(own_a.sum() * own_b.sum()) / ((n - 1) * (n - 2)) - 2 / (n - 2) * float(own_a @ own_b)


def ratio(cross: float, a: float, b: float) -> float:
    """Cosine of two kernels, from their inner product and square norms."""
    return cross / (math.sqrt(a) * math.sqrt(b)) if a > 0 and b > 0 else math.nan


def _checked(x: Any, name: str) -> Tensor:
    rows = feature_rows(x, name)
    require_finite(rows, name)
    return rows


def centred_rows(rows: Tensor) -> Tensor:
    """Rows minus their mean, on the CPU; products of what came in single precision stay in it."""
    wide = rows.detach().cpu()
    narrow = wide.dtype in (torch.float32, torch.float16, torch.bfloat16)
    mean = wide.mean(dim=0, dtype=torch.float64) if wide.is_floating_point() else wide.double().mean(dim=0)
    return (wide.double() - mean).to(torch.float32 if narrow else torch.float64)


def targets(y: Any) -> Tensor:
    """`(n, c)` one-hot classes, or real targets as they are."""
    labels = as_tensor(y, "y") if isinstance(y, Tensor | np.ndarray) and np.ndim(y) == 2 else None
    if labels is not None and labels.shape[1] > 1:
        return labels.double()
    ids, classes = encode_labels(y)
    if len(classes) < 2:
        raise ValueError(f"`y` has one class only ({classes[0]!r}); alignment with it is not defined.")
    return torch.nn.functional.one_hot(ids.cpu(), len(classes)).double()
