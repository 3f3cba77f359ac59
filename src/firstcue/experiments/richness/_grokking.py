"""Addition modulo a prime: data, a full or mini-batch training loop that is measured on the way, and claims about it."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss, one_hot

from firstcue.batch import Batch
from firstcue.experiments.claims import Claim, judged
from firstcue.forward import predict
from firstcue.heads import features_and_outputs, find_head
from firstcue.richness.low_rank import low_rank_measure
from firstcue.richness.similarity import cka
from firstcue.training.loop import minibatches, train
from firstcue.training.recorder import Measure, Recorder, Step

MEMORISED, GROKKED = 0.9, 0.95
"""Accuracy on training pairs, and on held-out pairs, from which one speaks of memorising and of generalising."""


def sums(prime: int, share: float, seed: int) -> tuple[Batch, Batch]:
    """All pairs (a, b) with a + b mod prime, split at random.

    Args:
        prime: Number of residues.
        share: Fraction of the pairs to train on.
        seed: Of the split.

    Returns:
        Training and held-out pairs, x `(n, 2)` int64.
    """
    a, b = torch.meshgrid(torch.arange(prime), torch.arange(prime), indexing="ij")
    x = torch.stack([a.flatten(), b.flatten()], dim=1)
    whole = Batch(x, x.sum(dim=1) % prime, classes=tuple(str(i) for i in range(prime)))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    cut = round(share * len(x))
    return whole.rows(order[:cut]), whole.rows(order[cut:])


def grokked(
    model: nn.Module,
    rows: Batch,
    test: Batch,
    *,
    steps: int,
    every: int,
    rate: float,
    batch_size: int,
    loss: str,
    seed: int,
) -> list[dict[str, Any]]:
    """Train with AdamW (weight decay 1, betas 0.9 and 0.98) and return what was measured every so many steps."""
    recorder = Recorder([_progress(rows, test, model)], every=every)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=1.0, betas=(0.9, 0.98))
    objective: Callable[..., Tensor] = cross_entropy
    if loss == "mse":

        def objective(outputs: Tensor, y: Tensor) -> Tensor:
            return mse_loss(outputs, one_hot(y, outputs.shape[1]).to(outputs))

    per_pass = -(-len(rows) // batch_size)
    batches = minibatches(rows, batch_size, -(-steps // per_pass), seed=seed)
    taken = (batch for _, batch in zip(range(steps), batches, strict=False))
    train(model, taken, optimizer, loss=objective, recorders=[recorder], seed=seed)
    return recorder.rows


def _progress(rows: Batch, test: Batch, model: nn.Module) -> Measure:
    start = copy.deepcopy(model)
    before = features_and_outputs(start, rows.x)[0]

    def measure(step: Step) -> Mapping[str, float]:
        features, outputs = features_and_outputs(step.model, rows.x)
        found = low_rank_measure(features, outputs)
        return {
            "train_accuracy": _accuracy(outputs, rows),
            "test_accuracy": _accuracy(predict(step.model, test.x), test),
            "dlr": found.dlr,
            "used": found.used,
            "participation_ratio": found.participation_ratio,
            "rank": found.rank,
            "feature_change": 1 - cka(features, before),
            "head_norm": float(find_head(step.model, rows.x).weight.norm()),
        }

    return measure


def _accuracy(outputs: Tensor, rows: Batch) -> float:
    return float((outputs.argmax(dim=1) == rows.y).double().mean())


def grokking_claims(rows: Sequence[Mapping[str, Any]], published: str) -> list[Claim]:
    """That D_LR falls between memorising and generalising, that it falls first, and that variance is then used."""
    runs = _by_seed(rows)
    drops = [_gap(run, "dlr") for run in runs]
    gains = [-_gap(run, "used") for run in runs]
    leads = [_lead(run) for run in runs]
    done = sum(_when(run, "test_accuracy", GROKKED) is not None for run in runs)
    note = f"{done} of {len(runs)} seeds generalised; the others count as no number."
    return [
        judged(
            "D_LR falls from when training pairs are memorised to when held-out pairs are right", drops,
            published=published, unit="difference of D_LR", note=note,
        ),
        judged(
            "Half of the fall is done before half of the held-out pairs are right", leads,
            published="D_LR falls with grokking", unit="steps by which the fall leads", note=note,
        ),
        judged(
            "The share of variance that the head uses rises meanwhile", gains,
            published="not stated", unit="difference of used variance", note=note,
        ),
    ]  # fmt: skip


def grokking_figure(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Accuracies, D_LR, used variance and PR / rank over training, one thin line per seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 3.5))
    axes = figure.subplots()
    colours = {
        "train_accuracy": "0.7",
        "test_accuracy": "black",
        "dlr": "tab:red",
        "used": "tab:blue",
        "isotropy": "tab:green",
    }
    for run in _by_seed(rows):
        shown = [{**row, "isotropy": (row["participation_ratio"] or 0) / (row["rank"] or 1)} for row in run]
        for name, colour in colours.items():
            label = name.replace("_", " ") if run[0]["seed"] == rows[0]["seed"] else None
            axes.plot([r["step"] for r in shown], [r[name] for r in shown], color=colour, lw=1, label=label)
    axes.set(xlabel="step", ylim=(0, 1.05))
    axes.legend(frameon=False, fontsize=8)
    return figure


def _by_seed(rows: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    seeds = sorted({row["seed"] for row in rows})
    return [sorted((row for row in rows if row["seed"] == seed), key=lambda row: row["step"]) for seed in seeds]


def _when(run: Sequence[Mapping[str, Any]], name: str, threshold: float) -> Mapping[str, Any] | None:
    """The first row at which a number reaches a threshold."""
    return next((row for row in run if row[name] is not None and row[name] >= threshold), None)


def _gap(run: Sequence[Mapping[str, Any]], name: str) -> float:
    """The number when memorised minus the number when generalised."""
    before, after = _when(run, "train_accuracy", MEMORISED), _when(run, "test_accuracy", GROKKED)
    if before is None or after is None or before[name] is None or after[name] is None:
        return float("nan")
    return before[name] - after[name]


def _lead(run: Sequence[Mapping[str, Any]]) -> float:
    """Steps from half of the fall of D_LR (from memorising to its least) to half of the held-out pairs right."""
    before, half = _when(run, "train_accuracy", MEMORISED), _when(run, "test_accuracy", 0.5)
    later = [row for row in run if before is not None and row["step"] >= before["step"] and row["dlr"] is not None]
    if before is None or half is None or not later or before["dlr"] is None:
        return float("nan")
    middle = (before["dlr"] + min(row["dlr"] for row in later)) / 2
    fallen = next(row for row in later if row["dlr"] <= middle)
    return float(half["step"] - fallen["step"])
