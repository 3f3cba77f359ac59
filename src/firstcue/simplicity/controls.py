"""What an explanation has to be compared with before it is believed: the same with one thing taken away."""

import copy
from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from firstcue.simplicity.explained import Control

CONTROLS: dict[str, str] = {
    "no bits": "The same steps with no weight on the bits: what changes here is drift of the optimisation, not simplicity.",
    "no task": "The same number of bits with no regard to the model: where it decides these alike too, its decision does not "
    "hang on what the explanation kept.",
    "random weights": "The same for the model with its weights shuffled: if these images look the same, the explanation tells "
    "of the density and not of the model.",
}
ALIKE = 0.9
"""Correlation with the images of the shuffled model from which on the explanation says little of the model."""


def randomised(model: nn.Module, seed: int) -> nn.Module:
    """A copy of the model whose weights are shuffled within each tensor: same sizes, nothing learnt.

    Example:
        >>> model = nn.Linear(3, 2)
        >>> bool((randomised(model, 0).weight.sort().values.sum() - model.weight.sum()).abs() < 1e-5)
        True
    """
    generator, shuffled = torch.Generator().manual_seed(seed), copy.deepcopy(model)
    with torch.no_grad():
        for parameter in shuffled.parameters():
            order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
            parameter.copy_(parameter.flatten()[order].view_as(parameter).clone())
    return shuffled


def compared(
    name: str,
    original: Float[Tensor, "n c h w"],
    simplified: Float[Tensor, "n c h w"],
    images: Float[Tensor, "n c h w"],
    bits: Float[Tensor, " n"],
    kl: Float[Tensor, " n"],
    same: Bool[Tensor, " n"],
) -> Control:
    """The images of a control beside the explanation."""
    return Control(
        name=name,
        images=images,
        bits=bits,
        kl=kl,
        same_decision=float(same.double().mean()),
        correlation=float(correlation(simplified, images).nanmean()),
        removed_correlation=float(correlation(original - simplified, original - images).nanmean()),
        meaning=CONTROLS[name],
    )


def correlation(a: Float[Tensor, "n c h w"], b: Float[Tensor, "n c h w"]) -> Float[Tensor, " n"]:
    """Pearson correlation of the pixels of each pair; NaN where an image is constant.

    Example:
        >>> x = torch.rand(2, 1, 3, 3)
        >>> correlation(x, 1 - x).round(decimals=3).tolist()
        [-1.0, -1.0]
    """
    left, right = (v.flatten(1).double() - v.flatten(1).double().mean(dim=1, keepdim=True) for v in (a, b))
    norms = left.norm(dim=1) * right.norm(dim=1)
    return torch.where(norms > 1e-9, (left * right).sum(dim=1) / norms, torch.nan).to(a.dtype)


def warnings_of(controls: Mapping[str, Control], met: Tensor, skipped: int, steps: int) -> tuple[str, ...]:
    """What to know before believing the explanation, each with its remedy."""
    said, missed = [], int((~met).sum())
    if missed:
        said.append(
            f"{missed} of {len(met)} images were never answered alike within the budget; raise `steps` or `kl_budget`, or "
            f'begin at the image (start="pixels").'
        )
    if skipped:
        said.append(
            f"{skipped} steps of single images (of {steps * len(met)}) were left out: a gradient was not finite."
        )
    random = controls.get("random weights")
    if random is not None and not random.correlation < ALIKE:
        said.append(
            f"the simplified images correlate {random.correlation:.2f} with those for shuffled weights: they say more of "
            f"the density than of the model. Try another density, or a smaller `kl_budget`."
        )
    bits_only = controls.get("no task")
    if bits_only is not None and bits_only.same_decision > 0.95:
        said.append(
            f"{bits_only.same_decision:.0%} of the images keep their decision at the same bits with no regard to the model: "
            f"the decisions hang on what the density keeps anyway."
        )
    return tuple(said)
