"""Two simple read-outs of a representation, weighted row by row: the ridge discriminant and logistic regression."""

from collections.abc import Callable

import torch
from torch import Tensor

Fit = Callable[[Tensor, Tensor, Tensor, int], Callable[[Tensor], Tensor]]
"""`fit(x, target, weight, k) -> predict`, where `predict(x)` gives class ids; weights sum to 1."""


def discriminant(x: Tensor, target: Tensor, weight: Tensor, k: int, ridge: float) -> Callable[[Tensor], Tensor]:
    """Nearest class mean in the metric (within-class covariance + ridge)^-1."""
    score = discriminant_scores(x, target, weight, k, ridge)
    return lambda new: score(new).argmax(dim=1)


def discriminant_scores(x: Tensor, target: Tensor, weight: Tensor, k: int, ridge: float) -> Callable[[Tensor], Tensor]:
    """The scores `(n, k)` whose largest names the class; a class without rows scores minus infinity."""
    member = torch.zeros(k, len(x), dtype=x.dtype).scatter_(0, target[None], weight[None].to(x.dtype))
    total = member.sum(dim=1, keepdim=True)
    means = (member @ x) / torch.where(total > 0, total, 1.0)
    spread = (x - means[target]) * weight.sqrt()[:, None].to(x.dtype)
    axes = _solve(spread, means, ridge)
    offset = torch.where(total[:, 0] > 0, -0.5 * (axes * means).sum(dim=1), -torch.inf)
    return lambda new: new @ axes.mT + offset


def _solve(a: Tensor, b: Tensor, ridge: float) -> Tensor:
    """Rows of `b` times `(a^T a + ridge)^-1`, through the smaller Gram matrix."""
    n, d = a.shape
    if ridge > 0 and n < d:
        inner = a @ a.mT + ridge * torch.eye(n, dtype=a.dtype)
        return (b - torch.linalg.solve(inner, a @ b.mT).mT @ a) / ridge
    whole = a.mT @ a + ridge * torch.eye(d, dtype=a.dtype)
    return torch.linalg.solve(whole, b.mT).mT if ridge > 0 else b @ torch.linalg.pinv(whole, hermitian=True)


def logistic(x: Tensor, target: Tensor, weight: Tensor, k: int) -> Callable[[Tensor], Tensor]:
    """The class of new rows, by a logistic regression on weighted rows."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=1000).fit(x.numpy(), target.numpy(), sample_weight=(weight * len(x)).numpy())
    return lambda new: torch.from_numpy(model.predict(new.numpy())).long()


def scaling(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each column; a constant column is left alone."""
    centre = x.mean(dim=0)
    scale = (x - centre).square().mean(dim=0).sqrt()
    return centre, torch.where(scale > 1e-10 * centre.abs().clamp(min=1e-30), scale, 1.0)
