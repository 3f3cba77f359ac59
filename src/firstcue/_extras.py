"""Libraries that only some uses need: imported when asked for, with the exact line that installs what is missing."""

from importlib import import_module
from types import ModuleType


class MissingExtra(ImportError):
    """An optional library is not installed; the message has the line that installs it."""


def require_extra(module: str, extra: str, purpose: str) -> ModuleType:
    """The module, imported now.

    Args:
        module: Name to import, for example "pyarrow.parquet".
        extra: Extra of this package that brings it.
        purpose: What it is needed for, as in "reading Parquet files".

    Raises:
        MissingExtra: If it is not installed.

    Example:
        >>> require_extra("json", "parquet", "nothing").__name__
        'json'
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise  # the library is there, but something inside it is not: another line would help
        raise MissingExtra(
            f'{purpose} needs {module.split(".")[0]}, which is not installed: pip install "firstcue[{extra}]"'
        ) from None
