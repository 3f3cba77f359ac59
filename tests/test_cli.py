"""Commands are run in this process through `main`, which returns the exit code; a few run in a shell of their own."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import firstcue as fc
from cli_cases import leaning, make_world, only_object
from firstcue.cli import main

MODEL = ["cli_models:good", "train.npz", "--weights", "w.safetensors"]
CUE = ["--attribute", "cue", "--held-out", "held.npz"]
AUDIT = ["audit", *MODEL, *CUE]
ARRAYS = ["audit-embeddings", "X.npy", "Y.npy"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def here(world, monkeypatch):
    """The current folder holds the user's files."""
    monkeypatch.chdir(world)
    return world


def run(words, capsys):
    """Exit code, stdout and stderr of `firstcue words`."""
    capsys.readouterr()
    code = main([str(w) for w in words])
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.fixture(scope="module")
def audited(world, tmp_path_factory):
    """One audit with everything it can write, shared by the tests that read it."""
    out = tmp_path_factory.mktemp("audited")
    words = [*AUDIT, "--out", str(out), "--junit", str(out / "junit.xml"), "--json"]
    command = [sys.executable, "-m", "firstcue", *words]
    done = subprocess.run(command, cwd=world, capture_output=True, text=True)
    return done, out, words


# what a good command leaves behind -----------------------------------------------------------------------------------


def test_an_audit_prints_one_json_object_and_nothing_else(audited):
    done, out, _ = audited
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    report = only_object(done.stdout)
    assert report == only_object((out / "report.json").read_text())
    assert report["verdict"] == "shortcut"


def test_an_audit_writes_page_json_card_and_junit(audited):
    _, out, _ = audited
    assert {"report.html", "report.json", "model-card.md", "junit.xml"} <= {path.name for path in out.iterdir()}
    assert "<failure" in (out / "junit.xml").read_text()


def test_the_report_names_the_command_that_makes_it_again(audited):
    done, _, words = audited
    assert json.loads(done.stdout)["environment"]["command"] == shlex.join(["firstcue", *words])


def test_the_command_line_the_report_and_python_give_the_same_answer_to_the_last_digit(audited, here):
    from firstcue.data import read

    done, out, _ = audited
    report = fc.audit(leaning(), read("train.npz"), attribute="cue", held_out=read("held.npz"))
    mine = timeless(report.to_json())
    assert timeless(done.stdout) == mine
    assert timeless(fc.Report.load(out / "report.html").to_json()) == mine


def timeless(text: str) -> dict:
    """A report without its command and what a clock said."""
    told = only_object(text)
    for name in ("command", "seconds", "seconds_expected"):
        told["environment"].pop(name)
    for remedy in told["remedies"]:
        remedy.pop("seconds")
    return told


def test_without_out_or_json_an_audit_prints_the_summary(here, capsys):
    code, out, err = run(AUDIT, capsys)
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "Red: The model relies on a shortcut: cue"


def test_several_attributes_are_judged_each(here, capsys):
    code, out, _ = run([*AUDIT, "--attribute", "noise", "--fast", "--json"], capsys)
    judged = {f["cue"]: f["status"] for f in only_object(out)["findings"] if f["id"].startswith("reliance/")}
    assert code == 0
    assert judged == {"cue": "relies", "noise": "no shortcut found"}


@pytest.fixture
def told(audited, monkeypatch):
    """Every audit answers with the report of the shared one, its verdict changed as asked."""

    def answer(**changes):
        report = fc.Report.load(audited[1] / "report.json").model_copy(update=changes)
        monkeypatch.setattr(fc, "audit", lambda *_, **__: report)

    return answer


@pytest.mark.parametrize("json_too", [[], ["--json"]], ids=["text", "json"])
@pytest.mark.parametrize(("gate", "code"), [("strict.toml", 1), ("lax.toml", 0)])
def test_a_gate_decides_the_exit_code(here, told, capsys, gate, code, json_too):
    told()
    found, out, err = run([*AUDIT, "--gate", gate, *json_too], capsys)
    assert found == code
    assert ("below min_worst_group = 0.99" in err) == (code == 1)
    if json_too:
        only_object(out)
    else:
        assert out.endswith("Gate: failed.\n" if code else "Gate: passed.\n")


