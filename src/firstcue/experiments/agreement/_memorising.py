"""One training on spirals with signatures, and its accuracies where the signatures help and where they do not."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from firstcue.agreement.penalties import irm
from firstcue.batch import Batch
from firstcue.experiments.agreement._masked_mlp import (
    MaskedMlp,
    MaskSettings,
    decayed,
    perceptron,
    steps_of_environments,
)
from firstcue.experiments.agreement._spirals import HELD_OUT_SEED, PRESETS, Preset, spirals, spirals_for_testing
from firstcue.forward import seeded

HELD_OUT = (128, 32)
"""Environments for choosing settings, and rows of each: new signatures, and too few rows to matter one by one."""

COMMON: dict[str, Any] = {
    "preset": "paper",
    "std": None,
    "environments": None,
    "rows": None,
    "threshold": 1.0,
    "scale": "tensor",
    "l2": 1e-4,
    "l1": 0.0,
    "rate": 1e-2,
    "batch_size": 128,
    "epochs": 93,
    "hidden": 256,
    "layers": 3,
    "decay": [0.5, 0.75],
    "dropout": 0.0,
    "batch_norm": False,
    "irm": 0.0,
}
"""The paper's settings for its best AND-mask: 93 = 3000 // 32 epochs, a tenth of the learning rate at 1/2 and at 3/4."""


def memorise(settings: Mapping[str, Any], seed: int, curve: int = 24) -> list[dict[str, Any]]:
    """Rows of accuracies over training, about `curve` of them; the last has `end` set."""
    s = {**COMMON, **settings}
    preset = preset_of(s)
    train, test = spirals(preset, seed=seed), spirals_for_testing(preset)
    count, size = HELD_OUT
    held_out = spirals(replace(preset, rows=size), seed=seed, first=HELD_OUT_SEED, environments=count)
    width = 2 + preset.signature
    model = perceptron(width, s["hidden"], s["layers"], seed, dropout=s["dropout"], batch_norm=s["batch_norm"])
    rows, kept = [], []
    with seeded(seed):
        for epoch, share in _epochs(model, train, preset, s, seed):
            kept.append(share)
            end = epoch == s["epochs"]
            if end or epoch % max(1, s["epochs"] // curve) == 0:
                parts = {"train": train, "test": test, "held_out": held_out}
                accuracies = {name: accuracy(model, batch) for name, batch in parts.items()}
                rows.append({"epoch": epoch, "end": end, **accuracies, "kept": sum(kept) / len(kept)})
                kept = []
    return rows


def preset_of(settings: Mapping[str, Any]) -> Preset:
    """The sizes of the data, of which settings may replace some."""
    named = {"std": "std", "environments": "environments", "rows": "rows"}
    changed = {field: settings[name] for name, field in named.items() if settings.get(name) is not None}
    return replace(PRESETS[settings["preset"]], **changed)


@torch.no_grad()
def accuracy(model: nn.Module, batch: Batch) -> float:
    """Share of rows on the right side, in evaluation mode."""
    model.eval()
    right = (model(batch.x)[:, 0] > 0).long() == batch.y
    model.train()
    return float(right.float().mean())


def _epochs(
    model: nn.Sequential, train: Batch, preset: Preset, s: Mapping[str, Any], seed: int
) -> Iterator[tuple[int, float]]:
    """After each epoch its number, from 1, and the share of components that the mask kept on average."""
    optimizer = torch.optim.Adam(model.parameters(), lr=s["rate"], weight_decay=s["l2"])
    masked = MaskedMlp(model, MaskSettings(s["threshold"], s["scale"], s["l1"]))
    plain = s["dropout"] or s["batch_norm"] or s["irm"]
    penalty = irm(s["irm"]) if s["irm"] else None
    rate, y = decayed(s["rate"], s["epochs"], tuple(s["decay"])), train.y.float()
    steps = steps_of_environments(preset.rows, preset.environments, s["batch_size"], s["epochs"], seed)
    kept: list[float] = []
    before = 0
    for epoch, rows in steps:
        if epoch > before:
            yield epoch, sum(kept) / len(kept)
            before, kept = epoch, []
        for group in optimizer.param_groups:
            group["lr"] = rate(epoch)
        if plain:
            _backward(model, train.x[rows], y[rows], train.group[rows], penalty, optimizer)  # type: ignore[index]
        else:
            masked.backward(train.x[rows], y[rows], preset.environments)
        kept.append(1.0 if plain else masked.kept / masked.size)
        optimizer.step()
    yield s["epochs"], sum(kept) / len(kept)


def _backward(
    model: nn.Module, x: Tensor, y: Tensor, group: Tensor, penalty: Any, optimizer: torch.optim.Optimizer
) -> None:
    """The gradient of ordinary training, or of invariant risk minimisation."""
    optimizer.zero_grad(set_to_none=True)
    outputs = model(x)[:, 0]
    losses = binary_cross_entropy_with_logits(outputs, y, reduction="none")
    objective = losses.mean() if penalty is None else penalty(losses, outputs, Batch(x, y, group))
    objective.backward()
