"""Bring data, held-out rows and attributes into one coding before anything is measured."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from firstcue._checks import require_classes, require_finite
from firstcue.auditing.splits import stratified_folds
from firstcue.batch import Batch, Edit, as_batch


@dataclass(frozen=True)
class Prepared:
    """Training rows, held-out rows, and the cues to be judged; class and value ids agree between the two."""

    train: Batch
    held: Batch
    cues: tuple[str, ...]
    split: str
    """Which rows the group table is about, in words."""
    notes: tuple[str, ...]

    def with_cue(self, cue: str) -> tuple[Batch, Batch]:
        """Both batches with the cue as their attribute, its values coded alike."""
        train, held = self.train.with_attribute(cue), self.held.with_attribute(cue)
        values = _union(train.values, held.values)
        return _recoded_values(train, values), _recoded_values(held, values)


def prepare(
    data: Any,
    attribute: Any,
    held_out: Any,
    edit: Edit | Mapping[str, Edit] | None,
    *,
    trained_on: bool,
    num_outputs: Callable[[Tensor], int],
    seed: int,
    split: bool = True,
) -> Prepared:
    """Read, name, align and split.

    Args:
        data: Rows of the training distribution, in any form that `as_batch` reads, or a path.
        attribute: None, an array `(n,)`, a column's name, several names, or a mapping from names to arrays.
        held_out: Unseen rows in the same forms; `data` is split when absent.
        edit: `edit(x, value)` for the only cue, or a mapping from cue to edit.
        trained_on: Whether the model saw the rows of `data`.
        num_outputs: The number of logits the model returns for given inputs.
        seed: Of the split.
        split: Whether rows without a held-out set are split in two; otherwise all serve both ends.

    Raises:
        ValueError: If forms, lengths, classes or columns do not fit.
    """
    batch, cues = _named(_read(data, "data"), attribute, "data")
    held = None if held_out is None else _named(_read(held_out, "held_out"), _names_of(attribute, cues), "held_out")[0]
    for cue in cues if held is not None else ():
        if held is not None and cue not in held.columns:
            raise ValueError(
                f"`held_out` has no attribute {cue!r}; give it as (x, y, attribute) or as a column of that name."
            )
    batch, held = _aligned_classes(batch, held, num_outputs(batch.x[:2]))
    batch = _with_edit(batch, cues, edit)
    held = None if held is None else _with_edit(held, cues, edit)
    train, held, rows = _sides(batch, held, cues, seed, trained_on=trained_on, split=split)
    notes = (OPTIMISTIC,) if rows == SEEN else ()
    for name, part in (("data", train), ("held_out", held)):
        require_finite(part.x, name)
    require_classes(torch.bincount(train.y, minlength=len(train.classes)), train.classes)
    return Prepared(train, held, cues, rows, notes)


SEEN = "half of the given rows, not held out from training"
OPTIMISTIC = (
    "No held-out rows were given: the model may have been trained on the rows it is judged on, so accuracies are optimistic. "
    "Give held_out."
)


def _sides(
    batch: Batch, held: Batch | None, cues: tuple[str, ...], seed: int, *, trained_on: bool, split: bool
) -> tuple[Batch, Batch, str]:
    """Rows that describe the training distribution, rows to measure on, and the latter in words."""
    if held is not None:
        return batch, held, "held-out rows"
    if not split:
        return batch, batch, "the given rows, each answered by a fit that did not see it"
    cell = batch.with_attribute(cues[0]) if cues else batch
    numbered = batch if batch.index is not None else replace(batch, index=torch.arange(len(batch)))
    fold = stratified_folds(cell.groups(), 2, seed)
    words = SEEN if trained_on else "half of the given rows, which the model never saw"
    return numbered.rows(fold == 0), numbered.rows(fold == 1), words


def _read(data: Any, name: str) -> Batch:
    if isinstance(data, str | Path):
        from firstcue.data import read

        return read(str(data))
    return as_batch(data, name=name)


def _named(batch: Batch, attribute: Any, name: str) -> tuple[Batch, tuple[str, ...]]:
    """The batch with every cue among its columns, and the cues' names."""
    if attribute is None:
        return (batch, ()) if batch.attribute is None else (_as_column(batch), (batch.cue,))
    if isinstance(attribute, Mapping):
        columns = {**batch.columns, **{str(k): _host(v) for k, v in attribute.items()}}
        batch, wanted = replace(batch, columns=columns), tuple(str(k) for k in attribute)
    elif isinstance(attribute, str):
        wanted = (attribute,)
    elif (
        isinstance(attribute, list | tuple)
        and attribute
        and all(isinstance(a, str) for a in attribute)
        and len(attribute) != len(batch)
    ):
        wanted = tuple(attribute)
    else:
        batch, wanted = replace(batch, columns={**batch.columns, "attribute": _host(attribute)}), ("attribute",)
    if batch.attribute is not None:
        # a loader's third item has no name of its own: it takes the one asked for
        if len(wanted) == 1 and wanted[0] not in batch.columns and batch.cue == "attribute":
            batch = replace(batch, cue=wanted[0])
        batch = _as_column(batch)
    for cue in wanted:
        if cue not in batch.columns:
            known = ", ".join(repr(c) for c in batch.columns) or "none"
            raise ValueError(
                f"`{name}` has no attribute {cue!r}; columns found: {known}. A loader carries it as the third item, (x, y, attribute); "
                f"an .npz as a one-dimensional array of that name."
            )
        batch.with_attribute(cue)  # refuses wrong lengths and regression targets by name
    return batch, wanted