@pytest.mark.parametrize("json_too", [[], ["--json"]], ids=["text", "json"])
@pytest.mark.parametrize(("gate", "code"), [([], 5), (["--gate", "strict.toml"], 1), (["--gate", "lax.toml"], 0)])
def test_an_inconclusive_verdict_has_its_own_exit_code(here, told, capsys, gate, code, json_too):
    told(verdict="inconclusive")
    assert run([*AUDIT, *gate, *json_too], capsys)[0] == code


def test_too_few_rows_are_inconclusive(here, capsys):
    assert run(["audit", *MODEL, "--attribute", "cue", "--held-out", "few.npz", "--fast"], capsys)[0] == 5


def test_options_that_work_everywhere_may_stand_before_the_command(here, capsys, monkeypatch):
    said = []
    monkeypatch.setattr(fc, "audit", lambda *a, **k: said.append(k) or fc.Report(verdict="no shortcut found"))
    assert run(["--seed", "3", "--batch-size", "7", *AUDIT, "--seed", "4"], capsys)[0] == 0
    assert (said[0]["seed"], said[0]["batch_size"], said[0]["device"]) == (4, 7, "auto")


@pytest.mark.parametrize(("option", "effort"), [([], "default"), (["--fast"], "fast"), (["--thorough"], "thorough")])
def test_the_effort_is_the_one_asked_for_and_the_duration_is_told_to_who_watches(
    here, capsys, monkeypatch, option, effort
):
    said = []

    def answer(*_, announce, **options):
        announce("1 cue: about 3 s on this machine.")
        said.append(options["effort"])
        return fc.Report(verdict="no shortcut found")

    monkeypatch.setattr(fc, "audit", answer)
    assert run([*AUDIT, *option], capsys)[2] == ""
    monkeypatch.setattr("firstcue.cli.screen._watched", lambda quiet: not quiet)
    assert "about 3 s on this machine" in run([*AUDIT, *option], capsys)[2]
    assert run([*AUDIT, *option, "--quiet"], capsys)[2] == ""
    assert said == [effort] * 3


@pytest.mark.parametrize(
    "words", [[*AUDIT, "--fast"], [*ARRAYS, "--attribute", "cue.npy", "--outputs", "F.npy", "--fast"]]
)
def test_what_is_printed_as_json_is_what_is_written_and_codes_are_the_same(here, capsys, tmp_path, words):
    code, out, _ = run([*words, "--json", "--out", tmp_path], capsys)
    assert out == (tmp_path / "report.json").read_text()
    assert run(words, capsys)[0] == code


def test_threads_are_those_asked_for(here, capsys):
    before = torch.get_num_threads()
    try:
        out = run(["doctor", "--threads", "1"], capsys)[1]
    finally:
        torch.set_num_threads(before)
    assert any(line.split() == ["ok", "threads", "1"] for line in out.splitlines())


def test_embeddings_with_linear_outputs_are_judged(here, capsys):
    words = [*ARRAYS, "--attribute", "cue.npy", "--fast", "--json"]
    code, out, err = run(words, capsys)
    assert code in (0, 5), err
    assert {f["cue"] for f in only_object(out)["findings"]} >= {"cue"}


def test_held_out_embeddings_bring_their_own_outputs(here, capsys):
    held_out = ["--outputs", "F.npy", "--held-out", "held.npz", "--held-out-outputs", "G.npy"]
    code, out, err = run([*ARRAYS, "--attribute", "cue.npy", *held_out, "--fast", "--json"], capsys)
    assert code in (0, 5), err
    assert only_object(out)["groups"]["overall"]["n"] == 500


