"""Pictures of richness: over training, along the spectrum, through the layers, and beside accuracy.

Every function returns a matplotlib `Figure` that belongs to nobody else: save it with `figure.savefig(path)`. Lines
differ by marker or dash as well as by colour, and colours are told apart by all common kinds of colour vision.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from firstcue.richness.profile import LayerRichness
    from firstcue.richness.spectrum import Spectrum

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Okabe and Ito (2008), Color universal design."""
MARKERS = "osD^vPX"
DASHES = ("--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)))
WIDTH = 6.4
"""Inches."""


def over_training(runs: Any, name: str = "richness") -> "Figure":
    """D_LR, used variance, and participation ratio beside rank, over the steps of training.

    Args:
        runs: Rows of a `Recorder` or `RichnessMonitor`, or a mapping from the name of a run to such rows.
        name: Prefix of the numbers, as given to `richness_measure`.

    Raises:
        ValueError: If no row holds the numbers.

    Example:
        >>> rows = [{"step": s, "richness/dlr": 0.5, "richness/used": 0.3, "richness/participation_ratio": 9.0,
        ...          "richness/rank": 4.0} for s in (0, 10, 100)]
        >>> [axes.get_ylabel() for axes in over_training(rows).axes]
        ['D_LR', 'used variance', 'directions']
    """
    named = runs if isinstance(runs, Mapping) else {"": runs}
    panels = _panels(3, 2.1)
    for number, (run, rows) in enumerate(named.items()):
        own = [row for row in rows if f"{name}/dlr" in row]
        if not own:
            raise ValueError(f"no row of {run or 'the run'} holds {name}/dlr; record it with `richness_measure`.")
        style: dict[str, Any] = {"color": _colour(number), "marker": _marker(number), "markersize": 4}
        steps = [row["step"] for row in own]
        for axes, key in zip(panels, ("dlr", "used", "participation_ratio"), strict=True):
            axes.plot(steps, [row[f"{name}/{key}"] for row in own], label=run or _word(key), **style)
        rank = [row[f"{name}/rank"] for row in own]
        panels[2].plot(steps, rank, color=_colour(number), linestyle="--", label=f"{run} rank".strip())
    _limits(panels[0], "D_LR")
    _limits(panels[1], "used variance")
    panels[2].set_ylabel("directions")
    panels[2].set_ylim(bottom=0)
    panels[2].legend(frameon=False, fontsize="small")
    if len(named) > 1:
        panels[0].legend(frameon=False, fontsize="small")
    panels[2].set_xlabel("step")
    panels[2].set_xscale("symlog", linthresh=1)
    panels[2].xaxis.set_major_formatter("{x:g}")
    return _figure(panels)


def spectra(curves: "Spectrum | Mapping[Any, Spectrum]") -> "Figure":
    """Quality, use and size over the number of widest directions, one above the other.

    Attributes are dashed in the panel of quality, so that one sees at which rank each cue sits. The vertical line stands
    at the dimension of the learned functions.

    Args:
        curves: A spectrum, or a mapping from an epoch or a name to one; numbers are coloured from early to late.

    Raises:
        ValueError: If there is none.
    """
    named = dict(curves) if isinstance(curves, Mapping) else {"": curves}
    if not named:
        raise ValueError("there is no spectrum to draw.")
    panels = _panels(3, 2.3)
    colours = _sequence(list(named))
    for (label, found), colour in zip(named.items(), colours, strict=True):
        k = np.arange(1, len(found.size) + 1)
        for axes, curve in zip(panels, (found.quality, found.use, found.size), strict=True):
            axes.plot(k, np.asarray(curve), color=colour, label=str(label), linewidth=1.4)
        for number, (name, curve) in enumerate(found.attributes.items()):
            style = DASHES[number % len(DASHES)]
            last = label == list(named)[-1]
            panels[0].plot(k, np.asarray(curve), color=colour, linestyle=style, label=name if last else None)
    for axes in panels:
        axes.axvline(max(1, next(iter(named.values())).rank), color="0.5", linewidth=0.8, linestyle=":")
    _limits(panels[0], "quality")
    _limits(panels[1], "use")
    panels[2].set_ylabel("size")
    panels[2].set_yscale("log")
    panels[2].set_xlabel("widest directions k")
    panels[2].set_xscale("log")
    panels[2].xaxis.set_major_formatter("{x:g}")
    panels[2].xaxis.set_minor_formatter(lambda value, place: f"{value:g}" if value in (2, 5) else "")
    _legend(panels[0], [name for name in named if name != ""])
    return _figure(panels)


def by_layer(profiles: "Sequence[LayerRichness] | Mapping[str, Sequence[LayerRichness]]") -> "Figure":
    """D_LR and used variance of every layer, in the order of the model.

    Args:
        profiles: From `richness_profile`, or a mapping from a name (a run, an epoch) to such profiles of one model.

    Raises:
        ValueError: If there is nothing to draw, or the profiles are of other layers.
    """
    named = profiles if isinstance(profiles, Mapping) else {"": profiles}
    layers = [[found.layer for found in profile] for profile in named.values()]
    if not layers or not layers[0] or any(names != layers[0] for names in layers):
        raise ValueError("profiles of the same layers are needed, at least one layer.")
    panels = _panels(2, 2.4)
    for number, (name, profile) in enumerate(named.items()):
        style: dict[str, Any] = {"color": _colour(number), "marker": _marker(number), "markersize": 5, "label": name}
        panels[0].plot(range(len(profile)), [found.dlr for found in profile], **style)
        panels[1].plot(range(len(profile)), [found.used for found in profile], **style)
    _limits(panels[0], "D_LR")
    _limits(panels[1], "used variance")
    panels[1].set_xticks(range(len(layers[0])), layers[0], rotation=90 if max(map(len, layers[0])) > 3 else 0)
    panels[1].set_xlabel("layer")
    if len(named) > 1:
        panels[0].legend(frameon=False, fontsize="small")
    return _figure(panels)


def against_accuracy(
    rows: Sequence[Mapping[str, Any]],
    *,
    x: str = "dlr",
    accuracies: Mapping[str, str] | None = None,
    by: str | None = None,
) -> "Figure":
    """Richness of the runs of a sweep beside their accuracy on held-out rows and on the worst group.

    Args:
        rows: One for each run.
        x: The number on the horizontal axis.
        accuracies: From the name of a number to what its axis says; by default `accuracy` and `worst`.
        by: A setting of the rows that colour and marker stand for.

    Raises:
        ValueError: If no row holds the numbers.
    """
    shown = {"accuracy": "held-out accuracy", "worst": "worst-group accuracy"} if accuracies is None else accuracies
    present = {key: label for key, label in shown.items() if any(_known(row, x, key) for row in rows)}
    if not present:
        raise ValueError(f"no row holds {x!r} and one of {', '.join(shown)}.")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH / 2 * max(len(present), 1.4), 3.0), layout="constrained")
    panels = figure.subplots(1, len(present), sharex=True, sharey=True, squeeze=False)[0]
    settings = list(dict.fromkeys(row.get(by) if by else None for row in rows))
    for axes, (key, label) in zip(panels, present.items(), strict=True):
        for number, setting in enumerate(settings):
            own = [r for r in rows if _known(r, x, key) and (by is None or r.get(by) == setting)]
            points = [r[x] for r in own], [r[key] for r in own]
            name = "" if by is None else f"{by} {setting}"
            axes.scatter(*points, s=22, color=_colour(number), marker=_marker(number), label=name, alpha=0.9)
        axes.set_xlabel("D_LR" if x == "dlr" else x)
        axes.set_ylabel(label)
        axes.grid(alpha=0.25)
    if by is not None:
        panels[0].legend(frameon=False, fontsize="small")
    return figure


