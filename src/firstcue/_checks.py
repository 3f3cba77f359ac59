"""Checks at the public door: what was found, and the way out. Trusted code inside never checks again."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


def as_tensor(x: Any, name: str = "x") -> Tensor:
    """A tensor that shares memory with `x` where it can; objects and strings are refused.

    Raises:
        ValueError: If `x` does not hold plain numbers.
    """
    if isinstance(x, Tensor):
        return x
    array = np.asarray(x)
    if array.dtype.kind not in "biuf":
        raise ValueError(
            f"`{name}` holds {array.dtype} values; numbers are needed (float16 to float64, or integers). "
            f"Encode text or categories first, for example as embeddings."
        )
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int64)
    if not array.flags.writeable or any(stride < 0 for stride in array.strides):
        array = array.copy() if array.nbytes < 1 << 20 or not array.flags.c_contiguous else _writeable_view(array)
    return torch.from_numpy(array)


def _writeable_view(array: np.ndarray) -> np.ndarray:
    """The same memory behind a view that torch accepts; nothing in firstcue writes to its inputs."""
    interface = dict(array.__array_interface__, data=(array.__array_interface__["data"][0], False))
    holder = type("Shared", (), {"__array_interface__": interface, "owner": array})()
    return np.asarray(holder)


def require_finite(x: Tensor, name: str = "x") -> None:
    """Refuse NaN and infinity, naming how many rows hold them and the first."""
    if not x.dtype.is_floating_point or len(x) == 0:
        return
    # the sum of a part is finite only if every term is; it may also overflow, so only then look closer
    parts = x.split(4096) if len(x) > 4096 else (x,)
    if all(math.isfinite(part.float().sum() if part.element_size() < 4 else part.sum()) for part in parts):
        return
    bad = ~torch.isfinite(x).flatten(start_dim=1).all(dim=1) if x.ndim > 1 else ~torch.isfinite(x)
    if not bool(bad.any()):
        return
    first = int(bad.nonzero()[0])
    raise ValueError(
        f"`{name}` has NaN or infinite values in {int(bad.sum())} of {len(x)} rows (first: row {first}). "
        f"Drop those rows or repair what produced them: {name} = {name}[isfinite({name}).all(1)]."
    )


def require_rows(x: Tensor, y: Any, x_name: str = "x", y_name: str = "y") -> None:
    """Refuse arrays whose first axes differ."""
    if len(x) != len(y):
        raise ValueError(f"`{x_name}` has {len(x)} rows but `{y_name}` has {len(y)}; one per row is needed.")


def encode_labels(labels: Any, name: str = "y") -> tuple[Tensor, tuple[str, ...]]:
    """Class ids `0 .. k - 1` and the name of each, for labels of any kind.

    Integers, bools, strings and whole-valued floats are taken as they are; one-hot rows (each row one 1, the rest 0)
    are recognised. Ids follow the sorted order of the labels.

    Args:
        labels: `(n,)` or one-hot `(n, k)`.
        name: What to call it in an error.

    Returns:
        `(n,)` int64 ids on the labels' device and the `k` names.

    Raises:
        ValueError: If labels are real-valued targets, several per row, or missing.

    Example:
        >>> encode_labels(["cat", "dog", "cat"])
        (tensor([0, 1, 0]), ('cat', 'dog'))
    """
    device = labels.device if isinstance(labels, Tensor) else "cpu"
    array = labels.detach().cpu().float().numpy() if _is_half(labels) else np.asarray(_host(labels))
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim == 2:
        return _one_hot_ids(array, name, device)
    if array.ndim != 1:
        raise ValueError(
            f"`{name}` has shape {tuple(array.shape)}; one label per row is needed: (n,) or one-hot (n, k)."
        )
    _refuse_targets(array, name)
    if array.dtype.kind == "O":
        array = array.astype(str)
    values, ids = np.unique(array, return_inverse=True)
    return torch.from_numpy(ids.astype(np.int64)).to(device), tuple(_label_name(v) for v in values)


def _is_half(labels: Any) -> bool:
    return isinstance(labels, Tensor) and labels.dtype in (torch.float16, torch.bfloat16)


def _host(labels: Any) -> Any:
    return labels.detach().cpu().numpy() if isinstance(labels, Tensor) else labels


def _label_name(value: Any) -> str:
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value)


def _one_hot_ids(array: np.ndarray, name: str, device: Any) -> tuple[Tensor, tuple[str, ...]]:
    numeric = array.dtype.kind in "biuf"
    if not numeric or not np.isin(array, (0, 1)).all() or not (array.sum(axis=1) == 1).all():
        raise ValueError(
            f"`{name}` has shape {tuple(array.shape)} and is not one-hot (each row needs exactly one 1, the rest 0). Several "
            f"labels per row are not supported here: audit one column at a time, or erase them with `leace_continuous`."
        )
    ids = torch.from_numpy(array.argmax(axis=1).astype(np.int64)).to(device)
    return ids, tuple(str(i) for i in range(array.shape[1]))


def _refuse_targets(array: np.ndarray, name: str) -> None:
    missing = [v for v in array.tolist() if v is None] if array.dtype.kind == "O" else []
    if missing:
        raise ValueError(f"`{name}` has {len(missing)} missing values (None); drop those rows or give them a label.")
    if array.dtype.kind != "f":
        return
    if not np.isfinite(array).all():
        raise ValueError(f"`{name}` has {int((~np.isfinite(array)).sum())} NaN or infinite values; drop those rows.")
    if not (array == np.round(array)).all():
        raise ValueError(
            f"`{name}` looks like a regression target: {len(np.unique(array))} distinct real values, for example "
            f"{array[array != np.round(array)][0]:.4g}. Class labels are supported; bin it (np.digitize) into classes, or "
            f"erase a real-valued concept with `leace_continuous`."
        )


def require_classes(counts: Tensor, names: Sequence[str], name: str = "y") -> None:
    """Refuse labels with a single class."""
    present = [n for n, c in zip(names, counts.tolist(), strict=True) if c > 0]
    if len(present) < 2:
        raise ValueError(
            f"`{name}` has one class only ({present[0] if present else 'none'!r}); at least two are needed. "
            f"Check that the rows were not filtered or sorted before a split."
        )
