"""What must stay when an input is simplified: the model's answer, and what its deep layers make of the evidence."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, log_softmax

from firstcue.forward import require_finite_outputs, run
from firstcue.simplicity._outputs import class_logits
from firstcue.simplicity.act_grad import distance, evidence, layers_with_parameters

ToInputs = Callable[[Tensor], Tensor]
"""Makes the model's inputs of images in [0, 1]."""

EVIDENCE = 10.0
"""Weight of the distance beside one nat of divergence."""
SCALES = (0.8, 0.95)
"""Factors of the weights between which `scaled_grad` draws."""


@dataclass(frozen=True)
class Match:
    """How images compare with their originals, one number per image."""

    logits: Float[Tensor, "n k"]
    kl: Float[Tensor, " n"]
    """Divergence KL(model(original) || model(image)) in nats."""

    distance: Float[Tensor, " n"]
    """1 - cosine of the evidence, averaged over layers: 0 is the same; NaN for a model without layers."""

    loss: Float[Tensor, " n"]
    """What is minimised so that the evidence stays."""


Matcher = Callable[[Tensor], Match]


def matcher(
    model: nn.Module,
    x: Float[Tensor, "n c h w"],
    target: Int64[Tensor, " n"] | None,
    method: str,
    to_inputs: ToInputs,
    generator: torch.Generator,
) -> tuple[Matcher, Float[Tensor, "n k"]]:
    """A function that tells how far images are from `x` for the model, and the model's logits of `x`.

    Args:
        model: In evaluation mode; its parameters are only read.
        x: Originals.
        target: `(n,)` class whose evidence is held; the predicted one when None.
        method: "act_grad" compares activations weighted by gradients in the later half of the layers, "scaled_grad" what
            the weights answer at a random smaller scale of them.
        to_inputs: Makes the model's inputs of images.
        generator: Draws the scales of "scaled_grad".

    Raises:
        ValueError: If the model raises or its outputs are no finite logits, or there is no such method.
    """

    def forward(images: Tensor) -> Tensor:
        return class_logits(run(model, to_inputs(images)), len(images)).to(x.device, torch.float32)

    with torch.no_grad():
        logits = forward(x)
    require_finite_outputs(logits)
    if method == "act_grad":
        return _by_activations(model, x, logits, target, forward), logits
    if method == "scaled_grad":
        return _by_scaled_weights(model, x, logits, target, to_inputs, forward, generator), logits
    raise ValueError(f"there is no method {method!r} of explaining; methods: 'act_grad', 'scaled_grad'.")


def divergence(reference: Float[Tensor, "n k"], logits: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
    """KL(softmax(reference) || softmax(logits)) of each row in nats, never below zero.

    Example:
        >>> same = torch.tensor([[1.0, 2.0]])
        >>> divergence(same, same)
        tensor([0.])
    """
    expected = log_softmax(reference, dim=1)
    return (expected.exp() * (expected - log_softmax(logits, dim=1))).sum(dim=1).clamp_min(0)


def deep_layers(model: nn.Module, forward: ToInputs, x: Float[Tensor, "n c h w"]) -> list[nn.Module]:
    """The later half of the layers with parameters of their own, in the order in which they run.

    Early layers see the pixels themselves: held fixed, they would pin what the decision ignores.
    """
    ran: dict[nn.Module, None] = {}
    hooks = [
        layer.register_forward_pre_hook(lambda module, _: ran.setdefault(module))  # returns None: inputs stay
        for layer in layers_with_parameters(model)
    ]
    try:
        with torch.no_grad():
            forward(x[:1])
    finally:
        for hook in hooks:
            hook.remove()
    return list(ran)[len(ran) // 2 :]


def _by_activations(model: nn.Module, x: Tensor, logits: Tensor, target: Tensor | None, forward: ToInputs) -> Matcher:
    """Activations of deep layers, each weighted by the gradient that the original has there."""
    layers = deep_layers(model, forward, x)
    if not layers:  # a function without modules: its answer is all that can be held
        return _by_answer(logits, forward)
    original = evidence(model, x, target, layers=layers, forward=forward)

    def match(y: Tensor) -> Match:
        far, outputs = distance(model, y, original, layers=layers, forward=forward)
        kl = divergence(logits, outputs)
        return Match(outputs, kl, far, EVIDENCE * far + kl)

    return match


def _by_answer(logits: Tensor, forward: ToInputs) -> Matcher:
    def match(y: Tensor) -> Match:
        outputs = forward(y)
        kl = divergence(logits, outputs)
        return Match(outputs, kl, torch.full_like(kl, torch.nan), kl)

    return match


def _by_scaled_weights(
    model: nn.Module,
    x: Tensor,
    logits: Tensor,
    target: Tensor | None,
    to_inputs: ToInputs,
    forward: ToInputs,
    generator: torch.Generator,
) -> Matcher:
    """Which weights answer to the evidence: weights times their gradients, at a random smaller scale of them.

    Only what is negative for the original counts: there a larger weight would restore the model's answer.
    """
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def at(scale: float, y: Tensor) -> Tensor:
        weights = {name: p * scale for name, p in parameters.items()}
        return class_logits(torch.func.functional_call(model, weights, (to_inputs(y),)), len(y)).float()

    def loss(weights: dict[str, Tensor], row: Tensor, expected: Tensor) -> Tensor:
        outputs = class_logits(torch.func.functional_call(model, weights, (to_inputs(row[None]),)), 1).float()
        return (expected * (expected.clamp_min(1e-30).log() - log_softmax(outputs[0], dim=0))).sum()

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0), randomness="same")

    def gates(scale: float, y: Tensor, expected: Tensor) -> dict[str, Tensor]:
        weights = {name: p * scale for name, p in parameters.items()}
        return {name: (g * parameters[name]).flatten(1) for name, g in each(weights, y, expected).items()}

    def wanted_of(outputs: Tensor) -> Tensor:
        """The answer that weights are asked for: the model's own, or the class whose evidence is held."""
        return outputs.softmax(dim=1) if target is None else torch.eye(logits.shape[1]).to(outputs)[target]

    def match(y: Tensor) -> Match:
        scale = SCALES[0] + (SCALES[1] - SCALES[0]) * float(torch.rand((), generator=generator))
        outputs = forward(y)
        with torch.no_grad():
            of_originals, weak = gates(scale, x, wanted_of(logits)), at(scale, x)
        far = _gate_distance(of_originals, gates(scale, y, wanted_of(outputs)))
        kl = divergence(logits, outputs)
        return Match(outputs, kl, far, EVIDENCE * far + divergence(weak, at(scale, y)) + kl)

    return match


def _gate_distance(wanted: dict[str, Tensor], found: dict[str, Tensor]) -> Tensor:
    """1 - cosine over the entries that are negative for the original, averaged over tensors that have any."""
    far, counted = [], []
    for name, gates in wanted.items():
        negative = gates.clamp_max(0)
        far.append(1 - cosine_similarity(found[name] * (negative < 0), negative, dim=1, eps=1e-30))
        counted.append((negative < 0).any(dim=1))
    kept = torch.stack(counted)
    return torch.where(kept, torch.stack(far), 0.0).sum(dim=0) / kept.sum(dim=0).clamp_min(1)
