"""Output is refused before the work when it cannot be written, and a report is always the same three files."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from firstcue.cli.outcomes import WrongUsage

if TYPE_CHECKING:  # pydantic is not loaded for `--help`
    from firstcue.finding import Report


def writable_folder(folder: Path, option: str = "--out") -> Path:
    """Make `folder` if need be and try to write into it.

    Raises:
        WrongUsage: If it is a file, or nothing can be written there.
    """
    if folder.exists() and not folder.is_dir():
        raise WrongUsage(f"{option}: {folder} is a file; name a folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise WrongUsage(f"{option}: cannot write into {folder} ({error.strerror}); name a folder of yours.") from None
    return folder


def writable_file(file: Path, option: str) -> Path:
    """The same for a file: its folder has to take it.

    Raises:
        WrongUsage: If it is a folder, or its folder cannot be written.
    """
    if file.is_dir():
        raise WrongUsage(f"{option}: {file} is a folder; name a file.")
    writable_folder(file.parent, option)
    return file


def save_report(report: "Report", folder: Path, *, interactive: bool = False) -> Path:
    """Write `report.html`, `report.json` and `model-card.md`; returns the page."""
    report.to_json(folder / "report.json")
    (folder / "model-card.md").write_text(report.to_model_card(), encoding="utf-8")
    return report.save_html(folder / "report.html", interactive=interactive)
