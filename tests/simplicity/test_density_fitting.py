"""Fitting a density: it learns, stops, resumes where it was, and leaves everything else alone."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

import firstcue as fc
from firstcue.simplicity import _fit_network
from firstcue.simplicity.autoregressive import PixelAR
from firstcue.simplicity.dct import DCTLaplace
from firstcue.simplicity.glow import ImageGlow
from firstcue.simplicity.independent import Independent

SMALL = {"autoregressive": {"hidden": 8, "blocks": 1}}


def shades(n: int = 80, size: int = 8, seed: int = 0) -> Tensor:
    """Smooth images: a level and a slope each."""
    generator = torch.Generator().manual_seed(seed)
    level, slope = 0.1 + 0.3 * torch.rand(2, n, 1, 1, 1, generator=generator)
    return (level + slope * torch.linspace(0, 1, size)).expand(n, 1, size, size).clone()


class Interrupted(Exception):
    """Ctrl-C, as it were."""


def interrupt_after(share: float):
    def progress(stage: str, done: float) -> None:
        if done >= share:
            raise Interrupted

    return progress


def test_an_autoregressive_density_learns_what_a_histogram_cannot() -> None:
    images, unseen = shades(), shades(seed=1)
    fitted = fc.fit_density(images, steps=80, **SMALL["autoregressive"])
    histogram = fc.fit_density(images, "independent")
    assert isinstance(fitted, PixelAR)
    assert isinstance(histogram, Independent)
    assert float(fc.bits(fitted, unseen).mean()) < 0.9 * float(fc.bits(histogram, unseen).mean())


def test_a_glow_learns_to_need_fewer_bits_than_writing_values_down() -> None:
    fitted = fc.fit_density(shades(), "glow", steps=40, hidden=8, depth=2)
    assert isinstance(fitted, ImageGlow)
    assert float(fc.bits(fitted, shades(seed=1)).mean()) < 7 * 64


def test_cosine_scales_are_fitted_in_one_pass() -> None:
    fitted = fc.fit_density(shades(), "dct")
    assert isinstance(fitted, DCTLaplace)
    assert float(fc.bits(fitted, shades(seed=1)).mean()) < 5 * 64


def test_what_is_fitted_is_frozen_and_ready_to_measure() -> None:
    fitted = fc.fit_density(shades(), steps=5, **SMALL["autoregressive"])
    assert not fitted.training
    assert not any(parameter.requires_grad for parameter in fitted.parameters())


def test_a_run_that_is_interrupted_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    whole = fc.fit_density(shades(), steps=40, **SMALL["autoregressive"])
    file = tmp_path / "folder" / "run.safetensors"
    with pytest.raises(Interrupted):
        fc.fit_density(shades(), steps=40, checkpoint=file, progress=interrupt_after(0.4), **SMALL["autoregressive"])
    told: list[float] = []
    resumed = fc.fit_density(
        shades(), steps=40, checkpoint=file, progress=lambda _, done: told.append(done), **SMALL["autoregressive"]
    )
    assert 0.4 < told[0] < 0.5
    assert told[-1] == 1
    assert torch.equal(fc.bits(resumed, shades()), fc.bits(whole, shades()))


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    file = tmp_path / "run.safetensors"
    first = fc.fit_density(shades(), "glow", steps=5, hidden=8, depth=1, checkpoint=file)
    again = fc.fit_density(shades(), "glow", steps=5, hidden=8, depth=1, checkpoint=file, progress=interrupt_after(0))
    assert torch.equal(fc.bits(first, shades()), fc.bits(again, shades()))


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "run.safetensors"
    fc.fit_density(shades(), steps=5, checkpoint=file, **SMALL["autoregressive"])
    with pytest.raises(ValueError, match="of another run"):
        fc.fit_density(shades(), steps=6, checkpoint=file, **SMALL["autoregressive"])


@pytest.mark.parametrize("content", [b"", b"not a checkpoint at all"])
def test_a_file_that_is_no_checkpoint_is_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "mine.txt"
    file.write_bytes(content)
    with pytest.raises(ValueError, match="not a checkpoint"):
        fc.fit_density(shades(), steps=5, checkpoint=file, **SMALL["autoregressive"])
    assert file.read_bytes() == content


def test_the_clock_ends_a_run() -> None:
    told: list[str] = []
    fc.fit_density(shades(), minutes=0.02, progress=lambda stage, _: told.append(stage), **SMALL["autoregressive"])
    assert 3 <= len(told) <= _fit_network.LOOKS


def test_a_run_that_no_longer_improves_ends_early_with_the_best_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Held-out images of another kind: the more is learnt, the dearer they get."""
    monkeypatch.setattr(_fit_network, "PATIENCE", 4)
    generator = torch.Generator().manual_seed(0)
    unlike = torch.rand(20, 1, 8, 8, generator=generator)
    done: list[float] = []
    fitted = fc.fit_density(
        shades(), steps=200, held_out=unlike, progress=lambda _, share: done.append(share), **SMALL["autoregressive"]
    )
    trained_on = fc.fit_density(shades(), steps=60, held_out=shades(seed=1), **SMALL["autoregressive"])
    assert done[-1] < 1
    assert float(fc.bits(fitted, unlike).mean()) < float(fc.bits(trained_on, unlike).mean())


def test_the_seed_decides_and_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    first, same, other = (fc.fit_density(shades(), "glow", steps=4, hidden=4, depth=1, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(fc.bits(first, shades()), fc.bits(same, shades()))
    assert not torch.equal(fc.bits(first, shades()), fc.bits(other, shades()))


def test_colour_images_are_fitted() -> None:
    fitted = fc.fit_density(shades(20).repeat(1, 3, 1, 1), steps=3, hidden=6, blocks=1)
    assert fc.bits(fitted, shades(4).repeat(1, 3, 1, 1)).shape == (4,)


def test_numpy_images_are_taken() -> None:
    assert fc.fit_density(shades().numpy(), steps=3, **SMALL["autoregressive"]).channels == 1


def test_a_density_that_learnt_nothing_is_reported() -> None:
    generator = torch.Generator().manual_seed(0)
    with pytest.warns(UserWarning, match="has learnt nothing"):
        fc.fit_density(
            (torch.rand(20, 1, 8, 8, generator=generator) > 0.5).float() * 0.6 + 0.2, steps=1, hidden=4, blocks=0
        )


@pytest.mark.parametrize(
    ("images", "arguments", "message"),
    [
        (shades(5), {}, "5 images; at least 10"),
        (255 * shades(20), {}, "/ 255"),
        (shades(20), {"kind": "flow"}, "`kind` is one of"),
        (shades(20), {"minutes": 0}, "positive"),
        (shades(20), {"steps": 0}, "positive"),
        (shades(20, size=7), {"kind": "glow"}, "even height and width; these are 7 x 7"),
        (shades(20), {"held_out": shades(5, size=6)}, "`held_out` has shape"),
    ],
)
def test_what_cannot_be_fitted_is_refused(images: Tensor, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fc.fit_density(images, **arguments)
