"""Rules that make one gradient of the gradients of several environments: (e, p) -> (p,).

Each has an attribute `scope` that says what p must be: "element" (any set of components), "tensor" (one whole parameter)
or "model" (all parameters; so for a rule without the attribute). Configure a rule with `functools.partial`.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from firstcue.agreement.sums import FLOOR, GradientSums, Streamed

Rule = Callable[[Tensor], Tensor]
"""Gradients of environments `(e, p)` to one gradient `(p,)`; its attribute `scope` says what p must be."""


def mean_gradient(gradients: Float[Tensor, "e *shape"]) -> Float[Tensor, "*shape"]:
    """The mean over environments: ordinary training.

    Example:
        >>> mean_gradient(torch.tensor([[1.0, 0.0], [3.0, 2.0]]))
        tensor([2., 1.])
    """
    _require_environments(gradients)
    return gradients.mean(dim=0)


def and_mask(
    gradients: Float[Tensor, "e *shape"],
    threshold: float = 1.0,
    *,
    scale: str = "none",
    clip: float | None = None,
    zeros: str = "disagree",
) -> Float[Tensor, "*shape"]:
    """The mean gradient where environments agree on its sign, zero elsewhere.

    A component is kept if |number of positive - number of negative| >= threshold x e, compared as integers: with e
    environments at least ceil(e (threshold + 1) / 2) of them share a sign. Two environments give no resolution (any
    threshold above 0 means both), and a single one agrees with itself: the rule is then the mean.

    Args:
        gradients: `(e, p)`, one row per environment; p the components of one parameter, if `scale` is not "none".
        threshold: Required agreement |mean sign|, from 0 (plain mean) to 1 (unanimity).
        scale: What the kept components are multiplied by, to make up for those dropped: 1 ("none"), number of
            components / number kept ("tensor", as the paper's authors do), its square root ("sqrt"), or what restores
            the length of the mean gradient ("norm"). One component kept of 65,536 is multiplied by 65,536 with
            "tensor": clip it, or use "norm".
        clip: Largest factor of `scale`, or None.
        zeros: An environment whose gradient is exactly zero (a dead unit, an absent word) counts against agreement
            ("disagree", as in the paper) or is not asked ("abstain"); a component where all abstain is dropped.

    Raises:
        ValueError: If an argument is out of its range, there is no environment, or gradients are not finite.

    Source:
        Parascandolo et al., "Learning explanations that are hard to vary" (2020), https://arxiv.org/abs/2009.00329.

    Example:
        >>> and_mask(torch.tensor([[1.0, -1.0], [3.0, 2.0]]))
        tensor([2., 0.])
    """
    options = {"threshold": threshold, "scale": scale, "clip": clip, "zeros": zeros}
    return _in_one_go(_AND_MASK, gradients, options)


def geometric_mean(
    gradients: Float[Tensor, "e *shape"],
    threshold: float = 1.0,
    *,
    scale: str = "none",
    clip: float | None = None,
    floor: float = FLOOR,
) -> Float[Tensor, "*shape"]:
    """The geometric mean of the magnitudes, with the sign of the mean, where environments agree on the sign.

    Slows down where the environments' curvatures differ, not only where their signs do; for few, noisy environments.
    Below unanimity, dissenters enter with their magnitude. Never larger than the mean magnitude (plus `floor`).

    Args:
        gradients: `(e, p)`, one row per environment.
        threshold: As in `and_mask`.
        scale: As in `and_mask`.
        clip: As in `and_mask`.
        floor: Added to magnitudes before the logarithm. With the authors' 1e-10 one exact zero shrinks the result
            without annihilating it; with 0 a single zero makes it zero.

    Raises:
        ValueError: As `and_mask`.

    Source:
        Parascandolo et al. (2020), https://arxiv.org/abs/2009.00329.

    Example:
        >>> geometric_mean(torch.tensor([[1.0, -1.0], [4.0, 2.0]]))
        tensor([2., 0.])
    """
    options = {"threshold": threshold, "scale": scale, "clip": clip, "floor": floor}
    return _in_one_go(_GEOMETRIC_MEAN, gradients, options)


def sand_mask(
    gradients: Float[Tensor, "e *shape"], threshold: float = 0.5, *, k: float = 10.0, normalize: bool = False
) -> Float[Tensor, "*shape"]:
    """The mean gradient times a smooth mask that grows with agreement and falls with variance between environments.

    mask = max(0, tanh(k (agreement - threshold) / variance)), and the result is divided by the mean of the mask over the
    parameter. With threshold 1 the mask is zero everywhere, so that is refused.

    Args:
        gradients: `(e, p)`, two rows or more; p the components of one parameter.
        threshold: Agreement |mean sign| at which the mask opens, at least 0 and below 1.
        k: Steepness; to infinity, the mask becomes 1 where agreement > threshold.
        normalize: Divide the variance by the squared mean, so that the unit of the loss does not matter (not in the
            paper).

    Raises:
        ValueError: If an argument is out of its range, there are fewer than two environments, or gradients are not
            finite.

    Source:
        Shahtalebi et al., "SAND-mask" (2021), https://arxiv.org/abs/2106.02266.

    Example:
        >>> sand_mask(torch.tensor([[1.0, -1.0], [1.0, 1.0]]))
        tensor([2., 0.])
    """
    return _in_one_go(_SAND_MASK, gradients, {"threshold": threshold, "k": k, "normalize": normalize})


def scope_of(rule: Rule) -> str:
    """ "element", "tensor" or "model": what the rule's p must be, also of a rule configured with `functools.partial`.

    Example:
        >>> scope_of(functools.partial(and_mask, threshold=0.5))
        'tensor'
    """
    scope = getattr(_inner(rule)[0], "scope", "model") if not hasattr(rule, "scope") else rule.scope
    if scope not in ("element", "tensor", "model"):
        raise ValueError(f'a rule\'s `scope` is "element", "tensor" or "model"; this one says {scope!r}.')
    return scope


def streamed_of(rule: Rule) -> tuple[tuple[str, ...], float, Callable[[GradientSums], Tensor]] | None:
    """Which sums the rule needs, with which floor, and how it combines them; None if it has to see every gradient."""
    inner, options = _inner(rule)
    streamed = getattr(inner, "streamed", None)
    if streamed is None or options is None:
        return None
    combine = functools.partial(streamed.combine, **options)
    return streamed.needs(**options), options.get("floor", FLOOR), combine


def least_agreeing(threshold: float, environments: int) -> int:
    """How many environments have to share a sign for a component to be kept.

    Example:
        >>> least_agreeing(0.8, 16), least_agreeing(0.8, 8)
        (15, 8)
    """
    return (environments + _least_sum(threshold, environments) + 1) // 2


def _inner(rule: Any) -> tuple[Any, dict[str, Any] | None]:
    """The function inside `functools.partial` and its keyword arguments; None for arguments by position."""
    options: dict[str, Any] | None = {}
    while isinstance(rule, functools.partial):
        options = None if options is None or rule.args else {**rule.keywords, **options}
        rule = rule.func
    return rule, options


def _least_sum(threshold: float, environments: int) -> int:
    # in integers: the float32 mean of signs and the threshold may differ in the last digit where they are equal
    return math.ceil(threshold * environments - 1e-9)


def _in_one_go(streamed: Streamed, gradients: Tensor, options: dict[str, Any]) -> Tensor:
    _require_environments(gradients)
    sums = GradientSums.of(gradients, streamed.needs(**options), options.get("floor", FLOOR))
    if not torch.isfinite(sums.mean.sum()):
        _require_finite_rows(gradients)
    return streamed.combine(sums, **options).to(gradients.dtype)


def _of_mean(sums: GradientSums) -> Tensor:
    return sums.mean


def _of_and_mask(
    sums: GradientSums,
    threshold: float = 1.0,
    scale: str = "none",
    clip: float | None = None,
    zeros: str = "disagree",
) -> Tensor:
    _require_threshold(threshold)
    mean = sums.mean
    return _scaled(mean, mean, _agreeing(sums, threshold), scale, clip)


def _of_geometric_mean(
    sums: GradientSums,
    threshold: float = 1.0,
    scale: str = "none",
    clip: float | None = None,
    floor: float = FLOOR,
) -> Tensor:
    _require_threshold(threshold)
    assert sums.logs is not None
    mean, magnitude = sums.mean, (sums.logs / sums.count).exp()
    return _scaled(mean.sign() * magnitude, mean, _agreeing(sums, threshold), scale, clip)


def _of_sand_mask(sums: GradientSums, threshold: float = 0.5, k: float = 10.0, normalize: bool = False) -> Tensor:
    if not 0 <= threshold < 1:
        raise ValueError(
            f"`threshold` of sand_mask is at least 0 and below 1; got {threshold}. No agreement exceeds 1, so with 1 the mask "
            f"is zero everywhere and nothing would be learned; 0.5 is a good start."
        )
    if not k > 0:
        raise ValueError(f"`k` is a positive steepness; got {k}.")
    if sums.count < 2:
        raise ValueError("sand_mask compares the variance between environments; it needs two of them, but got one.")
    mean, variance = sums.mean, sums.variance
    variance = variance / mean.square() if normalize else variance
    # identical gradients have variance 0 and an open mask; where agreement equals the threshold it is closed
    excess = sums.agreement - threshold
    mask = (k * excess / variance).tanh().clamp(min=0).nan_to_num(nan=0.0)
    mask = torch.where(excess > 0, mask, 0.0)
    return mask * mean / (1e-10 + mask.mean())


def _agreeing(sums: GradientSums, threshold: float) -> Tensor:
    assert sums.signs is not None
    if sums.nonzero is None:
        return sums.signs.abs() >= _least_sum(threshold, sums.count)
    return (sums.signs.abs() >= (threshold * sums.nonzero.double() - 1e-9).ceil()) & (sums.nonzero > 0)


def _scaled(values: Tensor, mean: Tensor, kept: Tensor, scale: str, clip: float | None) -> Tensor:
    if scale not in ("none", "tensor", "sqrt", "norm"):
        raise ValueError(f'`scale` is "none", "tensor", "sqrt" or "norm"; got {scale!r}.')
    if clip is not None and not clip > 0:
        raise ValueError(f"`clip` is the largest factor of `scale`, a positive number; got {clip}.")
    masked = torch.where(kept, values, 0.0)
    if scale == "none":
        return masked
    if scale == "norm":
        length = masked.norm()
        factor = torch.where(length > 0, mean.norm() / length, 1.0)
    else:
        factor = values.numel() / kept.sum().clamp(min=1).to(values)
        factor = factor.sqrt() if scale == "sqrt" else factor
    return masked * (factor if clip is None else factor.clamp(max=clip))


def _require_threshold(threshold: float) -> None:
    if not 0 <= threshold <= 1:
        raise ValueError(
            f"`threshold` is a required agreement |mean sign|, between 0 (plain mean) and 1 (unanimity); got {threshold}."
        )


def _require_environments(gradients: Tensor) -> None:
    if gradients.ndim == 0 or len(gradients) == 0:
        raise ValueError(
            f"gradients have shape {tuple(gradients.shape)}; (e, p) is needed, one row per environment, at least one."
        )


def _require_finite_rows(gradients: Tensor) -> None:
    bad = (~torch.isfinite(gradients.flatten(start_dim=1))).any(dim=1).nonzero()[:, 0].tolist()
    if bad:
        raise ValueError(
            f"gradients of {len(bad)} of {len(gradients)} environments are NaN or infinite (rows {bad[:5]}); lower the "
            f"learning rate, clip gradients, or look for NaN in their inputs."
        )


def _needs_of_and_mask(zeros: str = "disagree", **options: Any) -> tuple[str, ...]:
    if zeros not in ("disagree", "abstain"):
        raise ValueError(f'`zeros` is "disagree" or "abstain"; got {zeros!r}.')
    return ("signs", "nonzero") if zeros == "abstain" else ("signs",)


_MEAN = Streamed(lambda **options: (), _of_mean)
_AND_MASK = Streamed(_needs_of_and_mask, _of_and_mask)
_GEOMETRIC_MEAN = Streamed(lambda **options: ("signs", "logs"), _of_geometric_mean)
_SAND_MASK = Streamed(lambda **options: ("signs", "scatter"), _of_sand_mask)

mean_gradient.scope = "element"  # type: ignore[attr-defined]
and_mask.scope = geometric_mean.scope = sand_mask.scope = "tensor"  # type: ignore[attr-defined]
mean_gradient.streamed = _MEAN  # type: ignore[attr-defined]
and_mask.streamed = _AND_MASK  # type: ignore[attr-defined]
geometric_mean.streamed = _GEOMETRIC_MEAN  # type: ignore[attr-defined]
sand_mask.streamed = _SAND_MASK  # type: ignore[attr-defined]
