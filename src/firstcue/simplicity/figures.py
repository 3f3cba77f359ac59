"""Curves of simplification: rows of plain numbers in, a matplotlib figure out."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from firstcue.simplicity.inspecting import GroupBits

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = Mapping[str, Any]
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Okabe and Ito (2008), Color universal design."""
MARKERS = "osD^vPX"
STUCK = 0.02
"""A gate whose mean stays below this let nothing be simplified."""


def accuracy_against_bits(
    rows: Sequence[Row], *, chance: int | float | None = None, xlabel: str = "bits per value"
) -> "Figure":
    """Accuracy against the bits that are left: up and to the left is better.

    Args:
        rows: Each with `line` (what was measured: "simplified", "retrained", "original", "blur", ...), `setting` (what was
            swept: the weight of the bits, the width of a blur), `bits`, `accuracy`, and `seed` where there are several.
        chance: Accuracy of guessing.
        xlabel: What `bits` are.

    Returns:
        A matplotlib figure: for each line the mean over seeds at every setting, with standard deviations as bars.

    Raises:
        ValueError: If there are no rows, or a column is missing.

    Example:
        >>> rows = [{"line": "simplified", "setting": s, "bits": 4 - s, "accuracy": 0.9, "seed": 0} for s in (0, 1)]
        >>> accuracy_against_bits(rows).axes[0].get_xlabel()
        'bits per value'
    """
    _require_columns(rows, "line", "setting", "bits", "accuracy")
    figure, axes = _new_figure()
    for number, name in enumerate(dict.fromkeys(row["line"] for row in rows)):
        mine = [row for row in rows if row["line"] == name]
        _draw_means(axes, mine, ("setting", "bits", "accuracy"), name, number)
    if chance is not None:
        axes.axhline(chance, color="grey", linestyle=":", linewidth=1)
        axes.annotate("chance", (1, chance), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8)
    axes.set(xlabel=xlabel, ylabel="held-out accuracy")
    axes.legend(frameon=False, fontsize="small")
    return figure


def condensation_curve(rows: Sequence[Row], *, full: int | float | None = None) -> "Figure":
    """Accuracy of fresh networks against the bits of the whole condensed set, one line per weight of the bits.

    Args:
        rows: Each with `lam` (weight of the bits), `images_per_class`, `total_bits`, `accuracy`, and `seed` if several.
        full: Accuracy after training on all the data.

    Returns:
        A matplotlib figure; the axis of bits is logarithmic.

    Raises:
        ValueError: If there are no rows, or a column is missing.

    Example:
        >>> rows = [{"lam": 0, "images_per_class": i, "total_bits": 1e4 * i, "accuracy": 0.7, "seed": 0} for i in (1, 2)]
        >>> condensation_curve(rows).axes[0].get_xscale()
        'log'
    """
    _require_columns(rows, "lam", "images_per_class", "total_bits", "accuracy")
    figure, axes = _new_figure()
    for number, lam in enumerate(sorted({row["lam"] for row in rows})):
        mine = [row for row in rows if row["lam"] == lam]
        _draw_means(axes, mine, ("images_per_class", "total_bits", "accuracy"), f"weight {lam:g}", number)
    if full is not None:
        axes.axhline(full, color="grey", linestyle=":", linewidth=1)
        axes.annotate(
            "all the data", (1, full), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8
        )
    axes.set_xscale("log")
    axes.xaxis.set_minor_formatter(lambda *_: "")  # labels between the powers of ten would overlap
    axes.set(xlabel="bits of the condensed set", ylabel="accuracy of fresh networks")
    axes.legend(frameon=False, fontsize="small")
    return figure


