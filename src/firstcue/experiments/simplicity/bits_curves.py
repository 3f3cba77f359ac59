"""Accuracy against bits on real images, over the weight of the bits, beside blur, JPEG and plain reconstruction."""

import math
from typing import Any

from firstcue.batch import Batch
from firstcue.experiments.claims import Claim, Scale, judged
from firstcue.experiments.simplicity._beds import Setting, density_of, fitted, makers, plain
from firstcue.simplicity.baselines import at_equal_bits, baseline_curve, blur, jpeg, reconstruction
from firstcue.simplicity.density import Density
from firstcue.simplicity.evaluating import bits_per_pixel, evaluate_simplified, late_gate
from firstcue.simplicity.simplify import Simplifier
from firstcue.sweeps import Trial

TITLE = "At equal bits, images simplified for a task teach more than blurred, compressed or reconstructed ones"
SOURCE = "arXiv 2201.05610"
VERSION = 2
_COMMON = {"strategy": "lookahead", "head": "mix", "classifier_rate": 2e-3}
SCALES = {
    "tiny": Scale(
        minutes=2.0,
        settings=_COMMON
        | {
            "core": "digits", "size": 16, "train_rows": 1000, "test_rows": 400, "channels": 8, "width": 8,
            "warmup": 100, "steps": 100, "retrain_steps": 120, "density": "dct",
            "lams": [0.0, 3.0, 10.0], "weights": [0.01, 0.1], "sigmas": [0.5, 1.0, 2.0, 4.0], "qualities": [5, 15, 40, 90],
        },
    ),
    "small": Scale(
        minutes=20.0,
        settings=_COMMON
        | {
            "core": "garments", "size": 14, "train_rows": 6000, "test_rows": 1000, "channels": 16, "width": 16,
            "warmup": 400, "steps": 500, "retrain_steps": 400, "density": "gray28",
            "lams": [0.0, 3.0, 10.0, 30.0], "weights": [0.01, 0.1, 0.3, 1.0, 3.0], "sigmas": [0.5, 1.0, 2.0, 4.0], "qualities": [5, 15, 40, 90],
        },
    ),
}  # fmt: skip
SEEDS = 3
OURS = "simplified for the task"
BASELINES = ("blur", "jpeg", "reconstruction")


def trials(scale: str, seeds: int) -> list[Trial]:
    """Every way to simplify at every strength."""
    settings = dict(SCALES[scale].settings)
    grids = {name: settings.pop(name) for name in ("lams", "weights", "sigmas", "qualities")}
    runs = [(OURS, lam) for lam in grids["lams"]]
    runs += [("reconstruction", weight) for weight in grids["weights"]]
    runs += [("blur", sigma) for sigma in grids["sigmas"]] + [("jpeg", quality) for quality in grids["qualities"]]
    return [
        Trial("simplicity/bits-curves", {**settings, "way": way, "strength": strength}, seed)
        for way, strength in runs
        for seed in range(seeds)
    ]


def run(trial: Trial) -> list[dict[str, Any]]:
    """One point of one curve; for ours, of the joint and of the new classifier."""
    s, seed = trial.settings, trial.seed
    learn, test = plain(s, "train", seed), plain(s, "test", seed)
    density, classes = density_of(s["density"], learn.x), 10
    before = {"bits_original": bits_per_pixel(density, test.x)}
    if s["way"] == OURS:
        return [{**before, **row} for row in _ours(s, seed, learn, test, density, classes)]
    ways = {"blur": blur, "jpeg": jpeg, "reconstruction": lambda lam: _reconstruction(s, seed, learn, density, lam)}
    maker = makers(s, classes)["convolutional"]
    rows = baseline_curve(
        s["way"], ways[s["way"]], [s["strength"]], maker, learn, test, density, steps=s["retrain_steps"], seed=seed + 1
    )
    return [{**before, "network": "retrained", **row} for row in rows]


