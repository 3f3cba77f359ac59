"""Retrain the last layer on held-out rows: the core is often in the features already, and only the head leans on the cue.

What a head is fitted to matters more than how: rows with equally many of every group (DFR), of every class, or those on
which an early and the final model disagree (SELF). Whatever the method, the result is again one linear layer.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from firstcue._checks import as_tensor
from firstcue.batch import Batch, as_batch
from firstcue.forward import predict
from firstcue.heads import Head, features_and_outputs, find_head
from firstcue.replacing import with_head
from firstcue.training.balance import Balance, read_rows
from firstcue.training.logistic import Penalty
from firstcue.training.methods import METHODS, Task


@dataclass(frozen=True)
class HeadFit:
    """A new head and how it came about."""

    weight: Float[Tensor, "k d"]
    """float64, for raw features: scaling and projection are folded in."""
    bias: Float[Tensor, " k"]
    method: str
    penalty: Penalty | None
    """None where nothing is penalised."""
    inverse_strength: float | None
    """scikit-learn's C, chosen by worst-group accuracy where several were tried."""
    balanced: Balance
    """What the rows were balanced on."""
    counts: Mapping[str, int]
    """Rows available of each group (or class) that was balanced."""
    rows_per_group: int | None
    """Rows of each group in one fit; None where all rows were used."""
    fits: int
    """Read-outs averaged."""
    note: str
    """What a reader has to be told: absent groups, few rows, solvers that did not converge."""
    seconds: float

    def __call__(self, features: Tensor | np.ndarray) -> Any:
        """Logits `(..., K)` of raw features `(..., d)`."""
        return Head("", self.weight, self.bias)(features)

    @property
    def chosen(self) -> dict[str, Any]:
        """The choices made, as a report shows them."""
        return {"penalty": self.penalty, "C": self.inverse_strength, "balanced": self.balanced, "fits": self.fits}


def retrain_head(
    features: Tensor | np.ndarray,
    y: Any,
    group: Any = None,
    *,
    method: str = "dfr",
    train: tuple[Any, ...] | None = None,
    head: Head | None = None,
    early_outputs: Tensor | np.ndarray | None = None,
    num_groups: int | None = None,
    seed: int = 0,
) -> HeadFit:
    """A new head for penultimate features, from held-out rows.

    - "dfr": l1 logistic regression on group-balanced rows. Its strength is chosen on one half of the rows, as they are, by
      worst-group accuracy of fits to the other half, balanced; then 20 balanced subsets of all rows are fitted and averaged.
    - "dfr-train": the same with 10 balanced subsets of the training rows, and all held-out rows to choose the strength.
    - "class-balanced": as "dfr" with classes for groups; needs no group labels.
    - "self": the head as it is, finetuned on the rows where `early_outputs` and its own disagree most; needs no group labels.
    - "group-balanced": one l2 fit, rows weighted so that groups count alike; a baseline.
    - "erm": one l2 fit to the training rows (or held-out ones) as they are; a baseline.

    With two classes and fits of two million numbers or more, l1 fits are approached together by accelerated proximal steps and
    stopped early: worst-group accuracy settles long before coefficients do. Smaller ones are solved exactly by liblinear.

    With more than two classes, l1 works on at most 128 principal directions of the features; where that is too much work, or
    does not converge, l2 is used, and the note says so. Where a group has no row, or one, classes are balanced instead.

    Args:
        features: `(n, d)` held-out features.
        y: `(n,)` labels; with a `head`, ids in the order of its outputs.
        group: `(n,)` group labels (class by attribute); groups that mix classes are crossed with them.
        method: One of the above.
        train: `(features, y)` or `(features, y, group)` of training rows; their features set the scale.
        head: The present head, which says how many classes there are; needed for "self".
        early_outputs: `(n, K)` logits of an earlier checkpoint on the same rows, for "self".
        num_groups: Number of groups, if `group` holds ids from 0: an absent one is then noticed.
        seed: Of halves, subsets and solvers.

    Raises:
        ValueError: If the method is unknown or lacks what it needs, a class has fewer than two rows, or the input does not fit.

    Source:
        Kirichenko et al. (2022), https://arxiv.org/abs/2204.02937 (DFR); LaBonte et al. (2023),
        https://arxiv.org/abs/2309.08534 (class-balanced, SELF).

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> features, cue = torch.randn(200, 3, generator=generator), torch.arange(200) % 2
        >>> y = (features[:, 0] > 0).long()
        >>> fit = retrain_head(features, y, 2 * y + cue)
        >>> fit.balanced, fit.fits, bool((fit(features).argmax(1) == y).float().mean() > 0.95)
        ('group', 20, True)
    """
    from threadpoolctl import threadpool_limits

    began = time.perf_counter()
    if method not in METHODS:
        raise ValueError(f"there is no method {method!r}; methods: {', '.join(METHODS)}.")
    held, known, num_classes, names = read_rows(
        features, y, group, train, None if head is None else len(head.bias), num_groups
    )
    outputs = None if head is None else head(torch.from_numpy(held.x))
    early = None if early_outputs is None else as_tensor(early_outputs, "early_outputs").to(torch.from_numpy(held.x))
    with threadpool_limits(limits=1):  # many small fits: threads would wait for each other more than they compute
        found = METHODS[method](Task(held, known, num_classes, names, outputs, early, head, seed))
    counts = torch.bincount(found.ids, minlength=len(found.cells.names)).tolist()
    return HeadFit(
        weight=torch.from_numpy(np.ascontiguousarray(found.readout.weight)),
        bias=torch.from_numpy(np.ascontiguousarray(found.readout.bias)),
        method=method,
        penalty=found.penalty,
        inverse_strength=found.inverse_strength,
        balanced=found.cells.kind,
        counts=dict(zip(found.cells.names, counts, strict=True)),
        rows_per_group=found.rows_per_group,
        fits=found.fits,
        note="; ".join(filter(None, (found.cells.note, *found.notes))),
        seconds=time.perf_counter() - began,
    )


