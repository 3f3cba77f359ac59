"""`fix`: one remedy, one line, a repaired model, and the groups before and after."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from firstcue.auditing import remedies as repair
from firstcue.auditing.model import audit_subject
from firstcue.auditing.tables import groups
from firstcue.finding import Groups
from firstcue.layers import with_head


@dataclass(frozen=True)
class Fixed:
    """A repaired model and what it may be expected to do on rows that it never saw."""

    model: nn.Module
    """A copy of the model with a new last layer; the model given is untouched."""
    remedy: str
    before: Groups
    """The model as it was, on the rows that report."""
    after: Groups
    """The remedy on the same rows, each answered by a fit that did not see it."""
    changes: dict[str, Any]
    """What was changed, for the record that is stored beside the weights."""
    note: str
    seconds: float


def fix(
    model: nn.Module,
    data: Any,
    remedy: str = "last-layer",
    held_out: Any = None,
    *,
    attribute: Any = None,
    trained_on: bool = True,
    seed: int = 0,
    device: str = "auto",
    batch_size: int = 512,
) -> Fixed:
    """Repair the last layer of a model with held-out rows.

    The numbers are those that `audit` reports for the same remedy, data and seed: held-out rows are dealt into five folds,
    each answered by a head fitted on the others, and three folds report. The returned model's head is fitted on all of them.

    Args:
        model: A classifier with a linear head. It is left as found.
        data: Rows of the training distribution, in any form that `audit` takes.
        remedy: "last-layer", "erase", "erase means and covariances", "and-mask", "last-layer on training rows" or
            "last-layer, class-balanced".
        held_out: Rows the model never saw; `data` is split when absent, and the remedy then learns from rows the model knows.
        attribute: The cue whose groups are to be served equally.
        trained_on: Whether the model saw the rows of `data`.
        seed: Of folds and subsets.
        device: "auto" uses the model's own.
        batch_size: Rows per call.

    Returns:
        The repaired model with its groups before and after.

    Raises:
        ValueError: If the remedy is unknown or needs an attribute that is not given, or data and model cannot be used.

    Example:
        >>> import torch
        >>> x = torch.randn(400, 3, generator=torch.Generator().manual_seed(0))
        >>> y, a = (x[:, 0] > 0).long(), (x[:, 1] > 0).long()
        >>> model = torch.nn.Linear(3, 2, bias=False)  # one that leans on the second feature
        >>> _ = model.load_state_dict({"weight": torch.tensor([[-1.0, -2.0, 0.0], [1.0, 2.0, 0.0]])})
        >>> fixed = fix(model, (x, y, a), "erase")
        >>> fixed.after.group_average > fixed.before.group_average
        True
    """
    subject, _, held, held_rows, train_rows, split = audit_subject(
        model, data, attribute, held_out, trained_on=trained_on, seed=seed, device=device, batch_size=batch_size
    )
    method = repair.find(remedy)
    if method.needs_attribute and held.attribute is None:
        raise ValueError(
            f"the remedy {remedy!r} serves groups equally and needs an attribute; give `attribute`, or use 'last-layer, class-balanced'."
        )
    assert subject.head is not None
    before = repair.try_remedy(repair.find("as it is"), held_rows, train_rows, subject.head, seed)
    tried = repair.try_remedy(method, held_rows, train_rows, subject.head, seed)
    repaired = with_head(model, subject.head.name, tried.repaired.weight, tried.repaired.bias)
    words = f"three fifths of the {split}, each row answered by a fit that did not see it"
    changes = {
        "remedy": remedy,
        "layer": subject.head.name,
        "cue": held.cue if held.attribute is not None else None,
        "rows": len(held),
        "seed": seed,
    }
    return Fixed(
        repaired,
        remedy,
        groups(before.promise, held, words),
        groups(tried.promise, held, words),
        changes,
        tried.repaired.note,
        tried.seconds,
    )
