"""The autoregressive density: its probabilities sum to one, and no pixel sees what comes after it."""

import itertools
import math

import pytest
import torch
from torch import Tensor

import firstcue as fc
from firstcue.simplicity.autoregressive import PixelAR


def shaken(density: PixelAR, seed: int = 0) -> PixelAR:
    """Far from its first weights, so that everything it could read matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in density.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return density


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def all_images(channels: int, height: int, width: int, levels: int) -> Tensor:
    rows = list(itertools.product(range(levels), repeat=channels * height * width))
    return torch.tensor(rows, dtype=torch.float64).view(-1, channels, height, width) / (levels - 1)


@pytest.mark.parametrize(
    ("channels", "height", "width", "levels"), [(1, 1, 2, 4), (1, 2, 2, 3), (3, 1, 2, 3), (2, 2, 1, 4)]
)
def test_the_probabilities_of_all_images_sum_to_one(channels: int, height: int, width: int, levels: int) -> None:
    density = shaken(PixelAR(channels, hidden=6, blocks=2, components=3, levels=levels)).double()
    bits = density.bits(all_images(channels, height, width, levels)).detach()
    assert math.isclose(float((-bits * math.log(2)).exp().sum()), 1, rel_tol=1e-12)


def test_the_bits_of_a_pixel_are_those_of_the_image_up_to_it() -> None:
    """The chain rule, against sums over all that could follow."""
    density = shaken(PixelAR(1, hidden=4, blocks=1, levels=3)).double()
    everything = all_images(1, 1, 3, 3)
    total = density.bits(everything).mul(-math.log(2)).exp().view(3, 3, 3)
    spent = density.bits_map(everything).view(3, 3, 3, 3).mul(-math.log(2)).exp()
    torch.testing.assert_close(spent[:, 0, 0, 0], total.sum((1, 2)))
    torch.testing.assert_close(spent[:, :, 0, 1], total.sum(2) / total.sum((1, 2))[:, None])


@pytest.mark.parametrize("channels", [1, 3])
def test_no_pixel_sees_what_is_coded_after_it(channels: int) -> None:
    density = shaken(PixelAR(channels, hidden=6, blocks=2)).double()
    x = images(1, channels, 5, 6).double()
    other = x.clone()
    other[0, :, 2, 3] = 1 - other[0, :, 2, 3]
    before, after = density.bits_map(x)[0], density.bits_map(other)[0]
    same = (before == after).flatten()
    assert bool(same[: 2 * 6 + 3].all())
    assert not bool(same[2 * 6 + 3])
    assert not bool(same[2 * 6 + 4 :].all())


def test_the_map_sums_to_the_bits() -> None:
    density, x = shaken(PixelAR(3, hidden=6)), images(4, 3, 7, 5)
    torch.testing.assert_close(density.bits_map(x).sum((1, 2)), density.bits(x))


def test_bits_depend_neither_on_the_batch_nor_on_its_order() -> None:
    density, x = shaken(PixelAR(hidden=8)), images(9, 1, 8, 8)
    alone = torch.cat([density.bits(row[None]) for row in x])
    torch.testing.assert_close(density.bits(x.flip(0)).flip(0), alone)


def test_large_batches_are_cut_without_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    density, x = shaken(PixelAR(hidden=8)).double(), images(9, 1, 8, 8).double().requires_grad_()
    (whole,) = torch.autograd.grad(density.bits(x).sum(), x)
    monkeypatch.setattr("firstcue.simplicity.autoregressive.CHUNK", 4)
    (cut,) = torch.autograd.grad(density.bits(x).sum(), x)
    torch.testing.assert_close(cut, whole)


def test_an_image_is_rounded_to_its_grey_levels() -> None:
    density, x = shaken(PixelAR(hidden=8)), (images(2, 1, 6, 6) * 255).round() / 255
    torch.testing.assert_close(density.bits(x + 0.4 / 255), density.bits(x))


def test_the_gradient_reaches_pixels_as_what_is_coded_and_as_context() -> None:
    density = shaken(PixelAR(hidden=8)).double()
    x = images(1, 1, 6, 6).double().requires_grad_()
    spent = density.bits_map(x)[0]
    (of_itself,) = torch.autograd.grad(spent[3, 3], x, retain_graph=True)
    (of_next,) = torch.autograd.grad(spent[3, 4], x)
    assert float(of_itself[0, 0, 3, 3].abs()) > 0
    assert float(of_next[0, 0, 3, 3].abs()) > 0
    assert float(of_itself[0, 0].flatten()[3 * 6 + 4 :].abs().max()) == 0


def test_the_gradient_is_that_of_the_formula_between_grey_levels() -> None:
    """Where rounding moves nothing, against differences of the code length continued between the levels."""
    density = shaken(PixelAR(hidden=8, levels=1000)).double()
    level = torch.randint(1, 998, (1, 1, 4, 4), generator=torch.Generator().manual_seed(1)).double()

    def continued(move: Tensor) -> Tensor:
        logits, mean, scale = density._mixture(level + move)
        return -(logits + density._log_mass((level + move)[:, :, None], mean, scale)).logsumexp(2).sum() / math.log(2)

    x = (level / 999).requires_grad_()
    (found,) = torch.autograd.grad(density.bits(x).sum(), x)
    for place in range(16):
        step = torch.zeros(16, dtype=torch.float64)
        step[place] = 1e-4
        slope = (continued(step.view_as(level)) - continued(-step.view_as(level))) / 2e-4
        assert math.isclose(float(found.flatten()[place]) / 999, float(slope), rel_tol=1e-4, abs_tol=1e-6)


def test_an_impossible_looking_pixel_has_finite_bits_and_a_gradient() -> None:
    density = PixelAR(hidden=8)
    x = torch.zeros(1, 1, 8, 8)
    x[0, 0, 4, 4] = 1
    with torch.no_grad():
        density.last.bias.view(3, -1)[2] = -50
    x.requires_grad_()
    bits = density.bits(x)
    (slope,) = torch.autograd.grad(bits.sum(), x)
    assert bool(torch.isfinite(bits).all()) and bool(torch.isfinite(slope).all())
    assert float(bits.detach()) > 100


def test_building_one_leaves_the_global_generator_alone_and_a_seed_decides_its_weights() -> None:
    before = torch.get_rng_state()
    first, second, third = PixelAR(seed=1), PixelAR(seed=1), PixelAR(seed=2)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first.window.weight, second.window.weight)
    assert not torch.equal(first.window.weight, third.window.weight)


def test_another_number_of_channels_is_refused_with_a_way_out() -> None:
    with pytest.raises(ValueError, match=r"1 channel.*got 3.*fit_density"):
        PixelAR(hidden=8).bits(images(2, 3, 8, 8))


@pytest.mark.parametrize("sizes", [{"hidden": 2, "channels": 3}, {"components": 0}, {"levels": 1}])
def test_impossible_sizes_are_refused(sizes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least one channel"):
        PixelAR(**sizes)


def test_a_stored_density_gives_the_same_bits(tmp_path) -> None:
    density, x = shaken(PixelAR(3, hidden=9, blocks=2, components=2)), images(5, 3, 6, 6)
    fc.save_density(density, tmp_path / "mine.safetensors")
    assert torch.equal(fc.load_density(tmp_path / "mine.safetensors").bits(x), density.bits(x))


def test_half_precision_images_are_measured_in_the_precision_of_the_weights() -> None:
    density, x = shaken(PixelAR(hidden=8)), (images(2, 1, 6, 6) * 255).round() / 255
    torch.testing.assert_close(fc.bits(density, x.half()), fc.bits(density, x).half())
