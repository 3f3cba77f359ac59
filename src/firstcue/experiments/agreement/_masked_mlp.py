"""The AND-mask on a multilayer perceptron by plain matrix products: one pass forward and back for all environments."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

SLOPE = 0.01
"""Of the leaky rectifier, on negative inputs."""


@dataclass(frozen=True)
class MaskSettings:
    """What is done with the environments' gradients.

    Args:
        threshold: Share of agreeing minus disagreeing signs that a component needs; 0 keeps all.
        scale: Multiply each tensor by the inverse of its kept share, as the authors' code does ("tensor"), by its root
            ("sqrt"), to the length of the mean gradient ("norm"), or not ("none").
        l1: Weight of the L1 penalty, added after the mask.
    """

    threshold: float = 1.0
    scale: str = "tensor"
    l1: float = 0.0


def perceptron(
    inputs: int, hidden: int, layers: int, seed: int, *, dropout: float = 0.0, batch_norm: bool = False
) -> nn.Sequential:
    """`layers` hidden layers and one output; He's normal initialisation, biases 0.01, as in the authors' code."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [inputs, *[hidden] * layers, 1]
    parts: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        linear = nn.Linear(fan_in, fan_out)
        with torch.no_grad():
            linear.weight.normal_(0.0, math.sqrt(2 / fan_in), generator=generator)
            linear.bias.fill_(0.01)
        parts.append(linear)
        if fan_out == hidden:
            parts += [nn.BatchNorm1d(fan_out)] if batch_norm else []
            parts.append(nn.LeakyReLU(SLOPE))
            parts += [nn.Dropout(dropout)] if dropout else []
    return nn.Sequential(*parts)


class MaskedMlp:
    """Writes the masked gradient of a perceptron into `.grad`, environment by environment and layer by layer."""

    def __init__(self, model: nn.Sequential, settings: MaskSettings) -> None:
        self.layers = [m for m in model if isinstance(m, nn.Linear)]
        self.settings = settings
        self.kept = 0
        """Components kept at the last step."""

        self.size = sum(p.numel() for p in model.parameters())
        self._spare = [torch.empty_like(m.weight) for m in self.layers]
        self._signs = [torch.empty_like(m.weight) for m in self.layers]

    @torch.no_grad()
    def backward(self, x: Float[Tensor, "n d"], y: Float[Tensor, " n"], environments: int) -> float:
        """The mean loss; rows come sorted by environment, equally many of each, and are averaged within each."""
        inputs, hidden = [], x
        for i, layer in enumerate(self.layers):
            inputs.append(hidden)
            hidden = torch.addmm(layer.bias, hidden, layer.weight.mT)
            if i < len(self.layers) - 1:
                hidden = leaky_relu(hidden, SLOPE, inplace=True)
        logits = hidden[:, 0]
        loss = float(nn.functional.binary_cross_entropy_with_logits(logits, y))
        delta = (logits.sigmoid() - y)[:, None] / (len(y) // environments)
        self.kept = 0
        for i in range(len(self.layers) - 1, -1, -1):
            self._write(i, delta, inputs[i], environments)
            if i:
                delta = delta @ self.layers[i].weight
                # the rectifier keeps signs, so its output tells where its slope is small
                delta.mul_(torch.where(inputs[i] > 0, 1.0, SLOPE))
        return loss

    def _write(self, i: int, delta: Tensor, inputs: Tensor, environments: int) -> None:
        layer = self.layers[i]
        weight, bias = self._combined(delta, inputs, environments, self._spare[i], self._signs[i])
        layer.weight.grad, layer.bias.grad = weight, bias
        if self.settings.l1:
            layer.weight.grad += self.settings.l1 * layer.weight.sign()
            layer.bias.grad += self.settings.l1 * layer.bias.sign()

    def _combined(
        self, delta: Tensor, inputs: Tensor, environments: int, spare: Tensor, signs: Tensor
    ) -> tuple[Tensor, Tensor]:
        of_bias = delta.unflatten(0, (environments, -1)).sum(dim=1)
        if self.settings.threshold <= 0:
            self.kept += spare.numel() + of_bias.shape[1]
            return delta.mT @ inputs / environments, of_bias.mean(dim=0)
        total = torch.zeros_like(spare)
        signs.zero_()
        for d, a in zip(delta.chunk(environments), inputs.chunk(environments), strict=True):
            torch.mm(d.mT, a, out=spare)
            total.add_(spare)
            signs.add_(spare.sign_())
        return (
            self._masked(total.div_(environments), signs, environments),
            self._masked(of_bias.mean(dim=0), of_bias.sign().sum(dim=0), environments),
        )

    def _masked(self, mean: Tensor, signs: Tensor, environments: int) -> Tensor:
        mask = signs.abs_() >= math.ceil(self.settings.threshold * environments - 1e-9)
        kept = int(mask.sum())
        self.kept += kept
        length = float(mean.norm()) if self.settings.scale == "norm" else 0.0
        mean.mul_(mask)
        return mean.mul_(self._factor(mean, kept, length)) if kept else mean

    def _factor(self, masked: Tensor, kept: int, length: float) -> float:
        if self.settings.scale == "norm":
            return length / max(float(masked.norm()), 1e-30)
        power = {"none": 0.0, "sqrt": 0.5, "tensor": 1.0}[self.settings.scale]
        return (masked.numel() / kept) ** power


def steps_of_environments(
    rows: int, environments: int, batch_size: int, epochs: int, seed: int
) -> Iterator[tuple[int, Tensor]]:
    """`(epoch, row ids)`, each environment shuffled by itself, `batch_size` of each in a step; leftovers are dropped."""
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(epochs):
        order = torch.stack([torch.randperm(rows, generator=generator) + e * rows for e in range(environments)])
        for start in range(0, rows - batch_size + 1, batch_size):
            yield epoch, order[:, start : start + batch_size].flatten()


def decayed(rate: float, epochs: int, at: tuple[float, ...]) -> Callable[[int], float]:
    """The learning rate of an epoch: a tenth after each of the given fractions of training."""
    return lambda epoch: rate * 0.1 ** sum(epoch >= int(share * epochs) for share in at)
