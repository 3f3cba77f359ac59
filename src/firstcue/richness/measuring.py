"""Richness of a model on data, in one pass: features and outputs are summed as they come and never kept."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from firstcue._checks import as_tensor, require_finite, require_rows
from firstcue.batch import Batch
from firstcue.forward import left_as_found, unwrap
from firstcue.moments import Moments
from firstcue.richness.alignment import rounding_of
from firstcue.richness.joint import joint_moments, through
from firstcue.richness.low_rank import not_finite, of_blocks, of_rows, require_options
from firstcue.richness.probing import Sketch
from firstcue.richness.readout import Readout, find_readout
from firstcue.richness.result import Debias, Richness, measured, undefined

CHUNK_ROWS = 4096
WIDEST = 16_384
"""Features up to which the exact covariance (2 GB in float64) is formed in a stream."""

IGNORED = -100
"""The label of rows that count for nothing, as torch's losses have it."""


def measure_richness(
    model: nn.Module,
    loader: Any,
    reference: str = "raw",
    debias: Debias = "auto",
    method: str = "exact",
    *,
    weights: str | None = None,
    positions: str = "all",
    limit: int | None = None,
    blocks: int = 0,
    probes: int = 32,
    seed: int = 0,
    batch_size: int = 512,
) -> Richness:
    """D_LR of the features that go into the model's last linear map, in one pass over the data.

    The head is found by watching the model run, so it may be a layer of any name, a 1 x 1 convolution or a matrix
    product with a shared embedding. Memory is one p x p matrix, whatever the number of rows. The model is left bit for
    bit as it was found, and so is the random state, also that a loader draws from.

    Args:
        model: Returns logits (not probabilities), `(n, C)`, or one vector for each token `(n, t, C)` or pixel
            `(n, C, h, w)`.
        loader: A `Batch`, inputs `(n, ...)`, `(x, y)`, or an iterable of any of these (a DataLoader). Rows should be in
            random order. Labels are not needed; positions with the label -100 are left out.
        reference: As in `low_rank_measure`.
        debias: As in `low_rank_measure`; "hsic" keeps all features in memory.
        method: "exact", or "probe" for thousands of features.
        weights: "balanced" lets every class count alike, which needs labels and, of a loader, a second pass over them.
        positions: "all" takes every token or pixel as a row, "last" the last token.
        limit: Rows (tokens, pixels) after which to stop.
        blocks: For a jackknife interval, as in `low_rank_measure`; rows are dealt to them in turn.
        probes: As in `low_rank_measure`.
        seed: As in `low_rank_measure`.
        batch_size: Rows per call for arrays; an iterable keeps its own batches.

    Returns:
        As `low_rank_measure`; NaN with a reason where the model returns NaN or infinity.

    Raises:
        ValueError: If the model's outputs are no linear map of anything (a final softmax), the model raises, the data is
            empty or not finite, or an option is unknown.

    Source:
        Nam, Fonseca, Lee, Mingard, Goring, El Harzli, Erturk, Hayou and Louis, Decoupling Dynamical Richness from
        Representation Learning, https://arxiv.org/abs/2410.04264

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> found = measure_richness(model, torch.randn(300, 4, generator=torch.Generator().manual_seed(0)))
        >>> 0 <= found.dlr <= 1 and found.n == 300
        True
    """
    require_options(reference, debias, method, blocks)
    if weights not in (None, "balanced") or positions not in ("all", "last"):
        raise ValueError(
            f'`weights` is None or "balanced" and `positions` "all" or "last"; got {weights!r}, {positions!r}.'
        )
    if debias == "hsic" and weights:
        raise ValueError('`debias="hsic"` needs equal weights; use debias=True.')
    inner = unwrap(model)
    with left_as_found(inner):
        of_class = None if weights is None else _class_weights(loader, batch_size)
        total = _Total(method, blocks, debias == "hsic", Sketch(probes, seed) if method == "probe" else None)
        complaint = ""
        for features, outputs, weight, count in _rows(inner, loader, positions, limit, of_class, batch_size):
            complaint = not_finite(features, outputs)
            total.width, total.count = features.shape[1], count
            if complaint:
                break
            total.add(features, outputs, weight)
        if complaint:
            return undefined(complaint, total.rows, total.width, total.count, reference, method)
        return total.richness(reference, debias)