# repair --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("remedy", ["last-layer", "erase"])
def test_a_repaired_model_is_written_and_serves_its_worst_group(here, capsys, tmp_path, remedy):
    code, out, err = run(["fix", remedy, *MODEL, *CUE, "--out", tmp_path], capsys)
    assert (code, err) == (0, "")
    assert "worst group" in out
    fixed = only_object((tmp_path / "fix.json").read_text())
    before, after = fixed["before"]["worst_group"], fixed["after"]["worst_group"]
    assert after["ci_low"] > before["ci_high"]
    code, out, _ = run(["audit", tmp_path, "train.npz", *CUE, "--fast", "--json"], capsys)
    told = only_object(out)
    assert code in (0, 5)
    assert told["verdict"] != "shortcut"
    assert told["groups"]["worst_group"]["accuracy"] > before["ci_high"]


def test_a_repaired_model_may_be_repaired_again(here, capsys, tmp_path):
    assert run(["fix", "erase", *MODEL, *CUE, "--out", tmp_path / "once"], capsys)[0] == 0
    code, out, err = run(
        ["fix", "last-layer", tmp_path / "once", "train.npz", *CUE, "--out", tmp_path / "twice", "--json"], capsys
    )
    assert (code, err) == (0, "")
    assert only_object(out)["remedy"] == "last-layer"
    assert only_object((tmp_path / "twice" / "model.json").read_text())["factory"] == "cli_models:good"


# what is refused -----------------------------------------------------------------------------------------------------

UNUSABLE = {
    "a file that is not there": (["audit", "cli_models:good", "nowhere.npz"], "there is no file nowhere.npz"),
    "a truncated archive": (["audit", "cli_models:good", "truncated.npz"], "not a readable .npz"),
    "a pickle inside an array": (["audit-embeddings", "pickled.npy", "Y.npy"], "pickle"),
    "a table without the column": (["audit", "cli_models:good", "table.csv", "--attribute", "sex"], "sex"),
    "an archive without the column": ([*AUDIT[:-4], "--attribute", "sex"], "no attribute 'sex'"),
    "one class": (["audit", "cli_models:good", "one_class.npz"], "one class only"),
    "NaN in the inputs": (["audit", "cli_models:good", "nan.npz"], "NaN"),
    "a regression target": (["audit", "cli_models:good", "target.npz"], "regression target"),
    "a model that is not there": (["audit", "no_such_module:f", "train.npz"], "no module 'no_such_module'"),
    "a factory that is not there": (["audit", "cli_models:absent", "train.npz"], "has no 'absent'"),
    "a factory that raises": (["audit", "cli_models:raises", "train.npz"], "no licence found"),
    "a factory of something else": (["audit", "cli_models:not_a_model", "train.npz"], "returned a int"),
    "weights of another model": (["audit", "cli_models:HasNoHead", *MODEL[1:]], "does not fit the model"),
    "a model that raises": (["audit", "cli_models:Stumbles", "train.npz"], "shapes do not agree"),
    "a model that returns a dict": (["audit", "cli_models:ReturnsDict", "train.npz"], "dict"),
    "a model without a linear head": (["audit", "cli_models:HasNoHead", "train.npz"], "no linear layer"),
    "a model that yields NaN": (["audit", "cli_models:YieldsNan", "train.npz"], "NaN"),
    "a loader that yields nothing": (["audit", "cli_models:good", "cli_models:nothing"], "yields nothing"),
    "an attribute of another length": ([*ARRAYS, "--attribute", "short.npy"], "10"),
    "held-out rows without the attribute": (
        [*ARRAYS, "--attribute", "short.npy", "--held-out", "held.npz"],
        "no attribute 'short'",
    ),
    "checkpoints that are not there": ([*AUDIT, "--checkpoints", "none-*.safetensors"], "none-"),
    "a report that is not there": (["compare", "a.json", "b.json"], "a.json"),
    "no such data set": (["data", "info", "imagenet"], "no data set is called"),
}