def fit_head(
    model: nn.Module,
    held_out: Any,
    method: str = "dfr",
    *,
    train: Any = None,
    early: nn.Module | None = None,
    seed: int = 0,
    batch_size: int = 512,
) -> tuple[Head, HeadFit]:
    """The model's head and the one that `retrain_head` would put in its place; arguments as for `retrain_last_layer`."""
    held = as_batch(held_out, name="held_out")
    known = None if train is None else _alike(as_batch(train, name="train"), held)
    head = find_head(model, held.x)
    features, _ = features_and_outputs(model, held.x, batch_size=batch_size, head=head)
    width = max(batch.num_values for batch in (held, known) if batch is not None)
    rows = None
    if known is not None:
        trained, _ = features_and_outputs(model, known.x, batch_size=batch_size, head=head)
        rows = (trained, known.y, _groups(known, width))
    fit = retrain_head(
        features,
        held.y,
        _groups(held, width),
        method=method,
        train=rows,
        head=head,
        early_outputs=None if early is None else predict(early, held.x, batch_size=batch_size),
        num_groups=None if held.attribute is None else len(head.bias) * width,
        seed=seed,
    )
    return head, fit


def retrain_last_layer(
    model: nn.Module,
    held_out: Any,
    method: str = "dfr",
    *,
    train: Any = None,
    early: nn.Module | None = None,
    seed: int = 0,
    batch_size: int = 512,
) -> nn.Module:
    """A repaired copy of the model: the same body under a head that was fitted to held-out rows.

    Args:
        model: A classifier with a linear head; it is left as found.
        held_out: Rows it was not trained on: a `Batch`, `(x, y)`, `(x, y, attribute)` or an iterable of those. Class ids are
            in the order of the model's outputs. Groups are class by attribute, or class by `group` of a batch.
        method: See `retrain_head`.
        train: Training rows in the same forms; they set the scale of features ("dfr"), or are what is balanced
            ("dfr-train").
        early: An earlier checkpoint of the model, for "self".
        seed: Of halves, subsets and solvers.
        batch_size: Rows per call of the model.

    Returns:
        An ordinary module whose `state_dict` has the model's keys; `fit_head` tells how its head came about.

    Raises:
        ValueError: As `retrain_head` and `find_head`; also if the model uses its head in more than one place.

    Source:
        Kirichenko et al. (2022), https://arxiv.org/abs/2204.02937; LaBonte et al. (2023),
        https://arxiv.org/abs/2309.08534.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> x, background = torch.randn(200, 3, generator=generator), torch.arange(200) % 2
        >>> held_out = Batch(x, (x[:, 0] > 0).long(), attribute=background)
        >>> repaired = retrain_last_layer(torch.nn.Linear(3, 2), held_out)
        >>> bool((repaired(x).argmax(1) == held_out.y).float().mean() > 0.95)
        True
    """
    held = as_batch(held_out, name="held_out")
    head, fit = fit_head(model, held, method, train=train, early=early, seed=seed, batch_size=batch_size)
    repaired = with_head(model, head.name, fit.weight, fit.bias)
    some = held.x[:batch_size]
    features, _ = features_and_outputs(model, some, head=head)
    expected, found = fit(features.double()), predict(repaired, some).double()
    if len(expected.mT) == 2:  # a model of one output only holds the difference
        expected, found = expected.diff(dim=1), found.diff(dim=1)
    if float((expected - found).abs().max()) > 1e-2 * float(expected.abs().max().clamp(min=1e-6)):
        raise ValueError(
            f"the model with its head {head.name!r} replaced does not give the outputs of the new head; is that layer used "
            f"in a second place? Let the model have a head of its own."
        )
    return repaired


def _groups(batch: Batch, num_values: int) -> Tensor | None:
    """Class by attribute, numbered alike in all batches; else the batch's own groups, if it has any."""
    return batch.group if batch.attribute is None else batch.y * num_values + batch.attribute


def _alike(train: Batch, held: Batch) -> Batch:
    """Training rows whose attribute ids mean what they mean in `held`; values found only there get new ids."""
    if train.classes and held.classes and train.classes != held.classes:
        raise ValueError(
            f"`train` has the classes {', '.join(train.classes)} but `held_out` has {', '.join(held.classes)}; ids would "
            f"not mean the same. Give both as a Batch with ids in the order of the model's outputs."
        )
    if train.attribute is None or train.values == held.values or not held.values:
        return train
    ids = {name: i for i, name in enumerate(dict.fromkeys((*held.values, *train.values)))}
    new = torch.tensor([ids[name] for name in train.values], device=train.attribute.device)
    return replace(train, attribute=new[train.attribute], values=tuple(ids))
