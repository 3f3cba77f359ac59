"""A few images in place of a data set: what do fewer bits cost, and is it better to store more images or dearer ones?"""

from typing import Any

from firstcue.experiments.claims import Claim, Scale, judged
from firstcue.experiments.simplicity._beds import density_of, plain
from firstcue.simplicity.condense import condense, evaluate_condensed
from firstcue.sweeps import Trial

TITLE = "Condensed sets get simpler at almost no cost in accuracy"
SOURCE = "arXiv 2201.05610"
VERSION = 1
_COMMON = {"size": 16, "networks": 3, "evaluation_steps": 300, "real_batch": 32, "density": "dct"}
SCALES = {
    "tiny": Scale(
        minutes=1.0,
        settings=_COMMON
        | {"data": ["digits"], "train_rows": 1000, "test_rows": 500, "steps": 60, "per_class": [1], "lams": [0, 100],
           "losses": ["match", "lookahead"]},
    ),
    "small": Scale(
        minutes=30.0,
        settings=_COMMON
        | {
            "data": ["digits", "garments"], "train_rows": 1200, "test_rows": 500, "steps": 80,
            "per_class": [1, 2, 4], "lams": [0, 100, 1000], "losses": ["match", "grad_dot", "lookahead"],
        },
    ),
}  # fmt: skip
SEEDS = 3


def trials(scale: str, seeds: int) -> list[Trial]:
    """One for each data set, number of images, weight and seed; other losses only for the fewest images, without bits."""
    settings = dict(SCALES[scale].settings)
    data, counts, lams, losses = (settings.pop(name) for name in ("data", "per_class", "lams", "losses"))
    cells = [(count, lam, losses[0]) for count in counts for lam in lams]
    cells += [(counts[0], lams[0], loss) for loss in losses[1:]]
    return [
        Trial("simplicity/condensation", {**settings, "core": core, "per_class": count, "lam": lam, "loss": loss}, seed)
        for core in data
        for count, lam, loss in cells
        for seed in range(seeds)
    ]


def run(trial: Trial) -> list[dict[str, Any]]:
    """One condensed set: its bits and what fresh networks make of it."""
    s, seed = trial.settings, trial.seed
    learn, test = plain(s, "train", seed), plain(s, "test", seed)
    density = density_of(s["density"], learn.x)
    made = condense(
        learn.x, learn.y, density, s["per_class"], s["lam"], s["steps"], s["loss"], seed, real_batch=s["real_batch"]
    )
    found = evaluate_condensed(
        made.images, made.labels, test.x, test.y, networks=s["networks"], steps=s["evaluation_steps"], seed=seed
    )
    return [
        {
            "accuracy": sum(found) / len(found),
            "total_bits": made.total_bits,
            "bits_per_pixel": made.total_bits / made.images.numel(),
            "skipped": made.skipped,
        }
    ]


def _matched(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those in which gradients were matched, as in the paper."""
    return [row for row in rows if row["loss"] == "match"]


def claims(rows: list[dict[str, Any]]) -> list[Claim]:
    """What one image per class loses in bits and in accuracy."""
    found = []
    rows = _matched(rows)
    for core in sorted({row["core"] for row in rows}):
        one = {(r["lam"], r["seed"]): r for r in rows if r["core"] == core and r["per_class"] == 1}
        seeds = sorted({seed for lam, seed in one if lam == 100 and (0, seed) in one})
        found.append(
            judged(
                f"{core}: one image per class at lambda 100 is within 3 points of lambda 0",
                [one[100, s]["accuracy"] - one[0, s]["accuracy"] + 0.03 for s in seeds],
                published="almost no accuracy degradation",
                unit="difference of accuracies plus 0.03",
            )
        )
        found.append(
            judged(
                f"{core}: it takes fewer bits",
                [1 - one[100, s]["total_bits"] / one[0, s]["total_bits"] for s in seeds],
                published="bits fall",
                unit="share of the bits",
            )
        )
    return found


def figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Accuracy against total bits, a line for each number of images per class."""
    from matplotlib.figure import Figure

    rows = _matched(rows)
    names = sorted({row["core"] for row in rows})
    figure = Figure(figsize=(4 * len(names), 3))
    for axes, core in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for count in sorted({row["per_class"] for row in rows}):
            part = [row for row in rows if row["core"] == core and row["per_class"] == count]
            axes.plot(
                [r["total_bits"] for r in part], [r["accuracy"] for r in part], "o", ms=4, label=f"{count} per class"
            )
        axes.set(title=core, xscale="log", xlabel="total bits", ylabel="accuracy of fresh networks")
        axes.legend(frameon=False)
    figure.tight_layout()
    return {"accuracy-against-bits": figure}
