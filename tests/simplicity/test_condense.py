"""Condensation: gradients that match, bits that fall, and a small set from which fresh networks learn."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from firstcue.forward import seeded
from firstcue.simplicity.codecs import Codec
from firstcue.simplicity.condense import condense, evaluate_condensed
from firstcue.simplicity.dct import DCTLaplace
from firstcue.simplicity.matching import LOSSES, STRIDE, by_look_ahead, convnet, dot_products, gradients, row_cosines


def halves(n: int = 60, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Bright above or bright below, with noise; class 0 is rarer."""
    generator = torch.Generator().manual_seed(seed)
    y = (torch.arange(n) % 3 > 0).long()
    x = 0.3 * torch.rand(n, 1, 8, 8, generator=generator)
    x[y == 0, :, :4] += 0.6
    x[y == 1, :, 4:] += 0.6
    return x, y


NET = convnet((1, 8, 8), 2, width=6)


@pytest.mark.parametrize("loss", LOSSES)
def test_networks_learn_from_two_condensed_images(loss):
    made = condense(*halves(), DCTLaplace(), lam=10, steps=20, loss=loss, network=NET)
    found = evaluate_condensed(made.images, made.labels, *halves(seed=1), networks=2, steps=40, network=NET)
    assert min(found) > 0.9
    assert made.history[-1]["match"] < made.history[0]["match"]
    assert torch.equal(made.images, (255 * made.images).round() / 255) and made.labels.tolist() == [0, 1]


def test_more_weight_on_the_bits_costs_fewer_bits():
    cheap, dear = (condense(*halves(), DCTLaplace(), lam=lam, steps=40, network=NET) for lam in (1e4, 0))
    assert cheap.total_bits < 0.8 * dear.total_bits


def test_without_weight_on_the_bits_the_density_is_not_asked():
    class Mute(DCTLaplace):
        asked = 0

        def bits(self, x: torch.Tensor, *, generator: torch.Generator | None = None) -> torch.Tensor:
            Mute.asked += x.requires_grad
            return super().bits(x)

    condense(*halves(), Mute(), lam=0, steps=2, network=NET)
    assert Mute.asked == 0


def test_the_same_seed_makes_the_same_images_and_global_randomness_stays():
    state = torch.get_rng_state()
    first, second = (condense(*halves(), None, lam=0, steps=3, network=NET, seed=4) for _ in range(2))
    assert torch.equal(first.images, second.images) and torch.equal(state, torch.get_rng_state())
    assert bool(first.bits.isnan().all())


def test_several_images_per_class_alternate_with_a_learning_network():
    made = condense(*halves(), None, 2, 0, 4, network=NET, updates=2, inner_steps=2)
    assert made.labels.tolist() == [0, 0, 1, 1] and not torch.equal(made.images[0], made.images[1])


def test_absent_classes_are_left_out_and_names_kept():
    x, y = halves(12)
    made = condense(x.numpy(), ["dog" if c else "cat" for c in y], None, lam=0, steps=1, loss="grad_dot", network=NET)
    assert made.classes == ("cat", "dog") and type(made.images).__module__ == "numpy"


def test_row_cosines_match_a_plain_loop_and_ignore_biases():
    generator = torch.Generator().manual_seed(0)
    a, b = ([torch.randn(3, 4, generator=generator), torch.randn(3, generator=generator)] for _ in range(2))
    slow = sum(1 - torch.cosine_similarity(a[0][i], b[0][i], dim=0) for i in range(3))
    assert torch.allclose(row_cosines(a, b), slow, atol=1e-5)
    assert torch.allclose(dot_products(a, a), torch.tensor(-3.0))


def test_looking_ahead_is_a_step_of_sgd_and_its_slope_that_of_finite_differences():
    x, y = halves(30)
    x = x.double()
    with seeded(0):
        network = NET().double()
    generator = torch.Generator().manual_seed(0)
    made = torch.rand(4, 1, 8, 8, dtype=torch.float64, generator=generator).requires_grad_()
    real = [x[y == 0], x[y == 1]]

    def slow(images: torch.Tensor) -> torch.Tensor:
        moved = copy.deepcopy(network)
        sgd = torch.optim.SGD(moved.parameters(), lr=STRIDE)
        cross_entropy(moved(images - 0.5), torch.tensor([0, 0, 1, 1])).backward()
        sgd.step()
        return sum(
            cross_entropy(moved(part - 0.5), torch.full((len(part),), c)) for c, part in enumerate(real)
        ).detach()

    found, slope = by_look_ahead(network, made, real, 3.0)
    assert found == pytest.approx(float(slow(made.detach())) / 2, rel=1e-12)
    towards = torch.randn(made.shape, dtype=torch.float64, generator=generator)
    ends = [slow(made.detach() + step * towards) for step in (1e-5, -1e-5)]
    rows = 6 + 2  # of the convolution and the last layer
    assert float((slope * towards).sum()) == pytest.approx(3 * rows * float(ends[0] - ends[1]) / 2e-5, rel=1e-5)


def test_gradients_of_gradients_reach_the_images_even_where_rows_are_zero():
    x, network = torch.rand(1, 1, 8, 8, requires_grad=True), nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(64, 2))
    with torch.no_grad():
        x[..., :4] = 0.5
    made = gradients(network, x, 0, create_graph=True)
    (slope,) = torch.autograd.grad(row_cosines(made, [torch.zeros_like(g) for g in made]), x)
    assert bool(slope.isfinite().all())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"labels": [0] * 12}, "two or more"),
        ({"lam": -1}, "0 or more"),
        ({"density": None, "lam": 1}, "density is needed"),
        ({"density": Codec("png"), "lam": 1}, "measures only"),
        ({"loss": "other"}, "match, grad_dot, lookahead"),
        ({"per_class": 0}, "at least 1"),
        ({"images": 255 * halves(12)[0]}, "Divide by 255"),
        ({"labels": [0, 1]}, "one per row"),
    ],
)
def test_condensing_the_wrong_thing_is_told(change: dict, says: str):
    x, y = halves(12)
    given = {"images": x, "labels": y, "density": DCTLaplace(), "steps": 1, "network": NET} | change
    with pytest.raises(ValueError, match=says):
        condense(**given)
