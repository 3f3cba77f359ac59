"""The documentation is true: its code runs, its links lead somewhere, and the commands it names exist."""

import re
import runpy
import tomllib
from pathlib import Path

import pytest

import firstcue as fc
from firstcue.cli import main

ROOT = Path(__file__).parent.parent
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")])
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
NEEDS_THE_READERS_OWN_MODEL = {"README.md"}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


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
def test_an_example_runs_and_says_something(example, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(example), run_name="__main__")
    assert capsys.readouterr().out.strip()


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


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_on_a_page_exist(page, capsys):
    words = re.findall(r"^firstcue ((?:fix |data )?[a-z-]+)", "\n".join(blocks(page, "")), flags=re.MULTILINE)
    for command in set(words):
        assert main([*command.split(), "--help"]) == 0, f"{name_of(page)} names firstcue {command}"
    capsys.readouterr()


def test_the_gate_file_of_the_documentation_is_valid(tmp_path):
    (tmp_path / "gate.toml").write_text(blocks(ROOT / "docs" / "gate.md", "toml")[0])
    from firstcue.finding import Gate, read_gate

    assert read_gate(tmp_path / "gate.toml").min_worst_group == 0.8
    assert set(tomllib.loads((tmp_path / "gate.toml").read_text())) == set(Gate.model_fields)
