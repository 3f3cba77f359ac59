"""One door for all data: loaders of the user's own, built-in names, and forms that are not read."""

import textwrap
from itertools import count

import numpy as np
import pytest
import torch

from firstcue.data import available, entry, prepare, read, shipped

NUMBER = count()


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write a module with a fresh name into the current folder."""
    monkeypatch.chdir(tmp_path)

    def write(source: str) -> str:
        name = f"users_code_{next(NUMBER)}"
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))
        return name

    return write


def test_a_loader_in_the_current_folder_may_return_whatever_a_batch_can_be_made_of(module):
    name = module("""
        import numpy as np, torch
        from torch.utils.data import DataLoader, TensorDataset
        x, y = torch.arange(8.).reshape(4, 2), torch.tensor([0, 1, 1, 0])
        def pair(): return x, y
        def triple(): return x.numpy(), y.tolist(), ["a", "b", "a", "b"]
        def mapping(): return {"x": x, "y": y, "place": np.array(["s", "l", "s", "l"])}
        def loader(): return DataLoader(TensorDataset(x, y), batch_size=3)
        ready = (x, y)
    """)
    for function in ("pair", "triple", "mapping", "loader", "ready"):
        batch = read(f"{name}:{function}")
        assert batch.x.tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]] and batch.y.tolist() == [0, 1, 1, 0]
    assert read(f"{name}:triple").values == ("a", "b")
    assert list(read(f"{name}:mapping").columns) == ["place"]


def test_what_a_loader_raises_is_named(module):
    name = module("""
        def broken(): raise KeyError("no such table")
        def nothing(): return []
        def text(): return "data"
        def needs(argument): return argument
    """)
    with pytest.raises(ValueError, match=f"the loader `{name}:broken` raised KeyError: 'no such table'"):
        read(f"{name}:broken")
    with pytest.raises(ValueError, match="yields nothing"):
        read(f"{name}:nothing")
    with pytest.raises(ValueError, match=f"`what {name}:text returned` is a str"):
        read(f"{name}:text")
    with pytest.raises(ValueError, match=r"raised TypeError.*called without arguments"):
        read(f"{name}:needs")
    with pytest.raises(ValueError, match=f"'{name}' has no 'absent' for the loader .*; it has: broken, nothing"):
        read(f"{name}:absent")
    with pytest.raises(ValueError, match=r"there is no module 'no_such_code' .*folder that holds no_such_code.py"):
        read("no_such_code:data")


def test_trouble_at_import_is_told_from_a_missing_module(module):
    with pytest.raises(ValueError, match="needs 'no_such_library', which is not installed"):
        read(module("import no_such_library") + ":data")
    with pytest.raises(ValueError, match="raised ZeroDivisionError: division by zero"):
        read(module("1 / 0") + ":data")
    with pytest.raises(ValueError, match="raised SystemExit"):
        read(module("raise SystemExit(2)") + ":data")


def test_the_import_path_is_left_as_it_was(module):
    import sys

    before = list(sys.path)
    read(module("import torch\ndef data(): return torch.zeros(2, 1), [0, 1]") + ":data")

    assert sys.path == before


@pytest.mark.parametrize("name", ["data.pkl", "model.pt", "data.joblib"])
def test_a_pickle_is_refused_with_the_way_out(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x80\x04N.")
    with pytest.raises(ValueError, match=r"a pickle by its name, which can run any code.*np.savez"):
        read(tmp_path / name)


def test_an_unknown_form_lists_those_that_are_read(tmp_path):
    (tmp_path / "data.mat").write_bytes(b"MATLAB")
    with pytest.raises(ValueError, match=r"a form that firstcue does not read; it reads \.npz, .*builtin:NAME"):
        read(tmp_path / "data.mat")


def test_builtin_names_lead_to_data():
    assert torch.equal(read("builtin:fashion-slice").x, shipped().x)
    assert len(read("builtin:digits")) == 1797 and read("builtin:digits/3,8").classes == ("3", "8")
    batch = read("builtin:dominoes/0.95")
    assert batch.groups().bincount().tolist() == [1710, 90, 90, 1710] and batch.edit is not None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "no built-in data set 'nothing'; there are fashion-slice"),
        ("digits/3/8", "no built-in data set"),
        ("digits/a", "digits are named as in"),
        ("dominoes/much", "a strength is a number"),
        ("dominoes/1.5", "between 0 and 1"),
        ("dominoes/0.9/middle", "the parts train, held-out, test; got 'middle'"),
        ("fashion-mnist/all", "the parts train and test"),
    ],
)
def test_a_wrong_builtin_name_is_answered_with_the_right_ones(name, message):
    with pytest.raises(ValueError, match=message):
        read(f"builtin:{name}")


def test_the_catalogue_says_what_is_here_and_how_to_get_the_rest():
    names = {e.name: e for e in available()}

    assert names["fashion-slice"].present and names["fashion-slice"].rows == len(shipped())
    assert names["digits"].rows == len(read("builtin:digits"))
    assert names["dominoes"].rows == sum(len(read(f"builtin:dominoes/0.9/{p}")) for p in ("train", "held-out", "test"))
    assert names["fashion-mnist"].how_to_get == "sudo apt-get install dataset-fashion-mnist"
    assert all(e.licence and e.content and e.how_to_get for e in available())
    assert entry("builtin:dominoes/0.9") == names["dominoes"]
    with pytest.raises(ValueError, match="no data set is called 'imagenet'; there are fashion-slice"):
        entry("imagenet")


def test_prepared_files_hold_the_same_rows_as_the_builtin(tmp_path):
    paths = prepare("dominoes/0.9", tmp_path / "out")

    assert [path.name for path in paths] == ["train.npz", "held-out.npz", "test.npz"]
    back, original = read(paths[1]), read("builtin:dominoes/0.9/held-out")
    assert torch.equal(back.x, original.x) and torch.equal(back.y, original.y) and back.classes == original.classes
    assert torch.equal(back.with_attribute("top_digit").attribute, original.attribute)


def test_preparing_twice_gives_the_same_numbers(tmp_path):
    first, second = (prepare("digits/0,1", tmp_path / name)[0] for name in ("a", "b"))

    with np.load(first) as a, np.load(second) as b:
        assert all(np.array_equal(a[key], b[key]) for key in a.files)
