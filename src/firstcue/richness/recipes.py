"""Knobs that move training between lazy and rich, each exact about what it changes.

A small output scale, a small initial scale and larger targets make training richer; their opposites, and more of the
output at the start, lazier. Lazy settings have tiny or huge gradients, and a learning rate that ignores this makes them
diverge and *look* rich: `safe_learning_rate` goes with every one of them.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss, one_hot

from firstcue._checks import as_tensor, encode_labels, require_classes, require_rows
from firstcue.heads import Head, features_and_outputs, find_head
from firstcue.moments import Moments
from firstcue.replacing import with_head
from firstcue.richness.curvature import tangent_lambda_max

Loss = Callable[[Tensor, Tensor], Tensor]


class CentredOutput(nn.Module):
    """alpha (h(x; theta) - h(x; theta_0)): what `centred_output` returns."""

    def __init__(self, model: nn.Module, alpha: float) -> None:
        super().__init__()
        self.alpha = alpha
        self.model = model
        self.start = copy.deepcopy(model).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Scaled change of the model's outputs since the start."""
        return self.alpha * (self.model(x) - self.start(x))


def centred_output(model: nn.Module, alpha: float = 1.0) -> CentredOutput:
    """The model with its initial output subtracted and scaled by alpha: large alpha trains lazily, small alpha richly.

    Train it with `scaled_loss(loss, alpha)`. `.model` is the given model (trained in place), whose features and head are
    the ones to measure; `.start` a frozen copy of it as it is now. In training mode dropout draws differently in the two.

    Args:
        model: Returns a tensor.
        alpha: Positive.

    Raises:
        ValueError: If alpha is not positive.

    Source:
        Chizat, Oyallon and Bach (2019), https://arxiv.org/abs/1812.07956.

    Example:
        >>> centred_output(nn.Linear(3, 2), alpha=10.0)(torch.ones(1, 3)).tolist()
        [[0.0, 0.0]]
    """
    _require_positive(alpha, "alpha")
    return CentredOutput(model, alpha)


def scaled_loss(loss: Loss, alpha: float) -> Loss:
    """`loss` / alpha^2, which keeps the speed of learning independent of alpha.

    Example:
        >>> scaled_loss(mse_loss, 2.0)(torch.tensor([2.0]), torch.tensor([0.0]))
        tensor(1.)
    """
    _require_positive(alpha, "alpha")
    return lambda outputs, y: loss(outputs, y) / alpha**2


def scaled_targets(num_classes: int, scale: float = 1.0) -> Loss:
    """Squared error on one-hot targets times `scale`: small targets train lazily.

    Only together with `centred_output(model)` (or a head that starts at zero): otherwise the network has to unlearn
    its initial function first, which is anything but lazy. Scale c then trains exactly as alpha = 1 / c does.

    Args:
        num_classes: C.
        scale: Positive.

    Example:
        >>> scaled_targets(2, 0.5)(torch.tensor([[0.5, 0.0]]), torch.tensor([0]))
        tensor(0.)
    """
    _require_positive(scale, "scale")

    def loss(outputs: Tensor, y: Tensor) -> Tensor:
        return mse_loss(outputs, scale * one_hot(y, num_classes).to(outputs))

    return loss


def scaled_initialisation(model: nn.Module, factor: float) -> nn.Module:
    """A copy with every weight matrix and kernel times `factor`; above 1 lazier, below 1 richer.

    Vectors (biases, normalisation) are left alone; a network that normalises after every layer is hardly changed by it.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> bool((scaled_initialisation(layer, 2.0).weight == 2 * layer.weight).all())
        True
    """
    _require_positive(factor, "factor")
    scaled = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in scaled.parameters():
            if parameter.ndim > 1:
                parameter.mul_(factor)
    return scaled


def frozen_features(model: nn.Module, x: Tensor | np.ndarray) -> nn.Module:
    """A copy of which only the head can be trained: training it is exactly lazy.

    BatchNorm and dropout of the frozen part still follow the mode; call `.eval()` on the copy, and train the parameters
    that require gradients, to keep features bit for bit.

    Args:
        model: With a linear head.
        x: A few inputs, by which the head is found.

    Raises:
        ValueError: As `find_head`.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> [name for name, p in frozen_features(model, torch.randn(5, 4)).named_parameters() if p.requires_grad]
        ['2.weight', '2.bias']
    """
    head = find_head(model, x)
    # a head tied to the embeddings is untied, or training it would change the features
    copied = with_head(model, head.name, head.weight, head.bias).requires_grad_(False)
    copied.get_submodule(head.name).requires_grad_(True)
    return copied


@dataclass(frozen=True)
class LazyTwin:
    """The given features with the best linear head on them."""

    model: nn.Module
    """A copy of the model with that head."""

    head: Head

    accuracy: float
    """On the rows of the fit, a fraction."""


