import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis.strategies import integers
from torch.testing import assert_close

from cases import generator, labelled
from firstcue import Moments, class_editor, load, oas, save
from firstcue.bures import bures_map, bures_squared


def fit(x, z, **more):
    return class_editor(Moments.of_groups(x, z), **more)


def moments(x):
    return Moments.of(x, precision="float64")


@settings(max_examples=20, deadline=None)
@given(seed=integers(0, 2**31), d=integers(1, 9), k=integers(2, 4))
def test_an_edited_class_has_the_mean_and_covariance_of_its_target(seed, d, k):
    x, z = labelled(40 * k, d, k, seed=seed)
    z[: 3 * d * k] = torch.arange(3 * d * k) % k  # enough rows in every class
    editor = fit(x, z)

    for s, t in [(0, 1), (k - 1, 0)]:
        edited, wanted = moments(editor(x[z == s], z[z == s], t)), moments(x[z == t])
        assert_close(edited.mean, wanted.mean)
        assert_close(edited.covariance, wanted.covariance, rtol=1e-6, atol=1e-7 * float(wanted.covariance.max()))


def test_maps_are_the_shortest_and_every_row_goes_its_own_way():
    x, z = labelled()
    editor = fit(x, z)
    target = torch.randint(0, 3, (len(x),), generator=generator())
    edited = editor(x, z, target)
    covariance = Moments.of_groups(x, z).covariance

    for s in range(3):
        for t in range(3):
            rows = (z == s) & (target == t)
            expected = editor.means[t] + (x[rows] - editor.means[s]) @ bures_map(covariance[s], covariance[t])
            assert_close(edited[rows], expected)
            assert s == t or torch.allclose(
                editor.map(s, t), bures_map(covariance[s], covariance[t]), rtol=1e-7, atol=1e-8
            )
    moved = (editor(x[z == 0], 0, 1) - x[z == 0] - editor.means[1] + editor.means[0]).square().sum(dim=1).mean()
    assert float(moved) == pytest.approx(bures_squared(covariance[0], covariance[1]))


def test_a_row_whose_target_is_its_class_stays():
    x, z = labelled(dtype=torch.float32)

    assert torch.equal(fit(x, z)(x, z, z), x)


def test_going_there_and_back_changes_nothing():
    x, z = labelled()
    editor = fit(x, z)
    some = x[z == 1]

    assert_close(editor(editor(some, 1, 2), 2, 1), some)


def test_memory_is_one_root_per_class():
    x, z = labelled(2000, 6, 12)
    held = sum(t.numel() for t in vars(fit(x, z)).values() if isinstance(t, torch.Tensor))

    assert held == 12 * 6 * 6 + 12 * 6 + 6


@pytest.mark.parametrize("unit", [1e-6, 1e6])
def test_features_of_very_different_units_are_edited(unit):
    x, z = labelled()
    scale = torch.logspace(0, 6, 8, dtype=x.dtype) * unit
    editor = fit(x * scale, z)
    edited, wanted = moments(editor(x[z == 0] * scale, 0, 2) / scale), moments(x[z == 2])

    assert_close(edited.mean, wanted.mean, rtol=1e-6, atol=1e-6)
    assert_close(edited.covariance, wanted.covariance, rtol=1e-5, atol=1e-5)


def test_a_class_that_varies_in_fewer_directions_can_be_a_target_but_not_a_source():
    x, z = labelled()
    x = x.clone()
    x[z == 1, 3] = 2.0
    editor = fit(x, z)
    flat = moments(editor(x[z == 0], 0, 1))

    assert editor.ranks == (8, 7, 8)
    assert_close(flat.covariance, moments(x[z == 1]).covariance, rtol=1e-6, atol=1e-8)
    assert_close(flat.mean, moments(x[z == 1]).mean)
    with pytest.raises(
        ValueError, match=r"no linear map turns class '1' \(it varies in 7 of 8.*'0', which varies in 8.*shrinkage=oas"
    ):
        editor(x[z == 1], 1, 0)


