"""Retraining the last layer drops the shortcut at once, because the core is in the hidden layer before it is used."""

from typing import Any

import torch

from firstcue.experiments.claims import Claim, Scale, judged
from firstcue.experiments.spurious._lab import (
    CLAIMED,
    HARDER,
    TRAINING,
    cells_of,
    in_lines,
    independent_rows,
    matching,
    mean,
    named,
    run_of,
    signs,
    values_of,
    where,
)
from firstcue.spurious.batched import BooleanRun, train_boolean
from firstcue.spurious.batched_metrics import Snapshot, used
from firstcue.spurious.metrics import group_metrics
from firstcue.sweeps import Trial

TITLE = "Retraining the last layer suffices once the core can be decoded"
SOURCE = "arXiv 2403.03375"
VERSION = 1
EASY = ["parity 4", "parity 1", 0.95, 4]
SCALES = {
    "tiny": Scale(
        minutes=0.2,
        settings=TRAINING | {"cells": [CLAIMED], "at": [0, 1000], "rows": 2000, "method": "group-balanced"},
    ),
    "small": Scale(
        minutes=30,
        settings=TRAINING
        | {
            "cells": [EASY, CLAIMED, HARDER],
            "at": [0, 500, 1000, 2000, 4000],
            "rows": 4000,
            "method": "dfr",
        },
    ),
    "paper": Scale(
        minutes=60,
        settings=TRAINING
        | {
            "cells": [EASY, CLAIMED, HARDER, ["parity 5", "parity 3", 0.95, 4]],
            "at": [0, 125, 250, 500, 1000, 2000, 4000, 8000],
            "rows": 10_000,
            "method": "dfr",
        },
    ),
}
SEEDS = 10
CLAIMED_AT = 1000
"""Step at which the network of `CLAIMED` is to use nothing of the core and yet to hold it."""


def trials(scale: str, seeds: int) -> list[Trial]:
    """One for each seed."""
    return [Trial("spurious/last-layer", SCALES[scale].settings, seed) for seed in range(seeds)]


def run(trial: Trial) -> list[dict[str, Any]]:
    """Accuracies of the network and of its retrained copy at several steps; new rows for the new head, and for measuring."""
    s = trial.settings
    runs = [run_of(cell, trial.seed) for cell in s["cells"]]
    kept: dict[tuple[int, int], torch.nn.Sequential] = {}

    def keep(snapshot: Snapshot) -> dict[str, torch.Tensor]:
        kept.update({(snapshot.step, i): snapshot.networks.module(i) for i in range(len(runs))})
        return {}

    train_boolean(
        runs,
        max(s["at"]),
        width=s["width"],
        rate=s["rate"],
        batch_size=s["batch_size"],
        at=s["at"],
        measures=[used, keep],
    )
    return [
        named(cell) | {"step": step} | _repaired(kept[step, i], runs[i], s["rows"], s["method"], trial.seed)
        for i, cell in enumerate(s["cells"])
        for step in s["at"]
    ]


def _repaired(model: torch.nn.Sequential, run: BooleanRun, rows: int, method: str, seed: int) -> dict[str, Any]:
    from firstcue.training.retrain import retrain_last_layer

    batch = independent_rows(run, 3 * rows)
    held_out, test = batch.rows(slice(0, rows)), batch.rows(slice(rows, None))
    new = retrain_last_layer(model, held_out, method, seed=seed)
    found: dict[str, Any] = {}
    for name, net in (("before", model), ("after", new)):
        guess = signs(net, test.x)
        worst = group_metrics(test.y, guess, test.groups()).worst_group
        found[f"worst_{name}"] = None if worst is None else worst.accuracy
        found[f"core_{name}"] = 2 * float((guess == test.y).double().mean()) - 1
        found[f"cue_{name}"] = 2 * float((guess == test.groups() % 2).double().mean()) - 1
    return found


def claims(rows: list[dict[str, Any]]) -> list[Claim]:
    """What a new last layer gains, on trained and on untrained features."""
    steps = sorted({row["step"] for row in rows})
    made = []
    for cell in cells_of(rows):
        # where the network still fails its worst group and its features have had the most time
        step = max(s for s in steps if s == steps[0] or mean(values_of(rows, "worst_before", step=s, **cell)) < 0.5)
        before, after = (values_of(rows, name, step=step, **cell) for name in ("worst_before", "worst_after"))
        untrained = values_of(rows, "worst_after", step=steps[0], **cell)
        made += [
            judged(
                f"Retraining the last layer raises worst-group accuracy ({where(cell)}, step {step})",
                [b - a for a, b in zip(before, after, strict=True)],
                published="retraining the last layer removes the spurious correlation",
                unit="worst-group accuracy after minus before",
                note=f"Before {mean(before):.2f}, after {mean(after):.2f}. The head is fitted to new rows in which label "
                f"and shortcut are independent.",
            ),
            judged(
                f"Trained features serve a new last layer better than untrained ones ({where(cell)}, step {step})",
                [b - a for a, b in zip(untrained, after, strict=True)],
                published="the core is learned in the representation",
                unit="difference of worst-group accuracies",
                note=f"With untrained features {mean(untrained):.2f}.",
            ),
        ]
        if cell == named(CLAIMED) and CLAIMED_AT in steps:
            made += _at_the_step(rows, cell)
    return made


def _at_the_step(rows: list[dict[str, Any]], cell: dict[str, Any]) -> list[Claim]:
    before, after = (values_of(rows, name, step=CLAIMED_AT, **cell) for name in ("worst_before", "worst_after"))
    return [
        judged(
            f"The network serves its worst group not at all ({where(cell)}, step {CLAIMED_AT})",
            [0.1 - v for v in before],
            published="no number known",
            unit="0.1 minus worst-group accuracy",
        ),
        judged(
            f"With a new last layer it serves all groups ({where(cell)}, step {CLAIMED_AT})",
            [v - 0.95 for v in after],
            published="no number known",
            unit="worst-group accuracy minus 0.95",
        ),
    ]


def figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Worst-group accuracy before and after, over steps."""
    from matplotlib.figure import Figure

    cells = cells_of(rows)
    figure = Figure(figsize=(3.2 * len(cells), 3.2), layout="constrained")
    for axes, cell in zip(figure.subplots(1, len(cells), squeeze=False, sharey=True)[0], cells, strict=True):
        for seed in sorted({row["seed"] for row in rows}):
            own = matching(rows, seed=seed, **cell)
            for name, style in (("worst_before", "C3o-"), ("worst_after", "C0o-")):
                label = name.replace("worst_", "") if seed == rows[0]["seed"] else None
                axes.plot([r["step"] + 1 for r in own], [r[name] for r in own], style, lw=0.8, ms=3, label=label)
        axes.set(xscale="log", xlabel="step + 1")
        axes.set_title(in_lines(cell), fontsize=9)
    figure.axes[0].set_ylabel("worst-group accuracy")
    figure.axes[0].legend(frameon=False)
    return {"worst-group": figure}
