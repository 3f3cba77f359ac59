"""What a newcomer meets first: the command alone, completion in the shell, and the same answers as JSON."""

import os
import subprocess
import sys
import zipfile

import pytest
from typer.main import get_command

import firstcue as fc
from cli_cases import only_object
from firstcue.cli import main
from firstcue.cli.commands import app
from firstcue.cli.next_steps import next_steps
from test_import_cost import cpu_seconds, loaded_after


def run(words, capsys):
    """Exit code, stdout and stderr of `firstcue words`."""
    capsys.readouterr()
    code = main([str(w) for w in words])
    said = capsys.readouterr()
    return code, said.out, said.err


# the command alone ---------------------------------------------------------------------------------------------------


def commands(text: str) -> list[list[str]]:
    """The words of every command that is advised."""
    return [line.split()[1:] for line in text.splitlines() if line.startswith("  firstcue ")]


def test_in_an_empty_folder_the_demo_comes_next(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, out, err = run([], capsys)
    assert (code, err) == (0, "")
    assert commands(out)[0] == ["demo", "--open"] and commands(out)[1][0] == "audit"
    assert len(out.splitlines()) < 8


def test_after_the_demo_its_report_and_a_repair_come_next(tmp_path):
    demo = tmp_path / "firstcue-demo"
    (demo / "model").mkdir(parents=True)
    for name in ("report.html", "train.npz", "held-out.npz"):
        (demo / name).touch()
    text = next_steps(tmp_path)
    assert "firstcue-demo/report.html" in text
    assert [words[:2] for words in commands(text)] == [["fix", "last-layer"], ["audit", "fixed"]]


def test_reports_are_compared_and_data_is_audited(tmp_path):
    for name in ("before", "after"):
        (tmp_path / name).mkdir()
        fc.Report(verdict="no shortcut found").to_json(tmp_path / name / "report.json")
    for name in ("train.csv", "val.csv"):
        (tmp_path / name).touch()
    advised = commands(next_steps(tmp_path))
    assert ["compare", "after", "before"] in advised and ["view", "."] in advised
    assert advised[-1][:6] == ["audit", "my_code:model", "train.csv", "--attribute", "COLUMN", "--held-out"]


@pytest.mark.parametrize("name", ["demo", "audit", "fix last-layer", "view", "compare", "doctor"])
def test_what_is_advised_exists(name, capsys):
    assert run([*name.split(), "--help"], capsys)[0] == 0


def test_a_folder_that_cannot_be_read_is_an_empty_one(tmp_path):
    assert next_steps(tmp_path / "nowhere").startswith("Nothing of firstcue is here yet")


def test_the_command_alone_loads_nothing_heavy_and_answers_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert set(loaded_after("from firstcue.cli import main\nmain([])")) <= {"pydantic"}
    assert cpu_seconds("-m", "firstcue") < 0.35


# completion ----------------------------------------------------------------------------------------------------------

COMPLETED = {
    "firstcue rep": {"reproduce"},
    "firstcue fix last": {"last-layer", "last-layer-train", "last-layer-classes"},
    "firstcue fix erase --method al": {"alf-qleace"},
    "firstcue audit --held": {"--held-out"},
}


def test_bash_completes_commands_options_and_values(tmp_path):
    command = tmp_path / "firstcue"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m firstcue "$@"\n')
    command.chmod(0o755)
    asked = "\n".join(
        f"COMP_WORDS=({line}); COMP_CWORD={len(line.split()) - 1}; _firstcue_completion firstcue; echo ${{COMPREPLY[@]}}"
        for line in COMPLETED
    )
    script = f"source <(firstcue completion bash)\ncomplete -p firstcue >&2\n{asked}"
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environment)
    assert "-F _firstcue_completion firstcue" in done.stderr
    assert [set(line.split()) for line in done.stdout.splitlines()] == list(COMPLETED.values())


@pytest.mark.parametrize(("shell", "more"), [("zsh", {}), ("fish", {"_TYPER_COMPLETE_FISH_ACTION": "get-args"})])
def test_other_shells_are_answered_by_their_scripts_protocol(shell, more, capsys, monkeypatch):
    code, script, _ = run(["completion", shell], capsys)
    assert code == 0 and f"_FIRSTCUE_COMPLETE=complete_{shell}" in script and "firstcue" in script
    for name, value in {
        "_FIRSTCUE_COMPLETE": f"complete_{shell}",
        "_TYPER_COMPLETE_ARGS": "firstcue sw",
        **more,
    }.items():
        monkeypatch.setenv(name, value)
    assert "sweep" in run([], capsys)[1]


