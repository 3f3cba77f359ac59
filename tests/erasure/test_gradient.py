import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from cases import labelled
from firstcue import Moments, gradient_erasure, qleace
from firstcue.erasure.gradient import PRESETS, Recipe, objective
from firstcue.erasure.report import covariance_gap, mean_gap


def squeezed(x):
    """The same rows between 0.05 and 0.95."""
    return 0.05 + 0.9 * (x - x.min()) / (x.max() - x.min())


def images(n=60, seed=0, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    z = torch.arange(n) % 3
    return (torch.rand(n, 1, 4, 4, generator=g) ** (1 + z[:, None, None, None])).to(dtype), z


def gaps(x, z):
    by_class = Moments.of_groups(x.flatten(1), z)
    return mean_gap(by_class), covariance_gap(by_class)


def test_classes_come_to_share_their_mean_and_covariance():
    x, z = labelled(n=300, d=5)
    mean_before, covariance_before = gaps(x, z)
    mean_after, covariance_after = gaps(gradient_erasure(x, z, "close"), z)

    assert mean_after < 1e-3 * mean_before
    assert covariance_after < 1e-3 * covariance_before


def test_rows_move_no_further_than_they_nearly_must():
    x, z = labelled(n=300, d=5)
    least = qleace(Moments.of_groups(x, z)).distortion
    edited = gradient_erasure(x, z, "close", shrinkage=None)

    assert 0.999 * least < float((edited - x).square().sum(dim=1).mean()) < 1.01 * least


def test_the_barycentre_costs_less_movement_than_the_global_covariance():
    x, z = labelled(n=300, d=5)
    x = x + 3 * z[:, None]  # the global covariance counts this spread between classes
    cost = {
        target: float((gradient_erasure(x, z, "close", target=target) - x).square().sum())
        for target in ("barycenter", "global")
    }
    assert cost["barycenter"] < 0.9 * cost["global"]


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_brings_classes_together(preset):
    x, z = images(n=90)
    before, after = gaps(x, z), gaps(gradient_erasure(x, z, preset, box=(0, 1)), z)
    assert after[0] < 0.9 * before[0]
    assert after[1] < before[1]


@pytest.mark.parametrize("box", [(0, 1), (-1, 3)])
def test_a_box_is_never_left(box):
    x, z = images()
    edited = gradient_erasure(x, z, "close", box=box)
    assert box[0] <= float(edited.min()) <= float(edited.max()) <= box[1]


def test_the_unit_of_the_box_does_not_matter():
    x, z = images(dtype=torch.float64)
    assert_close(gradient_erasure(255 * x, z, "cifar10", box=(0, 255)), 255 * gradient_erasure(x, z, "cifar10"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, torch.uint8])
def test_shape_type_and_library_are_kept(dtype):
    x, z = images()
    x = (255 * x).to(dtype) if dtype is torch.uint8 else x.to(dtype)
    box = (0, 255) if dtype is torch.uint8 else (0, 1)
    edited = gradient_erasure(x, z, "cifar10", box=box)
    array = gradient_erasure(x.numpy(), z.numpy(), "cifar10", box=box)

    assert edited.shape == x.shape
    assert edited.dtype == (torch.float32 if dtype is torch.uint8 else dtype)
    assert isinstance(array, np.ndarray)
    assert_close(torch.from_numpy(array), edited)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 100), mean=st.floats(0, 2), covariance=st.floats(0, 2), movement=st.floats(0, 2))
def test_the_objective_is_what_it_is_said_to_be(seed, mean, covariance, movement):
    rng = np.random.default_rng(seed)
    rows, points = rng.normal(size=(2, 7, 3))
    wanted = rng.normal(size=3), np.cov(rng.normal(size=(3, 9)))
    slow = mean * np.sqrt(((points.mean(0) - wanted[0]) ** 2).sum())
    slow += covariance * np.sqrt(((np.cov(points.T, bias=True) - wanted[1]) ** 2).sum())
    slow += movement * ((points - rows) ** 2).mean()

    recipe = Recipe(mean, covariance, movement, PRESETS["close"].optimise)
    goal = torch.from_numpy(wanted[0]), torch.from_numpy(wanted[1])
    assert_close(float(objective(torch.from_numpy(rows), goal, recipe)(torch.from_numpy(points))), float(slow))


def test_names_of_classes_and_order_of_rows_do_not_matter():
    x, z = labelled(n=120, d=4)
    edited = gradient_erasure(x, z, "cifarnet")
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    names = np.array(["c", "b", "a"])[z]

    assert_close(gradient_erasure(x, names, "cifarnet"), edited)
    assert_close(gradient_erasure(x[order], z[order], "cifarnet"), edited[order])


def test_a_class_number_without_rows_changes_nothing():
    x, z = labelled(n=120, d=4)
    assert torch.equal(gradient_erasure(x, 2 * z, "cifarnet"), gradient_erasure(x, z, "cifarnet"))


