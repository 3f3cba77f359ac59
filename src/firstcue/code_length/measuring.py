"""Measure a code length: train a fresh model on every growing part of the data, and score it on what comes next."""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from firstcue._checks import as_tensor, encode_labels, require_classes, require_finite, require_rows
from firstcue._progress import Progress, silent
from firstcue.code_length.length import CodeLength, code_length
from firstcue.code_length.sizes import chunk_sizes, validation_rows
from firstcue.code_length.store import Store, fingerprint
from firstcue.forward import seeded

Fit = Callable[[Tensor, Tensor, Tensor, Tensor, int], Callable[[Tensor], Any]]
"""`fit(x, y, x_val, y_val, seed)` trains a fresh model, stops by the validation rows, and returns `predict(x)`, which gives
logits or log-probabilities `(n, k)`."""


def description_length(
    fit: Any,
    x: Any,
    y: Any,
    *,
    seeds: int | Sequence[int] = 5,
    chunks: int = 10,
    first: int | None = None,
    batch_size: int = 32,
    validation: int | None = None,
    jobs: int = 1,
    folder: str | Path | None = None,
    progress: Progress = silent,
) -> CodeLength:
    """How many bits per row the labels cost when they are sent by a model that learns from those already sent.

    For every seed rows are shuffled, validation rows are set apart, and the rest is cut into chunks of growing sizes. A fresh
    model is trained on the first i chunks, for every i, and its cross-entropy on chunk i + 1 is what that chunk costs; the
    first chunk costs log2 k bits per row. The same models on the last chunk give the published form, `reference`, and the
    learning curve. Something that is learned fast has a short code.

    Args:
        fit: See `Fit`; or a scikit-learn classifier, which is cloned, and whose probabilities p are mixed with a uniform one,
            (n p + 1 / k) / (n + 1), since a probability of zero would cost infinitely many bits.
        x: `(n, ...)` tensor or array.
        y: `(n,)` labels of any kind.
        seeds: How many, or which; the same seeds give the same splits for another `fit`, so that lengths can be compared
            pair by pair with `difference`.
        chunks, first, batch_size: As in `chunk_sizes`.
        validation: Rows set apart; a fifth, at most 2048, when None.
        jobs: Processes that work side by side, each with one thread.
        folder: Keeps each result as it is made, so that an interrupted call continues. It belongs to one `fit`, and is refused
            with other data.
        progress: Called with the fraction done.

    Raises:
        ValueError: If `x` and `y` do not fit, there are too few rows or one class only, `predict` returns something else than
            `(n, k)`, or `folder` holds results of other data.

    Source:
        Blier and Ollivier (2018), The description length of deep learning models, https://arxiv.org/abs/1802.07044; as a
        measure of learning speed, Quirke and Belrose (2025), https://arxiv.org/abs/2502.02820.

    Example:
        >>> from sklearn.naive_bayes import GaussianNB
        >>> y = torch.arange(300) % 3
        >>> x = torch.randn(300, 2, generator=torch.Generator().manual_seed(0)) + 4 * y[:, None]
        >>> learned = description_length(GaussianNB(), x, y, seeds=2, chunks=4)
        >>> learned.bits_per_sample < 0.6 < learned.chance
        True
    """
    inputs, labels, k = _checked(x, y)
    held = validation_rows(len(inputs)) if validation is None else validation
    if not 0 <= held < len(inputs):
        raise ValueError(f"`validation` is a number of the {len(inputs)} rows; got {held}.")
    sizes = chunk_sizes(len(inputs) - held, k, inputs[0].numel(), chunks=chunks, batch_size=batch_size, first=first)
    chosen = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if not chosen or len(set(chosen)) < len(chosen):
        raise ValueError(f"`seeds` needs at least one seed and none twice; got {chosen}.")
    job = _Job(fit, inputs, labels, k, held, sizes)
    store = None if folder is None else Store(Path(folder), fingerprint(inputs, labels, sizes, held))
    tasks = [(seed, i) for seed in chosen for i in range(chunks - 1)]
    losses = _all(job, tasks, store, jobs, progress)
    _warn_of_trouble(losses, sizes)
    bits = np.array([[losses[seed, i] for i in range(chunks - 1)] for seed in chosen])
    return code_length(bits[:, :, 0], bits[:, :, 1], sizes, k, chosen)