def _host(values: Any) -> Any:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else values


def _as_column(batch: Batch) -> Batch:
    """The batch whose own attribute also stands among its columns, by value name where it has names."""
    assert batch.attribute is not None
    if batch.cue in batch.columns:
        return batch
    ids = batch.attribute.cpu().numpy()
    named = [batch.values[i] for i in ids] if batch.values else ids
    return replace(batch, columns={**batch.columns, batch.cue: named})


def _names_of(attribute: Any, cues: tuple[str, ...]) -> Any:
    """What to ask of held-out rows: their own columns of the same names, or their own attribute."""
    return None if attribute is not None and cues == ("attribute",) else (list(cues) or None)


def _with_edit(batch: Batch, cues: tuple[str, ...], edit: Edit | Mapping[str, Edit] | None) -> Batch:
    if edit is None:
        return batch
    if isinstance(edit, Mapping):
        if len(edit) != 1:
            raise ValueError(
                f"`edit` names {len(edit)} cues; one edit per audit is supported, for the cue you doubt most."
            )
        cue, function = next(iter(edit.items()))
    elif len(cues) == 1:
        cue, function = cues[0], edit
    else:
        raise ValueError(f"`edit` sets one cue, but {len(cues)} are audited; say which: edit={{name: function}}.")
    if cue not in cues:
        raise ValueError(f"`edit` names the cue {cue!r}, which is not audited; cues: {', '.join(cues) or 'none'}.")
    return replace(batch.with_attribute(cue), edit=function)


def _union(first: tuple[str, ...], second: tuple[str, ...]) -> tuple[str, ...]:
    extra = [name for name in second if name not in first]
    if not extra:
        return first
    merged = [*first, *extra]
    numeric = all(name.lstrip("-").isdigit() for name in merged)
    return tuple(sorted(merged, key=int if numeric else str))


def _recoded_values(batch: Batch, values: tuple[str, ...]) -> Batch:
    if batch.values == values or batch.attribute is None:
        return replace(batch, values=values)
    old = batch.values
    place = torch.tensor([values.index(name) for name in old])
    edit = batch.edit
    if edit is not None:
        original = edit

        def edit(x: Tensor, value: int) -> Tensor:
            if values[value] not in old:
                raise ValueError(f"the editor of {batch.cue} knows the values {', '.join(old)}, not {values[value]}.")
            return original(x, old.index(values[value]))

    return replace(batch, attribute=place[batch.attribute.cpu()], values=values, edit=edit)


def _aligned_classes(data: Batch, held: Batch | None, outputs: int) -> tuple[Batch, Batch | None]:
    """Both batches with class ids that are the model's output indices."""
    seen = _union(data.classes, held.classes) if held is not None else data.classes
    if seen and all(name.isdigit() for name in seen) and max(map(int, seen)) < outputs:
        classes = tuple(str(i) for i in range(outputs))  # labels are output indices already
    elif len(seen) == outputs or not seen:
        classes = seen or tuple(str(i) for i in range(outputs))
    else:
        raise ValueError(
            f"the model has {outputs} outputs but the labels have {len(seen)} classes ({', '.join(seen[:6])}{', ...' if len(seen) > 6 else ''}). "
            f"Labels have to be the model's output indices 0 to {outputs - 1}, or as many names as outputs in sorted order."
        )
    return _recoded_classes(data, classes), None if held is None else _recoded_classes(held, classes)


def _recoded_classes(batch: Batch, classes: tuple[str, ...]) -> Batch:
    if not batch.classes or batch.classes == classes:
        return replace(batch, classes=classes)
    place = torch.tensor([classes.index(name) for name in batch.classes])
    return replace(batch, y=place[batch.y.cpu()], classes=classes)
