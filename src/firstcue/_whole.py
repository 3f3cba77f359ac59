"""A file appears whole or not at all, so that an interrupted command leaves nothing half written."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A name in the same folder to write to; it takes the place of `path` when the block ends without an exception.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "note.txt"
        >>> with written_whole(path) as temporary:
        ...     _ = temporary.write_text("done")
        >>> path.read_text(), len(list(path.parent.iterdir()))
        ('done', 1)
    """
    temporary = path.with_name(f".{path.stem}-{os.getpid()}{path.suffix}")
    temporary.touch()
    mode = temporary.stat().st_mode  # what the user's umask gives; some writers make private files
    try:
        yield temporary
        temporary.chmod(mode)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes) -> Path:
    """Write a file that the user named, whole or not at all.

    Raises:
        ValueError: If it cannot be written there.
    """
    try:
        with written_whole(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise ValueError(
            f"{str(path)!r} cannot be written: {error.strerror}. Name a file in a folder that exists and is yours."
        ) from error
    return path
