"""One training on spirals with signatures, and its accuracies where the signatures help and where they do not."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from firstcue.agreement.apply import apply_rule
from firstcue.agreement.penalties import irm
from firstcue.agreement.rules import and_mask
from firstcue.batch import Batch
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
    """Rows of accuracies over training, about `curve` of them; the last has `end` set.

    Args:
        settings: What differs from `COMMON`.
        seed: Of data, initial weights and the order of rows.
        curve: Rows wanted.
    """
    s = {**COMMON, **settings}
    preset = preset_of(s)
    train, test = spirals(preset, seed=seed), spirals_for_testing(preset)
    count, size = HELD_OUT
    held_out = spirals(replace(preset, rows=size), seed=seed, first=HELD_OUT_SEED, environments=count)
    parts = {"train": train, "test": test, "held_out": held_out}
    rows, kept = [], []
    with seeded(seed):
        model = perceptron(2 + preset.signature, s, seed)
        for epoch, share in epochs_of(model, train, preset, s, seed):
            kept.append(share)
            if epoch == s["epochs"] or epoch % max(1, s["epochs"] // curve) == 0:
                accuracies = {name: accuracy(model, batch) for name, batch in parts.items()}
                rows.append({"epoch": epoch, "end": False, **accuracies, "kept": sum(kept) / len(kept)})
                kept = []
    rows[-1]["end"] = True
    return rows


def preset_of(settings: Mapping[str, Any]) -> Preset:
    """The sizes of the data, of which settings may replace some."""
    changed = {name: settings[name] for name in ("std", "environments", "rows") if settings.get(name) is not None}
    return replace(PRESETS[settings["preset"]], **changed)


def perceptron(inputs: int, s: Mapping[str, Any], seed: int) -> nn.Sequential:
    """Hidden layers with leaky rectifiers and one output; He's initialisation, biases 0.01, as in the authors' code."""
    generator = torch.Generator().manual_seed(seed)
    parts: list[nn.Module] = []
    for fan_in, fan_out in pairwise([inputs, *[s["hidden"]] * s["layers"]]):
        parts += [_linear(fan_in, fan_out, generator)]
        parts += [nn.BatchNorm1d(fan_out)] if s["batch_norm"] else []
        parts += [nn.LeakyReLU()]
        parts += [nn.Dropout(s["dropout"])] if s["dropout"] else []
    return nn.Sequential(*parts, _linear(s["hidden"], 1, generator))


@torch.no_grad()
def accuracy(model: nn.Module, batch: Batch) -> float:
    """Share of rows on the right side, in evaluation mode."""
    model.eval()
    right = (model(batch.x)[:, 0] > 0).long() == batch.y
    model.train()
    return float(right.double().mean())


def loss(outputs: Tensor, y: Tensor) -> Tensor:
    """Binary cross-entropy of one logit."""
    return binary_cross_entropy_with_logits(outputs[:, 0], y.to(outputs.dtype))


def epochs_of(
    model: nn.Sequential, train: Batch, preset: Preset, s: Mapping[str, Any], seed: int
) -> Iterator[tuple[int, float]]:
    """Train; after each epoch its number, from 1, and the share of components that moved on average."""
    optimizer = torch.optim.Adam(model.parameters(), lr=s["rate"], weight_decay=s["l2"])
    gradient = _gradient(model, s)
    steps_of_epoch = preset.rows // s["batch_size"]
    order = torch.Generator().manual_seed(seed)
    for epoch in range(s["epochs"]):
        for group in optimizer.param_groups:
            group["lr"] = s["rate"] * 0.1 ** sum(epoch >= int(share * s["epochs"]) for share in s["decay"])
        each = torch.stack(
            [torch.randperm(preset.rows, generator=order) + e * preset.rows for e in range(preset.environments)]
        )
        kept = 0.0
        for rows in each[:, : steps_of_epoch * s["batch_size"]].split(s["batch_size"], dim=1):
            kept += gradient(train.rows(rows.flatten()))
            optimizer.step()
        yield epoch + 1, kept / steps_of_epoch


def _gradient(model: nn.Module, s: Mapping[str, Any]) -> Callable[[Batch], float]:
    """Writes `.grad` for a batch and returns the share of components that are not masked."""
    parameters = list(model.parameters())
    size = sum(p.numel() for p in parameters)
    rule = partial(and_mask, threshold=s["threshold"], scale=s["scale"])
    penalty = irm(s["irm"]) if s["irm"] else None

    def masked(batch: Batch) -> float:
        apply_rule(model, rule, loss, batch)
        kept = sum(int(torch.count_nonzero(p.grad)) for p in parameters if p.grad is not None)
        return kept / size

    def plain(batch: Batch) -> float:
        model.zero_grad(set_to_none=True)
        outputs = model(batch.x)
        if penalty is None:
            loss(outputs, batch.y).backward()
        else:
            y = batch.y.to(outputs.dtype)
            losses = binary_cross_entropy_with_logits(outputs[:, 0], y, reduction="none")
            penalty(losses, outputs, batch).backward()
        return 1.0

    inner = masked if s["threshold"] > 0 else plain

    def with_l1(batch: Batch) -> float:
        kept = inner(batch)
        for p in parameters if s["l1"] else []:
            p.grad.add_(p.detach().sign(), alpha=s["l1"])  # type: ignore[union-attr]
        return kept

    return with_l1


def _linear(fan_in: int, fan_out: int, generator: torch.Generator) -> nn.Linear:
    layer = nn.Linear(fan_in, fan_out)
    with torch.no_grad():
        layer.weight.normal_(0.0, math.sqrt(2 / fan_in), generator=generator)
        layer.bias.fill_(0.01)
    return layer
