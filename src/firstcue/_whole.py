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
