"""Finished classes of a long edit, kept in a folder so that an interrupted run goes on where it stopped."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from firstcue._whole import written_whole


class Store:
    """A folder with one file per finished class, each signed with what it was made from."""

    def __init__(self, folder: Path, settings: str, parts: Sequence[Tensor]) -> None:
        self.folder = folder
        self.signature = hashlib.sha256(settings.encode())
        for part in parts:
            self.signature.update(_bytes(part.float()))  # what rounding differs in does not make it another target

    def read(self, c: int, name: str, rows: Tensor) -> Tensor | None:
        """What became of these rows of class `c`, or None if it is not there yet.

        Raises:
            ValueError: If the file is damaged, or was made from other rows or settings.
        """
        from safetensors import SafetensorError, safe_open

        path = self._path(c)
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                note, found = json.loads((file.metadata() or {})["firstcue"]), file.get_tensor("rows")
        except (SafetensorError, KeyError, ValueError) as error:
            raise ValueError(f"{path} is not a checkpoint of gradient_erasure ({error}); delete it.") from error
        if note != self._note(name, rows):
            raise ValueError(
                f"the checkpoint {path} belongs to other data or settings; name another folder, or delete this one."
            )
        return found

    def write(self, c: int, name: str, rows: Tensor, found: Tensor) -> None:
        """Keep what became of these rows of class `c`.

        Raises:
            ValueError: If the folder cannot be written.
        """
        from safetensors.torch import save as to_bytes

        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with written_whole(self._path(c)) as temporary:
                note = json.dumps(self._note(name, rows))
                temporary.write_bytes(to_bytes({"rows": found.cpu().contiguous()}, {"firstcue": note}))
        except OSError as error:
            raise ValueError(f"the checkpoint in {self.folder} cannot be written: {error}.") from error

    def _path(self, c: int) -> Path:
        return self.folder / f"class-{c:04d}.safetensors"

    def _note(self, name: str, rows: Tensor) -> dict[str, str]:
        signature = self.signature.copy()
        signature.update(_bytes(rows))
        return {"class": name, "made_from": signature.hexdigest()}


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().numpy().tobytes()
