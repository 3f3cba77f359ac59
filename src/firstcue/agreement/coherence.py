"""Do environments want the same of a network? Agreement of their gradients, beside what chance and random groups give."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from firstcue._checks import encode_labels
from firstcue.agreement._sinks import Stack, require_finite_gradients
from firstcue.agreement._tally import LayerAgreement, layer_agreement, least_sum, random_kept, together
from firstcue.agreement._wants import Wants
from firstcue.agreement.gradients import Loss, collect, sorted_rows, wanted_parameters
from firstcue.agreement.rules import least_agreeing
from firstcue.agreement.sums import GradientSums
from firstcue.batch import Batch
from firstcue.forward import left_as_found, unwrap


@dataclass(frozen=True)
class Agreement:
    """What environments agree on in the gradient of a model, and two controls: random signs, and random groups of rows."""

    environments: tuple[str, ...]
    sizes: tuple[int, ...]
    """Rows of each."""

    threshold: float
    min_agree: int
    """How many environments have to share a sign for a component to be kept."""

    whole: LayerAgreement
    """All parameters together: `.kept` beside `.expected` of random signs, and the histograms."""

    layers: dict[str, LayerAgreement]
    """By parameter name."""

    alignment: float
    """Squared length of the mean gradient over the mean squared length: 1 for equal gradients, 1 / e for unrelated ones."""

    conflict: np.ndarray
    """`(e, e)` cosines between the environments' gradients; NaN for one without gradient."""

    norms: tuple[float, ...]
    """Length of each environment's gradient."""

    only_one_group: float
    """Share of the mean gradient (sum of magnitudes) in components whose direction one environment alone wants."""

    only_one_expected: float
    """The same share if every gradient entry had a random sign."""

    only_one_by_group: dict[str, float]
    """The share, by the environment that wants it."""

    lone_dissent: dict[str, float]
    """Share of components that an environment alone is against: what its veto costs at threshold 1; empty for two."""

    dissent_expected: float
    """That share for random signs."""

    norm_ratio: float
    """Length of the masked mean gradient over that of the mean gradient."""

    random_groups: "Agreement | None"
    """The same for groups of these sizes drawn at random: what any grouping would show. None inside itself."""

    warnings: tuple[str, ...]

    @property
    def kept(self) -> float:
        """Share of all components that the AND-mask keeps."""
        return self.whole.kept

    @property
    def expected(self) -> float:
        """The share that it would keep of random signs."""
        return self.whole.expected

    @property
    def conflicting(self) -> float:
        """Share of pairs of environments whose gradients point apart (cosine below zero)."""
        pairs = self.conflict[np.triu_indices(len(self.conflict), 1)]
        return float((pairs[np.isfinite(pairs)] < 0).mean()) if np.isfinite(pairs).any() else float("nan")

    def summary(self) -> str:
        """A few lines for people: numbers, each beside its controls."""
        drawn = self.random_groups
        rows = " to ".join(str(n) for n in dict.fromkeys((min(self.sizes), max(self.sizes))))

        def line(what: str, value: float, chance: str, expected: float, control: float | None) -> str:
            beside = "" if control is None else f", of random groups {_percent(control)}"
            return f"{what:<22}{_percent(value)}, {chance} {_percent(expected)}{beside}"

        lines = [
            f"{len(self.sizes)} environments of {rows} rows; {self.min_agree} have to agree",
            line("kept by the mask", self.kept, "of random signs", self.expected, drawn.kept if drawn else None),
            line(
                "wanted by one alone",
                self.only_one_group,
                "of random signs",
                self.only_one_expected,
                drawn.only_one_group if drawn else None,
            ),
            line(
                "alignment",
                self.alignment,
                "of unrelated gradients",
                1 / len(self.sizes),
                drawn.alignment if drawn else None,
            ),
        ]
        return "\n".join([*lines, *(f"! {warning}" for warning in self.warnings)])


