"""Did an edit write the label into the data? A strong probe before and after tells.

An eraser that is a function of x alone cannot add information about the label. One that looks at the label can: class
means and covariances agree, and trees still read the class, sometimes better than before, from what the edit left behind.
"""

import warnings
from typing import Any

import torch
from torch import Tensor

from firstcue._checks import encode_labels, require_finite, require_rows
from firstcue._rows import feature_rows
from firstcue.probes.split import Split, balanced_accuracy, drawn, stratified
from firstcue.probes.strong import MAX_DIRECTIONS, MAX_ROWS, strong_answers

MARGIN = 0.02
"""Rise in accuracy that an edit may cause by making what was there before easier to read."""


def injection(x: Any, erased: Any, z: Any, *, seed: int = 0) -> dict[str, Any]:
    """Accuracy of a strong probe of `z` on rows before and after an edit, and whether it rose beyond chance.

    Both are measured on the same rows and folds (at most 5,000 rows, 64 directions), so that the rise is judged row by row.

    Args:
        x: `(n, d)` rows before the edit.
        erased: `(n, d)` the same rows after it.
        z: `(n,)` the concept's labels, of any kind.
        seed: Of rows, folds and trees.

    Returns:
        `strong_before` and `strong_after`, held-out balanced accuracies; `before_low`, `before_high`, `after_low`,
        `after_high`, their 95 % intervals; `rise` with `rise_low`, `rise_high`, their difference with its interval;
        `injected`, whether that interval lies above 0.02, in which case a warning is given as well; `n`, rows read. NaN
        and False where fewer than two classes have two rows.

    Raises:
        ValueError: If lengths differ or a value is not finite.

    Source:
        EleutherAI (2023), Oracle LEACE, https://blog.eleuther.ai/oracle-leace/; Quirke and Belrose (2025),
        https://arxiv.org/abs/2502.02820.

    Example:
        >>> x = torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
        >>> z = x[:, 0] > 0
        >>> injection(x, torch.zeros_like(x), z)["injected"]  # nothing is left to read
        False
    """
    before, after = feature_rows(x), feature_rows(erased, "erased")
    ids, names = encode_labels(z, "z")
    require_rows(before, after, y_name="erased")
    require_rows(before, ids, y_name="z")
    ids = ids.cpu()
    some = drawn(ids, MAX_ROWS, seed)
    before, after = before[some.to(before.device)], after[some.to(after.device)]
    require_finite(before)
    require_finite(after, "erased")
    split = stratified(ids[some], names, 2, seed)
    found = _compared(before, after, split, seed) if split.usable else _nothing()
    if found["injected"]:
        warnings.warn(
            f"the edit wrote the label into the data: a strong probe reads it with {found['strong_after']:.1%} afterwards, "
            f"{found['strong_before']:.1%} before. Do not train a flexible model on these rows; `leace` needs no labels at use "
            f"and cannot do this.",
            stacklevel=2,
        )
    return found


def _compared(before: Tensor, after: Tensor, split: Split, seed: int) -> dict[str, Any]:
    answers = [strong_answers(table, split, seed, MAX_DIRECTIONS)[0] for table in (before, after)]
    (was, was_low, was_high, n), (now, now_low, now_high, _) = (balanced_accuracy(a, split) for a in answers)
    low, high = _rise(answers[0], answers[1], split)
    return {
        "strong_before": was,
        "before_low": was_low,
        "before_high": was_high,
        "strong_after": now,
        "after_low": now_low,
        "after_high": now_high,
        "rise": now - was,
        "rise_low": low,
        "rise_high": high,
        "injected": low > MARGIN,
        "n": n,
    }


def _rise(before: Tensor, after: Tensor, split: Split) -> tuple[float, float]:
    """95 % interval of the rise in balanced accuracy, from the rows on which the two probes differ.

    Within a class the rise is the share of rows won less that of rows lost; half a row is added to each.
    """
    read = before >= 0
    won, lost = read & (after == split.ids) & (before != split.ids), read & (before == split.ids) & (after != split.ids)
    k = len(split.names)
    rows, ups, downs = (torch.bincount(split.ids[some], minlength=k).double() for some in (read, won, lost))
    rows, ups, downs = rows[rows > 0], ups[rows > 0], downs[rows > 0]
    up, down = (ups + 0.5) / (rows + 1), (downs + 0.5) / (rows + 1)
    crossed = len(split.fold[read].unique())
    widen = 1 + crossed / (crossed - 1) if crossed > 1 else 1.0
    half = 1.96 * float((widen * (up + down - (up - down).square()) / (rows + 1)).sum().sqrt()) / len(rows)
    centre = float((up - down).mean())
    return centre - half, centre + half


def _nothing() -> dict[str, Any]:
    nan = float("nan")
    numbers = ("strong_before", "before_low", "before_high", "strong_after", "after_low", "after_high")
    return dict.fromkeys((*numbers, "rise", "rise_low", "rise_high"), nan) | {"injected": False, "n": 0}