class _Total:
    """What has been seen: rows as long as they are fewer than features, and sums after that."""

    def __init__(self, method: str, blocks: int, keep: bool, sketch: Sketch | None) -> None:
        self.method, self.blocks, self.keep, self.sketch = method, blocks, keep, sketch
        self.width = self.count = self.rows = self.held = 0
        self.waiting: list[tuple[Tensor, Tensor, Tensor | None]] = []
        self.moments: list[Moments | None] = [None] * max(1, blocks)
        self.weight, self.squared, self.rounding = 0.0, 0.0, 0.0

    def add(self, features: Tensor, outputs: Tensor, weight: Tensor | None) -> None:
        """Take in some rows; a chunk is summed when it is worth the p x p additions."""
        self.waiting.append((features, outputs, weight))
        self.rows, self.held = self.rows + len(features), self.held + len(features)
        self.rounding = max(self.rounding, rounding_of(outputs))
        self.weight += float(len(features) if weight is None else weight.sum())
        self.squared += float(len(features) if weight is None else weight.square().sum())
        enough = CHUNK_ROWS if self.sketch else max(CHUNK_ROWS, self.width + 1)
        if self.held >= enough and not self.keep:
            self._flush()

    def richness(self, reference: str, debias: Debias) -> Richness:
        if self.sketch is None and all(m is None for m in self.moments):
            features, outputs, weight = self._joined()
            return of_rows(features, outputs, self.count, weight, reference, debias, self.blocks)
        self._flush()
        if self.sketch is not None:
            return measured(self.sketch.statistics(self.count), reference, debias, "probe")
        kish = self.weight**2 / (self.squared * self.rows)
        found = [m for m in self.moments if m is not None]
        columns = len(found[0].mean) - self.width
        return of_blocks(found, columns, self.count, reference, debias, rounding=self.rounding, kish=kish)

    def _joined(self) -> tuple[Tensor, Tensor, Tensor | None]:
        features, outputs, weights = zip(*self.waiting, strict=True)
        return torch.cat(features), torch.cat(outputs), None if weights[0] is None else torch.cat(weights)

    def _flush(self) -> None:
        if not self.waiting:
            return
        features, outputs, weight = self._joined()
        self.waiting, self.held = [], 0
        if self.sketch is not None:
            self.sketch.add(features, outputs, weight)
            return
        if self.width > WIDEST:
            raise ValueError(
                f"an exact covariance of {self.width:,} features takes {8 * self.width**2 / 1e9:.0f} GB; use "
                f'method="probe", or at most {self.width:,} rows (`limit`).'
            )
        step = len(self.moments)
        for i in range(step):
            part = joint_moments(features[i::step], outputs[i::step], None if weight is None else weight[i::step])
            held = self.moments[i]
            self.moments[i] = part if held is None else held.merge(part)


def _rows(
    model: nn.Module,
    loader: Any,
    positions: str,
    limit: int | None,
    of_class: Mapping[Any, float] | None,
    batch_size: int,
) -> Iterator[tuple[Tensor, Tensor, Tensor | None, int]]:
    """Features `(m, p)`, outputs `(m, k)`, weights `(m,)` and C of every batch, sharing memory with nothing of the model."""
    readout: Readout | None = None
    left = limit
    for x, y in _batches(loader, batch_size):
        require_finite(x)
        readout = find_readout(model, x) if readout is None else readout
        features, outputs = readout(model, x)
        if positions == "last" and features.ndim == 3:
            features, outputs = features[:, -1], outputs[:, -1]
        kept = _counted(y, features)
        weight = None if of_class is None else _weights_of(y, of_class, features)[kept][:left]
        # copied: a view of one token would keep all of them alive
        features = features.reshape(-1, features.shape[-1])[kept][:left].clone()
        if readout.small is None:
            outputs = outputs.reshape(-1, outputs.shape[-1])[kept][:left].clone()
        else:
            outputs = through(features, *readout.small)
        if len(features):
            yield features, outputs, weight, readout.count
        left = None if left is None else left - len(features)
        if left == 0:
            return
    if readout is None:
        raise ValueError("the data yields nothing; check that the loader is not exhausted or its data set empty.")


