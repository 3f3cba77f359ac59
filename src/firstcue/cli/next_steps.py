"""`firstcue` alone: the next useful command, by what lies in the current folder."""

from collections.abc import Iterator
from pathlib import Path

DEMO = "firstcue-demo"
DATA = (".npz", ".csv", ".tsv", ".parquet")
_MOST = 200


def next_steps(folder: Path) -> str:
    """A few lines: what was found here, and the commands that follow from it.

    Example:
        >>> print(next_steps(Path("/nowhere")).splitlines()[0])
        Nothing of firstcue is here yet. To see what it does, offline and within a minute:
    """
    lines = [line for part in (_demo(folder), _reports(folder), _data(folder)) for line in part]
    if not lines:
        lines = [
            "Nothing of firstcue is here yet. To see what it does, offline and within a minute:",
            "  firstcue demo --open",
            "To judge a model of yours (my_code.py has a function `model` that returns it):",
            "  firstcue audit my_code:model train.npz --attribute COLUMN --held-out held.npz --out audit",
        ]
    return "\n".join([*lines, "All commands: firstcue --help. Is everything installed: firstcue doctor."])


def _demo(folder: Path) -> Iterator[str]:
    demo = folder / DEMO
    if not (demo / "report.html").is_file():
        return
    yield f"The demo has run. Its report: {DEMO}/report.html"
    parts = [part for part in ("train", "held-out") if (demo / f"{part}.npz").is_file()]
    if len(parts) == 2 and (demo / "model").is_dir():
        yield "Repair its model another way, and look at the result:"
        words = f"{DEMO}/model {DEMO}/train.npz --attribute top_digit --held-out {DEMO}/held-out.npz"
        yield f"  firstcue fix last-layer {words} --out fixed"
        yield f"  firstcue audit fixed {words.partition(' ')[2]} --out after"


def _reports(folder: Path) -> Iterator[str]:
    found = [path for path in _listed(folder) if path.name != DEMO and _has_report(path)]
    if _has_report(folder):
        yield "The report of this folder: report.html"
    if found:
        yield f"Reports below this folder: {_names(found)}. To see them side by side:"
        yield "  firstcue view ."
    if len(found) > 1:
        yield "What changed from one to the other:"
        yield f"  firstcue compare {found[0].name} {found[1].name}"


def _data(folder: Path) -> Iterator[str]:
    found = [path for path in _listed(folder) if path.suffix.lower() in DATA and path.is_file()]
    if not found:
        return
    held = next((path for path in found if any(word in path.stem for word in ("held", "val", "test"))), None)
    first = next((path for path in found if path != held), found[0])
    yield f"Data in this folder: {_names(found)}. To judge a model (my_code.py has a function `model` that returns it):"
    seen = f" --held-out {held.name}" if held is not None and held != first else ""
    yield f"  firstcue audit my_code:model {first.name} --attribute COLUMN{seen} --out audit"


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(path for path, _ in zip(folder.iterdir(), range(_MOST), strict=False))
    except OSError:
        return []


def _has_report(folder: Path) -> bool:
    return folder.is_dir() and (folder / "report.json").is_file()


def _names(paths: list[Path]) -> str:
    shown = ", ".join(path.name for path in paths[:3])
    return shown + (", ..." if len(paths) > 3 else "")
