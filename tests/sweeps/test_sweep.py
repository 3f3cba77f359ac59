"""A sweep runs what is missing, keeps what is finished, and says what failed."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import firstcue as fc
from firstcue.sweeps import Store, Trial

PLAIN = st.dictionaries(
    st.text(min_size=1, max_size=5).filter(lambda name: name not in ("experiment", "seed")),
    st.one_of(st.integers(-99, 99), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=5), st.none()),
    max_size=4,
)


def square(trial: Trial) -> dict:
    return {"y": trial.settings["x"] ** 2 + trial.seed}


def counted(trial: Trial) -> dict:
    """Leaves one line per run behind, so that a test can count them."""
    with open(trial.settings["log"], "a") as file:
        file.write(f"{trial.settings['x']}\n")
    return square(trial)


def fussy(trial: Trial) -> dict:
    if trial.settings["x"] == 1:
        raise RuntimeError("one is not allowed")
    return square(trial)


def deadly(trial: Trial) -> dict:
    """Kills the worker it runs in, as the kernel does when memory is short."""
    if trial.settings["x"] == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05)
    return square(trial)


def frail(trial: Trial) -> dict:
    """Kills its worker the first time only."""
    mark = Path(trial.settings["log"]) / str(trial.settings["x"])
    if trial.settings["x"] == 1 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return square(trial)


def slow(trial: Trial) -> dict:
    time.sleep(trial.settings["x"])
    return square(trial)


def trials(n: int = 4, **more: object) -> list[Trial]:
    return [Trial("square", {"x": x, **more}, seed=s) for x in range(n) for s in range(2)]


@given(PLAIN, st.integers(0, 99))
def test_a_trial_read_back_from_its_own_words_is_the_same(settings, seed):
    trial = Trial("any", settings, seed)
    assert Trial(**trial.to_dict()) == trial


@given(PLAIN, PLAIN)
def test_trials_share_a_key_only_if_their_settings_agree(a, b):
    assert (Trial("any", a).key == Trial("any", b).key) == (Trial("any", a).settings == Trial("any", b).settings)


def test_another_version_is_another_trial():
    assert Trial("any", {}, 0, 1) != Trial("any", {}, 0, 2)


@pytest.mark.parametrize("bad", [{"x": float("nan")}, {"x": object()}, {"seed": 1}])
def test_settings_that_cannot_name_a_file_are_refused(bad):
    with pytest.raises(ValueError, match="setting"):
        Trial("any", bad)


@pytest.mark.parametrize("backend", ["serial", "loky"])
def test_rows_come_in_the_order_of_the_trials(tmp_path, backend):
    rows = fc.sweep(trials(), square, tmp_path, backend, workers=2)
    assert [(row["x"], row["seed"], row["y"]) for row in rows] == [(x, s, x**2 + s) for x in range(4) for s in range(2)]


def test_nothing_finished_runs_again(tmp_path):
    log = tmp_path / "log"
    first = trials(2, log=str(log))
    fc.sweep(first, counted, tmp_path / "store", "serial")
    rows = fc.sweep(trials(4, log=str(log)), counted, tmp_path / "store", "serial")
    assert log.read_text().split() == ["0", "0", "1", "1", "2", "2", "3", "3"]
    assert len(rows) == 8


def test_a_file_cut_short_or_changed_is_run_again(tmp_path):
    store = Store(tmp_path)
    plan = trials()
    before = fc.sweep(plan, square, store, "serial")
    whole = store.path(plan[0].key).read_bytes()
    store.path(plan[0].key).write_bytes(whole[: len(whole) // 2])
    store.path(plan[1].key).write_bytes(store.path(plan[1].key).read_bytes().replace(b'"y":1', b'"y":7'))
    assert store.read(plan[0]) is None
    assert store.read(plan[1]) is None
    assert fc.sweep(plan, square, store, "serial") == before
    assert store.path(plan[0].key).read_bytes()[:60] == whole[:60] or store.read(plan[0]) is not None


def test_a_trial_that_raises_is_kept_with_its_trace_and_retried_on_request(tmp_path):
    with pytest.warns(UserWarning, match="2 of 8 trials failed"):
        rows = fc.sweep(trials(), fussy, tmp_path, "serial")
    assert {row["x"] for row in rows} == {0, 2, 3}
    failures = Store(tmp_path).failures()
    assert len(failures) == 2
    assert "one is not allowed" in failures[0].error
    assert "fussy" in failures[0].traceback
    assert len(fc.sweep(trials(), square, tmp_path, "serial", retry_failed=True)) == 8
    assert not Store(tmp_path).failures()


def test_a_worker_that_dies_twice_of_one_trial_costs_that_trial_alone(tmp_path):
    plan = [Trial("deadly", {"x": x}) for x in range(6)]
    with pytest.warns(UserWarning, match="1 of 6 trials failed, the first with: its worker died twice"):
        rows = fc.sweep(plan, deadly, tmp_path, "loky", workers=2)
    assert [row["x"] for row in rows] == [0, 2, 3, 4, 5]
    assert not list((tmp_path / "started").iterdir())


def test_a_worker_that_dies_once_costs_nothing(tmp_path):
    log = tmp_path / "log"
    log.mkdir()
    plan = [Trial("frail", {"x": x, "log": str(log)}) for x in range(4)]
    assert [row["y"] for row in fc.sweep(plan, frail, tmp_path / "store", "loky", workers=2)] == [0, 1, 4, 9]


@pytest.mark.parametrize("backend", ["serial", "loky"])
def test_a_trial_over_its_time_is_stopped_and_recorded(tmp_path, backend):
    plan = [Trial("slow", {"x": 0}), Trial("slow", {"x": 30})]
    begun = time.monotonic()
    with pytest.warns(UserWarning, match="OverTime: stopped after 0.2 s"):
        rows = fc.sweep(plan, slow, tmp_path, backend, workers=1, time_limit=0.2)
    assert [row["x"] for row in rows] == [0]
    assert time.monotonic() - begun < 20


def test_the_index_is_rebuilt_from_the_files(tmp_path):
    fc.sweep(trials(), square, tmp_path, "serial")
    before = (tmp_path / "index.csv").read_text()
    (tmp_path / "index.csv").unlink()
    fc.sweep(trials(), square, tmp_path, "serial")
    assert (tmp_path / "index.csv").read_text() == before
    assert before.count("finished") == 8


def test_progress_says_how_many_and_how_long(tmp_path):
    said = []
    fc.sweep(trials(), square, tmp_path, "serial", progress=lambda stage, done: said.append((stage, done)))
    assert said[-1][1] == 1
    assert said[0][0].startswith("1 of 8 trials")


def test_a_folder_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="name a folder that can be written"):
        fc.sweep(trials(), square, tmp_path / "file" / "store")


def test_an_unknown_backend_names_those_there_are(tmp_path):
    with pytest.raises(ValueError, match="loky, dask, ray, serial"):
        fc.sweep(trials(), square, tmp_path, "threads")


@pytest.mark.dask
def test_dask_gives_the_rows_that_loky_gives(tmp_path):
    pytest.importorskip("distributed")
    assert fc.sweep(trials(), square, tmp_path / "a", "dask", workers=2) == fc.sweep(
        trials(), square, tmp_path / "b", "serial"
    )


@pytest.mark.dask
def test_ray_gives_the_rows_that_this_process_gives_and_is_left_as_found(tmp_path):
    ray = pytest.importorskip("ray")
    own, there = (fc.sweep(trials(), square, tmp_path / b, b, workers=2) for b in ("serial", "ray"))
    assert own == there and not ray.is_initialized()


@pytest.mark.dask
def test_a_scheduler_that_does_not_answer_is_named(tmp_path, monkeypatch):
    pytest.importorskip("distributed")
    with pytest.raises(ValueError, match=r"no dask scheduler answers at tcp://127.0.0.1:1"):
        fc.sweep(trials(), square, tmp_path, "dask", scheduler="tcp://127.0.0.1:1")


def test_a_run_that_cannot_be_sent_to_a_worker_is_refused_at_once(tmp_path):
    held = (n for n in range(3))
    with pytest.raises(ValueError, match="cannot be sent to another process"):
        fc.sweep(trials(), lambda trial: {"y": next(held)}, tmp_path)


@pytest.mark.dask
def test_a_scheduler_without_workers_is_named(tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr("firstcue.sweeps.engines.PATIENCE", 2)
    with (
        distributed.LocalCluster(n_workers=0, dashboard_address=None) as cluster,
        pytest.raises(ValueError, match="has no workers; start some with: dask worker"),
    ):
        fc.sweep(trials(), square, tmp_path, "dask", scheduler=cluster.scheduler_address)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"torch": "1.0"}, "has torch 1.0, this process"),
        ({"firstcue": None}, "has firstcue not at all, this process"),
        ({"python": "2.7.18.final.0"}, "has python 2.7.18.final.0"),
    ],
)
def test_workers_of_another_version_are_refused_by_name(changed, said):
    from firstcue.sweeps.engines import MUST_AGREE, _installed, require_same_versions

    own = {name: _installed(name) for name in MUST_AGREE} | {"python": ".".join(map(str, sys.version_info))}
    require_same_versions({"tcp://here": own})
    with pytest.raises(ValueError, match=f"worker tcp://there {said}"):
        require_same_versions({"tcp://here": own, "tcp://there": own | changed})
