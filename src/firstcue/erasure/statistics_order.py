"""In which order does a network learn to use statistics: the accuracy of every checkpoint on every surrogate data set."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from firstcue._checks import require_rows
from firstcue._progress import Progress, silent
from firstcue.batch import Batch


@dataclass(frozen=True)
class StatisticsOrder:
    """Accuracy of every checkpoint on every data set."""

    rows: tuple[Mapping[str, Any], ...]
    """One per checkpoint and data set: `step`, `data`, `accuracy` with its 95 % interval `ci_low`, `ci_high`, `n`, and
    `baseline`, the share of the commonest label."""

    def curve(self, data: str) -> list[tuple[int, float]]:
        """Steps and accuracies on one data set.

        Raises:
            ValueError: If there is none of that name.
        """
        found = [(row["step"], row["accuracy"]) for row in self.rows if row["data"] == data]
        if not found:
            raise ValueError(f"no data set {data!r} was evaluated; evaluated: {', '.join(self.names)}.")
        return found

    @property
    def names(self) -> tuple[str, ...]:
        """The data sets, in the order given."""
        return tuple(dict.fromkeys(row["data"] for row in self.rows))

    def peaks(self) -> dict[str, dict[str, float]]:
        """For every data set the first step of highest accuracy, that accuracy, and the one at the end.

        Where the final accuracy lies below the peak, the network has come to use statistics that the data set lacks.
        """
        peaks = {}
        for name in self.names:
            curve = self.curve(name)
            step, best = max(curve, key=lambda point: (point[1], -point[0]))
            peaks[name] = {"step": float(step), "accuracy": best, "final": curve[-1][1]}
        return peaks

    def figure(self) -> Any:
        """A matplotlib figure: one curve per data set over steps on a logarithmic axis, with intervals."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, 4.2), layout="constrained")
        axes = figure.add_subplot()
        for name in self.names:
            mine = [row for row in self.rows if row["data"] == name]
            steps = [row["step"] for row in mine]
            (line,) = axes.plot(steps, [row["accuracy"] for row in mine], marker=".", label=name)
            low, high = ([row[end] for row in mine] for end in ("ci_low", "ci_high"))
            axes.fill_between(steps, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
        axes.axhline(max(row["baseline"] for row in self.rows), color="grey", linewidth=0.8, linestyle=":")
        axes.set_xscale("symlog", linthresh=1)
        axes.set(xlabel="training step", ylabel="accuracy", ylim=(0, 1.02))
        axes.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
        return figure


def order_of_statistics(
    checkpoints: str | Path | Iterable[tuple[int, Any]],
    surrogates: Mapping[str, Batch],
    *,
    model: nn.Module | None = None,
    batch_size: int = 512,
    progress: Progress = silent,
) -> StatisticsOrder:
    """The accuracy of every checkpoint on every surrogate: the curve "first means, then covariances, then the rest".

    On a surrogate that keeps the class means and nothing else, a network that reads means is right and one that has gone on
    to other statistics need not be: accuracy there rises early and falls again. Put the real held-out rows among the
    data sets as well, to compare.

    Args:
        checkpoints: Pairs of step and model, as an iterable (a generator keeps one model in memory); or a folder or pattern
            of files that `firstcue.training.checkpoints` wrote, or pairs of step and such a file, with `model`.
        surrogates: Data sets by name, from `firstcue.surrogates` or real. Labels are the model's class ids.
        model: The architecture that the files' weights belong to; it is not changed.
        batch_size: Rows per call of the model.
        progress: Called with a stage and the fraction done, if the number of checkpoints is known.

    Returns:
        Rows of numbers with `.curve(name)`, `.peaks()` and `.figure()`.

    Raises:
        ValueError: If there is no checkpoint or data set, files are given without `model`, or the model has fewer outputs
            than there are classes.

    Source:
        Belrose et al. (2024), Neural networks learn statistics of increasing complexity, https://arxiv.org/abs/2402.04362.

    Example:
        >>> from firstcue.erasure.surrogates import gaussian
        >>> real = Batch.of(torch.tensor([[-1.0], [-2.0], [1.0], [2.0]]), [0, 0, 1, 1])
        >>> def signs(weight):
        ...     layer = torch.nn.Linear(1, 1, bias=False)
        ...     _ = layer.weight.data.fill_(weight)
        ...     return layer
        >>> order = order_of_statistics([(0, signs(-1.0)), (1, signs(1.0))], {"real": real})
        >>> order.curve("real")
        [(0, 0.0), (1, 1.0)]
    """
    if not surrogates:
        raise ValueError("`surrogates` names no data set; give at least one, such as {'gaussian': gaussian(batch)}.")
    for name, batch in surrogates.items():
        require_rows(batch.x, batch.y, f"surrogates[{name!r}].x")
    points = _points(checkpoints)
    total = len(points) * len(surrogates) if isinstance(points, list) else 0
    rows: list[Mapping[str, Any]] = []
    for step, given in points:
        network = _network(given, model)
        for name, batch in surrogates.items():
            rows.append({"step": int(step), "data": name} | _accuracy(network, batch, batch_size))
            if total:
                progress(f"step {step}", len(rows) / total)
    if not rows:
        raise ValueError("`checkpoints` yields none; check that the folder or the generator is not exhausted.")
    return StatisticsOrder(tuple(sorted(rows, key=lambda row: row["step"])))


def _points(checkpoints: Any) -> Iterable[tuple[int, Any]]:
    if isinstance(checkpoints, str | Path):
        from firstcue.training.checkpoints import load_checkpoints

        return list(load_checkpoints(checkpoints))
    return checkpoints


def _network(given: Any, model: nn.Module | None) -> nn.Module:
    if isinstance(given, nn.Module):
        return given
    if model is None or not isinstance(given, str | Path):
        raise ValueError(
            f"a checkpoint is {type(given).__name__}; give pairs (step, model), or files together with `model`, the "
            f"architecture their weights belong to."
        )
    from firstcue.training.checkpoints import load_checkpoint

    return load_checkpoint(model, given)


def _accuracy(model: nn.Module, batch: Batch, batch_size: int) -> dict[str, Any]:
    from scipy.stats import binomtest

    from firstcue.forward import predict

    outputs, labels = predict(model, batch.x, batch_size=batch_size), batch.y.cpu()
    if outputs.shape[1] <= int(labels.max()):
        raise ValueError(
            f"the model has {outputs.shape[1]} outputs, and a data set has the class id {int(labels.max())}; use the class "
            f"ids the model was trained on."
        )
    right = int((outputs.argmax(dim=1) == labels).sum())
    low, high = binomtest(right, len(labels)).proportion_ci(method="wilson")
    return {
        "accuracy": right / len(labels),
        "ci_low": float(low),
        "ci_high": float(high),
        "n": len(labels),
        "baseline": _commonest(labels),
    }


def _commonest(labels: Tensor) -> float:
    return float(torch.bincount(labels).max()) / len(labels)