def _ours(s: Setting, seed: int, learn: Batch, test: Batch, density: Density, classes: int) -> list[dict[str, Any]]:
    fit = fitted(s, density, learn, classes, seed, lam=s["strength"])
    maker = {"convolutional": makers(s, classes)["convolutional"]}
    rows = evaluate_simplified(fit, maker, learn, test, density, steps=s["retrain_steps"], seed=seed + 1)
    return [{**row, "gate": late_gate(fit), "skipped": fit.skipped} for row in rows]


def _reconstruction(s: Setting, seed: int, learn: Batch, density: Density, lam: float) -> Any:
    made = Simplifier(s["head"], s["width"])
    given = {"steps": s["steps"], "rate": s.get("rate", 1e-3), "seed": seed}
    return reconstruction(density, learn, lam, simplifier=made, **given)


def claims(rows: list[dict[str, Any]]) -> list[Claim]:
    """What is learned at equal bits, way against way, and what each weight costs."""
    ours = [r for r in rows if r["way"] == OURS and r["network"] == "retrained"]
    found = [_against(name, rows, ours) for name in BASELINES]
    for lam in sorted({row["strength"] for row in ours if row["strength"] > 0}):
        pairs = [(r, _plain_of(ours, r["seed"])) for r in ours if r["strength"] == lam]
        found.append(
            judged(
                f"At weight {lam:g}, a new classifier loses at most 3 points",
                [r["accuracy_simplified"] - p["accuracy_simplified"] + 0.03 for r, p in pairs if p is not None],
                published="almost no loss on digits and garments",
                unit="difference of accuracies plus 0.03",
                note=f"Bits fall to {_mean([r['bits_per_pixel'] / r['bits_original'] for r, _ in pairs]):.0%}.",
            )
        )
    return found


def _against(name: str, rows: list[dict[str, Any]], ours: list[dict[str, Any]]) -> Claim:
    """Mean advantage of each seed over the weights whose bits the baseline reaches."""
    advantages = []
    for seed in sorted({row["seed"] for row in ours}):
        curve = [row for row in rows if row["way"] == name and row["seed"] == seed]
        gains = [
            row["accuracy_simplified"] - at_equal_bits(curve, row["bits_per_pixel"])
            for row in ours
            if row["seed"] == seed and row["strength"] > 0
        ]
        finite = [gain for gain in gains if math.isfinite(gain)]
        advantages.append(_mean(finite) if finite else math.nan)
    return judged(
        f"A new classifier learns more from images simplified for the task than from {name} at equal bits",
        advantages,
        published="beats blur and JPEG at equal bits",
        unit="difference of accuracies at equal bits, mean over weights above 0",
        note=f"{name} spans {_span([r for r in rows if r['way'] == name])}, images simplified for the task "
        f"{_span([r for r in ours if r['strength'] > 0])}.",
    )


def _span(rows: list[dict[str, Any]]) -> str:
    bits = [row["bits_per_pixel"] for row in rows]
    return f"{min(bits):.1f} to {max(bits):.1f} bits per pixel" if bits else "nothing"


def _plain_of(ours: list[dict[str, Any]], seed: int) -> dict[str, Any] | None:
    """Without any weight on bits."""
    return next((row for row in ours if row["strength"] == 0 and row["seed"] == seed), None)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Accuracy against bits; means over seeds, and a small point for each seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.4))
    axes = figure.subplots()
    curves = [(OURS, "retrained"), (OURS, "joint"), *((name, "retrained") for name in BASELINES)]
    for color, (way, network) in enumerate(curves):
        part = [row for row in rows if row["way"] == way and row["network"] == network]
        points = []
        for strength in sorted({row["strength"] for row in part}):
            at = [(r["bits_per_pixel"], r["accuracy_simplified"]) for r in part if r["strength"] == strength]
            axes.plot([b for b, _ in at], [a for _, a in at], ".", ms=3, color=f"C{color}")
            points.append((_mean([b for b, _ in at]), _mean([a for _, a in at])))
        points.sort()
        label = f"{way}, {network}" if way == OURS else way
        axes.plot([b for b, _ in points], [a for _, a in points], "-", lw=1, color=f"C{color}", label=label)
    axes.set(xlabel="bits per pixel", ylabel="accuracy on simplified images")
    axes.legend(frameon=False, fontsize=7)
    return {"curves": figure}
