"""`fix`: every remedy of the library has its command, with the options of its kind."""

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from torch import nn

from cli_cases import make_world, only_object
from firstcue.auditing.fixing import SIMPLIFY
from firstcue.auditing.remedies import METHODS, NEEDS_TRAINING
from firstcue.cli import main
from firstcue.cli.repairs import EARLY, ERASED, ERASING, REPAIRS, SIMPLIFYING, TRAINING
from firstcue.forward import seeded

MODEL = ["cli_models:good", "train.npz", "--weights", "w.safetensors"]
CUE = ["--attribute", "cue", "--held-out", "held.npz"]
QUICK = ["--rate", "0.01", "--epochs", "1"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def here(world, monkeypatch):
    monkeypatch.chdir(world)
    return world


IMAGES = """
from torch import nn


def small():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.ReLU(), nn.Linear(4, 2))
"""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Tiny images with a core and a cue in two corners: what every remedy can work on."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "image_models.py").write_text(IMAGES)
    with seeded(0):
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.ReLU(), nn.Linear(4, 2))
    save_file(net.state_dict(), folder / "w.safetensors")
    save_file({name: -value for name, value in net.state_dict().items()}, folder / "early.safetensors")
    for name, agree, seed in (("train", 0.8, 0), ("held", 0.5, 1)):
        rng = np.random.default_rng(seed)
        y = np.arange(120) % 2
        cue = np.where(rng.random(120) < agree, y, 1 - y)
        x = rng.random((120, 1, 8, 8)).astype(np.float32)
        x[:, 0, :2, :2] = y[:, None, None]
        x[:, 0, -2:, -2:] = cue[:, None, None]
        np.savez(folder / f"{name}.npz", x=x, y=y, cue=cue)
    return folder


def test_every_command_repairs_a_tiny_model_from_end_to_end(pictures, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(pictures)
    words = ["image_models:small", "train.npz", "--weights", "w.safetensors", *CUE]
    own = {
        id(TRAINING): [*QUICK, "--rows-per-step", "40"],
        id(EARLY): ["--early", "early.safetensors"],
        id(SIMPLIFYING): ["--steps", "2"],
    }
    commands = [(repair, own.get(id(repair.own), [])) for repair in REPAIRS]
    commands += [(repair, ["--method", "alf-qleace"]) for repair in REPAIRS if repair.own is ERASING]
    assert len(commands) == 35  # 34 and one variant
    for i, (repair, extra) in enumerate(commands):
        out = tmp_path / str(i)
        code, said, err = run(["fix", repair.command, *words, *extra, "--out", out, "--quiet"], capsys)
        assert (code, err) == (0, ""), repair.command
        fixed = only_object((out / "fix.json").read_text())
        assert fixed["remedy"] in (repair.remedy, *ERASED.values()) and f"Repaired by {fixed['remedy']}" in said
        assert fixed["after"]["overall"]["n"] == fixed["before"]["overall"]["n"] > 0
        repaired = load_file(out / "weights.safetensors")
        assert {name: value.shape for name, value in repaired.items()} == {
            name: value.shape for name, value in load_file("w.safetensors").items()
        }
        assert all(bool(value.isfinite().all()) for value in repaired.values())


def run(words, capsys):
    capsys.readouterr()
    code = main([str(w) for w in words])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_the_commands_are_the_remedies_of_the_library():
    listed = {repair.remedy for repair in REPAIRS}
    assert listed | set(ERASED.values()) == (set(METHODS) - {"as it is"}) | NEEDS_TRAINING | {SIMPLIFY}
    assert {repair.remedy for repair in REPAIRS if repair.own is TRAINING} == NEEDS_TRAINING
    assert len({repair.command for repair in REPAIRS}) == len(REPAIRS)
    assert all(" " not in repair.command and "," not in repair.command for repair in REPAIRS)


def test_every_command_is_listed_with_its_sentence(capsys):
    code, out, _ = run(["fix", "--help"], capsys)
    assert code == 0
    for repair in REPAIRS:
        assert f"  {repair.command} " in out


@pytest.mark.parametrize("command", ["group-dro", "lff"])
def test_a_network_is_trained_again_and_written_with_what_was_chosen(here, capsys, tmp_path, command):
    code, out, err = run(["fix", command, *MODEL, *CUE, *QUICK, "--out", tmp_path], capsys)
    assert (code, err) == (0, "")
    assert "learning rate 0.01, epoch 1" in out
    fixed = only_object((tmp_path / "fix.json").read_text())
    assert fixed["changes"]["rate"] == 0.01 and fixed["changes"]["selection"] == "worst group"
    assert fixed["before"]["overall"]["n"] == fixed["after"]["overall"]["n"] == 300
    assert (load_file(tmp_path / "weights.safetensors")["0.weight"] != load_file("w.safetensors")["0.weight"]).any()


def test_without_an_attribute_the_worst_class_chooses_and_groups_are_refused(here, capsys, tmp_path):
    words = [*MODEL, "--held-out", "held.npz", *QUICK, "--out", tmp_path]
    code, out, _ = run(["fix", "cvar-dro", *words, "--json"], capsys)
    assert code == 0 and only_object(out)["changes"]["selection"] == "worst class"
    code, _, err = run(["fix", "group-dro", *words], capsys)
    assert code == 3 and "needs groups of the training rows" in err and "jtt" in err


def test_a_training_that_diverges_is_unusable_input_with_remedy_and_rate(here, capsys, tmp_path):
    code, _, err = run(["fix", "vrex", *MODEL, *CUE, "--rate", "1e18", "--epochs", "1", "--out", tmp_path], capsys)
    assert code == 3 and "vrex at learning rate 1e+18" in err
    assert not (tmp_path / "model.json").exists()


def test_disagreement_wants_an_earlier_checkpoint(here, capsys, tmp_path):
    assert run(["fix", "self", *MODEL, *CUE, "--out", tmp_path], capsys)[0] == 2
    early = load_file("w.safetensors")
    early["2.weight"] = -early["2.weight"]
    save_file(early, tmp_path / "early.safetensors")
    words = ["fix", "self", *MODEL, *CUE, "--early", tmp_path / "early.safetensors", "--out", tmp_path / "out"]
    code, out, err = run(words, capsys)
    assert (code, err) == (0, "") and "labels of" in out
