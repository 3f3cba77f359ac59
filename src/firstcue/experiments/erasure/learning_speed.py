"""Does a network learn more slowly when what simple classifiers could use has been erased?"""

import math
from collections.abc import Sequence
from typing import Any

import torch

from firstcue.code_length.measuring import description_length
from firstcue.experiments.claims import Claim, Scale, judged, paired
from firstcue.experiments.erasure._data import ERASERS, pool, random_projection
from firstcue.experiments.erasure._nets import FEED_FORWARD, NAMES, SOPHISTICATED
from firstcue.experiments.erasure._training import Learner
from firstcue.sweeps import Trial

TITLE = "Erasing what simple classifiers could use slows learning down"
SOURCE = "Quirke and Belrose (2025), Slowing Learning by Erasing Simple Features, https://arxiv.org/abs/2502.02820"
VERSION = 1
SEEDS = 5

RATES = {"mlp": 1e-3, "res-mlp": 1e-3, "lenet": 1e-3, "convnext": 2e-3, "swin": 2e-3}
PUBLISHED_RATES = {"mlp": 5e-4, "res-mlp": 5e-4, "lenet": 5e-4, "convnext": 1e-4, "swin": 1e-3}
WIDTHS = {"mlp": [128, 2], "res-mlp": [128, 2], "lenet": [128, 2], "convnext": [16, 1], "swin": [16, 1]}
PUBLISHED_WIDTHS = {"mlp": [128, 2], "res-mlp": [128, 2], "lenet": [128, 2], "convnext": [40, 2], "swin": [32, 2]}
SHARED = {"batch": 64, "steps": 20, "augment": "none", "rates": RATES, "sizes": WIDTHS}
"""Without augmentation, so that the data the methods were fitted on is the data that is learned."""

SCALES = {
    "tiny": Scale(
        minutes=2,
        settings=SHARED
        | {"data": [["builtin:digits", 8, 1797]], "nets": ["mlp", "convnext"], "rows": 600, "chunks": 4}
        | {"epochs": 10, "patience": 3},
    ),
    "small": Scale(
        minutes=40,
        settings=SHARED
        | {"data": [["builtin:fashion-mnist", 16, 20000]], "nets": list(NAMES)}
        | {"rows": 3000, "chunks": 6, "epochs": 40, "patience": 5},
    ),
    "paper": Scale(
        minutes=200_000,
        settings=SHARED
        | {"data": [["cifar-10-batches-py", 32, 50000], ["svhn", 32, 73257]], "nets": list(NAMES), "rows": 73257}
        | {"chunks": 10, "epochs": 30_000, "patience": 100, "batch": 128, "steps": 1, "augment": "crop and flip"}
        | {"rates": PUBLISHED_RATES, "sizes": PUBLISHED_WIDTHS},
    ),
}


def trials(scale: str, seeds: int) -> list[Trial]:
    """One per data set, method, network and seed; a method's trials follow each other, since they share its data."""
    given = SCALES[scale].settings
    own = {name: given[name] for name in ("chunks", "epochs", "patience", "batch", "steps", "augment")}
    return [
        Trial(
            "erasure/learning-speed",
            own
            | {"data": source, "side": side, "pool": rows, "eraser": eraser, "net": net, "rate": given["rates"][net]}
            | {"rows": min(given["rows"], rows), "width": given["sizes"][net][0], "depth": given["sizes"][net][1]},
            seed,
        )
        for source, side, rows in given["data"]
        for eraser in ERASERS
        for net in given["nets"]
        for seed in range(seeds)
    ]


def run(trial: Trial) -> list[dict[str, Any]]:
    """Rows of kind "length", the code length and what the eraser did, and "curve", the loss after so many rows."""
    s = trial.settings
    found = pool(s["data"], s["side"], s["pool"], s["eraser"], s["augment"])
    eraser, facts = found.eraser, found.facts
    if s["eraser"] == "random":
        rank = pool(s["data"], s["side"], s["pool"], "alf-qleace", s["augment"]).facts["rank"]
        eraser, facts = random_projection(int(rank), found.mean, trial.seed), {"rank": rank}
    chosen = torch.randperm(len(found.y), generator=torch.Generator().manual_seed(trial.seed))[: s["rows"]]
    x, y = torch.cat([found.x, found.y[:, None].float()], dim=1)[chosen], found.y[chosen]
    names = ("net", "width", "depth", "rate", "batch", "epochs", "patience", "steps", "augment")
    learner = Learner(found, classes=int(found.y.max()) + 1, eraser=eraser, **{name: s[name] for name in names})
    length = description_length(learner, x, y, seeds=[trial.seed], chunks=s["chunks"])
    summary = {
        "kind": "length",
        "bits": length.bits_per_sample,
        "reference_bits": length.reference,
        "area": length.area,
        "exponent": length.power_law.exponent,
        "chance": length.chance,
        **facts,
    }
    curve = [
        {"kind": "curve", "trained_on": point.rows, "held_out_bits": point.held_out_bits} for point in length.curve
    ]
    return [{key: _plain(value) for key, value in row.items()} for row in [summary, *curve]]


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def claims(rows: Sequence[dict[str, Any]]) -> list[Claim]:
    """The four statements of the paper, network by network where it makes them so."""
    lengths = [row for row in rows if row["kind"] == "length"]
    found = []
    for data in dict.fromkeys(row["data"] for row in lengths):
        here = [row for row in lengths if row["data"] == data]
        nets = list(dict.fromkeys(row["net"] for row in here))
        found += [_slower(here, data, net) for net in nets]
        found += [_quadratic(here, data, net) for net in nets]
        found += [
            _kinder(here, data, net, method) for method in ("alf-qleace", "gradient", "gradient-close") for net in nets
        ]
        found += [_aimed(here, data, net) for net in nets]
    return [*found, _depends(lengths)]


