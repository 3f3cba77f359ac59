"""What a simplified image has to keep, in three ways: what can be learned from it, what the classifier uses, every pixel."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from firstcue.forward import seeded
from firstcue.simplicity._outputs import class_logits, replaying
from firstcue.simplicity.act_grad import distance, evidence
from firstcue.simplicity.gating import close_gate, solved_gate
from firstcue.simplicity.lookahead import Call, look_ahead

PIXELS = 10.0
"""Weight of the squared error in the baseline that reconstructs."""


@dataclass(frozen=True)
class Setting:
    """What a strategy works with."""

    classifier: nn.Module | None
    tau: float
    d_max: float
    virtual_rate: float
    trained: bool
    """Whether the classifier takes steps."""


@dataclass(frozen=True)
class Views:
    """One batch: as the classifier sees it (after noise and augmentation), and as it is."""

    seen: Float[Tensor, "n ..."]
    seen_simplified: Float[Tensor, "n ..."]
    original: Float[Tensor, "n c h w"]
    simplified: Float[Tensor, "n c h w"]
    y: Tensor | None
    seed: int
    """Of dropout, the same in every pass of a step."""


@dataclass(frozen=True)
class Kept:
    """What the simplifier lowers besides bits, and which images may lose bits."""

    loss: Float[Tensor, ""]
    gate: Float[Tensor, " n"]
    """Between 0 and 1, constant to gradients."""
    losses: Float[Tensor, " n"]
    """What the gate looked at."""
    gradients: Mapping[str, Tensor] = field(default_factory=dict)
    """Of the classifier's parameters, for the step that it takes."""
    numbers: Mapping[str, float] = field(default_factory=dict)
    """For the history."""


Strategy = Callable[[Setting, Views], Kept]


def by_look_ahead(setting: Setting, views: Views) -> Kept:
    """The classifier learns from simplified images and has to solve the originals; it is trained on the former."""
    classifier, y = _classifier(setting), _labels(views)
    ahead = look_ahead(
        classifier,
        views.seen_simplified,
        views.seen,
        y,
        rate=setting.virtual_rate,
        call=_functional(classifier, views.seed),
    )
    return Kept(
        loss=ahead.loss,
        gate=solved_gate(ahead.original, setting.tau),
        losses=ahead.original.detach(),
        gradients=ahead.gradients,
        numbers={
            "loss_simplified": float(ahead.now.detach()),
            "loss_original": float(ahead.original.detach().mean()),
            "accuracy_simplified": _accuracy(ahead.logits, y),
        },
    )


def by_act_grad(setting: Setting, views: Views) -> Kept:
    """The classifier's evidence has to stay what it was; it is trained on originals, or not at all."""
    classifier = _classifier(setting)
    forward = replaying(classifier, views.seed)
    found = evidence(classifier, views.seen, _labels(views) if setting.trained else None, forward=forward)
    distances, logits = distance(classifier, views.seen_simplified, found, forward=forward)
    right = logits.detach().argmax(dim=1) == found.target
    return Kept(
        loss=distances.mean(),
        gate=close_gate(distances, right, setting.d_max),
        losses=distances.detach(),
        gradients=_gradients(classifier, cross_entropy(found.logits, found.target)) if setting.trained else {},
        numbers={
            "distance": float(distances.detach().mean()),
            "accuracy_simplified": float(right.float().mean()),
            "accuracy_original": _accuracy(found.logits.detach(), found.target),
        },
    )


def by_reconstruction(setting: Setting, views: Views) -> Kept:
    """Every pixel alike, whatever a classifier needs: the baseline that a simplifier has to beat."""
    errors = (views.simplified - views.original).square().flatten(1).mean(dim=1)
    return Kept(
        loss=PIXELS * errors.mean(),
        gate=torch.ones_like(errors).detach(),
        losses=errors.detach(),
        numbers={"squared_error": float(errors.detach().mean())},
    )


STRATEGIES: dict[str, Strategy] = {
    "lookahead": by_look_ahead,
    "act_grad": by_act_grad,
    "reconstruction": by_reconstruction,
}


def _classifier(setting: Setting) -> nn.Module:
    if setting.classifier is None:
        raise ValueError('this strategy needs a classifier; only "reconstruction" does without.')
    return setting.classifier


def _labels(views: Views) -> Tensor:
    if views.y is None:
        raise ValueError(
            "the classifier is trained, so `batches` must yield labels, (x, y); without labels, explain a trained "
            'classifier: strategy="act_grad", frozen=True.'
        )
    return views.y


def _functional(classifier: nn.Module, seed: int) -> Call:
    """The classifier with given parameters, and dropout that is the same in every call."""

    def call(parameters: Mapping[str, Tensor], x: Tensor) -> Tensor:
        with seeded(seed):
            return class_logits(functional_call(classifier, dict(parameters), (x,)), len(x))

    return call


def _gradients(classifier: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    parameters = {name: p for name, p in classifier.named_parameters() if p.requires_grad}
    # the graph goes on to serve: the caller's images and evidence were made from the same pass
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return {name: g for name, g in zip(parameters, found, strict=True) if g is not None}


def _accuracy(logits: Tensor, y: Tensor) -> float:
    return float((logits.argmax(dim=1) == y).float().mean())
