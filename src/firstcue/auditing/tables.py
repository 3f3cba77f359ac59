"""Group metrics as rows of a report: ids become the names of classes and values."""

from torch import Tensor

from firstcue.batch import Batch
from firstcue.finding import GroupRow, Groups, Overall
from firstcue.spurious.metrics import GroupMetrics, group_metrics
from firstcue.spurious.metrics import GroupRow as Measured


def group_table(decisions: Tensor, held: Batch, train: Batch, split: str) -> Groups:
    """The report's group table for `decisions` on held-out rows, with averages weighted as in training."""
    ids, counts = train.groups().unique(return_counts=True)
    weights = dict(zip(ids.tolist(), counts.tolist(), strict=True))
    return groups(group_metrics(held.y, decisions, held.groups(), train_counts=weights), held, split)


def groups(metrics: GroupMetrics, batch: Batch, split: str) -> Groups:
    """The report's group table.

    Args:
        metrics: From `group_metrics` over `batch.groups()`.
        batch: Holds the names of classes and attribute values.
        split: Which rows these are, in words.
    """
    worst, all_rows = metrics.worst_group, metrics.overall
    return Groups(
        by_group=tuple(_row(row, batch) for row in metrics.by_group),
        worst_group=None if worst is None else _row(worst, batch),
        overall=Overall(accuracy=all_rows.accuracy, ci_low=all_rows.ci_low, ci_high=all_rows.ci_high, n=all_rows.n),
        group_average=metrics.group_average,
        train_weighted=metrics.train_weighted,
        too_small=tuple(int(g) for g in metrics.too_small),
        split=split,
        cue=batch.cue if batch.attribute is not None else "",
    )


def _row(row: Measured, batch: Batch) -> GroupRow:
    group = int(row.group)
    y, a = divmod(group, batch.num_values)
    return GroupRow(
        group=group,
        y=batch.classes[y] if batch.classes else str(y),
        attribute=None if batch.attribute is None else batch.values[a],
        n=row.n,
        accuracy=row.accuracy,
        ci_low=row.ci_low,
        ci_high=row.ci_high,
    )
