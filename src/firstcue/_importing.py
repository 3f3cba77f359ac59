"""`module:name` means a name in the user's own code, found as if Python had been started in the current folder."""

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module, invalidate_caches
from typing import Any

SPEC = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
"""What `module:name` looks like."""


@contextmanager
def current_folder_importable() -> Iterator[None]:
    """Put the current folder first on the import path while the block runs."""
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)


def call(spec: str, role: str) -> Any:
    """Import what `module:name` names; call it without arguments if it is a function or class, else hand it over.

    Args:
        spec: `module:name`.
        role: What it is to the user, as in "factory" or "loader", for messages.

    Raises:
        ValueError: If there is no such module or name, or the user's code raises.
    """
    with current_folder_importable():
        found = _find(spec, role)
        return _guarded(found, spec, role) if _is_factory(found) else found


def _is_factory(found: Any) -> bool:
    """A model is callable too, but it is the value, not the way to it."""
    return isinstance(found, type) or (callable(found) and not hasattr(found, "state_dict"))


def _find(spec: str, role: str) -> Any:
    if not SPEC.fullmatch(spec):
        raise ValueError(f"a {role} is named `module:name`, for example `my_code:make`; got {spec!r}.")
    module_name, _, path = spec.partition(":")
    invalidate_caches()  # the file may have been written a moment ago
    try:
        found: Any = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name + ".").startswith(error.name + "."):
            raise ValueError(
                f"there is no module {module_name!r} for the {role} `{spec}` in the current folder or among installed "
                f"packages. Run the command in the folder that holds {module_name.split('.')[0]}.py."
            ) from error
        raise ValueError(f"the module of the {role} `{spec}` needs {error.name!r}, which is not installed.") from error
    except (Exception, SystemExit) as error:  # the user's code: whatever it raises is theirs to mend
        raise ValueError(f"importing {module_name!r} for the {role} `{spec}` raised {_said(error)}") from error
    for name in path.split("."):
        if not hasattr(found, name):
            public = (
                ", ".join(n for n in vars(found) if not n.startswith("_"))[:300] if hasattr(found, "__dict__") else ""
            )
            raise ValueError(f"{module_name!r} has no {name!r} for the {role} `{spec}`; it has: {public or 'nothing'}.")
        found = getattr(found, name)
    return found


def _guarded(factory: Callable[[], Any], spec: str, role: str) -> Any:
    try:
        return factory()
    except (Exception, SystemExit) as error:  # the user's code: whatever it raises is theirs to mend
        raise ValueError(f"the {role} `{spec}` raised {_said(error)} It is called without arguments.") from error


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).rstrip('.') or 'no message'}."