def _difference(rows: Sequence[dict[str, Any]], net: str, method: str, base: str) -> list[float]:
    return paired([row for row in rows if row["net"] == net], "eraser", "bits", method, base)


def _slower(rows: Sequence[dict[str, Any]], data: str, net: str) -> Claim:
    return judged(
        f"LEACE slows the {net} on {_short(data)}",
        _difference(rows, net, "leace", "control"),
        published="a longer code than without erasing, for all networks and data sets",
        unit="bits per row, LEACE minus control",
    )


def _quadratic(rows: Sequence[dict[str, Any]], data: str, net: str) -> Claim:
    simple = net in FEED_FORWARD
    return judged(
        f"QLEACE {'slows' if simple else 'can speed up'} the {net} on {_short(data)}",
        _difference(rows, net, "qleace", "control"),
        published="feed-forward networks are slowed; more sophisticated ones use what the edit injects and can be faster",
        unit="bits per row, QLEACE minus control",
        wants="positive" if simple else "negative",
    )


def _kinder(rows: Sequence[dict[str, Any]], data: str, net: str, method: str) -> Claim:
    return judged(
        f"{method} lets the {net} learn faster than LEACE does on {_short(data)}",
        _difference(rows, net, method, "leace"),
        published="on some data sets approximate quadratic erasure is faster than LEACE, as augmentation is",
        unit=f"bits per row, {method} minus LEACE",
        wants="negative",
        note=NOTES.get(method, "") + "The paper says so of some data sets only.",
    )


NOTES = {"gradient": "The published recipe removes little of the means of images this small (see `mean_gap_after`). "}


def _aimed(rows: Sequence[dict[str, Any]], data: str, net: str) -> Claim:
    return judged(
        f"as many random directions slow the {net} less than those of ALF-QLEACE on {_short(data)}",
        _difference(rows, net, "alf-qleace", "random"),
        published="a random subspace is the paper's control",
        unit="bits per row, ALF-QLEACE minus random",
    )


def _depends(rows: Sequence[dict[str, Any]]) -> Claim:
    """Both signs among the effects of quadratic erasure beyond LEACE, each with an interval that excludes zero."""
    effects = []
    for data in dict.fromkeys(row["data"] for row in rows):
        here = [row for row in rows if row["data"] == data]
        for net in dict.fromkeys(row["net"] for row in here):
            for method in ("qleace", "alf-qleace", "gradient", "gradient-close"):
                values = _difference(here, net, method, "leace")
                effects.append(judged("", values, published="", unit=""))
    slower = sum(effect.verdict == "holds" for effect in effects)
    faster = sum(effect.verdict == "does not hold" for effect in effects)
    settled = slower + faster == len(effects)
    return Claim(
        text="whether quadratic erasure slows learning beyond LEACE depends on the network, the method and the data",
        published="the sign depends on data set, architecture and method",
        value=float(min(slower, faster)),
        ci_low=None,
        ci_high=None,
        n=min((effect.n for effect in effects), default=0),
        unit="combinations of the rarer sign",
        verdict="holds" if slower and faster else "does not hold" if settled and effects else "inconclusive",
        note=f"Of {len(effects)} combinations {slower} are slower than LEACE and {faster} faster, the others undecided.",
    )


def _short(data: str) -> str:
    return data.removeprefix("builtin:")


def figures(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Learning curves: held-out bits against rows, one panel per network, one line per method."""
    from matplotlib.figure import Figure

    made = {}
    curves = [row for row in rows if row["kind"] == "curve"]
    for data in dict.fromkeys(row["data"] for row in curves):
        nets = [net for net in NAMES if any(row["net"] == net and row["data"] == data for row in curves)]
        figure = Figure(figsize=(3.2 * len(nets), 3.2), layout="constrained")
        for axis, net in zip(figure.subplots(1, len(nets), sharey=True, squeeze=False)[0], nets, strict=True):
            here = [row for row in curves if row["net"] == net and row["data"] == data]
            _panel(axis, here, f"{net}, {'sophisticated' if net in SOPHISTICATED else 'feed-forward'}")
        axis.legend(fontsize=8)
        made[f"curves-{_short(data).split('/')[-1]}"] = figure
    return made


def _panel(axis: Any, rows: Sequence[dict[str, Any]], title: str) -> None:
    for eraser in ERASERS:
        mine = [row for row in rows if row["eraser"] == eraser and row["held_out_bits"] is not None]
        sizes = sorted({row["trained_on"] for row in mine})
        bits = [[row["held_out_bits"] for row in mine if row["trained_on"] == size] for size in sizes]
        if sizes:
            axis.plot(sizes, [sum(values) / len(values) for values in bits], marker="o", markersize=3, label=eraser)
    axis.set(xscale="log", xlabel="rows learned from", ylabel="held-out bits per row", title=title)
