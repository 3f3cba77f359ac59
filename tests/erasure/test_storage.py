import json
from dataclasses import fields

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.testing import assert_close

from cases import labelled
from firstcue import Moments, leace, load, oracle_leace, save
from firstcue.erasure.oracle import GroupEraser


def examples():
    x, z = labelled()
    by_class = Moments.of_groups(x, np.array(["a", "b", "<script>"])[z], fourth=True)
    oracle = oracle_leace(by_class)
    return {
        "affine": leace(by_class),
        "affine of rank 0": leace(Moments.of_groups(torch.ones(4, 3), [0, 1, 0, 1])),
        "group": oracle,
        "group with maps": GroupEraser(
            oracle.means, oracle.target, torch.rand(3, 8, 8).double(), oracle.classes, residual=0.5
        ),
        "moments": by_class,
        "moments without groups": Moments.of(x.float()),
    }


@pytest.mark.parametrize(
    "name", ["affine", "affine of rank 0", "group", "group with maps", "moments", "moments without groups"]
)
def test_what_is_saved_is_loaded_bit_for_bit(name, tmp_path):
    before = examples()[name]
    path = save(before, tmp_path / "file.safetensors")
    after = load(str(path))

    assert type(after) is type(before)
    for field in fields(before):
        one, two = getattr(before, field.name), getattr(after, field.name)
        assert torch.equal(one, two) if isinstance(one, Tensor) else one == two
    assert [p.name for p in tmp_path.iterdir()] == ["file.safetensors"]


def test_a_loaded_eraser_erases(tmp_path):
    x, z = labelled()
    eraser = oracle_leace(Moments.of_groups(x, z))

    assert_close(load(save(eraser, tmp_path / "e"))(x, z), eraser(x, z), rtol=0, atol=0)


def test_an_existing_file_is_replaced(tmp_path):
    x, z = labelled()
    path = tmp_path / "file.safetensors"
    save(Moments.of(x), path)
    save(Moments.of_groups(x, z), path)

    assert load(path).count.shape == (3,)


def note(**changes):
    return {"firstcue": json.dumps({"format": 1, "kind": "Moments", "fields": {}} | changes)}


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (None, "no note by `firstcue.save`"),
        ({"firstcue": "{"}, "damaged"),
        ({"firstcue": "[]"}, "damaged"),
        (note(kind="os.system"), "unknown kind"),
        (note(format=2), "format 2, this version reads 1"),
        (note(), "does not hold the fields of Moments"),
    ],
)
def test_a_file_of_another_kind_is_refused(metadata, message, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({"weight": torch.ones(2)}, path, metadata)

    with pytest.raises(ValueError, match=message):
        load(path)


@pytest.mark.parametrize("content", [b"", b"not a tensor", b"\x80\x04K\x01."])
def test_a_file_that_holds_no_tensors_is_refused(content, tmp_path):
    path = tmp_path / "broken"
    path.write_bytes(content)

    with pytest.raises(ValueError, match=r"broken.*is not a safetensors file"):
        load(path)


def test_a_file_that_was_cut_off_is_refused(tmp_path):
    path = save(Moments.of(labelled()[0]), tmp_path / "file")
    path.write_bytes(path.read_bytes()[:-10])

    with pytest.raises(ValueError, match="cut off"):
        load(path)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda folder: load(folder / "absent"), "there is no file"),
        (lambda folder: load(folder), "there is no file"),
        (lambda folder: save(torch.ones(2), folder / "x"), "got a Tensor"),
        (lambda folder: save(Moments.of(torch.eye(2)), folder / "absent" / "x"), "cannot be written"),
        (lambda folder: save(Moments.of(torch.eye(2)), folder), "cannot be written"),
    ],
)
def test_a_mistake_is_answered_with_what_was_found(call, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        call(tmp_path)
