"""Is this machine ready: versions, the build of torch and its device, extras, shipped data, a browser for the report."""

import importlib.metadata
import os
import platform
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass

NOT_FOR_USERS = ("dev", "docs", "peers")
"""Extras that only somebody who works on firstcue itself installs."""


ENOUGH = 2e9
"""Bytes of memory below which a default audit may not fit."""

MALICIOUS = {"lightning": ("2.6.2", "2.6.3"), "pytorch-lightning": ("2.6.2", "2.6.3")}
"""Releases of other projects that stole credentials when they were imported."""


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
        *_malicious(),
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
    yield _memory()


def _memory() -> Check:
    """Of the machine, and what is free of it; an audit of the defaults wants about 2 GB."""
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        total, free = page * os.sysconf("SC_PHYS_PAGES"), page * os.sysconf("SC_AVPHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return Check("memory", "unknown on this system")
    found = f"{total / 1e9:.1f} GB, {free / 1e9:.1f} GB unused; {os.cpu_count()} processors"
    return Check("memory", found, total > ENOUGH, False, "audit fewer rows, or with a smaller --batch-size")


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


def _malicious() -> Iterator[Check]:
    for name, versions in MALICIOUS.items():
        found = _installed(name)
        if found in versions:
            remedy = f"pip uninstall {name}, and change every password and token that this machine knows"
            yield Check(name, f"{found}, a release that steals credentials", False, True, remedy)


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
