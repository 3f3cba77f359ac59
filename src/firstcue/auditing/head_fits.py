"""Repairs of the last layer as functions from rows to a new head, so that each of them ends as an ordinary linear layer."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from firstcue.agreement.rules import and_mask
from firstcue.auditing.erased import balanced_fit, balanced_weights
from firstcue.erasure.affine import AffineEraser
from firstcue.erasure.alf_qleace import alf_qleace
from firstcue.layers import Head
from firstcue.moments import Moments
from firstcue.training.retrain import retrain_head


@dataclass(frozen=True)
class Rows:
    """Features with what is known of each row."""

    features: Tensor
    y: Tensor
    attribute: Tensor | None = None
    num_values: int = 1
    early: Tensor | None = None
    """`(n, K)` logits of an earlier checkpoint, for the remedy that looks at disagreement."""

    @property
    def cells(self) -> Tensor:
        """`(n,)` group ids, class by attribute value."""
        return self.y if self.attribute is None else self.y * self.num_values + self.attribute

    def at(self, rows: Tensor) -> "Rows":
        """The rows where the mask holds."""
        attribute, early = (None if t is None else t[rows] for t in (self.attribute, self.early))
        return Rows(self.features[rows], self.y[rows], attribute, self.num_values, early)


@dataclass(frozen=True)
class Repaired:
    """A new head and what has to be said of it."""

    weight: Tensor
    bias: Tensor
    note: str = ""


Fit = Callable[[Rows, Rows | None, Head, int], Repaired]
"""`fit(held_out, train, head, seed)` -> the new head."""


def keep(held: Rows, train: Rows | None, head: Head, seed: int) -> Repaired:
    """The head as it is."""
    return Repaired(head.weight, head.bias)


def retrain(method: str) -> Fit:
    """Last-layer retraining by `retrain_head` with the method of that name."""

    def fit(held: Rows, train: Rows | None, head: Head, seed: int) -> Repaired:
        known = None if train is None else (train.features, train.y, train.cells)
        fitted = retrain_head(
            held.features,
            held.y,
            held.cells,
            method=method,
            train=known,
            head=head,
            early_outputs=held.early,
            seed=seed,
        )
        return Repaired(fitted.weight, fitted.bias, fitted.note)

    return fit


def erase(held: Rows, train: Rows | None, head: Head, seed: int) -> Repaired:
    """Erase the cue's means with balanced moments (LEACE), fold the eraser into the head, and re-centre its bias."""
    fitted = balanced_fit(held.features, held.y, [_attribute(held)])
    return _folded(fitted.eraser(), held, head, "covariance shrunk (few rows)" if fitted.shrunk else "")


def erase_covariances(held: Rows, train: Rows | None, head: Head, seed: int) -> Repaired:
    """Erase means and the largest differences of covariance (ALF-QLEACE), with balanced rows, in the same way."""
    weights = balanced_weights(held.cells, torch.ones(len(held.y), dtype=torch.bool))
    by_value = Moments.of_groups(held.features, _attribute(held), weights=weights)
    eraser = alf_qleace(by_value, max_rank=MAX_RANK)
    return _folded(eraser, held, head, f"{eraser.rank} of {held.features.shape[1]} directions erased")


MAX_RANK = 64
"""Directions of differing covariance that are erased at the most."""


def _attribute(held: Rows) -> Tensor:
    if held.attribute is None:
        raise ValueError("this repair needs an attribute; give `attribute`.")
    return held.attribute


def _folded(eraser: AffineEraser, held: Rows, head: Head, note: str) -> Repaired:
    """The head that reads erased features.

    With x' = x - left right^T (x - mean), logits W x' + b are again affine in x: W' = W - W left right^T,
    b' = b + W left right^T mean. Erasing shifts the logits by whatever the cue contributed on average, so K - 1 numbers
    are refitted on balanced rows.
    """
    weight, bias = head.weight.double(), head.bias.double()
    change = weight @ eraser.left.double() @ eraser.right.double().mT
    new_weight, new_bias = weight - change, bias + change @ eraser.mean.double()
    logits = held.features.double() @ new_weight.mT + new_bias
    everything = torch.ones(len(held.y), dtype=torch.bool)
    shift = recentred_bias(logits, held.y, balanced_weights(held.cells, everything))
    return Repaired(new_weight, new_bias + shift, note)


def mask_gradients(
    held: Rows, train: Rows | None, head: Head, seed: int, *, steps: int = 300, rate: float = 0.02
) -> Repaired:
    """Go on training the head where all values of the cue agree on the sign of the gradient (AND-mask).

    Every value of the cue is an environment, and counts equally; classes count equally within it. Adam on the full batch,
    on standardised features.

    Source:
        Parascandolo et al., Learning explanations that are hard to vary (2020), https://arxiv.org/abs/2009.00329
    """
    attribute = _attribute(held)
    spread, centre = held.features.double().std(dim=0).clamp(min=1e-8), held.features.double().mean(dim=0)
    x = torch.cat([(held.features.double() - centre) / spread, torch.ones(len(held.y), 1, dtype=torch.float64)], dim=1)
    start = torch.cat(
        [head.weight.double() * spread, (head.bias.double() + head.weight.double() @ centre)[:, None]], dim=1
    )
    environments = [_environment(x, held, attribute == a, len(head.weight)) for a in attribute.unique().tolist()]
    parameter = start.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([parameter], lr=rate)
    for _ in range(steps):
        now = parameter.detach()
        gradients = torch.stack(
            [((rows @ now.mT).softmax(dim=1) - y).mul(w[:, None]).mT @ rows for rows, y, w in environments]
        )
        parameter.grad = and_mask(gradients.flatten(start_dim=1)).reshape(now.shape)
        optimizer.step()
    found = parameter.detach()
    weight = found[:, :-1] / spread
    return Repaired(weight, found[:, -1] - weight @ centre, f"{len(environments)} values of the cue as environments")


def _environment(x: Tensor, held: Rows, members: Tensor, num: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, one-hot labels and weights (summing to 1, classes equal) of one value of the cue."""
    y = held.y[members]
    weights = 1 / torch.bincount(y, minlength=num).double().clamp(min=1)[y]
    return x[members], one_hot(y, num).double(), weights / weights.sum()


def recentred_bias(logits: Tensor, y: Tensor, weights: Tensor, *, iterations: int = 50) -> Tensor:
    """The shift of the bias that minimises weighted cross-entropy: predicted class shares then equal the true ones.

    Args:
        logits: `(n, K)` float64.
        y: `(n,)` class ids.
        weights: `(n,)`.
        iterations: Newton steps at the most; each is damped by a small ridge, so that a class without rows stays finite.

    Returns:
        `(K,)` with mean zero.

    Example:
        >>> recentred_bias(torch.tensor([[2.0, 0.0], [2.0, 0.0]]).double(), torch.tensor([0, 1]), torch.ones(2)).round(decimals=4).tolist()
        [-1.0, 1.0]
    """
    share = weights.double() / weights.sum()
    target = torch.zeros(logits.shape[1], dtype=torch.float64).index_add_(0, y, share)
    shift = torch.zeros_like(target)
    for _ in range(iterations):
        p = (logits + shift).softmax(dim=1)
        gradient = share @ p - target + 1e-9 * shift
        hessian = (share @ p).diag() - (p * share[:, None]).mT @ p
        step = torch.linalg.solve(hessian + 1e-6 * torch.eye(len(shift), dtype=torch.float64), gradient)
        shift = shift - step.clamp(-2, 2)
        if float(gradient.abs().max()) < 1e-8:
            break
    return shift - shift.mean()
