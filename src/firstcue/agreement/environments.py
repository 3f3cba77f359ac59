"""Environments where nobody noted any: examples, random groups, clusters of gradients, and columns of metadata."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from firstcue._checks import encode_labels, require_rows
from firstcue.agreement._head import HeadGradients, head_gradients
from firstcue.agreement.gradients import Loss
from firstcue.batch import Batch
from firstcue.forward import predict

_BINS = 4
_VALUES = 12
"""A numeric column with more distinct values than this is cut into bins of equally many rows."""


def examples_as_environments(batch: Batch) -> Int[Tensor, " n"]:
    """Every example an environment of its own, as the paper does where it knows none.

    Example:
        >>> examples_as_environments(Batch(torch.zeros(3, 1), torch.zeros(3, dtype=torch.int64))).tolist()
        [0, 1, 2]
    """
    return torch.arange(len(batch))


def random_environments(n: int, count: int, *, within: Tensor | None = None, seed: int = 0) -> Int[Tensor, " n"]:
    """Groups drawn at random, as equal in size as can be: what any other grouping has to be compared with.

    Args:
        n: Rows.
        count: Groups.
        within: `(n,)` ids; each of its values is divided evenly. For example the class.
        seed: Of the draw.

    Raises:
        ValueError: If there are not at least two groups, or fewer rows than groups.

    Example:
        >>> random_environments(6, 3).bincount().tolist()
        [2, 2, 2]
    """
    if not 2 <= count <= n:
        raise ValueError(f"`count` is between 2 and the number of rows ({n}); got {count}.")
    generator = torch.Generator().manual_seed(seed)
    strata = torch.zeros(n, dtype=torch.int64) if within is None else within.cpu()
    shuffled = torch.randperm(n, generator=generator)
    order = shuffled[strata[shuffled].argsort(stable=True)]
    environment = torch.empty(n, dtype=torch.int64)
    environment[order] = torch.arange(n) % count
    return environment


def error_environments(model: nn.Module, batch: Batch) -> Int[Tensor, " n"]:
    """0 where an early model is right, 1 where it is wrong: examples with and against what it learned first.

    Args:
        model: A classifier, trained a little and not until it knows every row by heart.
        batch: Rows with labels.

    Raises:
        ValueError: If the model is right, or wrong, on every row.

    Source:
        The split of Liu, Haghgoo et al., Just train twice (2021), https://arxiv.org/abs/2107.09044.

    Example:
        >>> batch = Batch(torch.eye(2), torch.tensor([0, 0]))
        >>> error_environments(torch.nn.Identity(), batch).tolist()
        [0, 1]
    """
    wrong = (predict(model, batch.x).argmax(dim=1) != batch.y.cpu()).long()
    if int(wrong.sum()) in (0, len(wrong)):
        state = "wrong" if bool(wrong.any()) else "right"
        raise ValueError(f"the model is {state} on all {len(wrong)} rows: take an earlier checkpoint or held-out rows.")
    return wrong


def gradient_clusters(
    model: nn.Module, loss: Loss, batch: Batch, count: int = 2, *, dimensions: int = 32, seed: int = 0
) -> Int[Tensor, " n"]:
    """Within each class, clusters of the last layer's gradients; cluster 0 is the one the model fits best.

    Rows that rely on a shortcut and rows that go against it pull the last layer apart; clusters of gradients find them
    where no label does. Gradients of the same rows disagree between clusters by construction: judge the clusters on other
    rows, or by what they hold, and always beside `random_environments`.

    Args:
        model: With a linear last layer; trained a little.
        loss: `loss(outputs, y)`, the mean over its rows.
        batch: Rows with class ids.
        count: Clusters in each class.
        dimensions: Principal components of the features that are kept.
        seed: Of the clustering.

    Returns:
        `(n,)` from 0 (lowest mean loss in its class) to `count - 1`; a class with fewer rows than clusters is all 0.

    Raises:
        ValueError: If `count` is below 2, or the model has no linear last layer.

    Source:
        Clusters of representations within classes: Sohoni et al., No subclass left behind (2020),
        https://arxiv.org/abs/2011.12945; of gradients as here, our variant.

    Example:
        >>> batch = Batch(torch.tensor([[2.0], [2.1], [-2.0], [-2.1]]), torch.tensor([1, 1, 1, 1]))
        >>> model = torch.nn.Linear(1, 2)
        >>> with torch.no_grad():
        ...     _ = model.weight.copy_(torch.tensor([[0.0], [1.0]])), model.bias.fill_(0.0)
        >>> gradient_clusters(model, torch.nn.functional.cross_entropy, batch).tolist()
        [0, 0, 1, 1]
    """
    from sklearn.cluster import KMeans

    if count < 2:
        raise ValueError(f"`count` is at least 2; got {count}.")
    found = head_gradients(model, loss, batch.x, batch.y)
    points = _points(found, dimensions)
    clusters = torch.zeros(len(batch), dtype=torch.int64)
    for label in batch.y.unique():
        rows = (batch.y.cpu() == label.cpu()).nonzero()[:, 0]
        if len(rows) <= count or len(points[rows].unique(dim=0)) < count:
            continue
        ids = torch.from_numpy(
            KMeans(count, n_init=5, random_state=seed).fit_predict(points[rows].numpy()).astype(np.int64)
        )
        size = ids.bincount(minlength=count).clamp(min=1)
        mean = torch.zeros(count, dtype=torch.float64).index_add_(0, ids, found.losses[rows]) / size
        clusters[rows] = mean.argsort().argsort()[ids]
    return clusters


@dataclass(frozen=True)
class ColumnAgreement:
    """One column as environments: do the last layer's gradients differ between its values more than chance has it?"""

    name: str
    values: tuple[str, ...]
    sizes: tuple[int, ...]
    disagreement: float
    """Squared lengths of the environments' gradients, weighed by rows, over the mean of that for random groups of these
    sizes: 1 for a column that says nothing."""

    p: float
    """Share of random groups that differ at least as much; permuted within classes."""

    p_adjusted: float
    """The same, corrected for the number of columns (Holm)."""

    alignment: float
    """Squared length of the mean gradient over the mean squared length of the environments'."""

    random_alignment: float
    """Its mean over random groups."""

    note: str = ""


