"""The documentation is true: its code runs, its links lead somewhere, and the commands it names exist."""

import re
import runpy
from pathlib import Path

import pytest

import firstcue as fc
from pages import PAGES, ROOT, blocks, name_of

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
NEEDS_THE_READERS_OWN_MODEL = {"README.md"}


def has_own_code(path: Path) -> bool:
    return (
        any("--8<--" not in code for code in blocks(path, "python"))
        and name_of(path) not in NEEDS_THE_READERS_OWN_MODEL
    )


@pytest.mark.parametrize("page", [p for p in PAGES if has_own_code(p)], ids=name_of)
def test_the_code_on_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for number, code in enumerate(blocks(page, "python")):
        exec(compile(code, f"{name_of(page)}, block {number + 1}", "exec"), names)


@pytest.mark.parametrize("example", EXAMPLES, ids=name_of)
def test_an_example_runs_and_says_what_its_page_shows(example, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(example), run_name="__main__")
    printed, kept = capsys.readouterr(), EXAMPLES[0].parent / "output" / f"{example.stem}.txt"
    words = set(re.findall("[a-z]{2,}", printed.out + printed.err))
    told = set(re.findall("[a-z]{2,}", kept.read_text(encoding="utf-8")))
    assert words and words == told, f"run: python scripts/gallery.py {example.stem}"


def test_every_example_has_a_page_that_shows_it_and_what_it_prints():
    gallery = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "gallery").glob("*.md"))
    shown = set(re.findall(r'--8<-- "examples/(?:output/)?(\w+\.\w+)"', gallery))
    assert shown == {f"{path.stem}{end}" for path in EXAMPLES for end in (".py", ".txt")}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{name_of(page)} links to {target}"


def test_every_page_is_in_the_navigation_and_exists():
    named = set(re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert named == {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}


def test_every_public_name_is_in_the_reference():
    text = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "api").glob("*.md"))
    whole_modules = set(re.findall(r"^::: (firstcue[.\w]*)\n    options:", text, flags=re.MULTILINE))
    missing = [
        name
        for name, home in fc._HOME.items()
        if f"::: firstcue.{home}.{name}" not in text and f"firstcue.{home}" not in whole_modules
    ]
    assert not missing
