"""What remedies that train the whole network may be worth: rehearsed on the last layer, over the features as they are.

A linear head is trained on the features of training rows by the remedy's own recipe, in the loop that trains networks.
Two folds of the held-out rows choose its rate and epoch, the other three report it, as for remedies that are measured. A
rehearsal is no promise: the features stay those of the model as it came, and a remedy may make better ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from firstcue._progress import Progress
from firstcue.auditing.head_fits import Rows
from firstcue.batch import Batch
from firstcue.finding import Interval, Remedy
from firstcue.forward import NotFinite, predict, seeded
from firstcue.spurious.metrics import group_metrics, paired_difference
from firstcue.training.choosing import Selection
from firstcue.training.remedies import TRAINING_GROUPS, TRAININGS, TrainingRemedy
from firstcue.training.searching import finish, search

ROWS = 4000
"""Training rows of a rehearsal; the shares of groups are kept."""

RATES = (0.05, 0.5)
"""Learning rates; features are scaled to a mean squared length of one, so that they suit any number of features."""

EPOCHS = 3
ROWS_PER_STEP = 64
PLAIN = "erm"

BY_FEATURES = "not predicted: acts on the features"
BY_EARLY = "not predicted: needs a network early in training"
NO_GROUPS = "not predicted: needs an attribute"
NO_ROWS = "not predicted: needs features of training rows"


@dataclass(frozen=True)
class Stage:
    """What a rehearsal is given: features as inputs."""

    train: Batch
    chooses: Batch
    reports: Batch
    outputs: int
    seed: int

    @property
    def selection(self) -> Selection:
        return "worst class" if self.reports.attribute is None else "worst group"

    def network(self, seed: int) -> nn.Module:
        """A fresh head."""
        with seeded(seed):
            return nn.Linear(self.train.x.shape[1], self.outputs)


def stage(train: Rows, held: Rows, reports: Tensor, outputs: int, seed: int, counts: Tensor | None = None) -> Stage:
    """Features scaled alike, training rows drawn.

    Args:
        train: Training rows, of which at most `ROWS` are used.
        held: Held-out rows.
        reports: `(n,)` mask of the held-out rows that report; the others choose.
        outputs: Classes of the head.
        seed: Of drawing and of training.
        counts: `(cells,)` training rows of every group, where `train` does not hold them in their true shares.
    """
    used = train.at(sample(train.cells, counts, ROWS, seed))
    centre, spread = used.features.mean(dim=0), used.features.std(dim=0)
    scale = torch.where(spread > 0, spread, 1.0) * spread.numel() ** 0.5

    def ready(rows: Rows) -> Batch:
        values = None if rows.attribute is None else tuple(map(str, range(rows.num_values)))
        x = ((rows.features - centre) / scale).float()
        return Batch(x, rows.y, attribute=rows.attribute, classes=tuple(map(str, range(outputs))), values=values or ())

    return Stage(ready(used), ready(held.at(~reports)), ready(held.at(reports)), outputs, seed)


def sample(cells: Tensor, counts: Tensor | None, most: int, seed: int) -> Tensor:
    """Mask of at most `most` rows, with groups in the shares of `counts`.

    Example:
        >>> cells = torch.tensor([0, 0, 0, 0, 1, 1])  # the second group is rarer than it looks here
        >>> cells[sample(cells, torch.tensor([300, 100]), 4, seed=0)].bincount()
        tensor([3, 1])
    """
    have = cells.bincount().double()
    true = have if counts is None else counts.double()[: len(have)]
    share = torch.where(have > 0, true, 0.0) / true[have > 0].sum()
    total = min(most, int((have[share > 0] / share[share > 0]).min()))
    order = torch.randperm(len(cells), generator=torch.Generator().manual_seed(seed))
    kept = torch.zeros(len(cells), dtype=torch.bool)
    for cell in share.nonzero()[:, 0]:
        members = order[cells[order] == cell]
        kept[members[: max(1, round(total * float(share[cell])))]] = True
    return kept


def rehearse(remedy: TrainingRemedy, on: Stage) -> Tensor:
    """`(n,)` bool, the rows that report and that the head is right on.

    Raises:
        NotFinite: If training diverges at every rate.
        ValueError: If the remedy needs what the rows do not have.
    """
    found = search(
        remedy,
        on.network,
        on.train,
        on.chooses,
        selections=(on.selection,),
        rates=RATES,
        epochs=EPOCHS,
        batch_size=ROWS_PER_STEP,
        seed=on.seed,
    )
    model = finish(remedy, found.kept[on.selection], on.network, on.train, on.chooses, on.seed)
    return predict(model, on.reports.x).argmax(dim=1) == on.reports.y


def why_not(remedy: TrainingRemedy, train: Rows | None) -> str:
    """Why a remedy cannot be rehearsed on these rows, in words; empty if it can."""
    if remedy.on_features:
        return BY_FEATURES
    if remedy.early:
        return BY_EARLY
    if train is None:
        return NO_ROWS
    return NO_GROUPS if TRAINING_GROUPS in remedy.needs and train.attribute is None else ""


def predicted(
    wanted: Sequence[str],
    held: Rows,
    train: Rows | None,
    reports: Tensor,
    outputs: int,
    seed: int,
    progress: Progress,
    counts: Tensor | None = None,
) -> tuple[Remedy, ...]:
    """A row of the report for each of these remedies, with a number where a rehearsal has a meaning; arguments as above."""
    remedies = [TRAININGS[name] for name in wanted]
    on = None if train is None else stage(train, held, reports, outputs, seed, counts)
    plain: Tensor | None = None
    rows = []
    for i, remedy in enumerate(remedies):
        progress(f"rehearsing {remedy.name}", i / len(remedies))
        why = why_not(remedy, train)
        if on is None or why:
            rows.append(_unknown(remedy, why))
            continue
        plain = rehearse(TRAININGS[PLAIN], on) if plain is None else plain
        rows.append(_rehearsed(remedy, on, plain))
    return tuple(rows)


def _rehearsed(remedy: TrainingRemedy, on: Stage, plain: Tensor) -> Remedy:
    try:
        right = plain if remedy.name == PLAIN else rehearse(remedy, on)
    except NotFinite:
        return _unknown(remedy, "not predicted: diverged at every rate that was rehearsed")
    cells, y = on.reports.groups(), on.reports.y
    found = group_metrics(y, torch.where(right, y, -1), cells)
    row = _unknown(remedy, "").model_copy(update={"basis": "predicted"})
    if found.worst_group is None:
        return row.model_copy(update={"basis": "not predicted", "note": "not predicted: too few rows in every group"})
    low, high = found.intervals["worst_group"]
    return row.model_copy(
        update={
            "worst_group": found.worst_group.accuracy,
            "ci_low": low,
            "ci_high": high,
            "overall": found.overall.accuracy,
            "group_average": found.group_average,
            "n": found.overall.n,
            "gain": gain(plain, right, cells, on.seed, "plain training, rehearsed alike"),
        }
    )


def gain(before: Tensor, after: Tensor, cells: Tensor, seed: int, against: str) -> Interval | None:
    """Worst-group accuracy of `after` minus that of `before` on the same rows; None where no group is large enough."""
    try:
        found = paired_difference(before, after, cells, seed=seed)
    except ValueError:  # every group is too small
        return None
    return Interval(
        value=found.value, ci_low=found.ci_low, ci_high=found.ci_high, n=found.n, baseline=0.0, baseline_kind=against
    )


def _unknown(remedy: TrainingRemedy, why: str) -> Remedy:
    return Remedy(
        name=remedy.name,
        needs=remedy.needs,
        needs_group_labels=bool(remedy.needs),
        basis="not predicted",
        note=why,
    )
