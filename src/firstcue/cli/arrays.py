"""The files of `audit-embeddings` as arrays: an attribute is named by its file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from firstcue.data import read
from firstcue.data.arrays import read_npy


@dataclass(frozen=True)
class Arrays:
    """What `firstcue.audit_embeddings` takes, in its order."""

    x: np.ndarray
    y: np.ndarray
    attribute: dict[str, np.ndarray] | None
    outputs: np.ndarray | None
    held_out: tuple[Any, ...] | None


def read_arrays(
    x: Path, y: Path, attributes: list[Path], outputs: Path | None, held_out: Path | None, held_outputs: Path | None
) -> Arrays:
    """Read every file.

    Args:
        x: `(n, d)` embeddings.
        y: `(n,)` labels.
        attributes: Files `(n,)`, each named by its stem: `sex.npy` is the attribute "sex".
        outputs: `(n, K)` logits.
        held_out: An `.npz` with x, y and the attributes under the same names.
        held_outputs: `(m, K)` logits of the held-out rows.

    Raises:
        ValueError: If a file is absent, damaged or a pickle, two attributes have one name, or one is not held out.
    """
    names = [path.stem for path in attributes]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            f"two attribute files are called {twice[0]!r}; an attribute is named by its file, so rename one."
        )
    if held_outputs is not None and held_out is None:
        raise ValueError("--held-out-outputs are given without --held-out; give the rows that they belong to.")
    return Arrays(
        read_npy(x),
        read_npy(y),
        {path.stem: read_npy(path) for path in attributes} or None,
        None if outputs is None else read_npy(outputs),
        None if held_out is None else _held_out(held_out, names, held_outputs),
    )


def _held_out(source: Path, names: list[str], outputs: Path | None) -> tuple[Any, ...]:
    batch = read(source)
    absent = [name for name in names if name not in batch.columns]
    if absent:
        found = ", ".join(map(repr, batch.columns)) or "none"
        raise ValueError(f"{source} has no attribute {absent[0]!r}; columns found: {found}. Add it under that name.")
    labels = np.asarray(batch.classes)[batch.y.numpy()] if batch.classes else batch.y.numpy()
    columns = {name: batch.columns[name] for name in names} or None
    return (batch.x, labels, columns, *(() if outputs is None else (read_npy(outputs),)))
