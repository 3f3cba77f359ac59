"""The release gate: who passes, who fails, and on what."""

import pytest
import torch
from torch import Tensor

import firstcue as fc
from firstcue.simplicity import _pictures as pictures
from firstcue.simplicity.density import Uniform
from firstcue.simplicity.gates import Gate, Row, release_gate


class Roughness:
    """Bits that grow with the second differences of neighbours: a caricature of a good density."""

    levels = 256
    shape = None
    differentiable = False

    def bits(self, x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        rough = [(255 * x.diff(n=2, dim=dim)).abs().add(1).log2().mean((1, 2, 3)) for dim in (2, 3)]
        range_ = 0.1 * (255 * (x.amax((1, 2, 3)) - x.amin((1, 2, 3)))).add(1).log2()
        return (sum(rough) / 2 * 1.2 + range_) * x[0].numel()


class Fixed(Uniform):
    """Garments are at home, everything else is not: typical is not simple."""

    def bits(self, x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        edges = torch.cat([x[:, :, 0].flatten(1), x[:, :, -1].flatten(1)], dim=1)
        return x[0].numel() * (1 + 8 * edges.mean(1) + 2 * x.std((1, 2, 3)))


def by_name(gate: Gate) -> dict[str, Row]:
    return {row.name: row for row in gate.rows}


def test_a_density_of_roughness_passes() -> None:
    gate = release_gate(Roughness(), objects=20)
    assert gate.passed, str(gate)


def test_a_density_that_calls_everything_equal_fails_the_order_but_not_the_symmetries() -> None:
    rows = by_name(release_gate(Uniform(), objects=10))
    assert not rows["constants below ramps, by"].passed
    assert not rows["patches: bits rise with contrast, Spearman"].passed
    assert not rows["garments blurred by 1, of the sharper"].passed
    assert rows["patches, inverted: relative change"].passed
    assert rows["noise, bits per value"].passed
    assert rows["noise, bits per value"].value == 8


def test_a_density_of_what_is_typical_is_found_out() -> None:
    gate = release_gate(Fixed(), objects=15)
    rows = by_name(gate)
    assert not gate.passed
    assert not rows["ramps below garments, by"].passed
    assert not rows["noise, bits per value"].passed
    assert rows["garments: bits rise with contrast, Spearman"].passed


def test_a_seed_decides_the_answer() -> None:
    density = Roughness()
    assert release_gate(density, objects=10, seed=1) == release_gate(density, objects=10, seed=1)
    assert release_gate(density, objects=10, seed=1) != release_gate(density, objects=10, seed=2)


def test_pictures_follow_the_size_that_a_density_knows() -> None:
    asked: list[tuple[int, ...]] = []

    class Small(Roughness):
        shape = (1, 16, 12)

        def bits(self, x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
            asked.append(tuple(x.shape[1:]))
            return super().bits(x)

    release_gate(Small(), objects=5)
    assert set(asked) == {(1, 16, 12)}


@pytest.mark.parametrize("shape", [(10,), (3, 28, 28), (1, 6, 28)])
def test_what_the_pictures_do_not_fit_is_refused(shape: tuple[int, ...]) -> None:
    density = Uniform()
    density.shape = shape
    with pytest.raises(ValueError, match="grey images of at least 8 x 8"):
        release_gate(density)


def test_the_answer_can_be_read_and_written_down() -> None:
    gate = release_gate(Uniform(), objects=5)
    assert "FAIL constants below ramps" in str(gate)
    assert gate.to_rows()[0]["name"] == "constants below ramps, by"
    assert set(gate.bits_per_value) == {"constants", "ramps", "garments", "digits", "patches", "noise"}


def test_ramps_have_the_same_step_everywhere() -> None:
    x = pictures.ramps(20, torch.Generator().manual_seed(0), (9, 13))
    for dim in (2, 3):
        torch.testing.assert_close(x.diff(n=2, dim=dim), torch.zeros_like(x.diff(n=2, dim=dim)), atol=1e-6, rtol=0)
    assert float(x.min()) >= 0 and float(x.max()) <= 1
    assert float(x.diff(dim=2).abs().amax((1, 2, 3)).min()) > 0


def test_a_blur_keeps_constants_and_what_a_plain_sum_gives() -> None:
    x = torch.rand(2, 1, 9, 9, generator=torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(pictures.blurred(torch.full((1, 1, 5, 5), 0.3), 2.0), torch.full((1, 1, 5, 5), 0.3))
    offsets = range(-3, 4)
    weight = {d: torch.tensor(-0.5 * d * d).exp().item() for d in offsets}
    wanted = (
        sum(
            weight[i] * weight[j] * x[0, 0, min(max(4 + i, 0), 8), min(max(1 + j, 0), 8)]
            for i in offsets
            for j in offsets
        )
        / sum(weight.values()) ** 2
    )
    torch.testing.assert_close(pictures.blurred(x, 1.0)[0, 0, 4, 1], wanted)


def test_shown_pictures_and_learnt_ones_are_different() -> None:
    for shown, learnt in zip(pictures.photographs("test"), pictures.photographs("train"), strict=True):
        assert shown.shape[1] + learnt.shape[1] == 640
    digits = {row.numpy().tobytes() for row in pictures.smooth_digits("train")}
    common = sum(row.numpy().tobytes() in digits for row in pictures.smooth_digits("test"))
    assert common < 5  # a few digits of the data set are the same by chance


def test_a_shift_moves_the_picture() -> None:
    x = torch.arange(12.0).view(1, 1, 3, 4)
    assert pictures.shifted(x, 1, 0)[0, 0].tolist() == [[0, 1, 2, 3], [0, 1, 2, 3], [4, 5, 6, 7]]
    assert pictures.shifted(x, 0, 1)[0, 0, 0].tolist() == [0, 0, 1, 2]
    assert pictures.shifted(x, -2, -1)[0, 0, 0].tolist() == [9, 10, 11, 11]


def test_cosine_waves_are_examined_too() -> None:
    rows = by_name(release_gate(fc.load_density("dct"), objects=10))
    assert rows["constants below ramps, by"].passed
    assert rows["patches: bits rise with contrast, Spearman"].passed
