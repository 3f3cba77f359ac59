"""A folder of results, one file per trial, each written whole or not at all and checked when it is read.

```
STORE/finished/ab/ab12….json   {"checksum": "<sha256 of body>", "body": {trial, rows, seconds}}
STORE/failed/ab/ab12….json     the same with `error` (one line) and `traceback` instead of rows
STORE/started/ab12….SWEEP      an attempt that has begun and not ended; SWEEP names the run of `sweep` that began it
STORE/index.csv                a list of the above, for people; rebuilt from the files by every sweep
```
"""

import csv
import json
import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from firstcue._values import plain
from firstcue.sweeps.trial import Trial, canonical

_HEAD = b'{"checksum":"'
_NECK = b'",\n"body":'
_TAIL = b"}\n"
_START = len(_HEAD) + 64 + len(_NECK)


@dataclass(frozen=True)
class Result:
    """What became of a trial: rows when it ended well, else the error."""

    trial: dict[str, Any]
    rows: list[dict[str, Any]]
    seconds: float
    error: str | None = None
    traceback: str | None = None

    def labelled(self) -> list[dict[str, Any]]:
        """Rows as `sweep` returns them."""
        return Trial(**self.trial).label(self.rows)


class Store:
    """Results of trials in a folder.

    Args:
        folder: Made if it is missing.

    Raises:
        ValueError: If nothing can be written there.

    Example:
        >>> import tempfile
        >>> store = Store(tempfile.mkdtemp())
        >>> trial = Trial("mine", {"rate": 0.1})
        >>> store.write(trial, Result(trial.to_dict(), [{"accuracy": 0.9}], seconds=0.2))
        >>> store.read(trial).rows
        [{'accuracy': 0.9}]
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        try:
            for name in ("finished", "failed", "started"):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
            probe = self.folder / f".probe-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ValueError(
                f"results cannot be kept in {self.folder} ({error.strerror}); name a folder that can be written."
            ) from None

    def path(self, key: str, *, failed: bool = False) -> Path:
        """The file of a trial's result."""
        return self.folder / ("failed" if failed else "finished") / key[:2] / f"{key}.json"

    def write(self, trial: Trial, result: Result) -> None:
        """Keep a result; it is on the disk when this returns.

        Raises:
            ValueError: If the disk is full or the folder gone.
        """
        path = self.path(trial.key, failed=result.error is not None)
        try:
            path.parent.mkdir(exist_ok=True)
            _write_whole(path, self.text(result))
        except OSError as error:
            raise ValueError(
                f"a result cannot be written to {self.folder} ({error.strerror}); make room or mend the folder, and run the "
                f"same sweep again: nothing that finished is lost."
            ) from None
        if result.error is None:
            self.path(trial.key, failed=True).unlink(missing_ok=True)

    @staticmethod
    def text(result: Result) -> bytes:
        """The content of a result's file."""
        body = canonical(plain({name: value for name, value in vars(result).items() if value is not None})).encode()
        return _HEAD + sha256(body).hexdigest().encode() + _NECK + body + _TAIL

    def read(self, trial: Trial, *, failed: bool = False) -> Result | None:
        """A trial's result, or None where there is none that is whole."""
        return _read(self.path(trial.key, failed=failed))

    def results(self, *, failed: bool = False) -> Iterator[Result]:
        """Every whole result, in the order of their keys."""
        folder = self.folder / ("failed" if failed else "finished")
        for path in sorted(folder.glob("*/*.json")):
            found = _read(path)
            if found is not None:
                yield found

    def rows(self) -> list[dict[str, Any]]:
        """Rows of everything that has finished, at any time, also while a sweep is running."""
        return [row for result in self.results() for row in result.labelled()]

    def failures(self) -> list[Result]:
        """Trials that ended in an error, with their tracebacks."""
        return list(self.results(failed=True))

    def discard(self, experiments: Collection[str]) -> None:
        """Forget every result of these experiments, so that they are run again."""
        for failed in (False, True):
            for result in self.results(failed=failed):
                if result.trial["experiment"] in experiments:
                    self.path(Trial(**result.trial).key, failed=failed).unlink(missing_ok=True)

    def begin(self, trial: Trial, sweep: str) -> Path:
        """Mark that an attempt has begun; the mark stays if the process dies."""
        mark = self.folder / "started" / f"{trial.key}.{sweep}"
        mark.touch()
        return mark

    def begun(self, sweep: str) -> set[str]:
        """Keys of the attempts of one sweep that began and did not end."""
        return {path.stem for path in (self.folder / "started").glob(f"*.{sweep}")}

    def forget(self, sweep: str) -> None:
        """Remove the marks of one sweep."""
        for path in (self.folder / "started").glob(f"*.{sweep}"):
            path.unlink(missing_ok=True)

    def write_index(self, results: Iterable[tuple[Trial, Result]]) -> None:
        """Rewrite `index.csv`, the list for people, from trials and their results."""
        with (self.folder / "index.csv.tmp").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["key", "experiment", "seed", "settings", "status", "seconds"])
            for trial, result in results:
                status = "finished" if result.error is None else "failed"
                settings = canonical(dict(trial.settings))
                writer.writerow([trial.key, trial.experiment, trial.seed, settings, status, round(result.seconds, 3)])
        os.replace(self.folder / "index.csv.tmp", self.folder / "index.csv")


def _read(path: Path) -> Result | None:
    """The result in a file; None if there is no such file or what is in it was cut short or changed."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    body = data[_START : -len(_TAIL)]
    if data[len(_HEAD) : len(_HEAD) + 64] != sha256(body).hexdigest().encode():
        return None
    found = json.loads(body)
    return Result(**{"rows": [], **found})


def _write_whole(path: Path, data: bytes) -> None:
    """Temporary file, fsync, rename: after a crash the file is there whole or not at all."""
    temporary = path.with_name(f".{path.stem}-{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
