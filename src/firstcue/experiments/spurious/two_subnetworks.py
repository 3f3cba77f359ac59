"""Core and shortcut end up in neurons of their own: one set can be read, or silenced, without the other."""

from typing import Any

import torch

from firstcue.experiments.claims import Claim, Scale, judged
from firstcue.experiments.spurious._lab import (
    CLAIMED,
    TO_THE_END,
    TRAINING,
    cells_of,
    hidden_layer,
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
from firstcue.spurious.batched_metrics import divided, used
from firstcue.spurious.boolean import boolean_layout
from firstcue.spurious.decode import decode
from firstcue.spurious.subnetworks import subnetworks, without_neurons
from firstcue.sweeps import Trial

TITLE = "Two distinct subnetworks form, one for the core and one for the shortcut"
SOURCE = "arXiv 2403.03375"
VERSION = 1
SCALES = {
    "tiny": Scale(minutes=0.5, settings=TRAINING | {"cells": [CLAIMED], "steps": 6000, "rows": 1500}),
    **TO_THE_END,
}
SEEDS = 10
PUBLISHED = "two distinct subnetworks are formed"


def trials(scale: str, seeds: int) -> list[Trial]:
    """One for each seed."""
    return [Trial("spurious/two-subnetworks", SCALES[scale].settings, seed) for seed in range(seeds)]


def run(trial: Trial) -> list[dict[str, Any]]:
    """How apart neurons are over training; and at the end, what each set can tell and what is left without one."""
    s = trial.settings
    runs = [run_of(cell, trial.seed) for cell in s["cells"]]
    found = train_boolean(
        runs, s["steps"], width=s["width"], rate=s["rate"], batch_size=s["batch_size"], measures=[used, divided]
    )
    rows = []
    for i, cell in enumerate(map(named, s["cells"])):
        curve = [{"kind": "curve", **cell, **row} for row in found.rows if row["run"] == i]
        end = {name: value for name, value in curve[-1].items() if name != "kind"}
        rows += [*curve, {"kind": "end", **end, **_taken_apart(found.module(i), runs[i], s["rows"])}]
    return rows


def _taken_apart(model: torch.nn.Sequential, run: BooleanRun, rows: int) -> dict[str, Any]:
    parts = subnetworks(model, boolean_layout(run.core, run.spurious, run.noise))
    batch = independent_rows(run, rows)
    hidden = hidden_layer(model, batch.x)
    found: dict[str, Any] = {"core_neurons": len(parts.core_neurons), "spurious_neurons": len(parts.spurious_neurons)}
    for name, neurons in (("core", parts.core_neurons), ("spurious", parts.spurious_neurons)):
        read = decode(hidden[:, neurons], batch, permutations=1) if len(neurons) else None
        found[f"core_from_{name}_set"] = None if read is None else read.core_correlation
        found[f"cue_from_{name}_set"] = None if read is None else read.spurious_correlation
        right = signs(without_neurons(model, neurons), batch.x) == batch.y
        found[f"core_without_{name}_set"] = 2 * float(right.double().mean()) - 1
    return found


def claims(rows: list[dict[str, Any]]) -> list[Claim]:
    """Whether neurons divide between core and shortcut, and the network can do without the latter."""
    ends = [row for row in rows if row["kind"] == "end"]
    made = []
    for cell in cells_of(ends):
        learned = min(values_of(ends, "core_correlation", **cell))
        start = values_of(rows, "weight_correlation", kind="curve", step=0, **cell)
        note = (
            f"Core correlation of the networks at least {learned:.2f}. Before training the correlation is "
            f"{mean(start):.2f} in the mean."
        )
        made += [
            judged(
                f"Neurons strong for one function are weak for the other ({where(cell)})",
                [-0.3 - v for v in values_of(ends, "weight_correlation", **cell)],
                unit="-0.3 minus the correlation of weights over the 32 most important neurons",
                note=note,
                published=PUBLISHED,
            ),
            judged(
                f"The core cannot be read from the shortcut's neurons ({where(cell)})",
                [0.5 - v for v in values_of(ends, "core_from_spurious_set", **cell)],
                unit="0.5 minus the decoded correlation",
                published=PUBLISHED,
            ),
            judged(
                f"The network still knows the core without the shortcut's neurons ({where(cell)})",
                [v - 0.9 for v in values_of(ends, "core_without_spurious_set", **cell)],
                unit="core correlation minus 0.9",
                published=PUBLISHED,
            ),
        ]
    return made


def figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """How much of the network serves the shortcut, and how apart neurons are, over steps."""
    from matplotlib.figure import Figure

    curves = [row for row in rows if row["kind"] == "curve"]
    figure = Figure(figsize=(8, 3.2))
    names = {
        "spurious_importance": "part of importance in spurious neurons",
        "weight_correlation": "weight correlation",
    }
    for axes, (name, label) in zip(figure.subplots(1, 2), names.items(), strict=True):
        for i, cell in enumerate(cells_of(curves)):
            for seed in sorted({row["seed"] for row in curves}):
                own = matching(curves, seed=seed, **cell)
                text = where(cell) if seed == curves[0]["seed"] else None
                axes.plot([r["step"] + 1 for r in own], [r[name] for r in own], f"C{i}", lw=0.8, label=text)
        axes.set(xscale="log", xlabel="step + 1", ylabel=label)
    figure.axes[0].legend(frameon=False, fontsize=7)
    return {"division": figure}
