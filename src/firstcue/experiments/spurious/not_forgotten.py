"""The shortcut stays in the hidden layer after the core is fully learned, where the head no longer uses it.

Easy shortcuts can be read from untrained neurons too, and so cannot be forgotten: what counts is one that they do not tell.
"""

from collections.abc import Mapping
from typing import Any

from firstcue.experiments.claims import Claim, Scale, judged
from firstcue.experiments.spurious._lab import (
    HARDER,
    THRESHOLD,
    TO_THE_END,
    TRAINING,
    cells_of,
    hidden_layer,
    in_lines,
    independent_rows,
    matching,
    mean,
    named,
    run_of,
    values_of,
    where,
)
from firstcue.spurious.batched import train_boolean
from firstcue.spurious.batched_metrics import decoded, used
from firstcue.spurious.boolean import boolean_layout
from firstcue.spurious.curves import convergence_time, forgetting_index
from firstcue.spurious.decode import decode
from firstcue.spurious.subnetworks import subnetworks
from firstcue.spurious.two_layer import TwoLayers
from firstcue.sweeps import Trial

TITLE = "Shortcuts are not forgotten after the core is fully learned"
SOURCE = "arXiv 2403.03375"
VERSION = 1
SCALES = {
    "tiny": Scale(minutes=0.5, settings=TRAINING | {"cells": [HARDER], "steps": 16_000, "rows": 1500}),
    **TO_THE_END,
}
SEEDS = 10
PUBLISHED = "spurious features are not forgotten"


def trials(scale: str, seeds: int) -> list[Trial]:
    """One for each seed."""
    return [Trial("spurious/not-forgotten", SCALES[scale].settings, seed) for seed in range(seeds)]


def run(trial: Trial) -> list[dict[str, Any]]:
    """Used and decodable over training; at the end decoded from all neurons, from the shortcut's, and untrained ones."""
    s = trial.settings
    runs = [run_of(cell, trial.seed) for cell in s["cells"]]
    found = train_boolean(
        runs, s["steps"], width=s["width"], rate=s["rate"], batch_size=s["batch_size"], measures=[used, decoded]
    )
    start = TwoLayers.untrained([r.columns for r in runs], [r.seed for r in runs], s["width"])
    rows = []
    for i, cell in enumerate(map(named, s["cells"])):
        curve = [{"kind": "curve", **cell, **row} for row in found.rows if row["run"] == i]
        model, batch = found.module(i), independent_rows(runs[i], s["rows"])
        hidden = hidden_layer(model, batch.x)
        own = subnetworks(model, boolean_layout(runs[i].core, runs[i].spurious, runs[i].noise)).spurious_neurons
        whole = decode(hidden, batch, baseline=hidden_layer(start.module(i), batch.x), permutations=1)
        end = {
            "kind": "end",
            **cell,
            "step": s["steps"],
            "core_step": convergence_time(*found.curve(i, "core_correlation"), THRESHOLD),
            "core_correlation": curve[-1]["core_correlation"],
            "spurious_correlation": curve[-1]["spurious_correlation"],
            "decoded": whole.spurious_correlation,
            "decoded_untrained": 2 * (whole.spurious_baseline or 0.0) - 1,
            "decoded_own": decode(hidden[:, own], batch, permutations=1).spurious_correlation if len(own) else None,
            "forgotten": forgetting_index([row["decoded_spurious"] for row in curve]),
        }
        rows += [*curve, end]
    return rows


def claims(rows: list[dict[str, Any]]) -> list[Claim]:
    """Whether the shortcut can be decoded long after the core is learned, and from where."""
    ends = [row for row in rows if row["kind"] == "end"]
    made = []
    for cell in cells_of(ends):
        own = matching(ends, **cell)
        late = sum(_is_late(row) for row in own)
        usage = max(values_of(ends, "spurious_correlation", **cell))
        untrained = values_of(ends, "decoded_untrained", **cell)
        note = (
            f"{late} of {len(own)} seeds are three times past the core; the head's correlation with the shortcut is at "
            f"most {usage:.2f}. From untrained neurons: {mean(untrained):.2f} in the mean."
        )
        both = [
            judged(
                f"Long after the core is learned the shortcut can still be decoded ({where(cell)})",
                [v - 0.9 for v in values_of(ends, "decoded", **cell)],
                unit="decoded correlation minus 0.9",
                note=note,
                published=PUBLISHED,
            ),
            judged(
                f"It can be decoded from the shortcut's own neurons alone ({where(cell)})",
                [v - 0.9 for v in values_of(ends, "decoded_own", **cell)],
                unit="decoded correlation minus 0.9",
                published=PUBLISHED,
            ),
        ]
        if mean(untrained) >= 0.9:  # any features tell it: there is nothing to forget
            made += [claim.model_copy(update={"verdict": "inconclusive"}) for claim in both]
        else:
            made += both
            made.append(
                judged(
                    f"Trained neurons tell it better than untrained ones ({where(cell)})",
                    [a - b for a, b in zip(values_of(ends, "decoded", **cell), untrained, strict=True)],
                    unit="difference of decoded correlations",
                    published=PUBLISHED,
                )
            )
    return made


def figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Used and decodable shortcut, and used core, over steps."""
    from matplotlib.figure import Figure

    curves = [row for row in rows if row["kind"] == "curve"]
    cells = cells_of(curves)
    figure = Figure(figsize=(3.2 * len(cells), 3.2), layout="constrained")
    styles = {"core_correlation": "C0", "spurious_correlation": "C3", "decoded_spurious": "C3:"}
    for axes, cell in zip(figure.subplots(1, len(cells), squeeze=False)[0], cells, strict=True):
        for seed in sorted({row["seed"] for row in curves}):
            own = matching(curves, seed=seed, **cell)
            for name, style in styles.items():
                label = name.replace("_", " ") if seed == curves[0]["seed"] else None
                axes.plot([r["step"] + 1 for r in own], [r[name] for r in own], style, lw=0.8, label=label)
        axes.set(xscale="log", xlabel="step + 1")
        axes.set_title(in_lines(cell), fontsize=9)
    figure.axes[0].legend(frameon=False, fontsize=7)
    return {"curves": figure}


def _is_late(row: Mapping[str, Any]) -> bool:
    return row["core_step"] is not None and row["step"] >= 3 * row["core_step"] and row["core_correlation"] >= 0.99
