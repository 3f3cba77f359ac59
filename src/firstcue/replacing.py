"""Give a model another head: a repaired copy that is an ordinary module."""

import copy

import numpy as np
from torch import Tensor, nn

from firstcue._checks import as_tensor, require_finite
from firstcue.forward import unwrap


def with_head(model: nn.Module, name: str, weight: Tensor | np.ndarray, bias: Tensor | np.ndarray) -> nn.Module:
    """A deep copy of the model whose layer `name` computes features @ weight.T + bias.

    The copy is an ordinary module with the same `state_dict` keys; only a layer without bias gains the key `bias`, and
    only where `bias` is not zero, and a parametrised layer (weight norm) becomes a plain one. Weights tied to another
    layer are untied. DataParallel and compiled wrappers are taken off. The model given is not touched.

    Args:
        model: The model to copy.
        name: Name of its linear layer, as `find_head(model, x).name`.
        weight: `(K, d)`; for a layer with one output K = 2 and the difference of the two rows is used.
        bias: `(K,)`.

    Raises:
        ValueError: If there is no such layer, shapes do not fit, values are not finite, or the model cannot be copied.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
        >>> with_head(model, "1", torch.zeros(2, 4), torch.ones(2))(torch.randn(1, 4))
        tensor([[1., 1.]], grad_fn=<AddmmBackward0>)
    """
    new_weight, new_bias = as_tensor(weight, "weight").detach(), as_tensor(bias, "bias").detach()
    for values, label in ((new_weight, "weight"), (new_bias, "bias")):
        require_finite(values, label)
    try:
        copied = copy.deepcopy(unwrap(model))
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"the model cannot be copied ({error}); give it to `with_head` before it is run or hooked."
        ) from error
    old = dict(copied.named_modules()).get(name)
    if not isinstance(old, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
        linear = [n for n, m in copied.named_modules() if isinstance(m, nn.Linear)]
        raise ValueError(f"the model has no linear layer {name!r}; its linear layers: {', '.join(linear) or 'none'}.")
    return _replaced(copied, name, old, *_to_fit(old, new_weight, new_bias))


def _to_fit(old: nn.Module, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and bias in the shape, dtype and device of the old layer."""
    like: Tensor = old.weight  # type: ignore[assignment]
    if len(like) == 1 and weight.ndim == 2 and len(weight) == 2:
        weight, bias = weight[1:] - weight[:1], bias[1:] - bias[:1]
    if weight.ndim != 2 or weight.shape != like.flatten(1).shape or bias.shape != like.shape[:1]:
        raise ValueError(
            f"`weight` {tuple(weight.shape)} and `bias` {tuple(bias.shape)} do not fit the layer, whose weight is "
            f"{tuple(like.shape)}: (K, d) and (K,) are needed, with K = 2 for a layer of one output."
        )
    return weight.to(like).reshape(like.shape), bias.to(like)


def _replaced(model: nn.Module, name: str, old: nn.Module, weight: Tensor, bias: Tensor) -> nn.Module:
    target = old
    if nn.utils.parametrize.is_parametrized(old):
        if not isinstance(old, nn.Linear):
            raise ValueError(f"the head {name!r} is a parametrised convolution; remove its parametrisation first.")
        target = nn.Linear(weight.shape[1], len(weight), device="meta")
        target.training = old.training
        owner, _, last = name.rpartition(".")
        if name:
            setattr(model.get_submodule(owner), last, target)
        else:
            model = target
    trainable = any(p.requires_grad for p in old.parameters())
    # new parameters, so that a weight shared with another layer (tied embeddings) is not changed there
    target.weight = nn.Parameter(weight.clone(), requires_grad=trainable)
    if target.bias is not None or bool((bias != 0).any()):
        target.bias = nn.Parameter(bias.clone(), requires_grad=trainable)
    return model