def _batches(data: Any, batch_size: int) -> Iterator[tuple[Tensor, Any]]:
    """Inputs and labels (or None) of arrays in parts, or of whatever a loader yields."""
    if not isinstance(data, Iterable) and hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        data = torch.utils.data.DataLoader(data, batch_size)
    pair = _pair(data)
    if pair is not None:
        for start in range(0, len(pair[0]), batch_size):
            part = slice(start, start + batch_size)
            yield pair[0][part], None if pair[1] is None else pair[1][part]
        return
    if not isinstance(data, Iterable) or isinstance(data, str | bytes):
        raise ValueError(
            f"the data is a {type(data).__name__}; a Batch, inputs, (x, y) or an iterable of them (a DataLoader) is needed. "
            f"Read files with `firstcue.data.read(path)`."
        )
    for item in data:
        found = _pair(item)
        if found is None:
            raise ValueError(f"the loader yields {type(item).__name__}; inputs, (x, y) or a Batch is needed.")
        yield found


def _pair(data: Any) -> tuple[Tensor, Any] | None:
    """Inputs and labels, or None if `data` is none of the forms that hold both."""
    if isinstance(data, Batch):
        return data.x, data.y
    if isinstance(data, Mapping) and "x" in data:
        data = (data["x"], data.get("y"))
    if isinstance(data, Tensor | np.ndarray):
        data = (data, None)
    nested = tuple | list | Batch | Mapping
    if not isinstance(data, tuple | list) or not 1 <= len(data) <= 3 or isinstance(data[0], nested):
        return None
    x, y = as_tensor(data[0]), data[1] if len(data) > 1 else None
    if x.ndim == 0 or (y is not None and np.ndim(y) == 0):
        raise ValueError("the data yields single examples; put them into batches: torch.utils.data.DataLoader(data).")
    if y is not None:
        require_rows(x, y)
    return x, y


def _counted(y: Any, features: Tensor) -> Any:
    """Which rows count, when features are laid out as rows."""
    if isinstance(y, Tensor | np.ndarray):
        labels = torch.as_tensor(y) if isinstance(y, Tensor) or y.dtype.kind in "iuf" else None
        if labels is not None and features.ndim == 2 and labels.ndim == 2:
            labels = labels[:, -1]
        if labels is not None and labels.shape == features.shape[:-1]:
            return (labels != IGNORED).flatten().to(features.device)
    return slice(None)


def _class_weights(data: Any, batch_size: int) -> dict[Any, float]:
    """The weight of a row by its label; a pass over the labels alone."""
    if isinstance(data, Iterator):
        raise ValueError('`weights="balanced"` reads the data twice; give a loader that starts anew, or arrays.')
    counts: Counter[Any] = Counter()
    for _, y in _batches(data, batch_size):
        counts.update(_labels(y))
    counts.pop(IGNORED, None)
    return {label: 1 / (len(counts) * count) for label, count in counts.items()} | {IGNORED: 0.0}


def _labels(y: Any) -> list[Any]:
    if y is None or np.ndim(y) != 1:
        found = "no labels" if y is None else f"labels of shape {tuple(np.shape(y))}"
        raise ValueError(f'`weights="balanced"` needs one label for each row; got {found}.')
    return list(y.tolist() if isinstance(y, Tensor | np.ndarray) else y)


def _weights_of(y: Any, of_class: Mapping[Any, float], features: Tensor) -> Tensor:
    if features.ndim != 2:
        raise ValueError('`weights="balanced"` needs one row of features for each label; use positions="last".')
    return torch.tensor([of_class[label] for label in _labels(y)], dtype=torch.float64, device=features.device)
