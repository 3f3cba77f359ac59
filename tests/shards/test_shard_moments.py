"""Moments from files are those of the rows in memory, whatever the format, the split, the order and the engine."""

import itertools

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from firstcue.moments import Moments
from firstcue.shards import Features, Layers, find_shards, shard_moments


def rows(n=90, d=4, dtype=np.float32):
    generator = np.random.default_rng(0)
    y = generator.integers(0, 3, n)
    y[:40] = 1  # a shard that lacks classes
    x = (generator.standard_normal((n, d)) + y[:, None] + 100).astype(dtype)
    x[:, 2] = 3.0
    return x, y, generator.integers(0, 2, n), (x[:, :2] * 2 - 1).astype(np.float32)


def written(folder, kind, cuts=(0, 25, 26, 90), dtype=np.float32):
    """Shards of unequal length; returns the pattern."""
    folder.mkdir(exist_ok=True)
    for i, (a, b) in enumerate(itertools.pairwise(cuts)):
        x, y, sex, outputs = (array[a:b] for array in rows(dtype=dtype))
        columns = {"y": y, "sex": sex, "outputs": outputs}
        if kind == "npy":
            np.save(folder / f"{i}.npy", x)
            for name, column in columns.items():
                np.save(folder / f"{i}.{name}.npy", column)
        elif kind == "npz":
            np.savez(folder / f"{i}.npz", x=x, **columns)
        elif kind == "safetensors":
            tensors = {name: torch.from_numpy(np.ascontiguousarray(v)) for name, v in {"x": x, **columns}.items()}
            save_file(tensors, folder / f"{i}.safetensors")
        else:
            arrow = pytest.importorskip("pyarrow")
            import pyarrow.parquet as parquet

            table = {"x": list(x), "y": y, "sex": sex, "outputs": outputs[:, 0]}
            parquet.write_table(arrow.table(table), folder / f"{i}.parquet")
    return str(folder / f"*.{kind}")


def check(found: Moments, expected: Moments) -> None:
    assert torch.equal(found.count, expected.count)
    assert torch.equal(found.rows, expected.rows)
    spread = expected.scatter.diagonal(dim1=-2, dim2=-1).sqrt()
    size = spread[..., :, None] * spread[..., None, :] + 1e-12
    assert bool(((found.scatter - expected.scatter).abs() <= 1e-12 * size + 1e-12).all())
    assert bool(((found.mean - expected.mean).abs() <= 1e-12 * 100).all())


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
@pytest.mark.parametrize("kind", ["npy", "npz", "safetensors", "parquet"])
def test_every_format_gives_the_moments_of_the_rows(tmp_path, kind, dtype):
    x, y, _, _ = rows(dtype=dtype)
    found = shard_moments(written(tmp_path, kind, dtype=dtype), Features(by=("y",)), backend="serial")["x"]
    assert found.classes == ("0", "1", "2")
    check(found, Moments.of_groups(x, y, 3, precision="float64"))


@pytest.mark.parametrize("cuts", [(0, 90), (0, 1, 2, 3, 90), (0, 44, 45, 46, 90), tuple(range(0, 91, 2))])
def test_any_split_and_any_order_give_the_same_answer(tmp_path, cuts):
    written(tmp_path, "npy", cuts)
    x, y, _, _ = rows()
    files = [tmp_path / f"{i}.npy" for i in range(len(cuts) - 1)]
    for order in (files, files[::-1]):
        check(
            shard_moments(order, Features(by=("y",)), backend="serial")["x"],
            Moments.of_groups(x, y, 3, precision="float64"),
        )


def test_several_columns_make_a_group_of_every_combination(tmp_path):
    _, y, sex, _ = rows()
    found = shard_moments(written(tmp_path, "npy"), Features(by=("y", "sex")), backend="serial")["x"]
    counted = {f'["{a}", "{b}"]': int(((y == a) & (sex == b)).sum()) for a in range(3) for b in range(2)}
    assert dict(zip(found.classes, found.rows.tolist(), strict=True)) == {k: n for k, n in counted.items() if n}


