"""What is measured of many two-layer networks at one moment: what they use, what can be read, how they are divided."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from firstcue.spurious.batched_rows import Parts
from firstcue.spurious.two_layer import TwoLayers

RIDGE = 1e-2
"""Added to the diagonal of the correlation matrix of features, as in `decode`."""


@dataclass(frozen=True)
class Snapshot:
    """All networks at one step, on held-out rows in which the shortcut says nothing of the label."""

    step: int
    runs: Sequence[Any]
    """Their `BooleanRun`s."""
    networks: TwoLayers
    rows: Parts
    hidden: Float[Tensor, "r n h"]
    output: Float[Tensor, "r n"]


Measure = Callable[[Snapshot], Mapping[str, Tensor]]
"""One number per network, `(r,)`, by name."""


def used(snapshot: Snapshot) -> dict[str, Tensor]:
    """What decisions go with: correlation with core and shortcut (2 accuracy - 1), and worst-group accuracy."""
    core, spurious = snapshot.rows.core, snapshot.rows.spurious
    decision = torch.where(snapshot.output >= 0, 1.0, -1.0)
    right = (decision == core).double()
    groups = [((core == y) & (spurious == a)).double() for y in (-1, 1) for a in (-1, 1)]
    by_group = torch.stack([(right * g).sum(dim=1) / g.sum(dim=1) for g in groups])
    return {
        "core_correlation": (decision * core).double().mean(dim=1),
        "spurious_correlation": (decision * spurious).double().mean(dim=1),
        "worst_group": torch.where(by_group.isnan(), torch.inf, by_group).amin(dim=0),
    }


def decoded(snapshot: Snapshot) -> dict[str, Tensor]:
    """What a new linear read-out of the hidden layer finds: fitted on the first half of the rows, measured on the second."""
    targets = torch.stack([snapshot.rows.core, snapshot.rows.spurious], dim=2)
    core, spurious = read_out_correlations(snapshot.hidden, targets).unbind(dim=1)
    return {"decoded_core": core, "decoded_spurious": spurious}


def divided(snapshot: Snapshot) -> dict[str, Tensor]:
    """How apart the neurons of core and shortcut are, as `subnetworks` says for one network."""
    from firstcue.spurious.boolean import boolean_layout
    from firstcue.spurious.subnetworks import subnetworks

    found = []
    for i, run in enumerate(snapshot.runs):
        parts = subnetworks(snapshot.networks.module(i), boolean_layout(run.core, run.spurious, run.noise))
        found.append([parts.spurious_importance, parts.purity, parts.weight_correlation])
    values = torch.tensor(found, dtype=torch.float64)
    return dict(zip(("spurious_importance", "purity", "weight_correlation"), values.unbind(dim=1), strict=True))


MEASURES: tuple[Measure, ...] = (used, decoded, divided)


def read_out_correlations(hidden: Float[Tensor, "r n h"], targets: Float[Tensor, "r n t"]) -> Float[Tensor, "r t"]:
    """Held-out correlation of the sign of ridge regression with signs: fitted on the first half, measured on the second."""
    half = hidden.shape[1] // 2
    seen = hidden[:, :half]
    centre = seen.mean(dim=1, keepdim=True)
    z = seen - centre
    scale = z.square().mean(dim=1, keepdim=True).sqrt()
    scale = torch.where(scale > 1e-6, scale, 1.0)
    z = z / scale
    level = targets[:, :half].mean(dim=1, keepdim=True)
    gram = (torch.bmm(z.mT, z) / half).double() + RIDGE * torch.eye(z.shape[2], dtype=torch.float64)
    slope = torch.linalg.solve(gram, (torch.bmm(z.mT, targets[:, :half] - level) / half).double()).to(z)
    predicted = torch.bmm((hidden[:, half:] - centre) / scale, slope) + level
    sign = torch.where(predicted >= 0, 1.0, -1.0)
    return (sign * targets[:, half:]).double().mean(dim=1)
