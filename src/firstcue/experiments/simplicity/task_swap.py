"""Stripes over digits, with two labellings: the same images, and another thing must survive."""

from typing import Any

from firstcue.experiments.claims import Claim, Scale, judged
from firstcue.experiments.simplicity._beds import by_task
from firstcue.experiments.simplicity.distractor_removal import removal
from firstcue.sweeps import Trial

TITLE = "On the same images, what survives simplification follows the labels"
SOURCE = "arXiv 2201.05610"
VERSION = 2
_COMMON = {
    "kind": "stripes", "core": "digits", "strength": 0.3,
    "strategy": "lookahead", "head": "mix", "share": 0.7, "classifier_rate": 2e-3,
}  # fmt: skip
SCALES = {
    "tiny": Scale(
        minutes=2.0,
        settings=_COMMON
        | {
            "size": 16, "train_rows": 1257, "test_rows": 400, "channels": 8, "width": 8,
            "warmup": 100, "steps": 150, "retrain_steps": 60, "densities": ["dct"],
        },
    ),
    "small": Scale(
        minutes=12.0,
        settings=_COMMON
        | {
            "size": 16, "train_rows": 1257, "test_rows": 540, "channels": 16, "width": 16,
            "warmup": 300, "steps": 600, "retrain_steps": 300, "densities": ["gray28", "dct"],
        },
    ),
}  # fmt: skip
SEEDS = 3
TASKS = {"core": "digits", "distractor": "stripes"}


def trials(scale: str, seeds: int) -> list[Trial]:
    """Both labellings under every density."""
    return by_task("simplicity/task-swap", SCALES[scale].settings, TASKS, seeds)


def run(trial: Trial) -> list[dict[str, Any]]:
    """One fit, evaluated."""
    return [removal(trial.settings, trial.seed)]


def claims(rows: list[dict[str, Any]]) -> list[Claim]:
    """Whether stripes stay where they are the label and go where they are not."""
    found = []
    for density in sorted({row["density"] for row in rows}):
        of_density = [row for row in rows if row["density"] == density]
        needed = [row for row in of_density if row["task"] == "distractor"]
        idle = [row for row in of_density if row["task"] == "core"]
        found += [
            judged(
                f"{density}: labelled by their direction, stripes stay (correlation of at least 0.8)",
                [row["needed_correlation"] - 0.8 for row in needed],
                published="what the task needs is kept",
                unit="correlation minus 0.8",
                note=_start(needed, "needed_correlation_before"),
            ),
            judged(
                f"{density}: labelled by the digit, stripes go (correlation of at most 0.3)",
                [row["other_correlation"] - 0.3 for row in idle],
                published="what the task does not need goes",
                unit="correlation minus 0.3",
                wants="negative",
                note=_start(idle, "other_correlation_before"),
            ),
            judged(
                f"{density}: accuracy on simplified images is within 3 points of training on originals, both tasks",
                [row["accuracy_simplified"] - row["accuracy_reference"] + 0.03 for row in of_density],
                published="accuracy kept",
                unit="difference of accuracies plus 0.03",
            ),
        ]
    return found


def _start(rows: list[dict[str, Any]], name: str) -> str:
    return f"On the originals it is {sum(row[name] for row in rows) / max(1, len(rows)):.2f}."


def figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Correlation of what is left with the stripes, under both labellings."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5, 3))
    axes = figure.subplots()
    densities = sorted({row["density"] for row in rows})
    for i, density in enumerate(densities):
        for color, (task, name) in zip(("C0", "C1"), (("distractor", "needed"), ("core", "other")), strict=True):
            y = [r[f"{name}_correlation"] for r in rows if r["density"] == density and r["task"] == task]
            axes.plot([i] * len(y), y, "o", color=color, label=f"labels of {TASKS[task]}" if i == 0 else None)
    axes.set(
        xticks=range(len(densities)), xticklabels=densities, ylabel="correlation with the stripes", ylim=(-0.2, 1.05)
    )
    axes.axhline(0.8, color="0.7", lw=0.8)
    axes.axhline(0.3, color="0.7", lw=0.8)
    axes.legend(frameon=False)
    return {"stripes": figure}
