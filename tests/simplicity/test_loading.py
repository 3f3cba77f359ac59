"""A stored density measures bit for bit what it measured before, and a file that is none says so."""

import json

import pytest
import torch
from safetensors.torch import save_file

import firstcue as fc


def images(n=5, size=6):
    return torch.rand(n, 1, size, size, generator=torch.Generator().manual_seed(0))


def gaussian():
    rows = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    return fc.GaussianVectors.of(fc.Moments.of_groups(rows, [0, 1] * 25), resolution=0.1)


KINDS = {
    "uniform": lambda: fc.Uniform(16),
    "independent": lambda: fc.Independent.fit(images()),
    "shared": lambda: fc.Independent.fit(images(), shared=True),
    "dct": fc.DCTLaplace,
    "dct-fitted": lambda: fc.DCTLaplace.fit(images(), 4),
    "dct-whole": lambda: fc.DCTLaplace.fit(images(), None),
    "codec": lambda: fc.Codec("png"),
    "vectors": gaussian,
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_saved_measures_the_same_to_the_last_bit(kind, tmp_path):
    density = KINDS[kind]()
    path = fc.save_density(density, tmp_path / "mine.safetensors", {"licence": "CC0"})
    again = fc.load_density(path)
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(1)) if kind == "vectors" else images(size=6)
    assert type(again) is type(density) and again.shape == density.shape and again.levels == density.levels
    assert torch.equal(fc.bits(density, x), fc.bits(again, x))
    assert fc.density_card(path) == {"licence": "CC0"} == json.loads((tmp_path / "mine.json").read_text())


@pytest.mark.parametrize(
    ("module", "name", "settings"),
    [
        ("autoregressive", "PixelAR", {"hidden": 8, "blocks": 1}),
        ("glow", "ImageGlow", {"shape": (1, 8, 8), "depth": 1, "scales": 1, "hidden": 8}),
    ],
    ids=["pixels", "flow"],
)
def test_networks_come_back_frozen_and_bit_identical(module, name, settings, tmp_path):
    from importlib import import_module

    density = getattr(import_module(f"firstcue.simplicity.{module}"), name)(**settings)
    x = images(size=8)
    density.bits(x)
    density.eval()
    state = torch.get_rng_state()
    again = fc.load_density(fc.save_density(density, tmp_path / "net.safetensors"))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(fc.bits(density, x), fc.bits(again, x))
    assert not again.training and not any(p.requires_grad for p in again.parameters())
    half = fc.load_density(fc.save_density(density, tmp_path / "half.safetensors", half=True))
    assert (tmp_path / "half.safetensors").stat().st_size < (tmp_path / "net.safetensors").stat().st_size
    torch.testing.assert_close(fc.bits(half, x), fc.bits(density, x), rtol=1e-2, atol=0)


def test_weights_beyond_half_precision_are_refused(tmp_path):
    density = fc.DCTLaplace(8, torch.full((1, 8, 8), 1e6))
    with pytest.raises(ValueError, match=r"'scales' holds values beyond float16 \(1e\+06\)"):
        fc.save_density(density, tmp_path / "big.safetensors", half=True)


def test_only_densities_of_this_package_are_stored(tmp_path):
    with pytest.raises(ValueError, match="a LogProbDensity cannot be stored; Uniform"):
        fc.save_density(fc.from_log_prob(torch.distributions.Uniform(0.0, 1.0)), tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"cannot be written: .*Name a file in a folder"):
        fc.save_density(fc.Uniform(), tmp_path / "nowhere" / "x.safetensors")


def test_a_file_that_is_no_density_says_what_it_is(tmp_path):
    with pytest.raises(ValueError, match="no density 'gray99': neither a file of that name nor one of dct, gray28"):
        fc.load_density("gray99")
    save_file({"w": torch.zeros(2)}, tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match="does not hold a density"):
        fc.load_density(tmp_path / "weights.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(b"abc")
    with pytest.raises(ValueError, match="not a safetensors file, or is cut off"):
        fc.load_density(tmp_path / "cut.safetensors")
    note = {"format": "1", "kind": "DCTLaplace", "config": "{}", "card": "{}"}
    save_file({}, tmp_path / "damaged.safetensors", note)
    with pytest.raises(ValueError, match=r"the DCTLaplace in .* is damaged"):
        fc.load_density(tmp_path / "damaged.safetensors")
    save_file({}, tmp_path / "later.safetensors", note | {"format": "9"})
    with pytest.raises(ValueError, match="has format 9, this version reads 1"):
        fc.load_density(tmp_path / "later.safetensors")


def test_a_formula_has_no_card():
    with pytest.raises(ValueError, match="is a formula without weights"):
        fc.density_card("dct")
