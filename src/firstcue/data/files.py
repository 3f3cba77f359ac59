"""A file that cannot be read says which one it is, why, and what would help."""

from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path


def existing(path: str | Path) -> Path:
    """The path, if something is there.

    Raises:
        ValueError: If nothing is; names that look alike are listed.
    """
    path = Path(path)
    if path.exists():
        return path
    folder = path.parent
    if not folder.is_dir():
        raise ValueError(f"there is no file {path}: its folder {folder} does not exist.")
    names = sorted(entry.name for entry in folder.iterdir())
    near = get_close_matches(path.name, names, n=5, cutoff=0.5) or names[:5]
    raise ValueError(f"there is no file {path}; {_listed(folder, near, bool(names))}.")


def _listed(folder: Path, names: list[str], any_at_all: bool) -> str:
    return f"the folder {folder} has {', '.join(names)}" if any_at_all else f"the folder {folder} is empty"


@contextmanager
def reading(path: Path, what: str, *errors: type[Exception]) -> Iterator[None]:
    """Say which file is damaged when reading it raises one of `errors`.

    Raises:
        ValueError: Instead of any of `errors`.
    """
    try:
        yield
    except errors as error:
        raise ValueError(
            f"{path} is not a readable {what}: {str(error).rstrip('.') or type(error).__name__}. It may be truncated "
            f"or of another format; copy or write it again ({path.stat().st_size:,} bytes were found)."
        ) from error


def refuse_empty(path: Path) -> None:
    """Refuse a file of no bytes.

    Raises:
        ValueError: If there is nothing in it.
    """
    if path.is_file() and path.stat().st_size == 0:
        raise ValueError(f"{path} is empty (0 bytes); writing it was probably interrupted: write it again.")