def training_monitor(history: Sequence[Row]) -> "Figure":
    """Gate, bits and loss over the steps of a simplifier, and how many steps were skipped.

    Args:
        history: Rows of a fitted simplifier: `gate` (mean, in [0, 1]), `bits_per_pixel`, `loss` and `skipped`, each of
            which may be missing or None in a row.

    Returns:
        A matplotlib figure of three panels; a gate that stayed shut is called so in its title, with the way out.

    Raises:
        ValueError: If there are no rows.

    Example:
        >>> figure = training_monitor([{"gate": 0.0, "bits_per_pixel": None, "loss": 2.3, "skipped": False}] * 20)
        >>> figure.axes[0].get_title()
        'gate shut: train the classifier longer first, or raise the tolerance'
    """
    if not history:
        raise ValueError("`history` is empty; there is nothing to show.")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0, 6.0), layout="constrained")
    panels = figure.subplots(3, 1, sharex=True)
    steps = np.arange(1, len(history) + 1)
    names = (("gate", "images under pressure"), ("bits_per_pixel", "bits per value"), ("loss", "loss"))
    for axes, (key, label) in zip(panels, names, strict=True):
        values = _column(history, key)
        axes.plot(steps, values, linewidth=0.8)
        axes.set_ylabel(label)
    gate = _column(history, "gate")
    late = gate[len(gate) // 2 :]
    if np.isfinite(late).any() and np.nanmean(late) < STUCK:
        panels[0].set_title("gate shut: train the classifier longer first, or raise the tolerance", color="firebrick")
    panels[0].set_ylim(-0.02, 1.02)
    skipped = int(sum(bool(row.get("skipped")) for row in history))
    panels[2].set_xlabel(f"step ({skipped} of {len(history)} skipped as not finite)")
    return figure


def bits_by_class(bits: Any, labels: Sequence[str], *, values: int = 1) -> "Figure":
    """The distribution of bits within each class, simplest class first.

    Args:
        bits: `(n,)` total bits of each row.
        labels: `(n,)` name of its class.
        values: Values in a row, to show bits per value.

    Returns:
        A matplotlib figure: a violin per class, its mean, its number of rows.

    Raises:
        ValueError: If lengths differ or there are no rows.

    Example:
        >>> figure = bits_by_class([1.0, 2.0, 5.0, 6.0], ["b", "b", "a", "a"])
        >>> [text.get_text() for text in figure.axes[0].get_yticklabels()]
        ['b (2)', 'a (2)']
    """
    found = np.asarray(bits, dtype=float) / values
    names = np.asarray(labels).astype(str)
    if len(found) != len(names) or len(found) == 0:
        raise ValueError(f"there are {len(found)} bits and {len(names)} labels; one label per row is needed.")
    parts = sorted(((name, found[names == name]) for name in np.unique(names)), key=lambda part: part[1].mean())
    figure, axes = _new_figure(height=1.2 + 0.45 * len(parts))
    wide = [i for i, (_, part) in enumerate(parts) if np.ptp(part) > 0]
    if wide:
        axes.violinplot([parts[i][1] for i in wide], wide, orientation="horizontal", showextrema=False, widths=0.8)
    axes.plot([part.mean() for _, part in parts], range(len(parts)), "o", color="black", markersize=4)
    axes.set_yticks(range(len(parts)), [f"{name} ({len(part)})" for name, part in parts])
    axes.set_xlabel("bits per value" if values > 1 else "bits")
    return figure


def mean_bits(groups: Sequence[GroupBits], *, values: int = 1) -> "Figure":
    """Mean bits of classes or groups with their 95 % intervals, simplest first.

    Args:
        groups: From `inspect_bits` or `group_bits`.
        values: Values in a row, to show bits per value.

    Raises:
        ValueError: If there are none.
    """
    if not groups:
        raise ValueError("`groups` is empty; there is nothing to show.")
    ordered = sorted(groups, key=lambda group: group.mean)
    figure, axes = _new_figure(height=1.2 + 0.35 * len(ordered))
    mean = np.array([g.mean for g in ordered]) / values
    half = np.nan_to_num(np.array([g.ci_high - g.mean for g in ordered]) / values)
    axes.errorbar(mean, range(len(ordered)), xerr=half, fmt="o", markersize=4, capsize=2)
    axes.set_yticks(range(len(ordered)), [f"{g.name} ({g.n})" for g in ordered])
    axes.set_xlabel("mean bits per value" if values > 1 else "mean bits")
    return figure


def _new_figure(height: float = 3.6) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.4, height), layout="constrained")
    return figure, figure.subplots()


def _draw_means(axes: Any, rows: Sequence[Row], keys: tuple[str, str, str], label: str, number: int) -> None:
    """One line through the means over rows that share `keys[0]`, with standard deviations as bars."""
    by, x, y = keys
    settings = dict.fromkeys(row[by] for row in rows)
    groups = [np.array([(row[x], row[y]) for row in rows if row[by] == setting], dtype=float) for setting in settings]
    groups.sort(key=lambda group: group[:, 0].mean())
    means = np.array([group.mean(axis=0) for group in groups])
    spreads = np.array([group.std(axis=0, ddof=1) if len(group) > 1 else (0.0, 0.0) for group in groups])
    axes.errorbar(
        means[:, 0], means[:, 1], xerr=spreads[:, 0], yerr=spreads[:, 1], label=label, color=COLOURS[number % len(COLOURS)],
        marker=MARKERS[number % len(MARKERS)], markersize=4, linewidth=1, capsize=2,
    )  # fmt: skip


def _column(rows: Sequence[Row], key: str) -> np.ndarray:
    return np.array([math.nan if row.get(key) is None else float(row[key]) for row in rows])


def _require_columns(rows: Sequence[Row], *names: str) -> None:
    if not rows:
        raise ValueError("there are no rows; nothing to show.")
    missing = [name for name in names if any(name not in row for row in rows)]
    if missing:
        raise ValueError(f"rows lack {', '.join(missing)}; each needs {', '.join(names)}.")