def test_outputs_stand_beside_the_features(tmp_path):
    x, _, _, outputs = rows()
    found = shard_moments(written(tmp_path, "safetensors"), Features(outputs="outputs"), backend="serial")["joint"]
    check(found, Moments.of(np.concatenate([x, outputs], axis=1), precision="float64"))


def test_a_model_is_run_on_shards_of_images(tmp_path, monkeypatch):
    (tmp_path / "small_net.py").write_text(
        "import torch\n"
        "def net():\n"
        "    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3), torch.nn.ReLU())\n"
        "    with torch.no_grad():\n"
        "        [p.copy_(torch.linspace(-1, 1, p.numel()).view_as(p)) for p in model.parameters()]\n"
        "    return model\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    import small_net

    x, y, _, _ = rows()
    measure = Layers("small_net:net", ("1", "2"), by=("y",), batch_size=7)
    found = shard_moments(written(tmp_path / "shards", "npz"), measure, backend="serial")
    assert list(found) == ["1", "2"]
    hidden = small_net.net()[:2](torch.from_numpy(x)).detach()
    torch.testing.assert_close(found["1"].mean, Moments.of_groups(hidden, y, 3).mean, rtol=1e-5, atol=1e-5)
    assert found["2"].classes == ("0", "1", "2")


def test_shards_that_were_measured_are_not_measured_again_unless_they_changed(tmp_path):
    pattern, store = written(tmp_path / "shards", "npy"), tmp_path / "store"
    first = shard_moments(pattern, store=store, backend="serial")["x"]
    kept = {file: file.stat().st_mtime_ns for file in (store / "moments").iterdir()}
    assert len(kept) == 3
    damaged = sorted(kept)[0]
    damaged.write_bytes(damaged.read_bytes()[:-8])
    sorted(kept)[1].unlink()
    check(shard_moments(pattern, store=store, backend="serial")["x"], first)
    again = {file: file.stat().st_mtime_ns for file in (store / "moments").iterdir()}
    assert sum(again[file] == kept[file] for file in kept) == 1  # whole and untouched: only that one is kept
    np.save(tmp_path / "shards" / "1.npy", np.full((1, 4), 1e3))
    assert float(shard_moments(pattern, store=store, backend="serial")["x"].mean[2]) > float(first.mean[2])


def test_processes_give_what_one_process_gives(tmp_path):
    pattern = written(tmp_path, "npy")
    one = shard_moments(pattern, Features(by=("y",)), backend="serial")["x"]
    two = shard_moments(pattern, Features(by=("y",)), backend="loky", workers=2)["x"]
    assert torch.equal(one.scatter, two.scatter)


@pytest.mark.dask
def test_a_cluster_gives_what_one_process_gives(tmp_path):
    pytest.importorskip("distributed")
    pattern = written(tmp_path, "npy")
    one = shard_moments(pattern, Features(by=("y",)), backend="serial")["x"]
    two = shard_moments(pattern, Features(by=("y",)), backend="dask", workers=2)["x"]
    assert torch.equal(one.scatter, two.scatter)


def test_files_that_are_no_shards_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no file matches"):
        find_shards(str(tmp_path / "*.npy"))
    (tmp_path / "rows.pkl").write_bytes(b"x")
    with pytest.raises(
        ValueError, match=r"rows\.pkl is no shard; these are read: \.npy, \.npz, \.safetensors, \.parquet"
    ):
        find_shards(tmp_path / "rows.pkl")


@pytest.mark.filterwarnings("ignore:.*trials failed")
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "1.npy").write_bytes(b"\x93NUMPY"), "1.npy could not be measured: .* not a readable"),
        (lambda folder: (folder / "1.y.npy").unlink(), "has no column 'y'"),
        (lambda folder: np.save(folder / "1.y.npy", np.zeros(7)), "x of .* has 1 rows but `y` has 7"),
        (lambda folder: np.save(folder / "1.npy", np.full((1, 4), np.nan)), "NaN or infinite"),
    ],
)
def test_a_shard_that_cannot_be_read_is_named(tmp_path, damage, said):
    pattern = written(tmp_path, "npy")
    damage(tmp_path)
    with pytest.raises(ValueError, match=said):
        shard_moments(pattern, Features(by=("y",)), backend="serial")
