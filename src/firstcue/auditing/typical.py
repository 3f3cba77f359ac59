"""Which rows are most and least like the rest of their class to the model, as pictures."""

import torch
from torch import Tensor

from firstcue.batch import Batch
from firstcue.finding import Picture
from firstcue.moments import Moments
from firstcue.shrinkage import oas

SHOWN = 6
MOST_CLASSES = 4
TAIL = 0.1
"""Share of a class that is called far from it in the caption."""
WIDEST = 1024
"""Features beyond which only their variances are used: a full covariance would take seconds."""
NAME = "typical"
"""Of the part of the report that these pictures belong to."""


def distances(features: Tensor, y: Tensor) -> Tensor:
    """How far each row is from the mean of its class, in units of the spread within classes.

    Args:
        features: `(n, d)`.
        y: `(n,)` class ids.

    Returns:
        `(n,)` Mahalanobis distances under the shrunk covariance that all classes share, in float64.

    Source:
        Lee et al., A simple unified framework for detecting out-of-distribution samples (2018), https://arxiv.org/abs/1807.03888.

    Example:
        >>> x = torch.tensor([[0.0], [0.1], [-0.1], [5.0], [9.0], [9.2]])
        >>> distances(x, torch.tensor([0, 0, 0, 0, 1, 1])).argmax()
        tensor(3)
    """
    features = features.double()
    means = torch.zeros(int(y.max()) + 1, features.shape[1], dtype=torch.float64).index_add_(0, y, features)
    centred = features - (means / torch.bincount(y).clamp_min(1)[:, None])[y]
    if features.shape[1] > WIDEST:
        return (centred / centred.std(dim=0).clamp_min(1e-12)).norm(dim=1)
    values, vectors = torch.linalg.eigh(oas(Moments.of(centred)))
    return ((centred @ vectors) / values.clamp_min(1e-12 * float(values[-1]) + 1e-300).sqrt()).norm(dim=1)


def extremes(far: Tensor, members: Tensor) -> tuple[Tensor, Tensor]:
    """Ids of the nearest and of the farthest of some rows, each from its end inwards."""
    order = members[far[members].argsort(stable=True)]
    half = min(SHOWN, len(order) // 2)
    return order[:half], order.flip(0)[:half]


def typical_pictures(held: Batch, features: Tensor | None, decisions: Tensor) -> tuple[Picture, ...]:
    """A picture per class: above its most typical rows, below the least typical ones.

    Args:
        held: Held-out rows of images.
        features: `(n, d)` what the head reads of them.
        decisions: `(n,)` the model's class ids.
    """
    if features is None or not bool(torch.isfinite(features).all()):
        return ()
    far, made = distances(features.cpu(), held.y), []
    for c in range(min(held.num_classes, MOST_CLASSES)):
        members = (held.y == c).nonzero()[:, 0]
        near, remote = extremes(far, members)
        if len(near):
            made.append(_picture(held, c, near, remote, _told(held, far, members, decisions)))
    return tuple(made)


def _picture(held: Batch, c: int, near: Tensor, remote: Tensor, told: str) -> Picture:
    from firstcue.report.figures import enlarged, picture

    name = held.classes[c]
    return picture(
        enlarged(held.x[torch.cat([near, remote])]),
        f"{name}: most and least typical",
        f"Above, nearest to the mean of the class in the features; below, farthest from it. {told}",
        f"{len(near)} most typical inputs of the class {name} and below them {len(remote)} least typical ones",
        columns=len(near),
        finding=NAME,
    )


def _told(held: Batch, far: Tensor, members: Tensor, decisions: Tensor) -> str:
    """What the far tenth of a class has more of than the rest: errors, and a value of the cue."""
    tail = members[far[members].argsort(descending=True, stable=True)[: max(1, round(TAIL * len(members)))]]
    right = [float((decisions[rows] == held.y[rows]).double().mean()) for rows in (tail, members)]
    said = f"Of the farthest tenth {right[0]:.0%} are answered rightly, of all {right[1]:.0%}"
    if held.attribute is None:
        return f"{said}."
    shares = [torch.bincount(held.attribute[rows], minlength=held.num_values) / len(rows) for rows in (tail, members)]
    most = int((shares[0] - shares[1]).argmax())
    more = f"{shares[0][most]:.0%} have {held.cue} {held.values[most]}, of all {shares[1][most]:.0%}"
    return f"{said}; {more}." if shares[0][most] > shares[1][most] else f"{said}."
