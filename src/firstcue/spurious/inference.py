"""Guess, without group labels, which rows go against a shortcut: from a network's answers or features early in training.

All of these see a shortcut only where the network has learned it and not yet the core; where it has not, they are at chance.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from firstcue._checks import as_tensor, encode_labels, require_finite, require_rows

_JUDGED = 2000
"""Rows of a class on which a number of clusters is judged by silhouette, whose cost is quadratic."""


def error_set(outputs: Any, y: Any) -> Bool[Tensor, " n"]:
    """Rows that the network gets wrong: what JTT up-weighs.

    Args:
        outputs: `(n, K)` logits, or `(n,)` or `(n, 1)` logits of class 1 against class 0.
        y: `(n,)` class ids.

    Returns:
        True where the largest logit is not that of the row's class.

    Raises:
        ValueError: If shapes differ, outputs are not finite or ids do not fit them.

    Source:
        Liu et al., "Just train twice" (2021), https://arxiv.org/abs/2107.09044.

    Example:
        >>> error_set([[2.0, 0.0], [2.0, 0.0]], [0, 1]).tolist()
        [False, True]
    """
    logits, ids = _read(outputs, y)
    return logits.argmax(dim=1) != ids


def eiil_environments(
    outputs: Any, y: Any, *, steps: int = 2000, rate: float = 0.02, seed: int = 0
) -> Int[Tensor, " n"]:
    """Two environments between which a fixed network is as far from invariant as can be.

    Soft environments are moved uphill, by Adam, on the sum over both of the square of the environment's mean derivative
    of the loss by a factor of the outputs; then each row goes to the likelier one. They are not crossed with the class:
    `crossed` does that.

    Args:
        outputs: `(n, K)` logits of the reference network, or `(n,)` or `(n, 1)` logits of class 1 against class 0.
        y: `(n,)` class ids.
        steps: Of the ascent.
        rate: Of the ascent.
        seed: Of its start.

    Returns:
        Environment 0 or 1 of each row; 1 is the smaller one. If no row's derivative differs from 0, all are in 0.

    Raises:
        ValueError: If shapes differ, outputs are not finite or ids do not fit them.

    Source:
        Creager et al., "Environment inference for invariant learning" (2021), https://arxiv.org/abs/2010.07249.

    Example:
        >>> eiil_environments([3.0, 3.0, 3.0, -3.0, -3.0, 3.0], [1, 1, 1, 0, 0, 0]).tolist()
        [0, 0, 0, 0, 0, 1]
    """
    slope = eiil_slopes(outputs, y) / len(y)
    if not bool((slope != 0).any()):
        return torch.zeros(len(slope), dtype=torch.int64)
    slope = slope / slope.abs().max()  # the optimum does not depend on the scale, and Adam sees no rounding to zero
    raw = torch.randn(len(slope), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    first, second, tiny = torch.zeros_like(raw), torch.zeros_like(raw), 1e-12
    for step in range(1, steps + 1):
        share = raw.sigmoid()
        one, other = share @ slope, (1 - share) @ slope
        uphill = (one - other) * slope * share * (1 - share)  # of (one^2 + other^2) / 2
        first, second = 0.9 * first + 0.1 * uphill, 0.999 * second + 0.001 * uphill.square()
        adapted = (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + tiny)
        raw = raw + rate * adapted
    side = (raw > 0).long()
    return side if int(side.sum()) * 2 <= len(side) else 1 - side


def eiil_slopes(outputs: Any, y: Any) -> Float[Tensor, " n"]:
    """Derivative of every row's cross-entropy by a factor of its outputs, at 1: sum_k (p_k - [k = y]) f_k.

    Example:
        >>> eiil_slopes([[0.0, 2.0]], [1]).round(decimals=3).tolist()
        [-0.238]
    """
    logits, ids = _read(outputs, y)
    return (logits.softmax(dim=1) * logits).sum(dim=1) - logits.gather(1, ids[:, None])[:, 0]


def spare_clusters(
    outputs: Any, y: Any, *, clusters: int | None = 2, most: int = 5, seed: int = 0
) -> Int[Tensor, " n"]:
    """Clusters of the network's outputs within each class, by k-means.

    Logits count up to a constant per row, so that two classes make one number; it is cut in two exactly.

    Args:
        outputs: `(n, K)` logits early in training, or `(n,)` or `(n, 1)` logits of class 1 against class 0.
        y: `(n,)` class ids.
        clusters: Per class; None takes the number from 2 to `most` with the largest silhouette.
        most: See `clusters`.
        seed: Of k-means.

    Returns:
        `(n,)` ids that differ between classes; in each class the largest cluster comes first. A class with fewer distinct outputs than clusters has fewer clusters.

    Raises:
        ValueError: If shapes differ, outputs are not finite or ids do not fit them.

    Source:
        Yang et al., "Identifying spurious biases early in training" (2024), https://arxiv.org/abs/2305.18761 (SPARE).

    Example:
        >>> spare_clusters([4.0, 5.0, -1.0, -4.0, -5.0, 1.0], [1, 1, 1, 0, 0, 0]).tolist()
        [2, 2, 3, 0, 0, 1]
    """
    logits, ids = _read(outputs, y)
    points = (logits - logits[:, :1])[:, 1:].numpy()
    return _within_classes(points, ids, lambda rows, k: _k_means(rows, k, seed), clusters, most, seed)


def george_clusters(
    features: Any,
    y: Any,
    *,
    clusters: int | None = None,
    most: int = 10,
    projection: Literal["auto", "umap", "pca"] = "auto",
    seed: int = 0,
) -> Int[Tensor, " n"]:
    """Clusters of a trained network's features within each class, by Gaussian mixtures on two dimensions.

    Args:
        features: `(n, d)` features in front of the last layer; standardised first.
        y: `(n,)` class ids.
        clusters: Per class; None takes the number from 2 to `most` with the largest silhouette.
        most: See `clusters`.
        projection: "umap" (10 neighbours; needs the package umap-learn), "pca", or "auto": UMAP where it is installed
            and there are more than 11 rows that are not all alike, else principal components. Results differ between the two.
        seed: Of projection and mixtures.

    Returns:
        `(n,)` ids that differ between classes; in each class the largest cluster comes first. A class with fewer distinct rows than clusters has fewer clusters.

    Raises:
        ValueError: If shapes differ, features are not finite, or UMAP is asked for and not installed or has too few rows.

    Source:
        Sohoni et al., "No subclass left behind" (2020), https://arxiv.org/abs/2011.12945 (GEORGE).

    Example:
        >>> george_clusters([[0.0, 1.0], [0.1, 1.0], [9.0, 1.0], [9.1, 1.0]], [0, 0, 0, 0], clusters=2, projection="pca").tolist()
        [0, 0, 1, 1]
    """
    x = as_tensor(features, "features").detach().cpu().double()
    x = x[:, None] if x.ndim == 1 else x
    if x.ndim != 2 or len(x) == 0:
        raise ValueError(f"`features` has shape {tuple(x.shape)}; (n, d) is needed, one row of features per example.")
    require_finite(x, "features")
    require_rows(x, y, "features")
    scale = x.std(dim=0, correction=0)
    standard = (x - x.mean(dim=0)) / torch.where(scale > 0, scale, 1.0)
    points = _projected(standard.numpy(), projection, seed)
    ids, _ = encode_labels(y)
    return _within_classes(points, ids.cpu(), lambda rows, k: _mixture(rows, k, seed), clusters, most, seed)


def crossed(ids: Any, y: Any) -> Int[Tensor, " n"]:
    """Groups from environments and classes: ids that differ where either differs, numbered from 0 without gaps.

    Example:
        >>> crossed([0, 1, 1], [0, 0, 1]).tolist()
        [0, 1, 2]
    """
    environments, classes = encode_labels(ids, "ids")[0], encode_labels(y)[0]
    require_rows(environments, classes, "ids")
    return (classes.cpu() * (int(environments.max()) + 1) + environments.cpu()).unique(return_inverse=True)[1]


def minority(ids: Any, y: Any) -> Bool[Tensor, " n"]:
    """Rows outside the largest group of their class: a guess at those that go against the shortcut.

    Args:
        ids: `(n,)` groups, clusters or environments.
        y: `(n,)` class ids.

    Example:
        >>> minority([0, 0, 1, 1, 1, 0], [0, 0, 0, 1, 1, 1]).tolist()
        [False, False, True, False, False, True]
    """
    groups, classes = crossed(ids, y), encode_labels(y)[0].cpu()
    counts = groups.bincount()
    largest = torch.zeros(int(classes.max()) + 1, dtype=torch.int64)
    for group in counts.argsort(stable=True):  # the last write wins: the largest group of the class
        largest[classes[groups == group][0]] = group
    return groups != largest[classes]


def _read(outputs: Any, y: Any) -> tuple[Float[Tensor, "n k"], Int[Tensor, " n"]]:
    """Float64 logits of all classes and class ids."""
    logits = as_tensor(outputs, "outputs").detach().cpu().double()
    ids = as_tensor(y, "y").detach().cpu().long()
    if logits.ndim == 1 or (logits.ndim == 2 and logits.shape[1] == 1):
        logits = torch.stack([torch.zeros_like(logits.flatten()), logits.flatten()], dim=1)
    if logits.ndim != 2 or len(logits) == 0:
        raise ValueError(
            f"`outputs` has shape {tuple(logits.shape)}; (n, K) logits are needed, or (n,) for two classes."
        )
    require_finite(logits, "outputs")
    require_rows(logits, ids, "outputs")
    if not 0 <= int(ids.min()) <= int(ids.max()) < logits.shape[1]:
        raise ValueError(
            f"`y` has ids from {int(ids.min())} to {int(ids.max())}, but `outputs` are of {logits.shape[1]} classes; "
            f"encode labels as 0 to {logits.shape[1] - 1}, in the order of the outputs."
        )
    return logits, ids


def _within_classes(points: np.ndarray, y: Tensor, split: Any, clusters: int | None, most: int, seed: int) -> Tensor:
    """`split(points, k)` in every class, with ids that follow each other."""
    wanted = most if clusters is None else clusters
    if wanted < 1 or (clusters is None and most < 2):
        raise ValueError(f"`clusters` is at least 1 and `most` at least 2; got {clusters} and {most}.")
    found, offset = torch.empty(len(y), dtype=torch.int64), 0
    for label in y.unique():
        rows = (y == label).numpy()
        own = points[rows]
        distinct = len(np.unique(own, axis=0))
        counts = [min(clusters, distinct)] if clusters else list(range(2, min(most, distinct) + 1)) or [1]
        tried = [split(own, k) if k > 1 else np.zeros(len(own), dtype=np.int64) for k in counts]
        best = tried[0] if len(tried) == 1 else max(tried, key=lambda ids: silhouette(own, ids, seed=seed))
        numbered = _by_size(best)
        found[torch.from_numpy(rows)] = torch.from_numpy(numbered + offset)
        offset += int(numbered.max()) + 1
    return found


def _by_size(ids: np.ndarray) -> np.ndarray:
    """The same clusters, the largest called 0; of equally large ones the one that occurs first."""
    _, start, inverse, counts = np.unique(ids, return_index=True, return_inverse=True, return_counts=True)
    rank = np.empty(len(counts), dtype=np.int64)
    rank[np.lexsort((start, -counts))] = np.arange(len(counts))
    return rank[inverse]


def silhouette(points: np.ndarray, ids: np.ndarray, *, seed: int = 0) -> float:
    """How far clusters lie apart, from -1 to 1, on at most 2,000 rows; -1 for a single cluster.

    Example:
        >>> round(silhouette(np.array([[0.0], [0.1], [9.0], [9.1]]), np.array([0, 0, 1, 1])), 2)
        0.99
    """
    from sklearn.metrics import silhouette_score

    rows = np.random.default_rng(seed).permutation(len(ids))[:_JUDGED]
    if not 1 < len(np.unique(ids[rows])) < len(rows):
        return -1.0
    return float(silhouette_score(points[rows], ids[rows]))


def _k_means(points: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    if clusters == 2 and points.shape[1] == 1:
        return _two_means(points[:, 0])
    from sklearn.cluster import KMeans

    return np.asarray(KMeans(clusters, n_init=5, random_state=seed).fit_predict(points), dtype=np.int64)


def _two_means(values: np.ndarray) -> np.ndarray:
    """The cut of sorted values with the least spread within both sides: exact, unlike k-means."""
    ordered = np.sort(values)
    n, k = len(values), np.arange(1, len(values))
    centred = ordered - ordered.mean()
    between = np.cumsum(centred)[:-1] ** 2 * (1 / k + 1 / (n - k))
    between[ordered[1:] == ordered[:-1]] = -1.0  # equal values stay together
    return (values > ordered[int(between.argmax())]).astype(np.int64)


def _mixture(points: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    from sklearn.mixture import GaussianMixture

    mixture = GaussianMixture(clusters, covariance_type="full", reg_covar=1e-4, random_state=seed)
    return np.asarray(mixture.fit_predict(points), dtype=np.int64)


_NEIGHBOURS = 10
"""Of every row, in UMAP."""


def has_umap() -> bool:
    """Whether `george_clusters` can use UMAP here."""
    return find_spec("umap") is not None


def _projected(x: np.ndarray, projection: str, seed: int) -> np.ndarray:
    """Two dimensions, or fewer where there are fewer."""
    if projection not in ("auto", "umap", "pca"):
        raise ValueError(f"`projection` is 'auto', 'umap' or 'pca'; got {projection!r}.")
    enough = len(x) > _NEIGHBOURS + 1 and bool(x.any())
    if projection == "umap" and not (has_umap() and enough):
        missing = (
            f"more than {_NEIGHBOURS + 1} rows that are not all alike; there are {len(x)}"
            if has_umap()
            else "umap-learn: pip install umap-learn"
        )
        raise ValueError(f"the projection 'umap' needs {missing}; or use projection='pca'.")
    if projection != "pca" and has_umap() and enough:
        umap = import_module("umap").UMAP(n_components=2, n_neighbors=_NEIGHBOURS, random_state=seed, n_jobs=1)
        return np.asarray(umap.fit_transform(x))
    if not x.any():
        return x[:, :1]
    from sklearn.decomposition import PCA

    return np.asarray(PCA(min(2, *x.shape), random_state=seed).fit_transform(x))
