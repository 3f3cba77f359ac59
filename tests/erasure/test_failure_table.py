"""Cases in which erasers go wrong in silence: each gets the right answer here, or a refusal that names the way out."""

import warnings

import pytest
import torch

from cases import generator, labelled
from firstcue import Moments, alf_qleace, class_editor, leace, oas, oracle_leace, qleace, random_matrix_shrinkage
from firstcue.bures import barycenter
from firstcue.erasure.leace import orthogonal_eraser

ERASERS = {
    "leace": leace,
    "orthogonal": orthogonal_eraser,
    "oracle_leace": oracle_leace,
    "alf_qleace": alf_qleace,
    "qleace": qleace,
}


def rare(count, n=20_000):
    x = torch.randn(n, 8, generator=generator())
    z = torch.zeros(n, dtype=torch.int64)
    z[:count] = 1
    x[:count] += 1.0
    return x, z


def quiet_direction(ratio):
    """A concept in a direction whose standard deviation is `ratio` times that of the others."""
    z = torch.randint(0, 2, (4000,), generator=generator())
    x = torch.randn(4000, 24, generator=generator(1), dtype=torch.float64)
    x[:, 0] = ratio * (0.5 * x[:, 0] + 3.0 * z)
    return (x @ torch.linalg.qr(torch.randn(24, 24, generator=generator(2), dtype=torch.float64)).Q).float(), z


def unequal(n=4000):
    x, _ = labelled(n, 8, 2)
    z = (torch.arange(n) < n // 10).long()
    return x + 5.0 * z[:, None], z


def constant_and_copied():
    x, z = labelled()
    x = torch.cat([x, torch.full((len(x), 1), 0.1, dtype=x.dtype), x[:, :2]], dim=1)
    return x, z


CASES = {
    "mean offset 1e4 in float32": lambda: (labelled(5000)[0].float() + 1e4, labelled(5000)[1]),
    "mean offset 1e6 in float32": lambda: (labelled(5000)[0].float() + 1e6, labelled(5000)[1]),
    "float16": lambda: labelled(dtype=torch.float16),
    "bfloat16": lambda: labelled(dtype=torch.bfloat16),
    "quiet direction 1e-3": lambda: quiet_direction(1e-3),
    "quiet direction 1e-5": lambda: quiet_direction(1e-5),
    "rare class of 13": lambda: rare(13),
    "unit 1e-6": lambda: (labelled()[0] * 1e-6, labelled()[1]),
    "unit 1e6": lambda: (labelled()[0] * 1e6, labelled()[1]),
    "ids with gaps": lambda: (labelled()[0], labelled()[1] * 5),
    "negative id": lambda: (labelled()[0], labelled()[1] - 1),
    "classes of one to nine": unequal,
    "constant and copied features": constant_and_copied,
    "two rows in a class": lambda: rare(2, 600),
    "one row in a class": lambda: rare(1, 600),
    "fewer rows than features": lambda: labelled(100, 500, 2),
    "more classes than features": lambda: labelled(3000, 4, 9),
}
REFUSED = {
    ("qleace", "two rows in a class"): "has 2 samples for 8 dimensions.*merge or drop rare classes.*shrinkage=oas",
    ("qleace", "one row in a class"): "has 1 sample for 8 dimensions",
    ("qleace", "fewer rows than features"): "Reduce `x` first",
    ("alf_qleace", "one row in a class"): "a single row has no covariance.*`leace`",
}
WARNED = {
    ("leace", "more classes than features"): "leaves a constant",
    ("orthogonal", "more classes than features"): "leaves a constant",
    ("alf_qleace", "more classes than features"): "leaves a constant",
}


def standard_gap(x, z):
    """Largest distance of a class mean from the mean, in standard deviations of the direction in which it lies."""
    rows = x.double() - x.double().mean(dim=0)
    values, vectors = torch.linalg.eigh(rows.mT @ rows / len(rows))
    kept = values > 1e-13 * values[-1]
    white = rows @ vectors[:, kept] / values[kept].sqrt()
    return max((float(white[z == c].mean(dim=0).norm()) for c in z.unique()), default=0.0)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ERASERS)
def test_every_eraser_erases_or_refuses(name, case):
    x, z = CASES[case]()
    by_class = Moments.of_groups(x, z)
    if (name, case) in REFUSED:
        with pytest.raises(ValueError, match=REFUSED[name, case]):
            ERASERS[name](by_class)
        return
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        eraser = ERASERS[name](by_class)
    erased = eraser(x.double(), z)
    spread = x.double().std(dim=0).mean()

    assert standard_gap(x, z) > 0.01
    means = torch.stack([erased[z == c].mean(dim=0) for c in z.unique()]) - erased.mean(dim=0)
    assert float(means.norm(dim=1).max() / spread) < 1e-8
    assert eraser(x, z).dtype == x.dtype
    said = " ".join(str(w.message) for w in seen if issubclass(w.category, UserWarning))
    assert (WARNED[name, case] in said) if (name, case) in WARNED else True


