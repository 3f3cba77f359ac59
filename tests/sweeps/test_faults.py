"""Whatever happens to a sweep, what had finished is kept and the final table is that of an undisturbed run."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import firstcue as fc
from firstcue.sweeps import Store, Trial

SWEEP = """
import json, os, sys, time
import firstcue as fc

def run(trial):
    with open(trial.settings["log"], "a") as file:
        file.write(f"{trial.key}\\n")
    time.sleep(trial.settings["pause"])
    return [{"value": (trial.settings["x"] * 7919 + trial.seed) % 1009 / 3}, {"value": -trial.settings["x"]}]

folder, n, pause, backend = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
trials = [fc.Trial("numbers", {"x": x, "pause": pause, "log": f"{folder}/log"}, seed) for x in range(n) for seed in (0, 1)]
rows = fc.sweep(trials, run, f"{folder}/store", backend, workers=2)
print(json.dumps([{k: v for k, v in row.items() if k != "log"} for row in rows]))
"""


def command(folder: Path, n: int, pause: float, backend: str = "loky") -> list[str]:
    return [sys.executable, "-c", SWEEP, str(folder), str(n), str(pause), backend]


def finished(folder: Path) -> dict[str, bytes]:
    return {p.stem: p.read_bytes() for p in (folder / "store" / "finished").glob("*/*.json")}


def killed_and_resumed(folder: Path, kills: int, n: int, pause: float) -> tuple[str, list[str]]:
    """The final table and the keys in the order they began, after `kills` kills of the whole process group."""
    folder.mkdir(exist_ok=True)
    source = random.Random(0)
    for _ in range(kills):
        process = subprocess.Popen(command(folder, n, pause), start_new_session=True, stdout=subprocess.DEVNULL)
        time.sleep(source.uniform(0.3, 2.0))
        before = finished(folder)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for worker in Path("/proc").glob("[0-9]*/cmdline"):  # workers of loky are in sessions of their own
            if str(folder).encode() in worker.read_bytes() if worker.exists() else False:
                os.kill(int(worker.parent.name), signal.SIGKILL)
        after = finished(folder)
        assert all(after[key] == text for key, text in before.items()), "something finished was lost or changed"
    done = subprocess.run(command(folder, n, pause), capture_output=True, text=True, check=True)
    return done.stdout, (folder / "log").read_text().split()


def undisturbed(folder: Path, n: int, pause: float) -> str:
    folder.mkdir(exist_ok=True)
    return subprocess.run(command(folder, n, pause), capture_output=True, text=True, check=True).stdout


def check_kills(tmp_path: Path, kills: int, n: int, pause: float) -> None:
    table, begun = killed_and_resumed(tmp_path / "killed", kills, n, pause)
    assert table == undisturbed(tmp_path / "calm", n, pause)
    # none runs twice but those in flight: two workers, and what they were doing at each kill
    assert len(begun) - len(set(begun)) <= 2 * kills
    assert len(set(begun)) == 2 * n


def test_a_sweep_killed_five_times_loses_nothing(tmp_path):
    check_kills(tmp_path, kills=5, n=20, pause=0.1)


@pytest.mark.paper
def test_a_sweep_killed_fifty_times_loses_nothing(tmp_path):
    check_kills(tmp_path, kills=50, n=200, pause=0.1)


def test_two_sweeps_on_one_store_end_in_one_table(tmp_path):
    (tmp_path / "shared").mkdir()
    both = [
        subprocess.Popen(command(tmp_path / "shared", 10, 0.05), stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    tables = [process.communicate(timeout=60)[0] for process in both]
    assert tables[0] == tables[1] == undisturbed(tmp_path / "calm", 10, 0.05)
    assert not list((tmp_path / "shared" / "store" / "started").iterdir())


def small(trial: Trial) -> dict:
    return {"y": trial.settings["x"], "text": "x" * 2000}


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_ends_the_sweep_and_loses_nothing(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("this machine mounts no tmpfs")
    plan = [Trial("small", {"x": x}) for x in range(200)]
    try:
        with pytest.raises(ValueError, match=r"No space left.*nothing that finished is lost"):
            fc.sweep(plan, small, disk, "serial")
        kept = len(list(Store(disk).results()))
        assert 10 < kept < 200
        shutil.copytree(disk, tmp_path / "larger")
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    assert len(list(Store(tmp_path / "larger").results())) == kept
    assert [row["y"] for row in fc.sweep(plan, small, tmp_path / "larger", "serial")] == list(range(200))


def test_a_folder_that_loses_its_permission_is_named(tmp_path):
    if os.geteuid() == 0:
        (tmp_path / "store").write_text("a file in the way")
    else:
        (tmp_path / "store").mkdir(mode=0o500)
    with pytest.raises(ValueError, match="cannot be kept"):
        fc.sweep([Trial("small", {"x": 1})], small, tmp_path / "store")


def once_deadly(trial: Trial) -> dict:
    mark = Path(trial.settings["marks"]) / str(trial.settings["x"])
    if trial.settings["x"] == 2 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return {"y": trial.settings["x"]}


@pytest.mark.dask
def test_a_dask_worker_lost_in_mid_trial_costs_nothing(tmp_path):
    pytest.importorskip("distributed")
    (tmp_path / "marks").mkdir()
    plan = [Trial("deadly", {"x": x, "marks": str(tmp_path / "marks")}) for x in range(6)]
    assert [r["y"] for r in fc.sweep(plan, once_deadly, tmp_path / "store", "dask", workers=2)] == list(range(6))


def test_the_store_is_json_that_anything_can_read(tmp_path):
    trial = Trial("small", {"x": 1})
    fc.sweep([trial], small, tmp_path, "serial")
    found = json.loads(Store(tmp_path).path(trial.key).read_text())
    assert found["body"]["trial"] == trial.to_dict()
    assert found["body"]["rows"][0]["y"] == 1