def rank_columns(
    model: nn.Module,
    loss: Loss,
    batch: Batch,
    columns: Mapping[str, Any] | Sequence[str] | None = None,
    *,
    permutations: int = 200,
    max_rows: int = 2000,
    seed: int = 0,
) -> list[ColumnAgreement]:
    """Which column of metadata splits the rows into environments that disagree? A permutation test for each.

    The gradients are those of the last layer on single examples, in evaluation mode; groups drawn at random with the sizes
    of the column's, within classes, are the control that every number is shown beside. A column made from these very
    gradients or predictions, such as `gradient_clusters`, always differs: test it on other rows.

    Args:
        model: With a linear last layer.
        loss: `loss(outputs, y)`, the mean over its rows.
        batch: Rows with class ids and columns.
        columns: Names, or a mapping from names to `(n,)` arrays; all columns of the batch, its attribute and its group by
            default. Numbers with many values are cut into four bins.
        permutations: Random groupings of each column.
        max_rows: Rows drawn, if there are more.
        seed: Of all draws.

    Returns:
        Columns, the most disagreeing first.

    Raises:
        ValueError: If there is no column, or one has the wrong length.

    Example:
        >>> y = torch.arange(80) % 2
        >>> site = torch.arange(80) // 40
        >>> x = torch.stack([2.0 * y - 1, (2.0 * y - 1) * (2 * site - 1)], dim=1)
        >>> batch = Batch(x, y, columns={"site": site.numpy(), "coin": (torch.arange(80) // 2 % 2).numpy()})
        >>> model = torch.nn.Linear(2, 2)
        >>> found = rank_columns(model, torch.nn.functional.cross_entropy, batch)
        >>> found[0].name, found[0].p < 0.01
        ('site', True)
    """
    named = _columns(batch, columns)
    rows = torch.randperm(len(batch), generator=torch.Generator().manual_seed(seed))[:max_rows].sort().values
    found = head_gradients(model, loss, batch.x[rows], batch.y[rows])
    gram, y = found.gram, batch.y[rows].cpu()
    ranked = []
    for i, (name, column) in enumerate(named.items()):
        ids, values, note = _environments(np.asarray(column)[rows.numpy()])
        ranked.append(_tested(name, ids, values, note, gram, y, permutations, seed + i))
    ranked.sort(key=lambda c: (c.p, -c.disagreement))
    return _holm(ranked)


def _points(found: HeadGradients, dimensions: int) -> Tensor:
    """Gradients as points of few dimensions: principal components of the features times the derivatives."""
    features = found.features
    if features.shape[1] > dimensions:
        _, _, basis = torch.linalg.svd(features - features.mean(dim=0), full_matrices=False)
        features = torch.cat([(features - features.mean(dim=0)) @ basis[:dimensions].mT, features[:, -1:]], dim=1)
    return (found.delta[:, :, None] * features[:, None, :]).flatten(1)


