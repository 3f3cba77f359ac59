"""Two things in one image: does simplification take away the one that the task does not need, under two densities?"""

from typing import Any

from firstcue.experiments.claims import Claim, Scale, judged
from firstcue.experiments.simplicity._beds import Setting, batch_of, bed, by_task, density_of, fitted, makers
from firstcue.simplicity.density import Density
from firstcue.simplicity.distractors import Distracted, coefficients
from firstcue.simplicity.evaluating import accuracy, bits_per_pixel, late_gate, retrain, retrained_row, transformed
from firstcue.sweeps import Trial

TITLE = "Simplified in training, images lose the distractor and keep what the task needs"
SOURCE = "arXiv 2201.05610"
VERSION = 2
_COMMON = {
    "kind": "blend", "core": "garments", "distractor": "digits",
    "strategy": "lookahead", "head": "mix", "share": 0.7, "classifier_rate": 2e-3,
}  # fmt: skip
SCALES = {
    "tiny": Scale(
        minutes=2.0,
        settings=_COMMON
        | {
            "size": 14, "train_rows": 2000, "test_rows": 500, "channels": 8, "width": 8,
            "warmup": 150, "steps": 150, "retrain_steps": 100, "densities": ["dct", "dct-fitted"],
        },
    ),
    "small": Scale(
        minutes=13.0,
        settings=_COMMON
        | {
            "size": 14, "train_rows": 6000, "test_rows": 1000, "channels": 16, "width": 16,
            "warmup": 400, "steps": 1000, "retrain_steps": 400, "densities": ["gray28", "dct"],
        },
    ),
    "paper": Scale(
        minutes=1500.0,
        settings=_COMMON
        | {
            "size": 28, "train_rows": 60000, "test_rows": 10000, "channels": 24, "width": 32,
            "warmup": 4000, "steps": 40000, "retrain_steps": 20000, "densities": ["gray28", "dct"],
        },
    ),
}  # fmt: skip
SEEDS = 3
TASKS = {"core": "garments", "distractor": "digits"}
"""What the label is about: the images are the same."""


def trials(scale: str, seeds: int) -> list[Trial]:
    """Both labellings under every density."""
    return by_task("simplicity/distractor-removal", SCALES[scale].settings, TASKS, seeds)


def run(trial: Trial) -> list[dict[str, Any]]:
    """One fit, evaluated."""
    return [removal(trial.settings, trial.seed)]


def removal(s: Setting, seed: int) -> dict[str, Any]:
    """What became of both parts, of the bits and of the accuracies."""
    train_bed, test_bed = bed(s, "train", seed), bed(s, "test", seed)
    learn, test = batch_of(train_bed), batch_of(test_bed)
    density = density_of(s["density"], learn.x)
    classes = learn.num_classes
    maker = makers(s, classes)["convolutional"]
    reference = retrain(maker, learn, steps=s["warmup"] + s["steps"], batch_size=32, seed=seed)
    fit = fitted(s, density, learn, classes, seed)
    simple = transformed(fit, test)
    again = retrained_row(fit, maker, learn, test, density, steps=s["retrain_steps"], seed=seed + 1)
    assert fit.classifier is not None
    return {
        "accuracy_reference": accuracy(reference, test),
        "accuracy_simplified": accuracy(fit.classifier, simple),
        "accuracy_original": accuracy(fit.classifier, test),
        "retrained_simplified": again["accuracy_simplified"],
        "retrained_original": again["accuracy_original"],
        "bits_before": bits_per_pixel(density, test.x),
        "bits_after": bits_per_pixel(density, simple.x),
        **parts(density, test_bed, simple.x),
        "gate": late_gate(fit),
        "tau": fit.tau,
        "skipped": fit.skipped,
        "warnings": len(fit.warnings),
    }


