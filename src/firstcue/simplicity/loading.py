"""Densities as files: numbers and a card that says what they were made of, nothing that could run when it is read."""

import json
import os
from collections.abc import Mapping
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from firstcue._whole import write_whole

KINDS = {
    "Uniform": "firstcue.simplicity.density",
    "Independent": "firstcue.simplicity.independent",
    "DCTLaplace": "firstcue.simplicity.dct",
    "Codec": "firstcue.simplicity.codecs",
    "GaussianVectors": "firstcue.simplicity.vectors",
    "PixelAR": "firstcue.simplicity.autoregressive",
    "ImageGlow": "firstcue.simplicity.glow",
}
"""Each kind that may be stored, and the module of its class. A class has `.config`, what builds it (plain JSON values), and
`state_dict()`; it is built again by `from_stored(config, tensors)` if it has that, else by `Kind(**config)` and
`load_state_dict`."""

SHIPPED = ("dct", "gray28", "gray28-glow")
FORMAT = 1


def load_density(name: str | os.PathLike[str]) -> Any:
    """A density that ships with the package, or one from a file that `save_density` wrote.

    Args:
        name: "dct" (no weights: images of any size), "gray28" (autoregressive, grey 28 x 28, exact bits and a map of
            them), "gray28-glow" (a flow for grey 28 x 28, with an inverse), or a path.

    Returns:
        The density, in float32 on the CPU, in evaluation mode and frozen.

    Raises:
        ValueError: If there is no such density or file, or it is damaged.

    Example:
        >>> load_density("dct").bits(torch.zeros(1, 1, 8, 8)) < 50
        tensor([True])
    """
    if name == "dct":
        from firstcue.simplicity.dct import DCTLaplace

        return DCTLaplace()
    density, _ = _read(_where(name))
    return density


def density_card(name: str | os.PathLike[str]) -> dict[str, Any]:
    """What a stored density was made of: data, licence, bits on held-out data, results of its checks.

    Raises:
        ValueError: As for `load_density`; also for "dct", which is a formula.
    """
    if name == "dct":
        raise ValueError('"dct" is a formula without weights and has no card; see `DCTLaplace`.')
    return _read(_where(name))[1]


def save_density(
    density: Any, path: str | os.PathLike[str], card: Mapping[str, Any] | None = None, *, half: bool = False
) -> Path:
    """Write a density to one file, whole or not at all, and its card beside it as JSON if there is one.

    Args:
        density: One of the kinds of this package, for example from `fit_density`.
        path: Where to; by custom it ends in `.safetensors`. An existing file is replaced.
        card: Plain JSON values: data, licence, bits on held-out data and so on.
        half: Store weights as float16, in half the space; they are read as float32 again.

    Returns:
        The path.

    Raises:
        ValueError: If the density is of an unknown kind, weights overflow float16, or the file cannot be written.

    Example:
        >>> import tempfile
        >>> from firstcue.simplicity.independent import Independent
        >>> path = save_density(Independent.fit(torch.rand(5, 1, 2, 2)), f"{tempfile.mkdtemp()}/mine.safetensors")
        >>> load_density(path).shape
        (1, 2, 2)
    """
    from safetensors.torch import save as to_bytes

    kind = type(density).__name__
    if KINDS.get(kind) != type(density).__module__:
        raise ValueError(
            f"a {kind} cannot be stored; {', '.join(KINDS)} can. Store an adapted object with its own library, and adapt "
            f"it again after loading."
        )
    state = density.state_dict() if hasattr(density, "state_dict") else {}
    tensors = {name: _stored(name, value, half) for name, value in state.items()}
    text = json.dumps(dict(card or {}), indent=2, sort_keys=True)
    note = {"format": str(FORMAT), "kind": kind, "config": json.dumps(density.config), "card": text}
    target = Path(path)
    write_whole(target, to_bytes(tensors, note))
    if card is not None:
        write_whole(target.with_suffix(".json"), f"{text}\n".encode())
    return target


def _stored(name: str, value: Tensor, half: bool) -> Tensor:
    kept = value.detach().cpu().contiguous().clone()
    if not half or not kept.is_floating_point():
        return kept
    small = kept.half()
    if not bool(torch.isfinite(small).all()):
        raise ValueError(
            f"{name!r} holds values beyond float16 ({float(kept.abs().max()):.3g}); store with half=False."
        )
    return small


def _where(name: str | os.PathLike[str]) -> Path:
    shipped = Path(str(files("firstcue.simplicity") / "weights")) / f"{name}.safetensors"
    found = shipped if name in SHIPPED else Path(name)
    if not found.is_file():
        raise ValueError(
            f"there is no density {str(name)!r}: neither a file of that name nor one of {', '.join(SHIPPED)}. Make one with "
            f"`fc.fit_density(images)` and `save_density`."
        )
    return found


def _read(path: Path) -> tuple[Any, dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            note = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except SafetensorError as error:
        raise ValueError(f"{str(path)!r} is not a safetensors file, or is cut off: {error}.") from error
    missing = {"format", "kind", "config", "card"} - set(note)
    if missing or note["kind"] not in KINDS:
        raise ValueError(
            f"{str(path)!r} does not hold a density: {sorted(missing) or note['kind']!r} is missing or unknown."
        )
    if note["format"] != str(FORMAT):
        raise ValueError(f"{str(path)!r} has format {note['format']}, this version reads {FORMAT}; upgrade firstcue.")
    kind = getattr(import_module(KINDS[note["kind"]]), note["kind"])
    try:
        return _rebuilt(kind, json.loads(note["config"]), tensors), json.loads(note["card"])
    except (KeyError, TypeError, RuntimeError, json.JSONDecodeError) as error:
        raise ValueError(f"the {note['kind']} in {str(path)!r} is damaged: {error}.") from error


def _rebuilt(kind: Any, config: dict[str, Any], tensors: dict[str, Tensor]) -> Any:
    if hasattr(kind, "from_stored"):
        return kind.from_stored(config, tensors)
    with torch.random.fork_rng(devices=[]):  # weights are drawn and then replaced
        density = kind(**config)
    if isinstance(density, nn.Module):
        density.load_state_dict(tensors)
        density.requires_grad_(False).eval()
    return density
