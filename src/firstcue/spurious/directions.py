"""The direction in embedding space along which a candidate's values lie apart, within classes."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from firstcue._checks import as_tensor, require_finite, require_rows


@dataclass(frozen=True)
class Direction:
    """What erasure would remove, and what a read-out of the candidate would look along."""

    vectors: Float[Tensor, "v d"]
    """Orthonormal float64 rows, as many as values less one at most."""

    apart: float
    """Distance of the values' means over the spread within (class, value), along the first: below 1 they overlap."""

    def __call__(self, embeddings: Any) -> Tensor:
        """`(n, v)` coordinates along it."""
        return as_tensor(embeddings, "embeddings").double() @ self.vectors.mT


def candidate_direction(embeddings: Any, y: Any, attribute: Any) -> Direction:
    """Differences between the means of an attribute's values, taken within classes and averaged over them.

    Within classes, because the attribute goes with the class: the plain difference would point along the class.

    Args:
        embeddings: `(n, d)`.
        y: `(n,)` class ids.
        attribute: `(n,)` value ids.

    Raises:
        ValueError: If shapes do not fit, or no class has rows of two values.

    Example:
        >>> y, cue = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
        >>> x = torch.stack([y.float() * 9, cue.float()], dim=1)
        >>> candidate_direction(x, y, cue).vectors.abs().round(decimals=6).tolist()
        [[0.0, 1.0]]
    """
    z = as_tensor(embeddings, "embeddings").detach().cpu().flatten(start_dim=1).double()
    require_finite(z, "embeddings")
    labels, values = (as_tensor(t).detach().cpu().long() for t in (y, attribute))
    require_rows(z, labels, "embeddings")
    require_rows(z, values, "embeddings", "attribute")
    rest, steps = z.clone(), []
    for k in labels.unique():
        present = values[labels == k].unique()
        means = torch.stack([z[(labels == k) & (values == v)].mean(dim=0) for v in present])
        for v, mean in zip(present, means, strict=True):
            rest[(labels == k) & (values == v)] -= mean
        steps += [m - means[0] for m in means[1:]]
    if not steps:
        raise ValueError("no class has rows of two values of the attribute, so it cannot be told from the class here.")
    differences = torch.stack(steps)
    # opposite signs of the same step must not cancel: the axes are those of the differences' second moments
    _, size, axes = torch.linalg.svd(differences, full_matrices=False)
    kept = size > 1e-10 * size[0].clamp(min=1e-30)
    vectors = axes[kept][: max(int(values.max()), 1)]
    if len(vectors) == 0:
        return Direction(axes[:1], 0.0)
    along = rest @ vectors[0]
    spread = float(along.square().mean().sqrt())
    mean_step = float((differences @ vectors[0]).abs().mean())
    return Direction(vectors, mean_step / spread if spread > 0 else float("inf"))
