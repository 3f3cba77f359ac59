"""The pages of the documentation, their blocks of code, and the commands in them."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")])


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(path: Path, language: str) -> list[str]:
    """The fenced blocks of a page in a language; read one after the other, since an end looks like a nameless start."""
    fenced = re.findall(r"^```(.*)\n((?:.*\n)*?)^```$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [code for name, code in fenced if name.strip() == language]


def commands(path: Path) -> list[str]:
    """The lines `firstcue ...` of the shell blocks of a page, continued lines joined."""
    shell = "\n".join(code for language in ("", "sh", "yaml") for code in blocks(path, language)).replace("\\\n", " ")
    found = re.findall(r"^(?:.*&& |[\s-]*(?:run|entry): +)?(firstcue .*?)(?: +[#>|].*)?$", shell, flags=re.MULTILINE)
    return [" ".join(line.split()) for line in found]
