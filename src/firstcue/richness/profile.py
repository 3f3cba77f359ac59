"""Richness layer by layer: from which depth on the network holds nothing but what it will say.

An extension of the measure of the last layer: the outputs of the whole model are the reference everywhere, though before
the last layer they are no linear function of the features.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from firstcue._checks import as_tensor, require_finite, require_rows
from firstcue.forward import as_logits, parts, run, unwrap
from firstcue.layers import activations, list_layers
from firstcue.pooling import Pool
from firstcue.richness.low_rank import low_rank_measure
from firstcue.richness.result import Debias
from firstcue.richness.similarity import label_alignment
from firstcue.richness.spectrum import feature_spectrum

PASSIVE = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.Flatten, nn.Unflatten, nn.Identity)


@dataclass(frozen=True)
class LayerRichness:
    """Richness of the features that one layer returns."""

    layer: str
    dlr: float
    used: float
    participation_ratio: float
    rank: float
    width: int
    """Features after pooling."""

    explained: float
    """Share of the outputs' centred variance that a linear map of these features explains (in the sample)."""

    alignment: float
    """CKA with the labels; NaN without labels."""

    quality: float
    """Mean squared canonical correlation with the classes: how well a linear map could express them (in the sample)."""


def richness_profile(
    model: nn.Module,
    x: Tensor | np.ndarray,
    y: Any = None,
    *,
    layers: str | Sequence[str] | None = None,
    pool: Pool = "mean",
    reference: str = "raw",
    debias: Debias = "auto",
    batch_size: int = 512,
) -> list[LayerRichness]:
    """D_LR of every layer against the model's outputs, in the order of the model.

    Args:
        model: Any classifier that returns one vector per row; left as found.
        x: `(n, ...)` inputs, best several thousand.
        y: `(n,)` labels, for alignment.
        layers: Names or patterns; by default every innermost module that computes something and runs once per row.
        pool: As in `pooled`: maps are averaged over space, sequences over tokens.
        reference: As in `low_rank_measure`.
        debias: As in `low_rank_measure`.
        batch_size: Rows per call.

    Raises:
        ValueError: If no layer qualifies, or one that was named does not run once per row.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> [found.layer for found in richness_profile(model, torch.randn(60, 4))]
        ['0', '1', '2']
    """
    inputs = as_tensor(x)
    require_finite(inputs)
    if y is not None:
        require_rows(inputs, y)
    own = unwrap(model)
    names = _computing(own) if layers is None else list_layers(own, layers)
    seen, outputs = _features(own, inputs, names, pool, batch_size, strict=layers is not None)
    if not seen:
        raise ValueError("no layer of the model returned one vector per row; name layers, or give a `pool`.")
    return [_measured(name, features, outputs, y, reference, debias) for name, features in seen.items()]


def _measured(name: str, features: Tensor, outputs: Tensor, y: Any, reference: str, debias: Debias) -> LayerRichness:
    found = low_rank_measure(features, outputs, reference, debias)
    return LayerRichness(
        layer=name,
        dlr=found.dlr,
        used=found.used,
        participation_ratio=found.participation_ratio,
        rank=found.rank,
        width=features.shape[1],
        explained=_explained(features, outputs),
        alignment=math.nan if y is None else label_alignment(features, y),
        quality=math.nan if y is None else _quality(features, outputs, y),
    )


def _features(
    model: nn.Module, inputs: Tensor, names: Sequence[str], pool: Pool, batch_size: int, *, strict: bool
) -> tuple[dict[str, Tensor], Tensor]:
    collected: dict[str, list[Tensor]] = {name: [] for name in names}
    outputs = []
    for _, part in parts(inputs, batch_size):
        with activations(model, names, pool) as seen:
            outputs.append(as_logits(run(model, part)))
        for name in list(collected):
            if len(seen[name]) == 1 and len(seen[name][0]) == len(part):
                collected[name].append(seen[name][0].to("cpu", torch.float32))
            elif strict:
                raise ValueError(f"layer {name!r} ran {len(seen[name])} times; name layers that run once per row.")
            else:
                del collected[name]
    return {name: torch.cat(found) for name, found in collected.items()}, torch.cat(outputs)


def _computing(model: nn.Module) -> list[str]:
    return [
        name
        for name, module in model.named_modules()
        if name and not any(module.children()) and not isinstance(module, PASSIVE)
    ]


def _quality(features: Tensor, outputs: Tensor, y: Any) -> float:
    curve = feature_spectrum(features, outputs, y).quality
    return float(curve[-1]) if len(curve) else math.nan


def _explained(features: Tensor, outputs: Tensor) -> float:
    """R^2 of ordinary least squares from features to outputs."""
    x, f = features.double(), outputs.double()
    x, f = x - x.mean(dim=0), f - f.mean(dim=0)
    total = float(f.square().sum())
    if total == 0:
        return math.nan
    basis, sizes, _ = torch.linalg.svd(x, full_matrices=False)
    kept = basis[:, sizes > len(x) * torch.finfo(torch.float32).eps * sizes[:1]]
    return min(1.0, float((kept.mT @ f).square().sum()) / total)
