"""Erasers and moments as safetensors files: numbers and a line of JSON, nothing that could run when it is read."""

import json
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

from torch import Tensor

from firstcue._whole import write_whole
from firstcue.erasure.affine import AffineEraser
from firstcue.erasure.editing import ClassEditor
from firstcue.erasure.marginal import Quantiles
from firstcue.erasure.oracle import GroupEraser
from firstcue.moments import Moments

KINDS: dict[str, Any] = {kind.__name__: kind for kind in (AffineEraser, GroupEraser, ClassEditor, Quantiles, Moments)}
FORMAT = 1


def save(obj: Any, path: str | os.PathLike[str]) -> Path:
    """Write an eraser or moments to one file, whole or not at all.

    Args:
        obj: An `AffineEraser`, `GroupEraser`, `ClassEditor`, `Quantiles` or `Moments`.
        path: Where to; by custom it ends in `.safetensors`. An existing file is replaced.

    Returns:
        The path.

    Raises:
        ValueError: If `obj` is of another kind, or the file cannot be written.

    Example:
        >>> import tempfile
        >>> import torch
        >>> path = save(Moments.of(torch.eye(2)), f"{tempfile.mkdtemp()}/moments.safetensors")
        >>> load(path).count
        tensor(2., dtype=torch.float64)
    """
    from safetensors.torch import save as to_bytes

    kind = type(obj).__name__
    if KINDS.get(kind) is not type(obj):
        raise ValueError(
            f"`save` writes {', '.join(KINDS)}; got a {kind}. For a model use its own state_dict and safetensors."
        )
    values = {field.name: getattr(obj, field.name) for field in fields(KINDS[kind])}
    tensors = {name: value.detach().cpu().contiguous() for name, value in values.items() if isinstance(value, Tensor)}
    plain = {name: value for name, value in values.items() if not isinstance(value, Tensor)}
    note = json.dumps({"format": FORMAT, "kind": kind, "fields": plain})
    return write_whole(Path(path), to_bytes(tensors, {"firstcue": note}))


def load(path: str | os.PathLike[str]) -> Any:
    """Read what `save` wrote, onto the CPU.

    Raises:
        ValueError: If there is no such file, or it is not one that `save` wrote.
    """
    from safetensors import SafetensorError, safe_open

    source = Path(path)
    if not source.is_file():
        raise ValueError(f"there is no file {str(source)!r}; `load` reads what `firstcue.save(obj, path)` wrote.")
    try:
        with safe_open(source, framework="pt") as file:
            note = (file.metadata() or {}).get("firstcue")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except SafetensorError as error:
        raise ValueError(f"{str(source)!r} is not a safetensors file, or is cut off: {error}.") from error
    return _rebuild(note, tensors, source)


def _rebuild(note: str | None, tensors: dict[str, Tensor], source: Path) -> Any:
    if note is None:
        raise ValueError(
            f"{str(source)!r} holds tensors {sorted(tensors)[:5]} but no note by `firstcue.save`; for the weights of a model "
            f"use `safetensors.torch.load_file`."
        )
    try:
        head = json.loads(note)
        written, kind, plain = head["format"], KINDS[head["kind"]], dict(head["fields"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"the note in {str(source)!r} is damaged or of an unknown kind ({error}).") from error
    if written != FORMAT:
        raise ValueError(f"{str(source)!r} has format {written}, this version reads {FORMAT}; upgrade firstcue.")
    names = {field.name for field in fields(kind)}
    if set(plain) | set(tensors) != names:
        differing = sorted((set(plain) | set(tensors)) ^ names)
        raise ValueError(f"{str(source)!r} does not hold the fields of {kind.__name__}; differing: {differing}.")
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in plain.items()}
    return kind(**values, **tensors)
