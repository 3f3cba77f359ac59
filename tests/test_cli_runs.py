"""`reproduce` and `sweep` as a user types them."""

import json
import re
import subprocess
import sys

import pytest

from firstcue.cli import main

SWEEP = """
experiment = "agreement/patchwork"
seeds = 1
backend = "serial"
[grid]
{name} = {values}
"""


def patchwork():
    from firstcue.experiments import find
    from firstcue.experiments.catalogue import trials_of

    (experiment,) = find("agreement/patchwork")
    return trials_of(experiment, "tiny", 1)


def test_the_list_names_every_experiment_with_its_minutes(capsys):
    from firstcue.experiments import names

    assert main(["reproduce", "list"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in told] == names()
    assert all("tiny" in line and "min" in line for line in told)


def test_a_claim_is_run_judged_and_written_down(tmp_path, capsys):
    words = ["reproduce", "agreement/patchwork", "--seeds", "2", "--backend", "serial", "--out", str(tmp_path)]
    assert main(words) == 0
    told = capsys.readouterr().out
    assert re.search(r"holds|does not hold|inconclusive", told)
    page = (tmp_path / "claims.html").read_text()
    assert "agreement/patchwork" in page
    assert not re.search(r"""(src|href)=["']https?:|url\(["']?https?:""", page)
    outcome = json.loads((tmp_path / "agreement-patchwork-tiny.json").read_text())
    assert outcome["seeds"] == 2
    assert {claim["verdict"] for claim in outcome["claims"]} <= {"holds", "does not hold", "inconclusive"}
    assert (tmp_path / "agreement-patchwork-tiny.csv").read_text().count("\n") > 1
    before = sorted((tmp_path / "trials" / "finished").glob("*/*.json"))
    stamps = [path.stat().st_mtime_ns for path in before]
    assert main([*words, "--json"]) == 0  # continued: nothing is run again
    assert json.loads(capsys.readouterr().out)["outcomes"][0]["claims"] == outcome["claims"]
    assert [path.stat().st_mtime_ns for path in before] == stamps
    assert main([*words, "--fresh"]) == 0
    assert [path.stat().st_mtime_ns for path in before] != stamps


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["reproduce", "erasing"], 2, "there is no experiment 'erasing'; did you mean"),
        (["reproduce", "agreement/patchwork", "--scale", "huge"], 2, "huge"),
        (["sweep", "nowhere.toml"], 2, "no sweep file at nowhere.toml"),
    ],
)
def test_wrong_usage_exits_with_two_and_the_way_out(words, code, said, capsys):
    assert main(words) == code
    assert said in capsys.readouterr().err


def test_a_scheduler_that_does_not_answer_exits_with_three(tmp_path, capsys):
    pytest.importorskip("distributed")
    words = ["reproduce", "agreement/patchwork", "--backend", "dask", "--scheduler", "tcp://127.0.0.1:1"]
    assert main([*words, "--out", str(tmp_path)]) == 3
    assert "no dask scheduler answers" in capsys.readouterr().err


def test_a_sweep_lists_runs_and_continues(tmp_path, capsys):
    name, value = next((k, v) for k, v in patchwork()[0].settings.items() if isinstance(v, int | float))
    (tmp_path / "sweep.toml").write_text(SWEEP.format(name=name, values=json.dumps([value])))
    words = ["sweep", str(tmp_path / "sweep.toml"), "--out", str(tmp_path / "out")]
    assert main([*words, "--dry-run"]) == 0
    assert "to run" in capsys.readouterr().out
    assert main(words) == 0
    assert "rows of 1 trials" in capsys.readouterr().out
    assert main([*words, "--dry-run"]) == 0
    assert "1 of 1 trials done" in capsys.readouterr().out


def test_a_sweep_with_an_unknown_setting_names_those_there_are(tmp_path, capsys):
    (tmp_path / "sweep.toml").write_text(SWEEP.format(name="speed", values="[1]"))
    assert main(["sweep", str(tmp_path / "sweep.toml")]) == 2
    assert "has no setting 'speed'; it has" in capsys.readouterr().err


def test_help_of_both_loads_no_torch():
    code = (
        "import sys; from firstcue.cli import main; main(['reproduce', '--help']); main(['sweep', '--help']); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=False).returncode == 0


@pytest.fixture
def square(monkeypatch):
    """An experiment that takes no time, under the name "square"."""
    from firstcue.experiments.catalogue import Experiment
    from firstcue.experiments.claims import Scale
    from firstcue.sweeps import Trial

    found = Experiment(
        name="square",
        title="",
        source="",
        version=1,
        seeds=1,
        scales={"tiny": Scale(1, {"x": 1})},
        trials=lambda scale, seeds: [Trial("square", {"x": 1}, seed) for seed in range(seeds)],
        run=lambda trial: [{"y": trial.settings["x"] ** 2}],
        claims=lambda rows: [],
        figures=lambda rows: {},
    )
    monkeypatch.setattr("firstcue.experiments.find", lambda wanted: [found])


def test_a_search_lists_runs_and_continues(square, tmp_path, capsys):
    pytest.importorskip("optuna")
    text = (
        'experiment = "square"\nseeds = 2\nbackend = "serial"\n'
        '[search]\nmeasure = "{}"\ncount = 6\nbatch = 2\nranges = {{ x = {{ low = 1, high = 1000 }} }}\n'
    )
    file = tmp_path / "sweep.toml"
    words = ["sweep", str(file), "--out", str(tmp_path / "out")]
    file.write_text(text.format("nothing"))
    assert main([*words, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert said.count("to run") == 4
    assert "and 8 trials that the search has yet to choose" in said
    assert main(words) == 2
    assert "[search] measures 'nothing', which no row has; rows have y" in capsys.readouterr().err
    file.write_text(text.format("y"))
    assert main(words) == 0
    assert "Best of 6 points: y" in capsys.readouterr().out
    before = (tmp_path / "out" / "rows.csv").read_bytes()
    assert main([*words, "--dry-run"]) == 0
    assert "12 of 12 trials done" in capsys.readouterr().out
    assert main(words) == 0
    assert (tmp_path / "out" / "rows.csv").read_bytes() == before


def test_a_plan_prints_what_work_would_cost(capsys):
    assert main(["doctor", "--plan", "n=1e9", "d=4096", "workers=64"]) == 0
    told = capsys.readouterr().out
    assert re.search(r"moments +1\.7e\+16 +1\.6e\+13 .* h +processors", told)
    assert main(["doctor", "--plan", "n=many"]) == 2
    assert "write NAME=NUMBER" in capsys.readouterr().err
    assert main(["doctor", "n=3"]) == 2
