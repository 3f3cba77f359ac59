"""A model on disk is a factory and a file of numbers: `module:factory` builds it, safetensors fills it. Never a pickle."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from firstcue import __version__
from firstcue._importing import call
from firstcue._whole import written_whole
from firstcue.data.files import existing, refuse_empty
from firstcue.integrations.modules import as_module

WEIGHTS, DESCRIPTION = "weights.safetensors", "model.json"
FORMAT = "firstcue model 1"
PICKLED = {".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt"}


def load_model(spec: str | Path, weights: str | Path | None = None) -> nn.Module:
    """The model that `module:factory` builds, with its weights; or a folder that `save_model` wrote.

    Args:
        spec: `module:factory` (the current folder is importable; the factory is called without arguments), or a folder
            with model.json and weights.safetensors.
        weights: A `.safetensors` file; every key of the model has to be in it, and no other. For a folder, its own.

    Raises:
        ValueError: If the factory or the weights cannot be used; the message says why and what would help.

    Example:
        >>> load_model("torch.nn:Identity")
        Identity()
    """
    if Path(spec).is_dir():
        return load_repaired(spec, weights=weights)
    if Path(spec).is_file():
        raise ValueError(f"{spec} is a file; a model is named `module:factory`, and {_way_to_weights(Path(spec))}.")
    model = _built(str(spec))
    return model if weights is None else fill(model, weights)


def load_repaired(
    folder: str | Path, *, factory: Callable[[], nn.Module] | None = None, weights: str | Path | None = None
) -> nn.Module:
    """The model of a folder that `save_model` wrote, built by the factory that it names.

    Args:
        folder: Holds model.json and weights.safetensors.
        factory: Builds the model instead of the factory that model.json names.
        weights: Other weights than those of the folder.

    Raises:
        ValueError: If the folder is incomplete or damaged, or its factory builds another model.
    """
    folder = existing(folder)
    description = describe(folder)
    if factory is None and not description["factory"]:
        raise ValueError(f"{folder / DESCRIPTION} names no factory; hand one over: load_repaired(folder, factory=...).")
    model = _built(description["factory"]) if factory is None else factory()
    return fill(model, folder / WEIGHTS if weights is None else weights)


def describe(folder: str | Path) -> dict[str, Any]:
    """What model.json says: format, factory, layers (shape of every tensor) and changes.

    Raises:
        ValueError: If the file is absent or not one of ours.
    """
    path = Path(folder) / DESCRIPTION
    if not path.is_file():
        raise ValueError(
            f"{folder} is not a model: it has no {DESCRIPTION}. Name a folder written by `firstcue fix`, or "
            f"`module:factory` with --weights file.safetensors."
        )
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not readable JSON: {error}. Write the model again.") from error
    if not isinstance(description, dict) or description.get("format") != FORMAT or "factory" not in description:
        raise ValueError(f"{path} does not describe a model ('format': {FORMAT!r} and 'factory' are needed).")
    return description


def save_model(
    model: nn.Module, folder: str | Path, *, factory: str | None = None, changes: Mapping[str, Any] | None = None
) -> Path:
    """Write a model so that its own factory can bring it back: `weights.safetensors` and `model.json`.

    Every file appears whole or not at all, and model.json last. Tensors that layers share are written once per name.

    Args:
        model: The model.
        folder: Made if need be.
        factory: `module:factory` that builds a model with the same keys and shapes.
        changes: What was changed and how, for people; anything that JSON holds.

    Returns:
        The folder.

    Raises:
        ValueError: If `changes` does not fit into JSON.
        OSError: If the folder cannot be written.
    """
    from safetensors.torch import save_file

    state = model.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise ValueError(
                f"the model keeps {name!r}, a {type(value).__name__}, beside its tensors; only tensors can be written."
            )
    description = {
        "format": FORMAT,
        "factory": factory,
        "layers": {name: list(tensor.shape) for name, tensor in state.items()},
        "changes": dict(changes or {}),
        "firstcue": __version__,
    }
    try:
        text = json.dumps(description, indent=2, ensure_ascii=False)
    except TypeError as error:
        raise ValueError(f"`changes` has to be plain JSON (text, numbers, lists, dictionaries): {error}.") from error
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # a copy each: safetensors refuses names that share memory, and views that are not contiguous
    own = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()}
    with written_whole(folder / WEIGHTS) as path:
        save_file(own, path, metadata={"format": "pt"})
    with written_whole(folder / DESCRIPTION) as path:
        path.write_text(text + "\n", encoding="utf-8")
    return folder


def fill(model: nn.Module, weights: str | Path) -> nn.Module:
    """The same model with its parameters and buffers set from a `.safetensors` file, strictly.

    Raises:
        ValueError: If the file is damaged or a pickle, or keys or shapes differ; all of them are listed.
    """
    tensors = read_weights(weights)
    state = model.state_dict()
    missing = [name for name in state if name not in tensors and not _is_alias(name, state, tensors)]
    unexpected = [name for name in tensors if name not in state]
    other_shape = [
        f"{name} {tuple(tensors[name].shape)} instead of {tuple(state[name].shape)}"
        for name in state
        if name in tensors and tensors[name].shape != state[name].shape
    ]
    if missing or unexpected or other_shape:
        raise ValueError(
            f"{weights} does not fit the model: missing {_listed(missing)}; unexpected {_listed(unexpected)}; of another "
            f"shape {_listed(other_shape)}.{_prefix_hint(missing, unexpected)}"
        )
    model.load_state_dict(tensors, strict=False)  # aliases of tied tensors may be absent; all else was checked
    return model


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` file.

    Raises:
        ValueError: If it is a pickle by its name, or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = existing(path)
    if path.suffix.lower() in PICKLED:
        raise ValueError(
            f"{path} is a pickle, which can run any code when it is loaded: refused. If you trust its origin, convert it "
            f"once in Python: import torch; from safetensors.torch import save_file; "
            f"state = torch.load({path.name!r}, weights_only=True); "
            f"save_file({{k: v.clone().contiguous() for k, v in state.items()}}, {path.stem + '.safetensors'!r})"
        )
    refuse_empty(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} is not a readable .safetensors file: {error}. It may be truncated ({path.stat().st_size:,} bytes were "
            f"found); copy or write it again."
        ) from error


def _built(spec: str) -> nn.Module:
    model = call(spec, "factory")
    if isinstance(model, nn.Module):
        return model
    try:
        return as_module(model)
    except ValueError as error:
        raise ValueError(
            f"the factory `{spec}` returned a {type(model).__name__} that cannot be used: {error} A factory is a function "
            f"without arguments that returns the model."
        ) from None


def _way_to_weights(path: Path) -> str:
    if path.suffix.lower() == ".pt2":
        return (
            f"an exported program is loaded by torch.export.load, which unpickles and so can run any code: refused. If you trust "
            f"its origin, load it in a factory of yours: `def model(): return torch.export.load({path.name!r})`"
        )
    if path.suffix.lower() == ".safetensors":
        return f"weights are given apart: --weights {path}"
    return "weights are given apart, as a .safetensors file: --weights file.safetensors"


def _is_alias(name: str, state: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> bool:
    """Whether a missing tensor shares all its memory with one that is present (tied weights, written once)."""
    own = state[name]
    return own.numel() > 0 and any(
        other in present and tensor.data_ptr() == own.data_ptr() and tensor.shape == own.shape
        for other, tensor in state.items()
        if other != name
    )


def _listed(names: list[str]) -> str:
    return (", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")) or "none"


def _prefix_hint(missing: list[str], unexpected: list[str]) -> str:
    """The remedy when the names differ by one prefix only, as a wrapper around the model leaves it."""
    for longer, shorter, verb in ((unexpected, missing, "Remove"), (missing, unexpected, "Add")):
        if not longer or len(longer) != len(shorter):
            continue
        for name in shorter:
            prefix = longer[0].removesuffix(name)
            if prefix != longer[0] and sorted(longer) == sorted(prefix + s for s in shorter):
                return f" The names differ by the prefix {prefix!r} only. {verb} it in the keys of the file."
    return ""
