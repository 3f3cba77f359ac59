"""What a classifier uses in an image, layer by layer: activations times the gradients that say which of them matter.

Two images are alike to a classifier if these products are. The gradients are taken from the original image only, so that
comparing costs no second derivative.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from firstcue.simplicity._outputs import Forward, class_logits

Measure = Literal["cosine", "sse", "l1"]


@dataclass(frozen=True)
class Evidence:
    """What the classifier made of the original images."""

    logits: Float[Tensor, "n k"]
    """With their graph, if parameters are trained."""

    target: Int64[Tensor, " n"]
    """The class whose evidence this is."""

    gradients: tuple[Tensor, ...]
    """Of the half-way loss with respect to the input of each layer, `(n, d)`."""

    products: tuple[Tensor, ...]
    """Those inputs times the gradients."""


def layers_with_parameters(model: nn.Module) -> list[nn.Module]:
    """Modules that own parameters, in the order of the model."""
    return [module for module in model.modules() if next(module.parameters(recurse=False), None) is not None]


def evidence(
    model: nn.Module,
    x: Float[Tensor, "n ..."],
    target: Int64[Tensor, " n"] | None = None,
    *,
    layers: Sequence[nn.Module] | None = None,
    forward: Forward | None = None,
) -> Evidence:
    """Activations times gradients of a classifier at original images.

    The gradient is that of `sum_k ((p_k + 1/K) / 2 - [k = target]) o_k` with the bracket held fixed: that of the
    cross-entropy half-way between the prediction and ignorance, which does not vanish where the classifier is sure.

    Args:
        model: Its rows must not depend on each other (batch normalisation in evaluation mode).
        x: Original images.
        target: The class of each; what the model predicts when None.
        layers: Whose inputs are compared; all with parameters by default. Inputs without one row per image are left out.
        forward: Calls the model, when something is to be arranged around it.

    Raises:
        ValueError: If no layer has an input with one row per image.

    Source:
        The `act_grad` loss of the later version of https://arxiv.org/abs/2201.05610.

    Example:
        >>> model = torch.nn.Linear(4, 3)
        >>> found = evidence(model, torch.rand(2, 4))
        >>> [tuple(product.shape) for product in found.products]
        [(2, 4)]
    """
    watched = layers_with_parameters(model) if layers is None else list(layers)
    with torch.enable_grad(), _inputs_of(watched) as inputs:
        # the product with one keeps the caller's tensor as it is while its copy asks for a gradient
        logits = (forward or model)(x.detach().requires_grad_())
    logits = class_logits(logits, len(x))
    chosen = logits.argmax(dim=1) if target is None else target
    kept = _by_row(inputs, len(x))
    found = torch.autograd.grad(_half_way_loss(logits, chosen), kept, retain_graph=True, allow_unused=True)
    gradients = [torch.zeros_like(a) if g is None else g for a, g in zip(kept, found, strict=True)]
    rows = [gradient.reshape(len(x), -1) for gradient in gradients]
    products = [a.detach().reshape(len(x), -1) * g for a, g in zip(kept, rows, strict=True)]
    return Evidence(logits, chosen, tuple(rows), tuple(products))


def distance(
    model: nn.Module,
    x: Float[Tensor, "n ..."],
    original: Evidence,
    *,
    measure: Measure = "cosine",
    layers: Sequence[nn.Module] | None = None,
    forward: Forward | None = None,
) -> tuple[Float[Tensor, " n"], Float[Tensor, "n k"]]:
    """How far images are from their originals in what the classifier uses, and the classifier's logits.

    Args:
        model: As for `evidence`, and so are `layers` and `forward`.
        x: Changed images, with or without a graph.
        original: Of the images that they were made from.
        measure: `cosine` (1 - cos), `sse` (squared error over squared norm) or `l1`.

    Returns:
        Distances, averaged over layers (one without any evidence counts as 0), and logits.

    Raises:
        ValueError: If the model called its layers differently than on the originals, or there is no such measure.
    """
    if measure not in MEASURES:
        raise ValueError(f"there is no measure {measure!r}; measures: {', '.join(MEASURES)}.")
    watched = layers_with_parameters(model) if layers is None else list(layers)
    with _inputs_of(watched) as inputs:
        logits = class_logits((forward or model)(x), len(x))
    kept = _by_row(inputs, len(x))
    if [a.numel() for a in kept] != [g.numel() for g in original.gradients]:
        raise ValueError(
            f"the model calls {len(kept)} layers on the changed images and {len(original.gradients)} on the originals, "
            f"or gives them other shapes; a model that decides which layers to run cannot be compared layer by layer."
        )
    pairs = zip(kept, original.gradients, original.products, strict=True)
    each = [MEASURES[measure](a.reshape(len(x), -1) * g, product) for a, g, product in pairs]
    return torch.stack(each).mean(dim=0), logits


def _half_way_loss(logits: Tensor, target: Tensor) -> Tensor:
    with torch.no_grad():
        slope = (logits.softmax(dim=1) + 1 / logits.shape[1]) / 2
        slope[torch.arange(len(target), device=target.device), target] -= 1
    return (slope * logits).sum()


@contextmanager
def _inputs_of(layers: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """Floating inputs of the layers in the order of their calls; the hooks go when the block ends."""
    seen: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[object, ...]) -> None:
        if inputs and isinstance(inputs[0], Tensor) and inputs[0].is_floating_point():
            seen.append(inputs[0])

    hooks = [layer.register_forward_pre_hook(keep) for layer in layers]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _by_row(inputs: list[Tensor], n: int) -> list[Tensor]:
    kept = [a for a in inputs if a.ndim > 1 and len(a) % n == 0 and len(a) > 0]
    if not kept:
        raise ValueError(
            "no layer of the classifier has an input with one row per image; it needs modules with parameters (Linear, "
            "Conv2d, ...) that are called with the images or what was made of them."
        )
    return kept


def _cosine(found: Tensor, wanted: Tensor) -> Tensor:
    norms = found.norm(dim=1) * wanted.norm(dim=1)
    return _where_evidence(wanted, 1 - (found * wanted).sum(dim=1) / norms.clamp_min(torch.finfo(norms.dtype).tiny))


def _squares(found: Tensor, wanted: Tensor) -> Tensor:
    size = wanted.square().sum(dim=1)
    return _where_evidence(wanted, (found - wanted).square().sum(dim=1) / size.clamp_min(torch.finfo(size.dtype).tiny))


def _absolutes(found: Tensor, wanted: Tensor) -> Tensor:
    size = wanted.abs().sum(dim=1)
    return _where_evidence(wanted, (found - wanted).abs().sum(dim=1) / size.clamp_min(torch.finfo(size.dtype).tiny))


def _where_evidence(wanted: Tensor, distances: Tensor) -> Tensor:
    return torch.where((wanted != 0).any(dim=1), distances, torch.zeros_like(distances))


MEASURES = {"cosine": _cosine, "sse": _squares, "l1": _absolutes}