def test_classes_that_vary_in_the_same_few_directions_are_edited():
    x, z = labelled(d=4)
    turn = torch.randn(4, 9, generator=generator(), dtype=x.dtype)
    wide = x @ turn + 3.0
    editor = fit(wide, z)
    edited = moments(editor(wide[z == 0], 0, 1))

    assert editor.ranks == (4, 4, 4)
    assert_close(edited.covariance, moments(wide[z == 1]).covariance, rtol=1e-6, atol=1e-8)
    assert_close(edited.mean, moments(wide[z == 1]).mean)


def test_classes_that_vary_in_other_directions_of_the_same_number_are_edited():
    x, z = labelled(k=2)
    x = x.clone()
    x[z == 0, 0] = 0.0
    x[z == 1, 1] = 0.0
    edited = moments(fit(x, z)(x[z == 0], 0, 1))

    assert_close(edited.covariance, moments(x[z == 1]).covariance, rtol=1e-6, atol=1e-8)


def test_shrinkage_gives_every_class_full_rank():
    x, z = labelled(60, 30)
    editor = fit(x, z, shrinkage=oas)

    assert set(editor.ranks) == {30}
    assert editor(x[z == 2], 2, 1).isfinite().all()
    assert_close(editor(x[z == 2], 2, 1).mean(dim=0), x[z == 1].mean(dim=0))


def test_float32_rows_far_from_zero_are_edited():
    x, z = labelled(dtype=torch.float32)
    far = x + 1e4
    editor = fit(far, z)
    edited, wanted = moments(editor(far[z == 0], 0, 1)), moments(far[z == 1])

    assert float((edited.mean - wanted.mean).abs().max()) < 1e-3
    assert_close(edited.covariance, wanted.covariance, rtol=0.01, atol=0.01)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_float_type_is_edited_and_returned(dtype):
    x, z = labelled(dtype=dtype)

    assert fit(x, z)(x, z, 0).dtype == dtype


def test_arrays_names_and_sequences_are_read():
    x, z = labelled()
    names = np.array(["cat", "dog", "bird"])[z]
    editor, plain = fit(x, names), fit(x, z)

    assert isinstance(editor(x.numpy(), names, "dog"), np.ndarray)
    assert_close(torch.from_numpy(editor(x.numpy(), names, "dog")), plain(x, z, 1))
    assert_close(plain(torch.stack([x, x], dim=1), z, 1)[:, 1], plain(x, z, 1))
    assert_close(plain(x, torch.nn.functional.one_hot(z), 1), plain(x, z, 1))
    assert_close(editor.map("cat", "dog"), plain.map(0, 1))


def test_two_classes_may_be_booleans():
    x, z = labelled(k=2)

    assert_close(fit(x, z.bool())(x, z.bool(), True), fit(x, z)(x, z, 1))
    assert_close(class_editor(Moments.of_groups(x, z, 2))(x, z.bool(), True), fit(x, z)(x, z, 1))


def test_an_editor_is_saved_and_loaded(tmp_path):
    x, z = labelled()
    editor = fit(x, z)

    assert torch.equal(load(save(editor, tmp_path / "editor"))(x, z, 1), editor(x, z, 1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, z: fit(x, 0 * z), "one class only"),
        (lambda x, z: class_editor(Moments.of(x)), "one group axis"),
        (lambda x, z: fit(x, z)(x, z[:5], 1), "`x` has 600 rows but `source` has 5"),
        (lambda x, z: fit(x, z)(x, z, z[:5]), "`x` has 600 rows but `target` has 5"),
        (lambda x, z: fit(x, z)(x, z, 7), r"`target` holds \['7'\].*\['0', '1', '2'\]"),
        (lambda x, z: class_editor(Moments.of_groups(x, z, 5))(x, z, 4), r"`target` holds \['4'\].*seen no rows"),
        (lambda x, z: fit(x, z)(x[:, :3], z, 1), "fitted on 8 features"),
    ],
)
def test_a_mistake_is_answered_with_what_was_found(call, message):
    with pytest.raises(ValueError, match=message):
        call(*labelled())
