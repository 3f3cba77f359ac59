"""Results of trainings on disk, so that nothing finished is done again."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from firstcue._whole import written_whole

FORMAT = 1


def fingerprint(x: Tensor, y: Tensor, sizes: Sequence[int], held: int) -> str:
    """What tells data and its cut apart from any other."""
    digest = hashlib.sha256(json.dumps([FORMAT, str(x.dtype), list(x.shape), list(sizes), held]).encode())
    for tensor in (x, y):
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class Store:
    """A folder with one small file per training, and one that says which data they are of."""

    def __init__(self, folder: Path, data: str) -> None:
        self.folder, note = folder, folder / "data.json"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not note.exists():
                _write(note, {"fingerprint": data})
        except OSError as error:
            raise ValueError(
                f"{str(folder)!r} cannot be written: {error.strerror}. Name a folder that is yours."
            ) from error
        if json.loads(note.read_text(encoding="utf-8")) != {"fingerprint": data}:
            raise ValueError(
                f"{str(folder)!r} holds results of other rows, labels or chunks; use another folder, or remove this one."
            )

    def read(self, task: tuple[int, int]) -> tuple[float, float] | None:
        """The losses of a training, None if it is still to do."""
        path = self._path(task)
        if not path.exists():
            return None
        ahead, last = json.loads(path.read_text(encoding="utf-8"))
        return float(ahead), float(last)

    def write(self, task: tuple[int, int], losses: tuple[float, float]) -> None:
        """Keep the losses of a training, whole or not at all."""
        _write(self._path(task), list(losses))

    def _path(self, task: tuple[int, int]) -> Path:
        return self.folder / f"seed-{task[0]}-chunks-{task[1] + 1}.json"


def _write(path: Path, content: Any) -> None:
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")