@dataclass(frozen=True)
class _Job:
    """All that one training needs to know."""

    fit: Any
    x: Any
    """A tensor, or the array of it on its way to another process."""

    y: Tensor
    num_classes: int
    held: int
    sizes: tuple[int, ...]

    def losses(self, seed: int, part: int) -> tuple[float, float]:
        """Bits per row on the next chunk and on the last, of a model trained on the first `part` + 1."""
        order = torch.randperm(len(self.x), generator=torch.Generator().manual_seed(seed)).to(self.x.device)
        apart, rest = order[: self.held], order[self.held :]
        ends = np.cumsum(self.sizes).tolist()
        known, following, last = rest[: ends[part]], rest[ends[part] : ends[part + 1]], rest[ends[-2] :]
        fit = self.fit if callable(self.fit) else _scikit_learn(self.fit, self.num_classes)
        own = (seed * 1009 + part) % 2**31
        with seeded(own):
            predict = fit(self.x[known], self.y[known], self.x[apart], self.y[apart], own)
            ahead = self._bits(predict, following)
            return ahead, ahead if part == len(self.sizes) - 2 else self._bits(predict, last)

    def _bits(self, predict: Callable[[Tensor], Any], rows: Tensor) -> float:
        with torch.no_grad():
            logits = as_tensor(predict(self.x[rows]), "predict(x)").detach().cpu().double()
        if logits.shape != (len(rows), self.num_classes):
            raise ValueError(
                f"`predict` returned {tuple(logits.shape)} for {len(rows)} rows of {self.num_classes} classes; logits or "
                f"log-probabilities (n, k) are needed."
            )
        return float(torch.nn.functional.cross_entropy(logits, self.y[rows].cpu())) / math.log(2)


def _checked(x: Any, y: Any) -> tuple[Tensor, Tensor, int]:
    inputs = as_tensor(x)
    labels, classes = encode_labels(y)
    require_rows(inputs, labels)
    require_finite(inputs)
    require_classes(torch.bincount(labels, minlength=len(classes)), classes)
    return inputs, labels.to(inputs.device), len(classes)


def _all(
    job: _Job, tasks: list[tuple[int, int]], store: "Store | None", jobs: int, progress: Progress
) -> dict[tuple[int, int], tuple[float, float]]:
    found = {} if store is None else {task: kept for task in tasks if (kept := store.read(task)) is not None}
    waiting = [task for task in tasks if task not in found]
    for task, losses in _run(job, waiting, jobs):
        found[task] = losses
        if store is not None:
            store.write(task, losses)
        progress("training", len(found) / len(tasks))
    return found


def _run(job: _Job, tasks: list[tuple[int, int]], jobs: int) -> Any:
    """Pairs of a task and its losses, as they are ready; the longest trainings start first."""
    longest_first = sorted(tasks, key=lambda task: -task[1])
    if jobs == 1 or len(tasks) < 2:
        return ((task, job.losses(*task)) for task in longest_first)
    from joblib import Parallel, delayed, parallel_config

    if job.x.dtype != torch.bfloat16:  # arrays are shared between processes, tensors copied
        job = replace(job, x=job.x.detach().cpu().numpy())
    with parallel_config(backend="loky", inner_max_num_threads=1):
        return Parallel(n_jobs=jobs, return_as="generator_unordered")(
            delayed(_one)(job, task) for task in longest_first
        )


def _one(job: _Job, task: tuple[int, int]) -> tuple[tuple[int, int], tuple[float, float]]:
    torch.set_num_threads(1)  # in a process of its own
    return task, replace(job, x=as_tensor(job.x)).losses(*task)


def _scikit_learn(estimator: Any, k: int) -> Fit:
    def fit(x: Tensor, y: Tensor, x_val: Tensor, y_val: Tensor, seed: int) -> Callable[[Tensor], np.ndarray]:
        from sklearn.base import clone

        fresh = clone(estimator)
        if "random_state" in fresh.get_params():
            fresh.set_params(random_state=seed)
        fresh.fit(x.flatten(1).numpy(), y.numpy())

        def predict(rows: Tensor) -> np.ndarray:
            p = np.zeros((len(rows), k))
            p[:, fresh.classes_] = fresh.predict_proba(rows.flatten(1).numpy())
            return np.log((len(x) * p + 1 / k) / (len(x) + 1))

        return predict

    if not (hasattr(estimator, "fit") and hasattr(estimator, "predict_proba")):
        raise ValueError(
            f"`fit` is a {type(estimator).__name__}; needed is fit(x, y, x_val, y_val, seed) -> predict, or a scikit-learn "
            f"classifier with predict_proba."
        )
    return fit


def _warn_of_trouble(losses: dict[tuple[int, int], tuple[float, float]], sizes: Sequence[int]) -> None:
    ends = np.cumsum(sizes)
    bad = [(seed, int(ends[i])) for (seed, i), pair in sorted(losses.items()) if not all(map(math.isfinite, pair))]
    if bad:
        listed = ", ".join(f"seed {seed} at {rows} rows" for seed, rows in bad[:5])
        warnings.warn(
            f"{len(bad)} of {len(losses)} trainings gave a loss that is not finite ({listed}), so there is no finite code "
            f"length. Lower the learning rate, or keep probabilities from becoming zero.",
            stacklevel=3,
        )
