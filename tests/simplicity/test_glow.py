"""The flow: its log-determinant is that of its Jacobian, and it comes back exactly."""

import math

import pytest
import torch
from torch import Tensor

import firstcue as fc
from firstcue.simplicity.glow import ImageGlow
from firstcue.simplicity.quantising import SharedNoise


def shaken(density: ImageGlow, seed: int = 0, by: float = 0.1) -> ImageGlow:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in density.parameters():
            parameter += by * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return density


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("shape", "scales"), [((1, 4, 4), 2), ((1, 4, 4), 1), ((3, 2, 4), 1)])
def test_the_log_determinant_is_that_of_the_jacobian(shape: tuple[int, int, int], scales: int) -> None:
    density = shaken(ImageGlow(shape, depth=3, scales=scales, hidden=8)).double()
    v = images(1, *shape).double()
    d = math.prod(shape)
    jacobian = torch.autograd.functional.jacobian(lambda x: density._forward(x)[0].flatten(), v).reshape(d, d)
    assert abs(float(torch.linalg.slogdet(jacobian)[1] - density._forward(v)[1])) < 1e-10


@pytest.mark.parametrize(("dtype", "nearly"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_decoding_undoes_encoding(dtype: torch.dtype, nearly: float) -> None:
    density = shaken(ImageGlow((1, 28, 28), depth=4, hidden=16), by=0.05).to(dtype)
    x = images(5, 1, 28, 28).to(dtype)
    assert float((density.decode(density.encode(x)) - x).abs().max()) < nearly


def test_encoding_undoes_decoding() -> None:
    density = shaken(ImageGlow((3, 8, 8), depth=2, hidden=8)).double()
    z = torch.randn(4, 192, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(density.encode(density.decode(z)), z, rtol=0, atol=1e-4)


def test_the_density_integrates_to_one() -> None:
    """Over a grid of four pixels far beyond the unit cube."""
    density = shaken(ImageGlow((1, 2, 2), depth=2, scales=1, hidden=8), by=0.05).double()
    side = torch.linspace(-4.5, 5.5, 15, dtype=torch.float64)
    grid = torch.cartesian_prod(side, side, side, side).view(-1, 1, 2, 2)
    with torch.no_grad():
        mass = density.log_prob(grid).exp().sum() * (10 / 14) ** 4
    assert math.isclose(float(mass), 1, rel_tol=1e-2)


def test_noisy_bits_bound_the_code_length_of_the_grey_levels() -> None:
    density = shaken(ImageGlow((1, 2, 2), depth=3, scales=1, hidden=8, levels=4), by=0.3).double()
    x = torch.tensor([[0.0, 1.0], [2.0, 3.0]]).view(1, 1, 2, 2).double() / 3
    corners = torch.cartesian_prod(*[(torch.arange(8) + 0.5) / 8] * 4).view(-1, 1, 2, 2).double()
    with torch.no_grad():
        # the probability of a grey image is the mass of its cell, of volume 4 ** -4
        log_prob = density.log_prob((3 * x + corners) / 4)
    code_length = -math.log2(float(log_prob.exp().mean()) * 4**-4)
    mean_bits = float(-log_prob.mean()) / math.log(2) + 4 * 2
    sampled = fc.bits(density, x, n_dequant=100, return_error=True)
    assert mean_bits > code_length + 0.01
    assert abs(float(sampled.bits) - mean_bits) < 5 * float(sampled.error) + 0.05


def test_a_seed_decides_the_noise_and_the_bits() -> None:
    density, x = shaken(ImageGlow((1, 8, 8), depth=2, hidden=8)), images(3, 1, 8, 8)
    assert torch.equal(fc.bits(density, x, seed=3), fc.bits(density, x, seed=3))
    assert not torch.equal(fc.bits(density, x, seed=3), fc.bits(density, x, seed=4))


def test_bits_depend_neither_on_the_batch_nor_on_its_order() -> None:
    density, x = shaken(ImageGlow((1, 8, 8), depth=2, hidden=8)), images(6, 1, 8, 8)
    alone = torch.cat([fc.bits(density, row[None]) for row in x])
    torch.testing.assert_close(fc.bits(density, x.flip(0)).flip(0), alone)


def test_large_batches_are_cut_without_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    density, x = shaken(ImageGlow((1, 8, 8), depth=2, hidden=8)), images(9, 1, 8, 8)
    whole = density.bits(x, generator=SharedNoise().manual_seed(0))
    monkeypatch.setattr("firstcue.simplicity.glow.CHUNK", 4)
    torch.testing.assert_close(density.bits(x, generator=SharedNoise().manual_seed(0)), whole)


def test_the_first_images_leave_every_step_standardised() -> None:
    density = ImageGlow((1, 8, 8), depth=3, hidden=8, scales=1)
    x = 0.2 + 0.1 * images(64, 1, 8, 8)
    density.initialise(x)
    z = density.encode(x)
    assert abs(float(z.mean())) < 0.05
    assert 0.8 < float(z.std()) < 1.2


def test_pixels_that_never_change_do_not_blow_the_start_up() -> None:
    density = ImageGlow((1, 8, 8), depth=2, hidden=8)
    density.initialise(torch.zeros(16, 1, 8, 8))
    assert bool(torch.isfinite(density.bits(images(4, 1, 8, 8))).all())


def test_the_gradient_reaches_every_pixel_and_every_weight() -> None:
    density = shaken(ImageGlow((1, 8, 8), depth=2, hidden=8))
    x = images(2, 1, 8, 8).requires_grad_()
    density.bits(x).sum().backward()
    assert x.grad is not None and bool((x.grad != 0).all())
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in density.parameters())


def test_building_one_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    first, second = ImageGlow((1, 8, 8), depth=1, hidden=4, seed=1), ImageGlow((1, 8, 8), depth=1, hidden=4, seed=1)
    assert torch.equal(before, torch.get_rng_state())
    x = images(2, 1, 8, 8)
    assert torch.equal(first.bits(x), second.bits(x))


def test_a_stored_density_gives_the_same_bits(tmp_path) -> None:
    density, x = shaken(ImageGlow((3, 8, 8), depth=2, hidden=8)), images(5, 3, 8, 8)
    fc.save_density(density, tmp_path / "mine.safetensors")
    again = fc.load_density(tmp_path / "mine.safetensors")
    assert torch.equal(fc.bits(again, x), fc.bits(density, x))
    assert torch.equal(again.encode(x), density.encode(x))


@pytest.mark.parametrize("shape", [(1, 7, 8), (1, 8, 6), (0, 8, 8)])
def test_sizes_that_cannot_be_halved_are_refused(shape: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="multiples of 4"):
        ImageGlow(shape, scales=2)


def test_images_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(1, 8, 8\); got \(1, 4, 4\)"):
        ImageGlow((1, 8, 8), depth=1, hidden=4).bits(images(2, 1, 4, 4))
