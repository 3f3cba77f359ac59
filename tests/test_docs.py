"""The documentation is true: its code runs, its links lead somewhere, and the commands it names exist."""

import re
import runpy
import shlex
import sys
import tomllib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from typer import BadParameter
from typer.core import TyperGroup
from typer.main import get_command

import firstcue as fc
from firstcue.cli import app, main
from firstcue.data import read
from firstcue.models import load_model
from firstcue.training.loop import minibatches

ROOT = Path(__file__).parent.parent
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")])
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
NEEDS_THE_READERS_OWN_MODEL = {"README.md"}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(path: Path, language: str) -> list[str]:
    """The fenced blocks of a page in a language; read one after the other, since an end looks like a nameless start."""
    fenced = re.findall(r"^```(.*)\n((?:.*\n)*?)^```$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [code for name, code in fenced if name.strip() == language]


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


def commands(path: Path) -> list[str]:
    """The lines `firstcue ...` of the shell blocks of a page, continued lines joined."""
    shell = "\n".join(code for language in ("", "sh", "yaml") for code in blocks(path, language)).replace("\\\n", " ")
    found = re.findall(r"^(?:.*&& |[\s-]*(?:run|entry): +)?(firstcue .*?)(?: +[#>|].*)?$", shell, flags=re.MULTILINE)
    return [" ".join(line.split()) for line in found]


def complaint(line: str) -> str:
    """What the command line finds wrong with the words of a command, which it parses without running it."""
    command, words, context = get_command(app), shlex.split(line)[1:], None
    while isinstance(command, TyperGroup):
        context = command.make_context("firstcue", list(words), parent=context, obj={})
        command, words = command.resolve_command(context, [*context._protected_args, *context.args])[1:]
    usage_error = BadParameter.__mro__[1]  # of the click that typer brings along
    try:
        command.make_context("firstcue", list(words), parent=context, obj={})
    except usage_error as error:
        return error.format_message()
    return ""


@pytest.mark.parametrize("page", [p for p in PAGES if commands(p)], ids=name_of)
def test_every_command_on_a_page_is_understood(page):
    assert {line: complaint(line) for line in commands(page)} == dict.fromkeys(commands(page), "")


def test_a_command_with_an_unknown_option_is_not_understood():
    assert "--weight" in complaint("firstcue audit m:f data.npz --weight w.safetensors")
    assert "DATA" in complaint("firstcue audit m:f")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_in_the_text_of_a_page_exist(page, capsys):
    words = re.findall(r"`firstcue ((?:fix |data )?[a-z-]+)", page.read_text(encoding="utf-8"))
    for command in set(words):
        assert main([*command.split(), "--help"]) == 0, f"{name_of(page)} names firstcue {command}"
    capsys.readouterr()


@pytest.fixture
def strangers_folder(tmp_path, monkeypatch):
    """What the first page asks for: code of a model, its weights, and rows with a background."""
    from safetensors.torch import save_file

    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_code", raising=False)  # an example has a module of that name
    (tmp_path / "my_code.py").write_text(
        "from torch import nn\n\n"
        "def make_model():\n    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))\n"
    )
    (tmp_path / "gate.toml").write_text("min_worst_group = 0.5\n")
    rng = np.random.default_rng(0)
    for name, rows, agree in (("train", 400, 0.9), ("held_out", 400, 0.5), ("fresh", 400, 0.5)):
        y = np.arange(rows) % 2
        background = np.where(rng.random(rows) < agree, y, 1 - y)
        x = rng.normal(size=(rows, 6)).astype(np.float32)
        x[:, 0] += 3 * y
        x[:, 1] += 6 * background
        np.savez(f"{name}.npz", x=x, y=y, background=background)
    model = load_model("my_code:make_model")
    train = read("train.npz")
    fc.train(model, minibatches(train, 32, epochs=12), torch.optim.Adam(model.parameters(), lr=0.01))
    save_file(model.state_dict(), "model.safetensors")
    yield model
    sys.modules.pop("my_code", None)


def loader(name: str) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    rows = read(name, attributes=["background"])
    return [(rows.x, rows.y, torch.as_tensor(rows.columns["background"]))]


def test_the_first_page_leads_a_stranger_to_a_verdict_and_a_repaired_model(strangers_folder, monkeypatch, capsys):
    monkeypatch.setattr(fc, "audit", partial(fc.audit, effort="fast"))
    given = {"model": strangers_folder, "train_loader": loader("train.npz"), "held_out_loader": loader("held_out.npz")}
    lines = [line for code in blocks(ROOT / "README.md", "python") for line in code.splitlines() if line.strip()]
    assert len(lines) <= 6, "the first page promises six lines"
    exec("\n".join(lines), given)
    report = given["report"]
    assert report.verdict == "shortcut"
    assert report.summary() in capsys.readouterr().out
    assert "background" in Path("report.html").read_text(encoding="utf-8")
    fresh = loader("fresh.npz")[0]
    groups = fc.group_metrics(fresh[1], given["repaired"](fresh[0]).argmax(dim=1), 2 * fresh[1] + fresh[2])
    assert groups.worst_group.accuracy > report.groups.worst_group.accuracy + 0.1


def test_the_commands_of_the_first_page_run_in_their_order(strangers_folder, capsys):
    lines = [line for line in commands(ROOT / "README.md") if "my_code" in line or "repaired" in line]
    quick = [line + " --fast" * (" audit " in line) + " --quiet" for line in lines]
    codes = [main(shlex.split(line)[1:]) for line in quick]
    assert codes[:2] == [0, 0], capsys.readouterr().err
    assert codes[2] in (0, 1), "the gate decides"
    assert Path("audit", "report.html").exists()
    assert Path("repaired", "weights.safetensors").exists()
    capsys.readouterr()


def test_the_recipes_for_ci_are_yaml_and_run_the_gate(strangers_folder, capsys):
    yaml = pytest.importorskip("yaml")
    actions, hooks = (yaml.safe_load(code) for code in blocks(ROOT / "docs" / "gate.md", "yaml"))
    steps = [step["run"] for step in actions["jobs"]["audit"]["steps"] if step.get("run", "").startswith("firstcue")]
    hook = hooks["repos"][0]["hooks"][0]
    assert re.search(hook["files"], "model.safetensors")
    assert len(steps) == 1 and "--gate gate.toml" in steps[0]
    assert not complaint(steps[0])
    assert main(shlex.split(hook["entry"])[1:]) == 1, "a model that relies on its background must not pass"
    assert "allow_shortcut is false" in capsys.readouterr().err


def test_the_gate_file_of_the_documentation_is_valid(tmp_path):
    (tmp_path / "gate.toml").write_text(blocks(ROOT / "docs" / "gate.md", "toml")[0])
    from firstcue.finding import Gate, read_gate

    assert read_gate(tmp_path / "gate.toml").min_worst_group == 0.8
    assert set(tomllib.loads((tmp_path / "gate.toml").read_text())) == set(Gate.model_fields)