def test_a_shell_that_is_not_known_is_refused(capsys):
    code, out, err = run(["completion", "tcsh"], capsys)
    assert (code, out) == (2, "") and "bash" in err


# the same as JSON ----------------------------------------------------------------------------------------------------

SWEEP = 'experiment = "agreement/memorisation"\nscale = "tiny"\nseeds = 2\n'

SAID = {
    "doctor": ([], "checks"),
    "doctor --plan": (["n=1e6", "d=64"], "methods"),
    "data list": ([], "data"),
    "data info": (["digits/3,8"], "classes"),
    "data prepare": (["digits/3,8", "--out", "prepared"], "files"),
    "schema": (["report"], "properties"),
    "reproduce": (["list"], "experiments"),
    "sweep": (["sweep.toml", "--dry-run"], "trials"),
    "view": ([".", "--only-write"], "index"),
    "compare": (["a.json", "a.json"], "worse"),
    "completion": (["bash"], "script"),
}


@pytest.mark.parametrize("command", SAID)
def test_every_command_speaks_one_json_object_with_the_same_exit_code(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweep.toml").write_text(SWEEP)
    fc.Report(verdict="no shortcut found").to_json(tmp_path / "a.json")
    more, key = SAID[command]
    words = [*command.split(), *more]
    plain = run(words, capsys)
    code, out, err = run([*words, "--json"], capsys)
    assert (code, err) == (plain[0], "") == (0, "")
    assert key in only_object(out)


def test_every_command_has_json():
    def leaves(command, path):
        if not hasattr(command, "commands"):
            yield path, command
        for name, below in getattr(command, "commands", {}).items():
            yield from leaves(below, f"{path} {name}".strip())

    found = dict(leaves(get_command(app), ""))
    assert {"audit", "data list", "fix last-layer", "completion"} <= set(found)
    without = [path for path, made in found.items() if not any("--json" in p.opts for p in made.params)]
    assert not without


@pytest.mark.parametrize(
    ("words", "code", "phrase"),
    [
        (["data", "info", "nope"], 3, "there are fashion-slice"),
        (["doctor", "n=3"], 2, "firstcue doctor --plan n=3"),
        (["explain", "a:b", "x.npz", "--out", "e", "--method", "nope"], 2, "act_grad"),
        (["explain", "a:b", "x.npz", "--out", "e", "--start", "nope"], 2, "latent-zero"),
        (["explain", "a:b", "x.npz", "--out", "e", "--budget", "-1"], 2, "--budget"),
        (["reproduce", "nope"], 2, "reproduce list"),
        (["audit", "program.pt2", "x.npz"], 3, "torch.export.load"),
        (["audit", "data.csv", "x.npz"], 3, "--weights"),
        (["audit", "torch.nn:Identity", "here"], 3, "metadata.csv"),
    ],
)
def test_an_error_tells_the_way_out_with_and_without_json(words, code, phrase, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    zipfile.ZipFile(tmp_path / "program.pt2", "w").close()
    (tmp_path / "data.csv").write_text("a,y\n1,0\n")
    (tmp_path / "here").mkdir()
    for more in ([], ["--json"]):
        found, out, err = run([*words, *more], capsys)
        assert (found, out) == (code, "") and phrase in err


# what is on the machine ----------------------------------------------------------------------------------------------


def test_a_malicious_release_is_named_by_the_doctor(monkeypatch, capsys):
    import firstcue.doctor as doctor

    versions = {"lightning": "2.6.2"}
    monkeypatch.setattr(doctor, "_installed", lambda name: versions.get(name, "1.0"))
    code, out, _ = run(["doctor"], capsys)
    assert code == 4 and "!! lightning" in out and "pip uninstall lightning" in out
    versions["lightning"] = "2.6.6"
    assert run(["doctor"], capsys)[0] == 0


def test_the_doctor_tells_the_memory(capsys):
    assert any(line.split()[1:2] == ["memory"] and " GB" in line for line in run(["doctor"], capsys)[1].splitlines())


def test_data_in_folders_is_listed_with_the_way_to_it(capsys):
    out = run(["data", "list"], capsys)[1]
    assert "cifar-100-python" in out and "metadata.csv" in out and "list_attr_celeba.csv" in out
