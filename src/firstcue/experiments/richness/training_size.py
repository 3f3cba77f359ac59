"""How the size of the training set changes how rich training becomes."""

from typing import Any

from firstcue.experiments.claims import Claim, Scale
from firstcue.experiments.richness._judging import differs
from firstcue.experiments.richness._setting import by_setting, images, one_run
from firstcue.sweeps import Trial

TITLE = "More training rows change how rich training becomes"
SOURCE = "arXiv 2410.04264"
VERSION = 1
SCALES = {
    "tiny": Scale(minutes=0.5, settings={"data": "builtin:digits", "test_rows": 600, "pool": 2, "steps": 300, "sizes": [100, 1000]}),
    "small": Scale(minutes=5, settings={"data": "builtin:fashion-mnist", "test_rows": 2000, "pool": 2, "steps": 3000, "sizes": [300, 1000, 3000, 10000]}),
    "paper": Scale(minutes=600, settings={"data": "cifar-10-batches-py", "test_rows": 10000, "pool": 1, "steps": 40000, "sizes": [1000, 5000, 20000, 50000]}),
}  # fmt: skip
SEEDS = 5


def trials(scale: str, seeds: int) -> list[Trial]:
    """One for each number of training rows, and seed."""
    shared = {name: value for name, value in SCALES[scale].settings.items() if name != "sizes"}
    return [
        Trial("richness/training-size", {**shared, "size": size}, seed)
        for size in SCALES[scale].settings["sizes"]
        for seed in range(seeds)
    ]


def run(trial: Trial) -> list[dict[str, Any]]:
    """One network trained on some rows for a fixed number of steps."""
    given = trial.settings
    rows, test = images(given["data"], given["size"], given["test_rows"], trial.seed, pool=given["pool"])
    return [one_run({"loss": "ce", "rate": 0.03, "steps": given["steps"]}, trial.seed, rows, test)]


def claims(rows: list[dict[str, Any]]) -> list[Claim]:
    """Whether fewer rows make training lazier."""
    sizes = sorted({row["size"] for row in rows})
    note = "D_LR of held-out rows, the same number for every size, after the same number of steps."
    return [
        differs(
            rows, f"{sizes[0]} training rows are lazier than {sizes[-1]}", "size", sizes[0], sizes[-1], "dlr_test",
            published="studied for VGG-16 and ResNet-18; direction not seen", unit="difference of D_LR", note=note,
        ),
        differs(
            rows, f"{sizes[-1]} training rows are more accurate than {sizes[0]}", "size", sizes[-1], sizes[0], "test_accuracy",
            published="not at issue", unit="difference of accuracy",
        ),
    ]  # fmt: skip


def figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """D_LR and accuracy over the size."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.2))
    axes = figure.subplots()
    for value, label in (("dlr_test", "D_LR, held out"), ("dlr", "D_LR, training rows"), ("test_accuracy", "accuracy")):
        means = by_setting(rows, "size", value)
        axes.semilogx(list(means), [sum(v) / len(v) for v in means.values()], marker="o", label=label)
    axes.set(xlabel="training rows", ylim=(0, 1))
    axes.legend(frameon=False)
    return {"size": figure}
