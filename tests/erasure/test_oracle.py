import numpy as np
import pytest
import torch
from torch.testing import assert_close

from cases import generator, hard, labelled
from firstcue import Moments, leace, oracle_leace
from firstcue.erasure.oracle import GroupEraser
from references import mean_gap


def fit(x, z):
    return oracle_leace(Moments.of_groups(x, z))


@pytest.mark.parametrize("name", hard())
def test_class_means_coincide_after_erasure(name):
    x, z = hard()[name]
    eraser = fit(x, z)
    erased = eraser(x, z)
    far = 1 + float(x.double().abs().max() / x.double().std())

    assert erased.dtype == x.dtype
    assert mean_gap(erased, z) < 4 * torch.finfo(x.dtype).eps * far * x.shape[1] ** 0.5
    exact = eraser(x.double(), z)
    assert_close(exact.mean(dim=0), x.double().mean(dim=0), rtol=1e-9, atol=1e-9 * float(x.double().std()))


@pytest.mark.parametrize("name", ["plain", "constant feature", "rare class", "fewer rows than features"])
def test_movement_is_what_theory_says_and_no_more_than_that_of_leace(name):
    x, z = hard()[name]
    eraser = fit(x, z)

    assert eraser.distortion == pytest.approx(float((eraser(x, z) - x).square().sum(dim=1).mean()), rel=1e-9)
    assert eraser.distortion <= leace(Moments.of_groups(x, z)).distortion * (1 + 1e-9)


def test_only_class_means_are_touched():
    x, z = labelled()
    erased = fit(x, z)(x, z)

    for c in range(3):
        assert_close(Moments.of(erased[z == c]).covariance, Moments.of(x[z == c]).covariance)


def test_erasing_twice_changes_nothing():
    x, z = labelled()
    once = fit(x, z)(x, z)

    assert_close(fit(once, z)(once, z), once)


@pytest.mark.parametrize(
    "recode",
    [
        lambda z: 5 * z - 3,
        lambda z: z.to(torch.int8),
        lambda z: z.double(),
        lambda z: np.array(["cat", "dog", "bird"])[z],
        lambda z: np.array(["cat", "dog", "bird"])[z].tolist(),
        lambda z: torch.nn.functional.one_hot(z),
        lambda z: z[:, None],
    ],
    ids=["ids with gaps", "int8", "float", "text", "list", "one-hot", "column"],
)
def test_labels_of_any_kind_mean_the_same(recode):
    x, z = labelled()

    assert_close(fit(x, recode(z))(x, recode(z)), fit(x, z)(x, z))


def test_booleans_stand_for_two_numbered_classes():
    x, z = labelled(k=2)
    numbered = oracle_leace(Moments.of_groups(x, z, 2))

    assert_close(numbered(x, z.bool()), numbered(x, z))
    assert_close(fit(x, z.bool())(x, z.bool()), numbered(x, z))


def test_columns_of_one_hot_labels_stand_for_the_classes_in_order():
    x, z = labelled()
    named = fit(x, np.array(["a", "b", "c"])[z])

    assert_close(named(x, torch.nn.functional.one_hot(z)), named(x, np.array(["a", "b", "c"])[z]))


def test_new_rows_of_some_classes_are_shifted_like_the_old():
    x, z = labelled()
    eraser = fit(x, z)
    some = z == 2

    assert_close(eraser(x[some], z[some]), eraser(x, z)[some])
    assert eraser(x[:0], z[:0]).shape == (0, 8)


def test_an_absent_class_is_ignored_until_it_is_met():
    x, z = labelled()
    eraser = oracle_leace(Moments.of_groups(x, z + 1, 4))

    assert_close(eraser(x, z + 1), fit(x, z)(x, z))
    assert_close(eraser.target, x.mean(dim=0))
    with pytest.raises(ValueError, match=r"\['0'\], of which the eraser has seen no rows; .*\['1', '2', '3'\]"):
        eraser(x, z)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_float_type_is_erased_and_returned(dtype):
    x, z = labelled(dtype=dtype)

    assert fit(x, z)(x, z).dtype == dtype
    assert mean_gap(fit(x, z)(x, z), z) < 20 * torch.finfo(dtype).eps


def test_arrays_integers_and_sequences_are_read():
    x, z = labelled()
    eraser = fit(x, z)

    assert isinstance(eraser(x.numpy(), z.numpy()), np.ndarray)
    assert eraser((10 * x).long(), z).dtype == torch.float32
    stacked = torch.stack([x, x + 1], dim=1)
    assert_close(eraser(stacked, z)[:, 1], eraser(x + 1, z))


def test_gradients_pass_through():
    x, z = labelled()
    inputs = x.clone().requires_grad_()
    fit(x, z)(inputs, z).sum().backward()

    assert_close(inputs.grad, torch.ones_like(x))


def maps_of(eraser, maps):
    return GroupEraser(eraser.means, eraser.target, maps, eraser.classes, eraser.present)


@pytest.mark.parametrize("offset", [0.0, 1e6])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_maps_are_applied_class_by_class(offset, dtype):
    if offset and dtype == torch.float16:
        pytest.skip("float16 ends at 65504")
    x, z = labelled(dtype=dtype)
    x = x + offset
    maps = torch.randn(3, 8, 8, generator=generator(), dtype=torch.float64)
    eraser = maps_of(fit(x, z), maps)
    expected = (
        torch.stack([maps[c] @ (row.double() - eraser.means[c]) for row, c in zip(x, z, strict=True)]) + eraser.target
    )

    found = eraser(x, z)
    assert found.dtype == dtype
    eps = torch.finfo(dtype).eps
    assert_close(found.double(), expected, rtol=4 * eps, atol=30 * eps)
    assert float((found.double() - expected).mean(dim=0).abs().max()) < 30 * eps + 0.1 * eps * offset
    assert eraser.rank == 8


def test_maps_are_differentiable():
    x, z = labelled()
    maps = torch.randn(3, 8, 8, generator=generator(), dtype=torch.float64)
    inputs = x.clone().requires_grad_()
    maps_of(fit(x, z), maps)(inputs, z).sum().backward()

    assert_close(inputs.grad, maps.sum(dim=1)[z])


def test_the_report_says_what_was_done():
    x, z = labelled()
    report = fit(x, z).report(x, z)

    assert report["rank"] == 2
    assert report["distortion"] == pytest.approx(report["optimum"])
    assert report["mean_gap_after"] < 1e-12
    assert report["mean_gap_before"] > 0.5
    assert report["covariance_gap_after"] == pytest.approx(report["covariance_gap_before"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, z: fit(x, z)(x), r"eraser\(x, group\).*`leace`"),
        (lambda x, z: fit(x, z)(x, z[:7]), "`x` has 600 rows but `group` has 7"),
        (lambda x, z: fit(x, z)(x, z + 1), r"\['3'\].*\['0', '1', '2'\]"),
        (lambda x, z: fit(x, z)(x, x[:, 0]), "regression target"),
        (lambda x, z: fit(x, z)(x[:, :3], z), r"\(600, 3\).*8 features"),
        (lambda x, z: fit(x, torch.ones_like(z)), "one class only.*'1'"),
        (lambda x, z: oracle_leace(Moments.of(x)), "one group axis"),
    ],
)
def test_a_mistake_is_answered_with_what_was_found(call, message):
    with pytest.raises(ValueError, match=message):
        call(*labelled())