WRONG = {
    "no arguments": (["audit"], "Missing argument"),
    "an unknown command": (["audti"], "audti"),
    "an unknown option": ([*AUDIT, "--fats"], "--fats"),
    "two efforts": ([*AUDIT, "--fast", "--thorough"], "--fast and --thorough exclude each other"),
    "two efforts for arrays": ([*ARRAYS, "--fast", "--thorough"], "--fast and --thorough exclude each other"),
    "an unknown device": ([*AUDIT, "--device", "tpu"], "tpu"),
    "a folder that is a file": ([*AUDIT, "--out", "a_file"], "a_file is a file"),
    "a folder below a file": ([*AUDIT, "--out", "a_file/below"], "cannot write into a_file/below"),
    "a folder that takes nothing": ([*AUDIT, "--out", "/proc/firstcue"], "cannot write into /proc/firstcue"),
    "the same for a repair": (["fix", "erase", *MODEL, *CUE, "--out", "a_file/below"], "cannot write into"),
    "the same for JUnit": ([*AUDIT, "--junit", "a_file/junit.xml"], "--junit"),
    "a gate with an unknown key": ([*AUDIT, "--gate", "misspelt.toml"], "unknown key 'min_worst_gruop'"),
    "a gate that is not TOML": ([*AUDIT, "--gate", "broken.toml"], "not TOML"),
    "a gate that is not there": ([*AUDIT, "--gate", "none.toml"], "none.toml"),
    "a repair without a folder": (["fix", "erase", *MODEL], "--out"),
    "an unknown schema": (["schema", "gatex"], "gatex"),
    "an unknown severity": (["compare", "a.json", "b.json", "--fail-on", "better"], "--fail-on"),
    "a folder to view that is not there": (["view", "nowhere"], "nowhere is not a folder"),
}


@pytest.mark.parametrize("json_too", [[], ["--json"]], ids=["text", "json"])
@pytest.mark.parametrize("case", UNUSABLE)
def test_unusable_input_ends_with_3_and_one_line(here, capsys, case, json_too):
    words, phrase = UNUSABLE[case]
    code, out, err = run([*words, *(json_too if words[0].startswith("audit") else [])], capsys)
    assert (code, out) == (3, ""), err
    assert phrase in err
    assert err.startswith("firstcue: ") and err.count("\n") == 1
    assert "Traceback" not in err


@pytest.mark.parametrize("case", WRONG)
def test_wrong_usage_ends_with_2_before_any_work(here, capsys, case):
    words, phrase = WRONG[case]
    began = time.process_time()  # not the clock's: other work on the machine must not fail this
    code, out, err = run(words, capsys)
    assert (code, out) == (2, "")
    assert phrase in err
    assert time.process_time() - began < 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_device_that_is_absent_is_wrong_usage(here, capsys):
    code, _, err = run([*AUDIT, "--device", "cuda"], capsys)
    assert code == 2
    assert "--device auto" in err


