"""Fitted estimators as safetensors files: parameters and names in a line of JSON, numbers as tensors."""

import json
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from firstcue._whole import written_whole
from firstcue.erasure.storage import KINDS

FORMAT = 1


def write_estimator(estimator: Any, eraser: Any, path: str | os.PathLike[str]) -> None:
    """Write a fitted estimator, whole or not at all.

    Raises:
        ValueError: If the file cannot be written.
    """
    from safetensors.torch import save

    kept, notes = {"eraser": eraser}, {}
    if estimator.moments_ is not None:
        kept["moments"] = estimator.moments_
    tensors: dict[str, Tensor] = {}
    for name, value in kept.items():
        items = {field.name: getattr(value, field.name) for field in fields(value)}
        tensors |= {
            f"{name}.{key}": t.detach().cpu().contiguous().clone() for key, t in items.items() if isinstance(t, Tensor)
        }
        plain = {key: item for key, item in items.items() if not isinstance(item, Tensor)}
        notes[name] = {"kind": type(value).__name__, "fields": plain}
    names = getattr(estimator, "feature_names_in_", None)
    note = {
        "format": FORMAT,
        "estimator": type(estimator).__name__,
        "params": estimator.get_params(),
        "features": estimator.n_features_in_,
        "names": None if names is None else list(names),
        "values": notes,
    }
    try:
        with written_whole(Path(path)) as temporary:
            temporary.write_bytes(save(tensors, {"firstcue-sklearn": json.dumps(note)}))
    except OSError as error:
        raise ValueError(
            f"{str(path)!r} cannot be written: {error.strerror}. Name a file in a folder that exists and is yours."
        ) from error


def read_estimator(cls: type[Any], path: str | os.PathLike[str]) -> Any:
    """Read what `write_estimator` wrote of an estimator of this class.

    Raises:
        ValueError: If there is no such file, or it holds something else.
    """
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise ValueError(f"there is no file {str(path)!r}; `load` reads what `save` of a {cls.__name__} wrote.")
    try:
        with safe_open(path, framework="pt") as file:
            note = json.loads((file.metadata() or {}).get("firstcue-sklearn", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{str(path)!r} is not a safetensors file, or is damaged: {error}.") from error
    if note.get("estimator") != cls.__name__ or note.get("format") != FORMAT:
        raise ValueError(
            f"{str(path)!r} holds {note.get('estimator') or 'no estimator'} in format {note.get('format')}, not a "
            f"{cls.__name__} in format {FORMAT}; load it by its own class and version."
        )
    estimator = cls(**note["params"])
    estimator.n_features_in_ = note["features"]
    if note["names"] is not None:
        estimator.feature_names_in_ = np.asarray(note["names"], dtype=object)
    values = {name: _value(name, part, tensors) for name, part in note["values"].items()}
    estimator._fitted, estimator.moments_ = values["eraser"], values.get("moments")
    return estimator


def _value(name: str, note: dict[str, Any], tensors: dict[str, Tensor]) -> Any:
    plain = {key: tuple(item) if isinstance(item, list) else item for key, item in note["fields"].items()}
    own = {key.removeprefix(f"{name}."): t for key, t in tensors.items() if key.startswith(f"{name}.")}
    return KINDS[note["kind"]](**plain, **own)