def _known(row: Mapping[str, Any], *keys: str) -> bool:
    return all(row.get(key) is not None and not math.isnan(row[key]) for key in keys)


def _panels(count: int, height: float) -> "Sequence[Axes]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height * count), layout="constrained")
    panels: Sequence[Axes] = figure.subplots(count, 1, sharex=True)
    for axes in panels:
        axes.grid(alpha=0.25)
    return panels


def _figure(panels: "Sequence[Axes]") -> "Figure":
    figure: Any = panels[0].figure
    return figure


def _limits(axes: "Axes", label: str) -> None:
    """A share runs from 0 to 1 in every picture, so that pictures can be compared."""
    axes.set_ylim(-0.03, 1.03)
    axes.set_ylabel(label)


def _legend(axes: "Axes", names: Sequence[Any]) -> None:
    """Few names in a legend; of many numbers the first and the last."""
    handles, labels = axes.get_legend_handles_labels()
    wanted = set(map(str, names if len(names) <= 7 else [names[0], names[-1]]))
    kept = [(h, text) for h, text in zip(handles, labels, strict=True) if text in wanted or text not in map(str, names)]
    kept = [(h, text) for h, text in kept if text]
    if kept:
        axes.legend(*zip(*kept, strict=True), frameon=False, fontsize="small")


def _sequence(labels: Sequence[Any]) -> list[Any]:
    """Colours from dark to light for numbers, apart from each other for names."""
    if not all(isinstance(label, int | float) for label in labels):
        return [_colour(i) for i in range(len(labels))]
    from matplotlib import colormaps

    return [colormaps["viridis"](0.9 * i / max(1, len(labels) - 1)) for i in np.argsort(np.argsort(labels))]


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _marker(number: int) -> str:
    return MARKERS[number % len(MARKERS)]


def _word(key: str) -> str:
    return key.replace("_", " ")
