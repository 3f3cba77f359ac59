"""Every command in the documentation is understood, and those that do not take hours run."""

import re
import shlex
import sys
import tomllib
import webbrowser
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from typer import BadParameter
from typer.core import TyperGroup
from typer.main import get_command

import firstcue as fc
from firstcue.cli import app, main
from firstcue.cli.outcomes import Outcome
from firstcue.data import read
from firstcue.models import load_model
from firstcue.training.loop import minibatches
from pages import PAGES, ROOT, blocks, commands, name_of


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


def quick(line: str) -> int:
    """Run a command without progress, an audit or a demo in its fast form; the exit code."""
    words = shlex.split(line)[1:]
    return main([*words, "--quiet", *(["--fast"] if words[0] in ("audit", "demo") else [])])


RAN = {(False, False): {0}, (True, False): {0, Outcome.INCONCLUSIVE}, (True, True): {0, Outcome.GATE_FAILED}}
"""Exit codes of commands that did their work: of an audit, with and without a gate, and of others."""


def of_a_stranger(page: Path) -> list[str]:
    """The commands of a page that take the rows and the model of `strangers_folder`, or what they made of them."""
    return [line for line in commands(page) if re.search(r"train\.npz", line) and "firstcue-demo" not in line]


@pytest.mark.parametrize("page", [p for p in PAGES if of_a_stranger(p)], ids=name_of)
def test_the_commands_of_a_page_run_in_their_order(page, strangers_folder, capsys):
    for line in of_a_stranger(page):
        code = quick(line)
        assert code in RAN[" audit " in line, "--gate" in line], f"{line} ended with {code}: {capsys.readouterr().err}"
        for folder in re.findall(r"--out (\S+)", line):
            assert Path(folder, "weights.safetensors" if " fix " in line else "report.html").exists(), line
    capsys.readouterr()


def test_the_command_for_a_folder_of_photographs_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("waterbirds").mkdir()
    rng, lines = np.random.default_rng(0), ["img_filename,y,place,split"]
    for i in range(96):
        y, place = i % 2, (i // 2 if i % 3 else i) % 2
        shades = rng.integers(0, 80, (12, 12, 3)) + np.array([60, 60, 60 + 100 * place])
        Image.fromarray(shades.astype(np.uint8)).save(f"waterbirds/{i}.png")
        lines.append(f"{i}.png,{y},{place},{i // 48}")
    Path("waterbirds", "metadata.csv").write_text("\n".join(lines))
    Path("my_code.py").write_text(
        "from torch import nn\n\n\ndef make_model():\n"
        "    return nn.Sequential(nn.AvgPool2d(56), nn.Flatten(), nn.Linear(48, 4), nn.ReLU(), nn.Linear(4, 2))\n"
    )
    monkeypatch.delitem(sys.modules, "my_code", raising=False)
    save_file(load_model("my_code:make_model").state_dict(), "model.safetensors")
    (line,) = commands(ROOT / "docs" / "questions" / "background.md")
    assert quick(line) in RAN[True, False], capsys.readouterr().err
    sys.modules.pop("my_code", None)
    assert "place" in Path("audit", "report.html").read_text(encoding="utf-8")


@pytest.mark.science
def test_the_demo_runs_opens_its_page_and_leaves_what_other_pages_audit(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    lines = [line for page in PAGES for line in commands(page) if "demo" in line]
    assert len(lines) >= 3
    for line in sorted(lines, key=lambda line: "audit" in line):
        assert quick(line) == 0, capsys.readouterr().err
    assert [Path(address).name for address in opened] == ["report.html"]
    assert "shortcut" in capsys.readouterr().out


def test_every_command_of_the_documentation_runs_here_or_takes_hours():
    every = {line for page in PAGES for line in commands(page)}
    ran = {line for page in PAGES for line in of_a_stranger(page)}
    ran |= {line for line in every if "demo" in line or "waterbirds" in line}
    assert all(line.startswith("firstcue reproduce ") for line in every - ran), every - ran


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
