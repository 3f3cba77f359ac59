"""The restricted reader: plain arrays come through in every dialect, anything else is refused by name and never run."""

import collections
import io
import os
import pickle
import pickletools
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firstcue.data.unpickle import read_plain_pickle


def python2_array(array: np.ndarray) -> bytes:
    """A uint8 array as Python 2 and numpy 1 wrote it with protocol 2, without the header."""
    shape = b"".join(b"J" + struct.pack("<i", size) for size in array.shape)
    content = array.tobytes()
    return (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01("
        + shape
        + b"tcnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T"
        + struct.pack("<i", len(content))
        + content
        + b"tb"
    )


def python2_batch(data: np.ndarray, labels: list[int]) -> bytes:
    """A dictionary as in CIFAR-10's batches, as Python 2 wrote it."""
    numbers = b"".join(b"K" + bytes([label]) for label in labels)
    return (
        b"\x80\x02}q\x01(U\x0bbatch_labelq\x02U\x15training batch 1 of 5q\x03U\x06labelsq\x04](" + numbers
        + b"eU\x04dataq\x05" + python2_array(data) + b"u."
    )  # fmt: skip


@pytest.fixture
def load(tmp_path):
    def read(content: bytes):
        (tmp_path / "content").write_bytes(content)
        return read_plain_pickle(tmp_path / "content")

    return read


def test_the_dialect_of_python_2_is_read(load):
    data = np.arange(24, dtype=np.uint8).reshape(4, 6)
    content = load(python2_batch(data, [3, 1, 2, 0]))

    assert content[b"labels"] == [3, 1, 2, 0] and content[b"batch_label"] == b"training batch 1 of 5"
    assert np.array_equal(content[b"data"], data) and content[b"data"].dtype == np.uint8


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("module", ["numpy._core", "numpy.core"])
@pytest.mark.parametrize("dtype", ["u1", "<f4", ">f8", "<i8", "?", "<f2"])
def test_arrays_of_numbers_come_through_in_every_protocol(load, protocol, module, dtype):
    array = np.asfortranarray(np.arange(12).reshape(3, 4).astype(dtype))
    content = pickle.dumps({"a": [array, array], "b": ("text", 1.5, None, True, 2**70)}, protocol=protocol)
    if protocol < 4:  # names of modules are plain lines there
        content = content.replace(b"numpy._core", module.encode())

    found = load(content)

    assert found["b"] == ("text", 1.5, None, True, 2**70)
    assert np.array_equal(found["a"][0], array) and found["a"][0].dtype == array.dtype.newbyteorder("=")
    assert found["a"][0] is found["a"][1]


class Exploit:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (Exploit(os.system, "touch exploited"), "posix.system|nt.system"),
        (Exploit(eval, "open('exploited', 'w')"), "builtins.eval|__builtin__.eval"),
        (Exploit(getattr, "", "join"), "(builtins|__builtin__).getattr"),
        (Exploit(np.load, "x.npy"), "numpy.load"),
        (collections.OrderedDict(a=1), "collections.OrderedDict"),
        (np.float64(1.5), "numpy._core.multiarray.scalar"),
        (np.asarray([1, "a"], dtype=object), "the dtype 'O8'"),
        (np.zeros(2, dtype=[("a", "u1"), ("b", "f4")]), "the dtype 'V5'"),
        (np.asarray(["text"]), "the dtype 'U4'"),
        (np.zeros(2, dtype="M8[s]"), "the dtype 'M8'"),
        (np.ma.zeros(2), "numpy.ma"),
        (np.zeros(2).view(np.recarray), "numpy.rec|an array subclass"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_everything_else_is_refused_by_name_and_not_run(load, tmp_path, monkeypatch, value, name, protocol):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ValueError, match=f"is a pickle that asks for .*({name}).*refused, for a pickle can run any code"
    ):
        load(pickle.dumps(value, protocol=protocol))
    assert not (tmp_path / "exploited").exists()


HEADER = b"\x80\x02"
DTYPE = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"cnumpy\ndtype\n}U\x08__call__Nsb.", "a change to a built-in name"),
        (b"c_codecs\nencode\nX\x01\x00\x00\x00aX\x04\x00\x00\x00zlib\x86R.", "the codec 'zlib'"),
        (b"cnumpy\nndarray\n.", "a name without an array"),
        (DTYPE + b".", "a name without an array"),
        (DTYPE + b"(K\x03U\x01|(U\x01atNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x3ftb.", "a structured dtype"),
        (b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\ndtype\nK\x00\x85U\x01b\x87R.", "an array subclass"),
        (b"U\x03abcQ.", "an object outside the file"),
        (b"\x82\x01.", "unregistered extension|extension code"),
    ],
)
def test_tricks_with_admitted_names_are_refused(load, content, what):
    with pytest.raises(ValueError, match=what):
        load(HEADER + content)


def test_an_array_cannot_claim_more_than_its_bytes(load):
    honest = python2_array(np.zeros((2, 3), dtype=np.uint8))
    liar = honest.replace(b"J\x02\x00\x00\x00", b"J\xff\xff\xff\x7f")
    with pytest.raises(ValueError, match="not a readable pickle: ValueError: cannot reshape"):
        load(HEADER + liar + b".")


def test_a_small_file_cannot_unfold_into_a_large_structure(load):
    nested: list = []
    for _ in range(60):
        nested = [nested, nested]
    found = load(pickle.dumps(nested, protocol=2))
    assert found[0] is found[1]

    circle: list = []
    circle.append(circle)
    with pytest.raises(ValueError, match="a container that holds itself"):
        load(pickle.dumps(circle, protocol=2))


@given(cut=st.floats(0.01, 0.999), flip=st.integers(0, 10**6))
@settings(deadline=None, max_examples=150)
def test_damage_is_reported_or_harmless_but_never_an_internal_error(tmp_path_factory, cut, flip):
    whole = python2_batch(np.arange(24, dtype=np.uint8).reshape(4, 6), [3, 1, 2, 0])
    path = tmp_path_factory.mktemp("damaged") / "content"
    truncated = whole[: int(cut * len(whole))]
    path.write_bytes(truncated)
    with pytest.raises(ValueError, match=r"not a readable pickle|is empty"):
        read_plain_pickle(path)

    flipped = bytearray(whole)
    flipped[flip % len(whole)] ^= 1 << flip % 8
    path.write_bytes(flipped)
    try:
        read_plain_pickle(path)
    except ValueError as error:
        assert str(path) in str(error)


def test_the_handmade_file_is_what_python_2_would_write():
    opcodes = {op.name for op, _, _ in pickletools.genops(io.BytesIO(python2_batch(np.zeros((1, 2), np.uint8), [1])))}

    assert {"SHORT_BINSTRING", "BINSTRING", "GLOBAL", "BUILD", "REDUCE"} <= opcodes
    assert "BINUNICODE" not in opcodes