def lazy_twin(
    model: nn.Module, x: Tensor | np.ndarray, y: Any, *, ridge: float = 1e-3, batch_size: int = 512
) -> LazyTwin:
    """What lazy training of the last layer would converge to: ridge regression on the features as they are.

    Apply it to the *untrained* network for the exact lazy reference of a training run; no training is needed.

    Args:
        model: With a linear head; left as found.
        x: `(n, ...)` inputs.
        y: `(n,)` labels of any kind, at least two; class ids where the model's outputs are numbered by them.
        ridge: Strength, in units of the mean variance of a feature.
        batch_size: Rows per call.

    Raises:
        ValueError: If the model has no linear head, or the labels are more than its outputs.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 2))
        >>> x = torch.randn(200, 4)
        >>> lazy_twin(model, x, (x[:, 0] > 0).long()).accuracy > 0.8
        True
    """
    if not ridge >= 0:
        raise ValueError(f"`ridge` is not negative; got {ridge}.")
    inputs = as_tensor(x)
    require_rows(inputs, y)
    head = find_head(model, inputs)
    ids = class_ids(y, len(head.weight))
    features, _ = features_and_outputs(model, inputs, batch_size=batch_size, head=head)
    weight, bias = _ridge(features, one_hot(ids, len(head.weight)), ridge)
    fitted = Head(head.name, weight.float(), bias.float())
    right = float((fitted(features).argmax(dim=1) == ids).double().mean())
    return LazyTwin(with_head(model, fitted.name, fitted.weight, fitted.bias), fitted, right)


@dataclass(frozen=True)
class SafeRate:
    """A learning rate below the edge of stability of the linearised network."""

    rate: float

    lambda_max: float
    """Largest curvature; plain gradient descent diverges above 2 / lambda_max."""

    converged: bool
    """Of the power iteration; without it, lambda_max is a lower bound and the rate too large."""


def safe_learning_rate(
    model: nn.Module,
    x: Tensor | np.ndarray,
    y: Any,
    loss: Loss,
    *,
    momentum: float = 0.0,
    safety: float = 0.5,
    iterations: int = 200,
) -> SafeRate:
    """safety (1 - momentum) 2 / lambda_max, with lambda_max of the curvature that this loss has through the network.

    Args:
        model: Run in evaluation mode; left as found.
        x: `(n, ...)` training inputs, a few hundred.
        y: `(n,)` class ids as the loss wants them.
        loss: `loss(outputs, y)`, the mean that training minimises.
        momentum: Of SGD, from 0 up to but not including 1.
        safety: Fraction of the edge.
        iterations: Of the power iteration, at most.

    Raises:
        ValueError: If momentum or safety is out of range, or the loss has no curvature here.

    Source:
        Lewkowycz et al. (2020), https://arxiv.org/abs/2003.02218.

    Example:
        >>> x = torch.diag(torch.tensor([2.0, 1.0]))
        >>> half = lambda f, y: 0.5 * (f - y).square().sum()
        >>> round(safe_learning_rate(nn.Linear(2, 1, bias=False), x, torch.zeros(2, 1), half).rate, 4)
        0.25
    """
    if not 0 <= momentum < 1 or not safety > 0:
        raise ValueError(f"`momentum` is in [0, 1) and `safety` positive; got {momentum} and {safety}.")
    targets = as_tensor(y, "y")
    require_rows(as_tensor(x), targets)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    found = tangent_lambda_max(model, x, loss=_of_outputs(loss, targets.to(device)), iterations=iterations)
    if found.value <= 0:
        raise ValueError("the loss has no curvature at this point; any learning rate is stable. Choose it by hand.")
    return SafeRate(safety * (1 - momentum) * 2 / found.value, found.value, found.converged)


def _of_outputs(loss: Loss, y: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda outputs: loss(outputs, y)


def _ridge(features: Tensor, targets: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """Weight `(k, d)` and bias `(k,)` of ridge regression, float64."""
    d = features.shape[1]
    joint = Moments.of(torch.cat([features.double(), targets.double()], dim=1))
    covariance = joint.covariance
    own = covariance[:d, :d]
    strength = ridge * float(own.diagonal().mean())
    penalised = own + strength * torch.eye(d, dtype=own.dtype)
    weight = torch.linalg.lstsq(penalised, covariance[:d, d:], driver="gelsd").solution.mT
    return weight, joint.mean[d:] - weight @ joint.mean[:d]


def class_ids(y: Any, num_outputs: int) -> Tensor:
    """Ids that keep their number where labels are numbers the model has outputs for, else by sorted order."""
    ids, names = encode_labels(y)
    require_classes(ids.bincount(), names)
    if all(name.isdigit() and int(name) < num_outputs for name in names):
        ids = torch.tensor([int(name) for name in names])[ids.cpu()]
    if len(names) > num_outputs:
        raise ValueError(f"`y` has {len(names)} classes but the model has {num_outputs} outputs.")
    return ids.cpu()


def _require_positive(value: float, name: str) -> None:
    if not value > 0:
        raise ValueError(f"`{name}` is a positive factor; got {value}.")
