"""Weights over training as safetensors files, one per step: no pickle, and each written whole or not at all."""

import copy
import glob
import json
import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from firstcue.forward import unwrap
from firstcue.training.recorder import Step, is_due, require_when

_PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".pkl")


@dataclass(frozen=True)
class checkpoints:
    """A recorder that saves the weights to `folder/step-000123.safetensors` at every step that is due.

    Args:
        folder: Created if it is missing.
        every: Steps between files, or the steps themselves, as from `log_spaced`.

    Raises:
        ValueError: If the state holds something other than tensors.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     saver = checkpoints(folder, every=5)
        ...     for number in range(11):
        ...         saver.step(torch.nn.Linear(2, 2), number)
        ...     [step for step, _ in load_checkpoints(folder)]
        [0, 5, 10]
    """

    folder: str | Path
    every: int | Collection[int] = 100

    def __post_init__(self) -> None:
        require_when(self.every)

    def __call__(self, step: Step) -> None:
        """Save the step if it is due: what `train` calls."""
        if is_due(self.every, step.number):
            path = Path(self.folder) / f"step-{step.number:06d}.safetensors"
            save_checkpoint(step.model, path, step.number, step.loss)

    def step(self, model: nn.Module, number: int, loss: float | None = None) -> None:
        """Save the model after `number` updates, if that is due: what the user's own loop calls."""
        self(Step(number, model, loss))


def save_checkpoint(model: nn.Module, path: str | Path, step: int, loss: float | None = None) -> Path:
    """Write the model's state and the step to one file; weights that layers share are written once per name.

    Raises:
        ValueError: If the state holds something other than tensors, or the folder cannot be written.
    """
    from safetensors.torch import save_file

    target = Path(path)
    state = unwrap(model).state_dict()
    odd = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if odd:
        raise ValueError(f"the model's state holds {odd[0]!r}, which is not a tensor; only tensors are saved.")
    tensors = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in state.items()}
    partial = target.with_suffix(f".{os.getpid()}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, partial, metadata={"firstcue": json.dumps({"step": step, "loss": loss})})
        os.replace(partial, target)
    except OSError as error:
        raise ValueError(f"the checkpoint {target} cannot be written: {error}.") from error
    return target


def load_checkpoints(source: str | Path) -> list[tuple[int, Path]]:
    """The checkpoints in a folder, or that match a pattern, as (step, path), in the order of training.

    The step is the one written in the file, else the last number in its name.

    Raises:
        ValueError: If there are none, a file cannot be read, or two claim the same step.
    """
    folder = Path(source)
    found = sorted(
        folder.glob("*.safetensors") if folder.is_dir() else map(Path, glob.glob(str(source), recursive=True))
    )
    paths = [path for path in found if path.suffix == ".safetensors"]
    if not paths:
        raise ValueError(_no_checkpoints(source, [*found, *(folder.iterdir() if folder.is_dir() else ())]))
    steps: dict[int, Path] = {}
    for path in paths:
        step = _step_of(path)
        if step in steps:
            raise ValueError(f"two checkpoints claim step {step}: {steps[step]} and {path}; name one of the runs.")
        steps[step] = path
    return sorted(steps.items())


def load_checkpoint(model: nn.Module, path: str | Path) -> nn.Module:
    """A copy of `model` with the weights of a checkpoint; `model` is not touched.

    Raises:
        ValueError: If the file cannot be read, or its tensors do not fit the model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    restored = copy.deepcopy(unwrap(model))
    try:
        restored.load_state_dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a readable safetensors file ({error}); was it copied in full?") from error
    except RuntimeError as error:
        raise ValueError(f"the weights in {path} do not fit this model: {error}") from error
    return restored


def _step_of(path: Path) -> int:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            written = (file.metadata() or {}).get("firstcue")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a readable safetensors file ({error}); was it copied in full?") from error
    if written is not None:
        return int(json.loads(written)["step"])
    numbers = re.findall(r"\d+", path.stem)
    if not numbers:
        raise ValueError(f"{path} does not say its step; name it like step-000100.safetensors.")
    return int(numbers[-1])


def _no_checkpoints(source: str | Path, present: list[Path]) -> str:
    pickles = [path.name for path in present if path.suffix in _PICKLES]
    if pickles:
        return (
            f"{source} holds {pickles[0]}, a pickle, which may run code when it is opened and is not read. Save checkpoints as "
            f"safetensors: safetensors.torch.save_file(model.state_dict(), 'step-000100.safetensors')."
        )
    return f"no .safetensors checkpoint at {source}; give a folder, or a pattern such as 'runs/*.safetensors'."
