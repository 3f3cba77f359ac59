"""Remedies as a table that grows: each is a small function that says how the one training loop is to be run.

A remedy gets the training rows, a network to be trained and a way to train others, and returns a `Plan`: rows with the
groups it works on, how they are drawn, how losses are weighed, gradients combined and examples mixed. A remedy of the last
layer trains plainly and then replaces the head.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from firstcue.agreement.penalties import irm, spectral_decoupling, vrex
from firstcue.agreement.rules import Rule, and_mask, mean_gradient
from firstcue.batch import Batch
from firstcue.training.failure import lff
from firstcue.training.features import coral, head_of, mmd
from firstcue.training.loop import minibatches, train
from firstcue.training.mixing import lisa, mixup
from firstcue.training.references import cnc, eiil, george, jtt, spare, spare_weights
from firstcue.training.sampling import Draw, balanced, cut, drawn
from firstcue.training.stepping import Weighting
from firstcue.training.weighting import (
    class_weights,
    cvar_dro,
    effective_number_weights,
    focal,
    group_dro,
    group_weights,
)

Mix = Callable[[Iterable[Batch], int], Iterator[Batch]]
"""From the batches of a pass and a seed: the batches that are trained on."""

TRAINING_GROUPS = "groups of the training rows"
HELD_OUT_GROUPS = "groups of held-out rows"


@dataclass(frozen=True)
class Setting:
    """What a remedy is given."""

    batch: Batch
    """Training rows; `index` numbers them."""
    model: nn.Module
    """The network that will be trained."""
    network: Callable[[int], nn.Module]
    """A new network from a seed."""
    optimizer: Callable[[nn.Module], torch.optim.Optimizer]
    """For any such network, at the rate that is tried."""
    batch_size: int
    seed: int

    @property
    def steps(self) -> int:
        """Updates of one pass."""
        return -(-len(self.batch) // self.batch_size)

    def reference(self, epochs: int = 1) -> nn.Module:
        """A network after some epochs of plain training."""
        model = self.network(self.seed)
        passes = minibatches(self.batch, self.batch_size, epochs, seed=self.seed)
        return train(model, passes, self.optimizer(model), seed=self.seed)


@dataclass(frozen=True)
class Plan:
    """How the loop is run."""

    batch: Batch
    rows: Draw | None = None
    weighting: Weighting | None = None
    rule: Rule = mean_gradient
    mix: Mix = field(default=lambda batches, seed: iter(batches))


Recipe = Callable[[Setting], Plan]


@dataclass(frozen=True)
class TrainingRemedy:
    """A remedy by name."""

    name: str
    recipe: Recipe
    needs: tuple[str, ...] = ()
    """Labels that it uses beyond the classes; choosing the rate and the epoch may need more."""
    head: str | None = None
    """A method of `retrain_last_layer` that replaces the head afterwards."""
    source: str = ""
    on_features: bool = False
    """Whether it works through the features alone: where they stay as they are, it is plain training."""
    early: bool = False
    """Whether its guess of the groups needs a network early in training: guesses from finished features missed by much."""


def groups_of(batch: Batch) -> Tensor:
    """`(n,)` class by attribute, else the batch's own groups.

    Raises:
        ValueError: If there is neither.
    """
    if batch.attribute is not None:
        return batch.groups()
    if batch.group is None:
        raise ValueError("the training rows have neither `attribute` nor `group`.")
    if batch.group.ndim != 1:
        raise ValueError(
            f"`group` has shape {tuple(batch.group.shape)}; one group per row is needed. Groups that overlap become groups "
            f"by giving each combination an id: group.unique(dim=0, return_inverse=True)[1]."
        )
    return batch.group


def _environments(s: Setting) -> Batch:
    """Values of the attribute as environments; the batch's own groups without one."""
    return s.batch if s.batch.attribute is None else replace(s.batch, group=s.batch.attribute)


def _grouped(s: Setting) -> Batch:
    return replace(s.batch, group=groups_of(s.batch))


def _plain(s: Setting) -> Plan:
    return Plan(s.batch)


def _sampled(ids: Callable[[Batch], Tensor]) -> Recipe:
    return lambda s: Plan(s.batch, rows=balanced(ids(s.batch)))


def _subsampled(ids: Callable[[Batch], Tensor]) -> Recipe:
    return lambda s: Plan(s.batch.rows(cut(ids(s.batch), s.seed)))


def _weighed_by_class(power: float) -> Recipe:
    return lambda s: Plan(s.batch, weighting=class_weights(s.batch.y.bincount(), power))


def _weighed_by_group(power: float) -> Recipe:
    return lambda s: Plan(_grouped(s), weighting=group_weights(groups_of(s.batch).bincount(), power))


def _robust(batch: Batch) -> Plan:
    """Group DRO on batches in which groups are balanced."""
    assert batch.group is not None
    return Plan(batch, rows=balanced(batch.group), weighting=group_dro())


def _lff(s: Setting) -> Plan:
    biased = s.network(s.seed + 1)
    return Plan(s.batch, weighting=lff(biased, s.optimizer(biased)))


def _spare(s: Setting) -> Plan:
    first = s.reference()
    batch = spare(first, s.batch, seed=s.seed)
    return Plan(batch, rows=drawn(spare_weights(first, batch)))


def _mixup(s: Setting) -> Plan:
    classes = s.batch.num_classes
    return Plan(s.batch, mix=lambda batches, seed: mixup(batches, classes, seed=seed))


