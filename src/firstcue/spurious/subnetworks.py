"""Which neurons serve the core and which the shortcut, how apart they are, and what the network does without either.

In a network on separate input columns this is read off the weights; in any other, off how each neuron answers to the class
and to the attribute.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int
from torch import Tensor, nn

from firstcue._checks import as_tensor
from firstcue.batch import Batch
from firstcue.spurious.boolean import Layout
from firstcue.spurious.representation import features_of


@dataclass(frozen=True)
class Subnetworks:
    """The neurons of a layer, divided."""

    core_neurons: Int[Tensor, " c"]
    """Ids of those that serve the core more."""
    spurious_neurons: Int[Tensor, " s"]
    """Ids of the others."""
    share_core: Float64[Tensor, " h"]
    """Part of each neuron that serves the core: of its squared input weights, or of its squared selectivity."""
    share_spurious: Float64[Tensor, " h"]
    """The same for the shortcut; what is missing to 1 goes to neither."""
    importance: Float64[Tensor, " h"]
    """Of each neuron for the output."""
    purity: float
    """Mean over neurons, by importance, of the larger of both shares: 1 if every neuron serves one only."""
    weight_correlation: float
    """Between strength for the core and for the shortcut, over the most important neurons; negative: they are apart."""

    @property
    def core_importance(self) -> float:
        """Part of all importance that core neurons have."""
        return self._part(self.core_neurons)

    @property
    def spurious_importance(self) -> float:
        """Part of all importance that spurious neurons have."""
        return self._part(self.spurious_neurons)

    def _part(self, neurons: Tensor) -> float:
        total = float(self.importance.sum())
        return float(self.importance[neurons].sum()) / total if total > 0 else float("nan")


def subnetworks(model: nn.Module, layout: Layout | Mapping[str, Any], *, top: int = 32) -> Subnetworks:
    """Divide the hidden neurons of a two-layer network by the columns that they read.

    A neuron goes to the block with the larger mean squared weight per column. Its importance, |outgoing| times |incoming|,
    does not change when one is scaled up and the other down.

    Args:
        model: `Sequential(Linear, ReLU, Linear)`, with one output or several.
        layout: From `boolean_layout`; or a mapping with "core" and "spurious" columns.
        top: Neurons, by importance, over which `weight_correlation` is taken.

    Raises:
        ValueError: If the network is another one or columns do not fit; see `subnetworks_by_selectivity` for others.

    Source:
        Qiu et al. (2024), https://arxiv.org/abs/2403.03375.

    Example:
        >>> net = nn.Sequential(nn.Linear(3, 2, bias=False), nn.ReLU(), nn.Linear(2, 1))
        >>> _ = net[0].weight.data.copy_(torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]))
        >>> parts = subnetworks(net, {"core": [0, 1], "spurious": [2]})
        >>> parts.core_neurons.tolist(), parts.spurious_neurons.tolist(), parts.purity
        ([0], [1], 1.0)
    """
    first, last = two_layers(model)
    core, spurious = _columns(layout, first.in_features)
    square = first.weight.detach().cpu().double().square()
    incoming = square.sum(dim=1)
    importance = last.weight.detach().cpu().double().norm(dim=0) * incoming.sqrt()
    mass = torch.stack([square[:, core].sum(dim=1), square[:, spurious].sum(dim=1)])
    per_column = torch.stack([square[:, core].mean(dim=1), square[:, spurious].mean(dim=1)])
    shares = mass / torch.where(incoming > 0, incoming, 1.0)
    return _divided(shares[0], shares[1], per_column.sqrt(), importance, top)


def subnetworks_by_selectivity(
    representation: Any, batch: Batch, *, outgoing: Tensor | np.ndarray | None = None, top: int = 32
) -> Subnetworks:
    """Divide the neurons of any layer by what their activation answers to: the class given the attribute, or the reverse.

    Selectivities are t-values of the difference between classes within attribute values (averaged over them), and between
    attribute values within classes. Groups weigh the same.

    Args:
        representation: `(n, h)` activations, or a callable that makes them from `batch.x`; maps are to be pooled first, as
            `firstcue.activations` does.
        batch: Rows with two classes and an attribute of two values, in which every group has at least two rows.
        outgoing: `(K, h)` weights of the layer after it, if it is linear: importance is then |outgoing| times the spread of
            the activation, else the spread alone.
        top: As in `subnetworks`.

    Raises:
        ValueError: If there are not two classes and two values, a group has fewer than two rows, or shapes do not fit.

    Example:
        >>> y, a = torch.tensor([0, 1]).repeat(100), torch.tensor([0, 0, 1, 1]).repeat(50)
        >>> noise = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
        >>> parts = subnetworks_by_selectivity(torch.stack([2.0 * y, 2.0 * a], dim=1) + noise, Batch.of(y, y, a))
        >>> parts.core_neurons.tolist(), parts.spurious_neurons.tolist()
        ([0], [1])
    """
    x = features_of(representation, batch, "representation")
    means, errors = _cells(x, batch)
    scale = errors.sum(dim=(0, 1)).sqrt()  # of a difference of two means of two groups each, up to the same factor
    by_class = (means[1] - means[0]).sum(dim=0).abs()
    by_value = (means[:, 1] - means[:, 0]).sum(dim=0).abs()
    t = torch.stack([by_class, by_value]) / torch.where(scale > 0, scale, 1.0)
    t = torch.where(scale > 0, t, 0.0)
    total = t.square().sum(dim=0)
    shares = t.square() / torch.where(total > 0, total, 1.0)
    importance = x.std(dim=0)
    if outgoing is not None:
        weight = as_tensor(outgoing, "outgoing").detach().cpu().double()
        if weight.ndim != 2 or weight.shape[1] != x.shape[1]:
            raise ValueError(
                f"`outgoing` has shape {tuple(weight.shape)}; (K, {x.shape[1]}), one column per neuron, is needed."
            )
        importance = importance * weight.norm(dim=0)
    return _divided(shares[0], shares[1], t, importance, top)


def without_neurons(model: nn.Module, neurons: Tensor | np.ndarray) -> nn.Module:
    """A copy of a two-layer network in which some hidden neurons are silent; output biases stay.

    Args:
        model: `Sequential(Linear, ReLU, Linear)`.
        neurons: Ids, for example `subnetworks(...).spurious_neurons`.

    Raises:
        ValueError: If the network is another one, or an id is out of range.

    Example:
        >>> net = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 1))
        >>> silent = without_neurons(net, torch.tensor([0, 1]))
        >>> bool((silent(torch.ones(1, 3)) == net[2].bias).all())
        True
    """
    ids = as_tensor(neurons, "neurons").long()
    first, _ = two_layers(model)
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < first.out_features:
        raise ValueError(
            f"`neurons` holds ids from 0 to {first.out_features - 1}; got {int(ids.min())} to {int(ids.max())}."
        )
    changed = copy.deepcopy(model)
    with torch.no_grad():
        two_layers(changed)[1].weight[:, ids.to(first.weight.device)] = 0
    return changed


def two_layers(model: nn.Module) -> tuple[nn.Linear, nn.Linear]:
    """The two linear layers of a network of one hidden ReLU layer.

    Raises:
        ValueError: If it is another kind of network.
    """
    leaves = [module for module in model.modules() if not list(module.children())]
    linear = [module for module in leaves if isinstance(module, nn.Linear)]
    others = [
        type(module).__name__
        for module in leaves
        if not isinstance(module, nn.Linear | nn.ReLU | nn.Identity | nn.Flatten)
    ]
    if len(linear) != 2 or others or linear[1].in_features != linear[0].out_features:
        raise ValueError(
            f"neurons are read off the weights of a network Linear, ReLU, Linear; this one has {len(linear)} linear layers"
            + (f" and {', '.join(sorted(set(others)))}" if others else "")
            + ". For other networks use `subnetworks_by_selectivity` on a layer's activations."
        )
    return linear[0], linear[1]


def _divided(share_core: Tensor, share_spurious: Tensor, strength: Tensor, importance: Tensor, top: int) -> Subnetworks:
    """Neurons whose `strength` `(2, h)` is larger for the shortcut are spurious."""
    spurious = strength[1] > strength[0]
    total = importance.sum()
    purity = (
        float((importance * torch.maximum(share_core, share_spurious)).sum() / total) if total > 0 else float("nan")
    )
    return Subnetworks(
        core_neurons=(~spurious).nonzero()[:, 0],
        spurious_neurons=spurious.nonzero()[:, 0],
        share_core=share_core,
        share_spurious=share_spurious,
        importance=importance,
        purity=purity,
        weight_correlation=_correlation(strength[:, importance.argsort(descending=True)[:top]]),
    )


def _correlation(pair: Tensor) -> float:
    """Between two rows; NaN where one is constant."""
    centred = pair - pair.mean(dim=1, keepdim=True)
    spread = centred.norm(dim=1).prod()
    return float((centred[0] * centred[1]).sum() / spread) if spread > 0 else float("nan")


def _columns(layout: Layout | Mapping[str, Any], size: int) -> tuple[Tensor, Tensor]:
    if isinstance(layout, Mapping):
        missing = {"core", "spurious"} - layout.keys()
        if missing:
            raise ValueError(f"`layout` lacks {', '.join(sorted(missing))}; it names the columns of both blocks.")
        core, spurious = (torch.as_tensor(layout[key]).long() for key in ("core", "spurious"))
    else:
        core, spurious = layout.core, layout.spurious
    both = torch.cat([core, spurious])
    if not len(core) or not len(spurious) or not 0 <= int(both.min()) <= int(both.max()) < size:
        raise ValueError(
            f"`layout` needs columns of both blocks, from 0 to {size - 1} as the network reads them; got "
            f"{len(core)} core and {len(spurious)} spurious columns."
        )
    if len(both.unique()) != len(both):
        raise ValueError("`layout` names a column twice; blocks do not overlap.")
    return core, spurious


def _cells(x: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """`(2, 2, h)` mean of each group, class by attribute, and the squared error of that mean."""
    if batch.attribute is None or batch.y.unique().numel() != 2 or batch.attribute.unique().numel() != 2:
        raise ValueError(
            "selectivity is measured between two classes and two attribute values, both present in `batch`."
        )
    y, a = (ids.cpu() == ids.max().cpu() for ids in (batch.y, batch.attribute))
    groups = [[x[(y == i) & (a == j)] for j in (False, True)] for i in (False, True)]
    smallest = min(len(part) for row in groups for part in row)
    if smallest < 2:
        raise ValueError(f"every group of class and attribute needs at least two rows; the smallest has {smallest}.")
    means = torch.stack([torch.stack([part.mean(dim=0) for part in row]) for row in groups])
    errors = torch.stack([torch.stack([part.var(dim=0) / len(part) for part in row]) for row in groups])
    return means, errors
