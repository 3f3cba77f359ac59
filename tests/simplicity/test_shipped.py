"""What ships: small files, with cards that say the truth, that pass the gate."""

import math
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from scipy.stats import spearmanr

import firstcue as fc
from firstcue.simplicity import _pictures as pictures
from firstcue.simplicity.gates import release_gate

NAMES = ("gray28", "gray28-glow")
WEIGHTS = Path(str(files("firstcue.simplicity") / "weights"))


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_density_passes_the_gate_and_its_card_says_so(name: str) -> None:
    """On fewer pictures than the card, for speed; constants, ramps and noises are the same ones."""
    card = fc.density_card(name)
    gate = release_gate(fc.load_density(name), objects=24)
    assert gate.passed, str(gate)
    assert card["gate_passed"] is all(row["passed"] for row in card["gate"])
    assert [row["name"] for row in card["gate"]] == [row.name for row in gate.rows]
    for kind in ("constants", "ramps", "noise"):
        assert math.isclose(gate.bits_per_value[kind], card["gate_bits_per_value"][kind], rel_tol=0.01, abs_tol=0.01)


@pytest.mark.parametrize("name", NAMES)
def test_a_card_names_every_source_with_its_licence(name: str) -> None:
    card = fc.density_card(name)
    assert {"seed", "steps", "shares", "held_out_bits_per_value", "script"} <= set(card)
    assert all(source["licence"] and source["source"] for source in card["data"])
    density = fc.load_density(name)
    assert card["parameters"] == sum(parameter.numel() for parameter in density.parameters())


def test_all_weights_together_stay_below_two_megabytes() -> None:
    assert sum(file.stat().st_size for file in WEIGHTS.iterdir()) < 2_000_000


@pytest.mark.parametrize("name", NAMES)
def test_held_out_digits_cost_what_the_card_says(name: str) -> None:
    card = fc.density_card(name)
    digits = pictures.smooth_digits("test")
    found = fc.bits(fc.load_density(name), digits[::8], n_dequant=2)
    wanted = card["held_out_bits_per_value"]["digits"]
    assert abs(float(found.mean()) / 784 - wanted) < 4 * float(found.std()) / 784 / math.sqrt(len(found))


@pytest.mark.parametrize("name", NAMES)
def test_garments_are_ordered_much_as_by_png(name: str) -> None:
    garments = pictures.held_out_garments(80)
    ours = fc.bits(fc.load_density(name), garments, n_dequant=2)
    assert spearmanr(ours, fc.bits(fc.Codec("png"), garments)).statistic > 0.8


def test_the_autoregressive_one_measures_any_size_and_says_where_bits_are_spent() -> None:
    density = fc.load_density("gray28")
    x = torch.zeros(1, 1, 40, 20)
    x[:, :, 10:20, 5:12] = torch.rand(10, 7, generator=torch.Generator().manual_seed(0))
    spent = density.bits_map(x)[0]
    assert float(spent[10:20, 5:12].mean()) > 5
    assert float(spent[25:, :].mean()) < 0.5


def test_the_flow_comes_back_and_its_zero_is_an_image() -> None:
    density = fc.load_density("gray28-glow")
    x = pictures.held_out_garments(20)
    assert float((density.decode(density.encode(x)) - x).abs().max()) < 1e-3
    typical = density.decode(torch.zeros(1, 784))
    assert float(fc.bits(density, typical.clamp(0, 1))) < float(fc.bits(density, x).mean())
