"""`firstcue explain` writes images, bits and controls, and refuses what is no image."""

import json
from pathlib import Path

import numpy as np
import pytest

from firstcue.cli import main

MODULE = """
from torch import nn


def made():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
"""


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    generator = np.random.default_rng(0)
    x = generator.integers(0, 256, (6, 1, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "grey.npz", x=x, y=np.arange(6) % 2)
    np.savez(tmp_path / "table.npz", x=x.reshape(6, 64), y=np.arange(6) % 2)
    (tmp_path / "explained_world.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: str) -> int:
    return main(["explain", "explained_world:made", *words, "--quiet"])


def test_explaining_writes_images_and_numbers(world: Path):
    assert run("grey.npz", "--out", "out", "--rows", "2", "--steps", "2") == 0
    told = json.loads((world / "out" / "explain.json").read_text())
    assert len(told["rows"]) == 2 and told["density"] == "dct" and len(told["controls"]) == 3
    assert any("rescaled from [0, 255]" in warning for warning in told["warnings"])
    arrays = np.load(world / "out" / "explanation.npz")
    assert arrays["simplified"].shape == (2, 1, 8, 8) and (world / "out" / "saved.png").stat().st_size > 1000


def test_tables_are_refused_as_unusable_input(world: Path):
    assert run("table.npz", "--out", "out") == 3