def measure_agreement(
    model: nn.Module,
    loss: Loss,
    batch: Batch | tuple[Any, Any],
    environment: Any = None,
    *,
    threshold: float | int = 1.0,
    parameters: Sequence[str] | None = None,
    seed: int = 0,
) -> Agreement:
    """How far environments agree on the gradient of a model, layer by layer, beside random signs and random groups.

    The model is in evaluation mode meanwhile and left as found. Layers are measured one after another as the backward
    pass reaches them; memory is that of one layer's gradients, side by side.

    Args:
        model: Any module.
        loss: `loss(outputs, y)`, the mean over its rows.
        batch: `Batch` or `(x, y)`; some hundreds of rows of each environment, since noise looks like disagreement.
        environment: `(n,)` labels, one per row, or None for `batch.group`.
        threshold: Of the AND-mask: 1 keeps what all environments agree on.
        parameters: Names of those measured, for example the last layer's; all that require a gradient by default.
        seed: Of the random groups and signs.

    Raises:
        ValueError: If there are fewer than two environments, shapes differ, or a gradient is not finite.

    Source:
        Parascandolo et al., Learning explanations that are hard to vary (2020), https://arxiv.org/abs/2009.00329; the
        expectation under random signs is exact where their Proposition 2 gives an order of magnitude.

    Example:
        >>> model, x = torch.nn.Linear(2, 1, bias=False), torch.tensor([[1.0, 1.0], [1.0, -1.0]])
        >>> with torch.no_grad():
        ...     _ = model.weight.fill_(0.0)
        >>> found = measure_agreement(model, torch.nn.functional.mse_loss, (x, torch.ones(2, 1)), ["sea", "land"])
        >>> found.kept, found.expected, found.layers["weight"].histogram
        (0.5, 0.5, (1, 0, 1))
    """
    labels = batch.group if environment is None and isinstance(batch, Batch) else environment
    names = () if labels is None else encode_labels(labels, "environment")[1]
    inner = unwrap(model)
    rows = sorted_rows(batch, labels, inner)
    if len(rows.sizes) < 2:
        raise ValueError(f"all rows are of environment {names[0]}; agreement needs at least two environments.")
    wanted = wanted_parameters(inner, parameters)

    def measured(some: Any, random_groups: "Agreement | None") -> Agreement:
        tally = _tally(inner, loss, some, wanted, float(threshold), seed)
        return _agreement(names, rows.sizes, float(threshold), *tally, random_groups)

    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(rows.x), generator=generator).to(rows.x.device)
    drawn = measured(replace(rows, x=rows.x[order], y=rows.y[order]), None)
    return measured(rows, replace(drawn, environments=tuple(f"random {i}" for i in range(len(names))), warnings=()))


def _tally(
    model: nn.Module, loss: Loss, rows: Any, wanted: dict[str, Tensor], threshold: float, seed: int
) -> tuple[dict[str, LayerAgreement], Wants]:
    count = len(rows.sizes)
    least = least_sum(threshold, count)
    layers: dict[str, LayerAgreement] = {}
    wants = Wants(count, least, seed)

    def take(name: str, sink: Any) -> None:
        require_finite_gradients(name, sink)
        wants.add(sink.values)
        sums = GradientSums.of(sink.values, ("signs", "nonzero", "scatter"))
        layers[name] = layer_agreement(name, sums, least)

    with left_as_found(model), torch.enable_grad():
        collect(model, loss, rows, wanted, Stack, take)
    return {name: layers[name] for name in wanted}, wants


def _agreement(
    names: Sequence[str],
    sizes: tuple[int, ...],
    threshold: float,
    layers: dict[str, LayerAgreement],
    wants: Wants,
    random_groups: Agreement | None,
) -> Agreement:
    count = len(sizes)
    alone = (wants.alone / wants.mass).tolist() if wants.mass else [0.0] * count
    against = (wants.against / wants.components).tolist()
    found = Agreement(
        environments=tuple(names),
        sizes=sizes,
        threshold=threshold,
        min_agree=least_agreeing(threshold, count),
        whole=replace(together(list(layers.values())), alignment=wants.alignment),
        layers=layers,
        alignment=wants.alignment,
        conflict=wants.cosines.numpy(),
        norms=tuple(wants.gram.diagonal().sqrt().tolist()),
        only_one_group=sum(alone),
        only_one_expected=wants.alone_by_chance / wants.mass_by_chance if wants.mass_by_chance else 0.0,
        only_one_by_group=dict(zip(names, alone, strict=True)),
        lone_dissent=dict(zip(names, against, strict=True)) if count > 2 else {},
        dissent_expected=2.0 ** (1 - count) if count > 2 else 0.0,
        norm_ratio=(wants.kept_squares / wants.squares) ** 0.5 if wants.squares else float("nan"),
        random_groups=random_groups,
        warnings=(),
    )
    return replace(found, warnings=_warnings(found))


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _warnings(found: Agreement) -> tuple[str, ...]:
    """What a reader should know before believing the numbers."""
    count, notes = len(found.sizes), []
    chance = random_kept(least_sum(found.threshold, count), count)
    if count < 4:
        notes.append(
            f"with {count} environments random signs are kept in {chance:.0%} of components: little is told apart."
        )
    if max(found.sizes) > 2 * min(found.sizes):
        notes.append(
            f"environments have {min(found.sizes)} to {max(found.sizes)} rows and count alike; the small ones are noisier."
        )
    silent = [name for name, norm in zip(found.environments, found.norms, strict=True) if norm == 0]
    if silent:
        notes.append(f"no gradient at all from {', '.join(silent)}: exact zeros count as disagreement.")
    steep = [layer.name for layer in found.layers.values() if layer.kept > 0 and layer.scale > 100]
    if steep:
        notes.append(f'scale="tensor" would multiply what is kept of {", ".join(steep[:3])} by more than 100; clip it.')
    spread = (found.expected * (1 - found.expected) / found.whole.size) ** 0.5
    if found.threshold > 0 and found.kept <= 1.05 * found.expected + 3 * spread:
        notes.append("no more is kept than of random signs: no shared signal, or a threshold that is too strict.")
    return tuple(notes)
