"""How far weights and activation patterns have moved from where they started, and how large the weights have become."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from firstcue._checks import as_tensor, require_finite
from firstcue.forward import parts, run, unwrap
from firstcue.layers import activations, list_layers

MATRICES = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
RECTIFIERS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU)


@dataclass(frozen=True)
class Movement:
    """How far parameters have moved from where they started."""

    relative: float
    """||theta - theta_0|| / ||theta_0|| over all parameters; small in the lazy regime."""

    by_tensor: Mapping[str, float]
    """The same for each parameter tensor; infinite for one that started at zero and moved."""

    norm: float
    """||theta||."""

    initial_norm: float
    """||theta_0||."""

    @property
    def norm_ratio(self) -> float:
        """||theta|| / ||theta_0||."""
        return _share(self.norm, self.initial_norm)


def weight_movement(model: nn.Module, initial: nn.Module | Mapping[str, Tensor]) -> Movement:
    """Distance of the parameters from their start, in units of the start, altogether and per tensor.

    Weight decay alone moves weights without changing features, so this is a correlate of richness and no measure of it.

    Args:
        model: After training.
        initial: The same architecture before training, or its state dict (copied before training).

    Raises:
        ValueError: If names or shapes differ.

    Source:
        Chizat, Oyallon and Bach (2019), https://arxiv.org/abs/1812.07956.

    Example:
        >>> model = nn.Linear(3, 2)
        >>> weight_movement(model, model).relative
        0.0
    """
    pairs = _pairs(model, initial)
    moved = {name: _norm([now - start]) for name, (now, start) in pairs.items()}
    begun = {name: _norm([start]) for name, (_, start) in pairs.items()}
    by_tensor = {name: _share(moved[name], begun[name]) for name in pairs}
    whole, first = math.hypot(*moved.values()), math.hypot(*begun.values())
    return Movement(_share(whole, first), by_tensor, _norm([now for now, _ in pairs.values()]), first)


def parameter_norm(model: nn.Module) -> float:
    """||theta||_2 over all parameters.

    Example:
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> _ = nn.init.constant_(layer.weight, 1.0)
        >>> round(parameter_norm(layer) ** 2, 6)
        2.0
    """
    return _norm([p.detach() for p in model.parameters()])


def spectral_complexity(
    model: nn.Module, initial: nn.Module | Mapping[str, Tensor] | None = None, *, log: bool = False
) -> float:
    """Spectral complexity of a feed-forward network: product of spectral norms times how far rows moved.

    prod_l ||W_l|| (sum_l (||W_l - M_l||_{2,1} / ||W_l||)^{2/3})^{3/2}, with M_l the initial weights, or zero. Nonlinearities
    are taken as 1-Lipschitz. A convolution counts by its kernel as a matrix (out x rest), which is not its exact operator
    norm; skip connections and normalisation layers are left out. Compare runs of one architecture only.

    Args:
        model: Linear layers and convolutions count, in the order of the model.
        initial: Reference weights M; zero without it.
        log: Return the natural logarithm, which cannot overflow.

    Returns:
        Zero for a model that equals its reference; infinite on overflow (ask for the logarithm then).

    Raises:
        ValueError: If there is no linear layer, or `initial` does not fit.

    Source:
        Bartlett, Foster and Telgarsky (2017), https://arxiv.org/abs/1706.08498, equation 1.2.

    Example:
        >>> layer = nn.Linear(3, 3, bias=False)
        >>> _ = nn.init.eye_(layer.weight)
        >>> round(spectral_complexity(layer), 9)
        3.0
    """
    own = unwrap(model)
    names = [f"{name}.weight" if name else "weight" for name, m in own.named_modules() if isinstance(m, MATRICES)]
    if not names:
        raise ValueError("the model has no linear layer and no convolution; spectral complexity speaks of those.")
    starts: Mapping[str, Any] = {} if initial is None else _state(initial)
    if initial is not None:
        _pairs(model, initial)
    state = _state(own)
    spectral, gaps = [], []
    for name in names:
        matrix = state[name].flatten(start_dim=1).double()
        reference = starts[name].flatten(start_dim=1).double() if name in starts else torch.zeros_like(matrix)
        spectral.append(float(torch.linalg.matrix_norm(matrix, 2)))
        gaps.append(float((matrix - reference).norm(dim=1).sum()))
    return _complexity(spectral, gaps, log)


def activation_change(
    model: nn.Module,
    initial: nn.Module,
    x: Tensor | np.ndarray,
    *,
    layers: str | Sequence[str] | None = None,
    batch_size: int = 512,
) -> dict[str, float]:
    """Share of units whose on/off pattern differs from the start, per layer and in the mean (`"mean"`).

    Args:
        model: After training; left as found.
        initial: Before training.
        x: `(n, ...)` inputs.
        layers: Whose outputs count, positive being on; by default every ReLU-like module. A ReLU that is called as a
            function is no module: name the layers that feed it.
        batch_size: Rows per call.

    Returns:
        Fractions in [0, 1]; 0 in the lazy limit.

    Raises:
        ValueError: If there are no such modules, or the models differ.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> activation_change(model, model, torch.randn(10, 4))
        {'1': 0.0, 'mean': 0.0}
    """
    inputs = as_tensor(x)
    require_finite(inputs)
    now, before = unwrap(model), unwrap(initial)
    names = _rectifiers(now) if layers is None else list_layers(now, layers)
    differ, seen = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    for _, part in parts(inputs, batch_size):
        patterns, first = _patterns(now, part, names), _patterns(before, part, names)
        for name in names:
            if patterns[name].shape != first[name].shape:
                raise ValueError(f"layer {name!r} returns another shape in `initial`; compare one architecture.")
            differ[name] += int((patterns[name] != first[name]).sum())
            seen[name] += patterns[name].numel()
    shares = {name: differ[name] / seen[name] for name in names if seen[name]}
    if not shares:
        raise ValueError(f"none of the layers {', '.join(names)} ran on these inputs; name layers that do.")
    return shares | {"mean": sum(shares.values()) / len(shares)}


def _rectifiers(model: nn.Module) -> list[str]:
    names = [name for name, module in model.named_modules() if isinstance(module, RECTIFIERS)]
    if not names:
        raise ValueError(
            "the model has no ReLU-like module (it may call relu as a function); name the layers whose sign matters: "
            "layers=[...]."
        )
    return names


def _patterns(model: nn.Module, part: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    with activations(model, names, pool="flatten") as seen:
        run(model, part)
    return {name: torch.cat(found) > 0 for name, found in seen.items() if found}


def _complexity(spectral: Sequence[float], gaps: Sequence[float], log: bool) -> float:
    if min(spectral) == 0 or max(gaps) == 0:
        return -math.inf if log else 0.0
    total = sum((gap / size) ** (2 / 3) for gap, size in zip(gaps, spectral, strict=True))
    logarithm = sum(math.log(size) for size in spectral) + 1.5 * math.log(total)
    if log:
        return logarithm
    try:
        return math.exp(logarithm)
    except OverflowError:
        return math.inf


def _state(model: nn.Module | Mapping[str, Tensor]) -> dict[str, Tensor]:
    if isinstance(model, nn.Module):
        return {name: p.detach() for name, p in unwrap(model).named_parameters(remove_duplicate=False)}
    return {name: value.detach() for name, value in model.items()}


def _pairs(model: nn.Module, initial: nn.Module | Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Each parameter now and at the start, in float64 on the CPU; shared tensors once."""
    now, start = {n: p.detach() for n, p in unwrap(model).named_parameters()}, _state(initial)
    wrong = [name for name in now if name not in start or start[name].shape != now[name].shape]
    if wrong or not now:
        raise ValueError(
            f"`initial` has no {', '.join(wrong[:3]) or 'parameters'} of the shape that the model has; give the model (or its "
            f"state dict) as it was before training: initial = copy.deepcopy(model)."
        )
    return {name: (value.cpu().double(), start[name].cpu().double()) for name, value in now.items()}


def _norm(tensors: Sequence[Tensor]) -> float:
    return math.hypot(*(float(t.double().norm()) for t in tensors)) if tensors else 0.0


def _share(moved: float, start: float) -> float:
    if start > 0:
        return moved / start
    return math.inf if moved > 0 else 0.0