def test_other_rows_can_be_taken_to_the_same_target():
    x, z = labelled(n=300, d=4)
    other, other_z = labelled(n=300, d=4, seed=1)
    edited, report = gradient_erasure(
        other, other_z, "close", target=Moments.of(gradient_erasure(x, z, "close")), return_report=True
    )
    assert report["target_mean_gap"] < 0.01
    assert report["target_covariance_gap"] < 0.02
    assert report["target"] == "given"
    assert edited.shape == other.shape


def test_the_report_says_how_far_classes_stay_apart():
    x, z = labelled(n=300, d=4)
    edited, report = gradient_erasure(x, z, "close", target="global", shrinkage=None, return_report=True)
    rows, whole = edited.numpy(), np.cov(x.numpy().T, bias=True)
    worst = max(np.linalg.norm(np.cov(rows[z == c].T, bias=True) - whole) for c in range(3)) / np.linalg.norm(whole)
    shift = max(np.linalg.norm(rows[z == c].mean(0) - x.numpy().mean(0)) for c in range(3)) / np.sqrt(
        np.trace(whole) / 4
    )

    assert report["target_covariance_gap"] == pytest.approx(worst)
    assert report["target_mean_gap"] == pytest.approx(shift)
    assert report["distortion"] == pytest.approx(float((edited - x).square().sum(dim=1).mean()))
    assert [row["n"] for row in report["by_class"]] == torch.bincount(z).tolist()
    assert all(row["objective_after"] < row["objective_before"] for row in report["by_class"])
    assert not report["injection"]["injected"]


class Interrupted(Exception):
    pass


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path):
    x, z = labelled(n=120, d=4)

    def stop(stage, done):
        if stage == "moving points" and done > 1 / 3:  # in the second of three classes
            raise Interrupted

    with pytest.raises(Interrupted):
        gradient_erasure(x, z, "close", checkpoint=tmp_path, progress=stop)
    finished = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    stages = []
    resumed = gradient_erasure(x, z, "close", checkpoint=tmp_path, progress=lambda stage, done: stages.append(done))

    assert [path.name for path in finished] == ["class-0000.safetensors"]
    assert all(path.stat().st_mtime_ns == written for path, written in finished.items())
    assert torch.equal(resumed, gradient_erasure(x, z, "close"))
    assert stages == sorted(stages) and stages[-1] == 1.0


def test_a_checkpoint_of_other_data_or_settings_is_refused(tmp_path):
    x, z = labelled(n=60, d=3)
    gradient_erasure(x, z, "cifarnet", checkpoint=tmp_path)
    for other, preset in ((x + 1, "cifarnet"), (x, "close")):
        with pytest.raises(ValueError, match="other data or settings"):
            gradient_erasure(other, z, preset, checkpoint=tmp_path)
    (tmp_path / "class-0000.safetensors").write_bytes(b"broken")
    with pytest.raises(ValueError, match="delete it"):
        gradient_erasure(x, z, "cifarnet", checkpoint=tmp_path)


def test_the_global_state_of_torch_is_left_alone():
    x, z = labelled(n=60, d=3)
    state = torch.get_rng_state()
    with torch.no_grad():
        gradient_erasure(x, z, "close")
        assert not torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, z: {"x": x * 9}, "outside the box"),
        (lambda x, z: {"z": torch.where(torch.arange(len(z)) == 0, 9, z)}, "has one row"),
        (lambda x, z: {"z": torch.zeros(len(z))}, "one class only"),
        (lambda x, z: {"z": z[1:]}, "one per row"),
        (lambda x, z: {"preset": "imagenet"}, "no preset 'imagenet'"),
        (lambda x, z: {"target": "mean"}, "no target 'mean'"),
        (lambda x, z: {"target": Moments.of(x[:, :2])}, "2 features"),
        (lambda x, z: {"box": (1, 0)}, "in order"),
        (lambda x, z: {"x": torch.full_like(x, float("nan"))}, "NaN"),
        (lambda x, z: {"x": x[0]}, "images"),
    ],
)
def test_what_cannot_be_edited_is_refused_with_the_way_out(change, message):
    x, z = labelled(n=60, d=3)
    arguments = {"x": squeezed(x), "z": z, "preset": "cifar10"} | change(squeezed(x), z)
    with pytest.raises(ValueError, match=message):
        gradient_erasure(**arguments)


def test_a_target_that_was_not_found_is_warned_of():
    x, _ = labelled(n=12, d=16)
    with pytest.warns(UserWarning, match="barycentre of the class covariances stopped"):
        gradient_erasure(x, torch.arange(12) % 3, "cifarnet", shrinkage=None)


def test_fewer_rows_than_features_are_brought_as_near_as_they_can_and_the_gap_is_said():
    x, z = labelled(n=60, d=40)
    edited, report = gradient_erasure(x, z, "close", return_report=True)
    assert report["mean_gap_after"] < 0.05 * report["mean_gap_before"]
    assert report["covariance_gap_after"] == pytest.approx(gaps(edited, z)[1])