def _columns(batch: Batch, columns: Mapping[str, Any] | Sequence[str] | None) -> dict[str, Any]:
    own = dict(batch.columns)
    if batch.group is not None:
        own.setdefault("group", batch.group.cpu().numpy())
    if batch.attribute is not None:
        own.setdefault(batch.cue, batch.attribute.cpu().numpy())
    if isinstance(columns, Mapping):
        own = {name: np.asarray(column) for name, column in columns.items()}
    elif columns is not None:
        missing = [name for name in columns if name not in own]
        if missing:
            raise ValueError(f"the data has no column {missing[0]!r}; columns found: {', '.join(own) or 'none'}.")
        own = {name: own[name] for name in columns}
    if not own:
        raise ValueError("no column to rank: give `columns`, a mapping from names to one value per row.")
    for name, column in own.items():
        require_rows(batch.x, column, y_name=name)
    return own


def _environments(column: np.ndarray) -> tuple[Tensor, tuple[str, ...], str]:
    """Ids, their names, and what was done to get them."""
    if column.dtype.kind == "f" or (column.dtype.kind in "iu" and len(np.unique(column)) > _VALUES):
        missing = ~np.isfinite(column.astype(np.float64))
        if len(np.unique(column[~missing])) > _VALUES:
            edges = np.unique(np.quantile(column[~missing], np.linspace(0, 1, _BINS + 1)[1:-1]))
            ids = np.where(missing, len(edges) + 1, np.searchsorted(edges, column, side="right"))
            ids = np.unique(ids, return_inverse=True)[1]
            return torch.from_numpy(ids), tuple(f"bin {i}" for i in range(ids.max() + 1)), "cut into bins"
    ids_, values = encode_labels(np.where(column == column, column.astype(str), "missing"))
    return ids_, values, ""


def _tested(
    name: str, ids: Tensor, values: tuple[str, ...], note: str, gram: Tensor, y: Tensor, permutations: int, seed: int
) -> ColumnAgreement:
    sizes = tuple(ids.bincount().tolist())
    blank = ColumnAgreement(name, values, sizes, 1.0, 1.0, 1.0, float("nan"), float("nan"))
    if len(sizes) < 2 or len(sizes) > len(ids) // 2:
        return replace(blank, note="one value only" if len(sizes) < 2 else "nearly every row has a value of its own")
    rng = np.random.default_rng(seed)
    strata = [np.flatnonzero(y.numpy() == label) for label in y.unique().numpy()]
    labels = [ids.numpy()]
    for _ in range(permutations):
        drawn = ids.numpy().copy()
        for rows in strata:
            drawn[rows] = rng.permutation(drawn[rows])
        labels.append(drawn)
    between, alignment = _lengths(torch.from_numpy(np.stack(labels)), len(sizes), gram)
    truth, control = float(between[0]), between[1:]
    if float(control.max() - control.min()) <= 1e-12 * float(control.max()):
        return replace(blank, note="follows the class: within a class there is nothing to permute")
    above = int((control >= truth * (1 - 1e-12)).sum())
    p = (1 + above) / (permutations + 1)
    return ColumnAgreement(
        name, values, sizes, truth / float(control.mean()), p, p, float(alignment[0]), float(alignment[1:].mean()), note
    )


def _lengths(labels: Tensor, count: int, gram: Tensor) -> tuple[Tensor, Tensor]:
    """For every labelling `(b, n)`: row-weighted squared lengths of the environments' gradients, and their alignment."""
    between, alignment = [], []
    for part in labels.split(max(1, 2000 // count)):
        member = torch.nn.functional.one_hot(part, count).to(gram.dtype).mT  # (b, e, n)
        size = member.sum(dim=2)
        products = (member.flatten(0, 1) @ gram).unflatten(0, member.shape[:2]) @ member.mT
        means = products / size[:, :, None] / size[:, None, :]
        square = means.diagonal(dim1=1, dim2=2)
        between.append((square * size).sum(dim=1) / gram.shape[0])
        alignment.append(means.mean(dim=(1, 2)) / square.mean(dim=1))
    return torch.cat(between), torch.cat(alignment)


def _holm(ranked: list[ColumnAgreement]) -> list[ColumnAgreement]:
    adjusted, largest = [], 0.0
    for i, column in enumerate(ranked):
        largest = max(largest, min(1.0, column.p * (len(ranked) - i)))
        adjusted.append(replace(column, p_adjusted=largest))
    return adjusted