@pytest.mark.parametrize("name", ["leace", "oracle_leace", "alf_qleace", "qleace"])
@pytest.mark.parametrize("ratio", [1e-3, 1e-5])
def test_a_quiet_direction_is_erased_in_its_own_units(name, ratio):
    x, z = quiet_direction(ratio)
    eraser = ERASERS[name](Moments.of_groups(x, z))
    direction = torch.linalg.qr(torch.randn(24, 24, generator=generator(2), dtype=torch.float64)).Q[0]
    before, after = x.double() @ direction, eraser(x.double(), z) @ direction

    def gap(along):
        return float((along[z == 0].mean() - along[z == 1].mean()).abs() / before.std())

    assert gap(before) > 1.5
    assert gap(after) < 1e-6


@pytest.mark.parametrize("name", ERASERS)
def test_the_mean_of_unequal_classes_stays(name):
    x, z = unequal()

    assert float((ERASERS[name](Moments.of_groups(x, z))(x, z).mean(dim=0) - x.mean(dim=0)).abs().max()) < 1e-10


@pytest.mark.parametrize("name", ERASERS)
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x, z: (torch.where(x > 2, torch.nan, x), z), "NaN or infinite values in"),
        (lambda x, z: (torch.where(x > 2, torch.inf, x), z), "NaN or infinite values in"),
        (lambda x, z: (x, 0 * z), "one class only"),
        (lambda x, z: (x[:0], z[:0]), "one class only"),
        (lambda x, z: (x, z + 0.5), "regression target"),
    ],
    ids=["NaN", "infinity", "one class", "empty stream", "real-valued labels"],
)
def test_unusable_input_is_refused(name, spoil, message):
    x, z = spoil(*labelled())

    with pytest.raises(ValueError, match=message):
        ERASERS[name](Moments.of_groups(x, z))


@pytest.mark.parametrize("name", ERASERS)
def test_a_class_without_rows_in_one_part_of_a_stream_is_not_missing(name):
    x, z = labelled()
    order = z.argsort()
    parts = [Moments.of_groups(x[rows], z[rows], 4) for rows in order.tensor_split(3)]
    streamed = parts[0].merge(parts[1]).merge(parts[2])

    erased = ERASERS[name](streamed)(x, z)
    assert float(torch.stack([erased[z == c].mean(dim=0) for c in range(3)]).var(dim=0).max()) < 1e-20


@pytest.mark.parametrize("name", ["oracle_leace", "qleace"])
def test_labels_that_are_needed_and_missing_are_asked_for(name):
    x, z = labelled()
    eraser = ERASERS[name](Moments.of_groups(x, z, 5))

    with pytest.raises(ValueError, match=r"needs the class of every row: eraser\(x, group\).*`leace`"):
        eraser(x)
    with pytest.raises(ValueError, match=r"\['4'\], of which the eraser has seen no rows"):
        eraser(x[:1], [4])


def test_counts_beyond_what_float32_holds_are_exact():
    x = torch.tensor([[1.0], [-1.0]])
    many = Moments.of_groups(x, [0, 1], weights=[2.0**25, 1.0])

    assert many.merge(Moments.of_groups(x[:1], [0], 2)).count.tolist() == [2.0**25 + 1, 1.0]


def test_without_shrinkage_classes_agree_on_the_rows_fitted():
    x, z = labelled(5000, 32, 10)
    exact = qleace(Moments.of_groups(x, z)).report(x[:2000], z[:2000]) | {}
    whole = Moments.of_groups(qleace(Moments.of_groups(x, z))(x, z), z).covariance
    with pytest.warns(UserWarning, match="leaves class covariances apart"):
        shrunk = qleace(Moments.of_groups(x, z), shrinkage=oas)
    rough = Moments.of_groups(shrunk(x, z), z).covariance

    def gap(covariance):
        return float((covariance - covariance.mean(dim=0)).norm(dim=(1, 2)).max() / covariance.mean(dim=0).norm())

    assert gap(whole) < 1e-9
    assert gap(rough) > 1e-3
    assert exact["covariance_gap_after"] < exact["covariance_gap_before"]


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_barycentre_stops_by_a_residual_without_units(scale, dtype):
    a = torch.randn(4, 6, 10, generator=generator(), dtype=torch.float64)
    found = barycenter((scale * (a @ a.mT)).to(dtype))

    assert found.converged
    assert found.residual <= 1e-8


def test_shrinkage_of_an_isotropic_covariance_is_itself_and_never_indefinite():
    eye = torch.cat([torch.eye(50), -torch.eye(50)]).float() * 3
    assert float((random_matrix_shrinkage(Moments.of(eye)) - Moments.of(eye).covariance).abs().max()) < 1e-6
    lowest = min(
        float(torch.linalg.eigvalsh(random_matrix_shrinkage(Moments.of(torch.randn(5, 4, generator=generator(i)))))[0])
        for i in range(200)
    )
    assert lowest >= 0


def test_an_editor_refuses_what_no_linear_map_can_do():
    x, z = rare(3, 600)
    editor = class_editor(Moments.of_groups(x, z))

    with pytest.raises(ValueError, match=r"no linear map turns class '1' \(it varies in 2 of 8.*shrinkage=oas"):
        editor(x[:3], z[:3], 0)
    assert editor(x[3:], 0, 1).isfinite().all()