def test_a_missing_extra_ends_with_4_and_the_pip_line(here, capsys, monkeypatch):
    (here / "t.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    code, _, err = run(["audit", "cli_models:good", "t.parquet"], capsys)
    assert code == 4
    assert 'pip install "firstcue[parquet]"' in err


def test_an_internal_error_ends_with_70_and_names_its_trace(here, capsys, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("the impossible")

    monkeypatch.setattr(fc, "audit", fail)
    code, out, err = run(AUDIT, capsys)
    trace = Path(err.split()[-1])
    assert (code, out) == (70, "")
    assert "RuntimeError: the impossible" in trace.read_text()
    trace.unlink()


def test_an_interrupt_ends_with_130(here, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(fc, "audit", interrupted)
    code, _, err = run(AUDIT, capsys)
    assert code == 130
    assert "same command" in err


def test_a_signal_to_a_running_command_ends_it_with_130(here, tmp_path):
    (tmp_path / "slow.py").write_text("import time\n\ndef model():\n    open('started', 'w')\n    time.sleep(60)\n")
    command = [sys.executable, "-m", "firstcue", "audit", "slow:model", str(here / "train.npz")]
    # a test run in the background of a shell ignores the signal, and its children inherit that
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, preexec_fn=heed)
    deadline = time.time() + 60
    while not (tmp_path / "started").exists() and time.time() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    err = process.communicate(timeout=60)[1]
    assert process.returncode == 130, err
    assert "Traceback" not in err


def test_hostile_labels_reach_neither_page_nor_terminal_as_code(here, capsys, tmp_path):
    code, out, err = run(
        ["audit", "cli_models:good", "hostile.npz", "--attribute", "cue", "--fast", "--out", tmp_path], capsys
    )
    assert code in (0, 5), err
    assert "\x1b" not in out + err
    page = (tmp_path / "report.html").read_text()
    assert "<script>alert" not in page and "\x1b" not in page
    assert only_object((tmp_path / "report.json").read_text())["groups"]["by_group"]


def test_hostile_labels_in_an_error_stay_on_one_readable_line(here, capsys):
    names = np.array(["\x1b[2J\n" + "x" * 10_000, "b"])
    np.savez(here / "bad.npz", x=np.zeros((40, 4), np.float32), y=names[np.zeros(40, int)])
    code, _, err = run(["audit", "cli_models:good", "bad.npz"], capsys)
    assert code == 3
    assert "\x1b" not in err and err.count("\n") == 1 and len(err) < 2_100


# the other commands --------------------------------------------------------------------------------------------------


def test_compare_tells_what_changed_and_fails_on_worse(audited, here, capsys, tmp_path):
    bad = audited[1] / "report.json"
    good = tmp_path / "good.json"
    fc.Report(verdict="no shortcut found").to_json(good)
    assert run(["compare", bad, good, "--fail-on", "worse"], capsys)[0] == 0
    assert run(["compare", good, bad], capsys)[0] == 0
    code, out, _ = run(["compare", good, bad, "--fail-on", "worse", "--json"], capsys)
    assert code == 1
    assert only_object(out)["worse"] is True


def test_view_writes_an_index_of_every_report_below(audited, capsys, tmp_path):
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "report.json").write_bytes((audited[1] / "report.json").read_bytes())
    code, out, _ = run(["view", tmp_path, "--only-write"], capsys)
    assert code == 0
    assert "first" in (tmp_path / "index.html").read_text()
    assert str(tmp_path / "index.html") in out


def test_schemas_are_printed(capsys):
    code, out, _ = run(["schema", "report"], capsys)
    assert code == 0
    assert {"version", "verdict", "findings", "groups", "remedies", "environment"} <= set(
        only_object(out)["properties"]
    )


def test_doctor_finds_this_machine_usable(capsys):
    code, out, _ = run(["doctor"], capsys)
    assert code == 0
    assert "ok torch" in out and out.rstrip().endswith("firstcue is ready.")


def test_data_is_listed_described_and_written(capsys, tmp_path):
    assert "fashion-slice" in run(["data", "list"], capsys)[1]
    assert "MIT" in run(["data", "info", "fashion-slice"], capsys)[1]
    code, out, _ = run(["data", "prepare", "digits/3,8", "--out", tmp_path], capsys)
    assert code == 0
    assert set(np.load(out.strip())["classes"]) == {"3", "8"}


def test_a_reader_that_leaves_early_does_not_change_how_a_command_ends(here):
    process = subprocess.run(
        f"{shlex.quote(sys.executable)} -m firstcue schema report | head -c 1; exit ${{PIPESTATUS[0]}}",
        shell=True, executable="/bin/bash", capture_output=True, text=True, env=os.environ,
    )  # fmt: skip
    assert process.returncode == 0
    assert process.stderr == ""


def test_commands_help_themselves(capsys):
    for words in ([], ["fix"], ["data"], ["audit"], ["fix", "last-layer"], ["view"]):
        code, out, _ = run([*words, "--help"], capsys)
        assert code == 0
        assert "--seed" in out or words in (["fix"], ["data"])
