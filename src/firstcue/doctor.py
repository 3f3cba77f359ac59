"""Is this machine ready: versions, the build of torch and its device, extras, shipped data, a browser for the report."""

import importlib.metadata
import platform
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass

NOT_FOR_USERS = ("dev", "docs", "peers")
"""Extras that only somebody who works on firstcue itself installs."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked for."""

    name: str
    found: str
    ok: bool = True
    needed: bool = True
    remedy: str = ""


def examine() -> tuple[Check, ...]:
    """Everything worth knowing before the first audit, in the order in which it matters.

    Example:
        >>> [check.name for check in examine()][:3]
        ['firstcue', 'python', 'torch']
    """
    return (
        Check("firstcue", importlib.metadata.version("firstcue")),
        Check("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        *_torch(),
        *_libraries(),
        _shipped_data(),
        *_extras(),
        _browser(),
    )


def usable(checks: tuple[Check, ...]) -> bool:
    """Whether everything needed is there."""
    return all(check.ok for check in checks if check.needed)


def _torch() -> Iterator[Check]:
    import torch

    build = f"built for cuda {torch.version.cuda}" if torch.version.cuda else "CPU build"
    yield Check("torch", f"{torch.__version__} ({build})")
    works = torch.cuda.is_available()
    yield Check("device", f"cuda: {torch.cuda.get_device_name()}" if works else "cpu")
    yield Check("threads", str(torch.get_num_threads()))


def _libraries() -> Iterator[Check]:
    for name, extra in _requirements():
        if extra is None and name != "torch":
            version = _installed(name)
            yield Check(name, version or "missing", version is not None, remedy=f"pip install {name}")


def _extras() -> Iterator[Check]:
    wanted: dict[str, list[str]] = {}
    for name, extra in _requirements():
        if extra is not None and extra not in NOT_FOR_USERS:
            wanted.setdefault(extra, []).append(name)
    for extra, names in wanted.items():
        missing = [name for name in names if _installed(name) is None]
        found = "not installed" if missing else ", ".join(f"{name} {_installed(name)}" for name in names)
        yield Check(f"extra {extra}", found, not missing, False, f'pip install "firstcue[{extra}]"')


def _requirements() -> Iterator[tuple[str, str | None]]:
    """`(distribution, extra or None)` of every dependency that firstcue declares."""
    for line in importlib.metadata.requires("firstcue") or ():
        name = re.match(r"[A-Za-z0-9._-]+", line)
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)", line)
        if name is not None:
            yield name.group(), extra.group(1) if extra else None


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _shipped_data() -> Check:
    from firstcue.data import shipped

    try:
        batch = shipped()
    except (OSError, ValueError) as error:
        return Check("shipped images", f"unreadable ({error})", False, remedy="pip install --force-reinstall firstcue")
    return Check("shipped images", f"{len(batch):,} of {', '.join(batch.classes)}")


def _browser() -> Check:
    names = ("chromium", "chromium-browser", "google-chrome", "firefox", "open", "xdg-open")
    path = next((path for name in names if (path := shutil.which(name))), None)
    return Check("browser", path or "none found", path is not None, False, "open report.html on another machine")