def parts(density: Density, made: Distracted, simple: Any) -> dict[str, float]:
    """How much of what the task needs and of the rest is in the images, before and after, and their bits alone."""
    before, after = coefficients(made.images, made), coefficients(simple, made)
    return {
        "needed_before": before.core,
        "needed_after": after.core,
        "other_before": before.distractor,
        "other_after": after.distractor,
        "needed_correlation": after.core_correlation,
        "other_correlation": after.distractor_correlation,
        "needed_correlation_before": before.core_correlation,
        "other_correlation_before": before.distractor_correlation,
        "ratio_before": before.ratio,
        "ratio_after": after.ratio,
        "bits_needed_alone": bits_per_pixel(density, made.components["core"]),
        "bits_other_alone": bits_per_pixel(density, made.components["distractor"]),
    }


def claims(rows: list[dict[str, Any]]) -> list[Claim]:
    """Accuracy, bits and distractor for each labelling, and whether labels decide what goes."""
    found = []
    for density in sorted({row["density"] for row in rows}):
        of_density = [row for row in rows if row["density"] == density]
        for task, name in TASKS.items():
            found += _of_one(f"Labels of {name}, {density}", [row for row in of_density if row["task"] == task])
        found.append(_swap(density, of_density))
    return found


def _of_one(where: str, rows: list[dict[str, Any]]) -> list[Claim]:
    note = _neutrality(rows)
    return [
        judged(
            f"{where}: accuracy on simplified images is within 3 points of training on originals",
            [row["accuracy_simplified"] - row["accuracy_reference"] + 0.03 for row in rows],
            published="accuracy kept",
            unit="difference of accuracies plus 0.03",
            note=note,
        ),
        judged(
            f"{where}: bits fall by at least a fifth",
            [0.8 - row["bits_after"] / row["bits_before"] for row in rows],
            published="bits fall",
            unit="0.8 minus share of bits left",
            note=note,
        ),
        judged(
            f"{where}: the distractor, for each unit of what is needed, falls by at least 40 %",
            [0.6 - row["ratio_after"] / row["ratio_before"] for row in rows],
            published="distractors vanish",
            unit="0.6 minus share of the ratio left",
            note=note,
        ),
    ]


def _swap(density: str, rows: list[dict[str, Any]]) -> Claim:
    """The same images under two labellings: what is kept has to follow the label."""
    share = {(row["task"], row["seed"]): row["ratio_after"] / row["ratio_before"] for row in rows}
    seeds = sorted({seed for _, seed in share})
    # for the other labelling the parts have changed places, so a density's taste alone gives reciprocal ratios
    return judged(
        f"{density}: which part goes is decided by the labels, not by the density's taste",
        [1 - share["core", seed] * share["distractor", seed] for seed in seeds if ("distractor", seed) in share],
        published="what is irrelevant to the task goes",
        unit="1 minus product of both ratios' shares (0 if labels made no difference)",
    )


def _neutrality(rows: list[dict[str, Any]]) -> str:
    ratio = sum(row["bits_needed_alone"] / row["bits_other_alone"] for row in rows) / max(1, len(rows))
    neutral = 1 / 1.25 < ratio < 1.25
    return f"Alone, what is needed takes {ratio:.2f} times the bits of the distractor under this density" + (
        "." if neutral else ": it is not neutral between them (within 25 %)."
    )


def figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Coefficients of both parts before and after, a point for each seed."""
    from matplotlib.figure import Figure

    densities = sorted({row["density"] for row in rows})
    figure = Figure(figsize=(3.2 * len(densities), 3))
    for axes, density in zip(figure.subplots(1, len(densities), squeeze=False)[0], densities, strict=True):
        for color, task in zip(("C0", "C1"), TASKS, strict=True):
            part = [row for row in rows if row["density"] == density and row["task"] == task]
            x = [row["needed_after"] / row["needed_before"] for row in part]
            y = [row["other_after"] / row["other_before"] for row in part]
            axes.plot(x, y, "o", color=color, label=f"labels of {TASKS[task]}")
        axes.plot([0, 1.5], [0, 1.5], color="0.7", lw=0.8, zorder=0)
        axes.set(title=density, xlabel="left of what is needed", ylabel="left of the distractor", xlim=(0, None))
    figure.axes[0].legend(frameon=False)
    figure.tight_layout()
    return {"parts": figure}