def _lisa(s: Setting) -> Plan:
    classes, batch = s.batch.num_classes, s.batch
    named = batch if batch.attribute is not None else replace(batch, attribute=groups_of(batch))
    return Plan(named, mix=lambda batches, seed: lisa(batches, classes, seed=seed))


def _penalized(make: Callable[[Setting], Weighting]) -> Recipe:
    return lambda s: Plan(_environments(s), weighting=make(s))


_G, _H = (TRAINING_GROUPS,), (HELD_OUT_GROUPS,)
TRAININGS: Mapping[str, TrainingRemedy] = {
    r.name: r
    for r in (
        TrainingRemedy("erm", _plain),
        TrainingRemedy("class sampling", _sampled(lambda b: b.y)),
        TrainingRemedy("class weighting", _weighed_by_class(1.0)),
        TrainingRemedy("class weighting, square root", _weighed_by_class(0.5)),
        TrainingRemedy("class subsampling", _subsampled(lambda b: b.y)),
        TrainingRemedy("group sampling", _sampled(groups_of), _G),
        TrainingRemedy("group weighting", _weighed_by_group(1.0), _G),
        TrainingRemedy("group weighting, square root", _weighed_by_group(0.5), _G),
        TrainingRemedy("group subsampling", _subsampled(groups_of), _G),
        TrainingRemedy("group-dro", lambda s: _robust(_grouped(s)), _G, source="arXiv 1911.08731"),
        TrainingRemedy("cvar-dro", lambda s: Plan(s.batch, weighting=cvar_dro(0.1)), source="arXiv 2010.05893"),
        TrainingRemedy("jtt", lambda s: Plan(s.batch, weighting=jtt(s.reference())), source="arXiv 2107.09044"),
        TrainingRemedy("lff", _lff, source="arXiv 2007.02561", early=True),
        TrainingRemedy("eiil", lambda s: _robust(eiil(s.reference(), s.batch, seed=s.seed)), source="arXiv 2010.07249"),
        TrainingRemedy("spare", _spare, source="arXiv 2305.18761", early=True),
        TrainingRemedy(
            "george",
            lambda s: _robust(george(s.reference(), s.batch, seed=s.seed)),
            source="arXiv 2011.12945",
            early=True,
        ),
        TrainingRemedy(
            "cnc",
            lambda s: Plan(s.batch, weighting=cnc(s.reference(), head_of(s.model, s.batch))),
            source="arXiv 2203.01517",
            on_features=True,
        ),
        TrainingRemedy("irm", _penalized(lambda s: irm(10.0, anneal=s.steps)), _G, source="arXiv 1907.02893"),
        TrainingRemedy("vrex", _penalized(lambda s: vrex(10.0, anneal=s.steps)), _G, source="arXiv 2003.00688"),
        TrainingRemedy(
            "and-mask, all layers", lambda s: Plan(_environments(s), rule=and_mask), _G, source="arXiv 2009.00329"
        ),
        TrainingRemedy(
            "spectral decoupling",
            lambda s: Plan(s.batch, weighting=spectral_decoupling(0.1)),
            source="arXiv 2011.09468",
        ),
        TrainingRemedy(
            "coral",
            _penalized(lambda s: coral(head_of(s.model, s.batch))),
            _G,
            source="arXiv 1607.01719",
            on_features=True,
        ),
        TrainingRemedy(
            "mmd",
            _penalized(lambda s: mmd(head_of(s.model, s.batch))),
            _G,
            source="arXiv 2007.01434",
            on_features=True,
        ),
        TrainingRemedy("focal loss", lambda s: Plan(s.batch, weighting=focal()), source="arXiv 1708.02002"),
        TrainingRemedy(
            "class-balanced loss",
            lambda s: Plan(s.batch, weighting=effective_number_weights(s.batch.y.bincount())),
            source="arXiv 1901.05555",
        ),
        TrainingRemedy("mixup", _mixup, source="arXiv 1710.09412"),
        TrainingRemedy("lisa", _lisa, _G, source="arXiv 2201.00299"),
        TrainingRemedy("last-layer", _plain, _H, head="dfr", source="arXiv 2204.02937"),
        TrainingRemedy("last-layer on training rows", _plain, (*_G, *_H), head="dfr-train", source="arXiv 2204.02937"),
        TrainingRemedy("last-layer, class-balanced", _plain, head="class-balanced", source="arXiv 2309.08534"),
        TrainingRemedy("last-layer, disagreement", _plain, head="self", source="arXiv 2309.08534"),
    )
}
"""Remedies by name."""


def find(name: str) -> TrainingRemedy:
    """The remedy of that name.

    Raises:
        ValueError: If there is none.
    """
    if name not in TRAININGS:
        raise ValueError(f"no remedy is called {name!r}; remedies: {', '.join(TRAININGS)}.")
    return TRAININGS[name]


def require_labels(remedy: TrainingRemedy, batch: Batch) -> None:
    """Refuse training rows without the labels that the remedy works on.

    Raises:
        ValueError: If groups are needed and the rows have neither attribute nor group.
    """
    if TRAINING_GROUPS in remedy.needs and batch.attribute is None and batch.group is None:
        free = ", ".join(name for name, r in TRAININGS.items() if not r.needs and name != "erm")
        raise ValueError(
            f"the remedy {remedy.name!r} needs groups of the training rows: give them an `attribute`. Without group labels "
            f"there are: {free}."
        )
