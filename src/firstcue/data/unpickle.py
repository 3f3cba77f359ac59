"""A pickle reader that can make numbers, text, lists, dictionaries and plain arrays, and nothing else.

A pickle is a program. This reader knows the few names that arrays of numbers are written with and refuses every other
by name. Even those are stand-ins that only note what they are given: no code named in the file is ever run, and arrays
are built afterwards from checked bytes.
"""

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from firstcue.data.files import refuse_empty

DAMAGED = (
    pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError,
    MemoryError, RecursionError,
)  # fmt: skip
"""What reading a damaged pickle raises; the format has no checksum, so it may be any of these."""


class Refused(pickle.UnpicklingError):
    """The pickle names something that is not on the list."""


def read_plain_pickle(path: Path) -> Any:
    """The content of a pickle made of numbers, text, bytes, lists, tuples, dictionaries and arrays of numbers.

    Text that Python 2 wrote comes out as bytes.

    Raises:
        ValueError: If the file names anything else, or is damaged.
    """
    refuse_empty(path)
    try:
        with path.open("rb") as file:
            return _built(_PlainUnpickler(file).load(), {})
    except Refused as refusal:
        raise ValueError(
            f"{path} is a pickle that asks for {refusal}: refused, for a pickle can run any code when it is loaded. Only "
            f"plain arrays, lists, dictionaries, text and numbers are read. If you trust its origin, open it in Python and "
            f"store arrays with np.savez(path, x=..., y=...)."
        ) from None
    except DAMAGED as error:
        raise ValueError(
            f"{path} is not a readable pickle: {type(error).__name__}: {error}. It may be truncated "
            f"({path.stat().st_size:,} bytes were found); fetch or copy it again."
        ) from error


class _StandIn:
    """What an admitted name becomes: it may be called, but neither changed nor subclassed."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise Refused("a change to a built-in name")


class _ArrayType(_StandIn):
    __slots__ = ()


class _NewArray(_StandIn):
    """`numpy.core.multiarray._reconstruct(ndarray, (0,), b"b")`: an empty array whose state follows."""

    __slots__ = ()

    def __call__(self, kind: Any, shape: Any, typecode: Any) -> "_Array":
        if not isinstance(kind, _ArrayType):
            raise Refused("an array subclass")
        return _Array()


class _NewDtype(_StandIn):
    __slots__ = ()

    def __call__(self, code: Any, align: Any = False, copy: Any = False) -> "_Dtype":
        code = _text(code)
        if len(code) < 2 or code[0] not in "biuf" or not (code[1:].isascii() and code[1:].isdigit()):
            raise Refused(f"the dtype {code!r}")
        return _Dtype(code)


class _FromBuffer(_StandIn):
    """`numpy.core.numeric._frombuffer(bytes, dtype, shape, order)`: how protocol 5 writes arrays."""

    __slots__ = ()

    def __call__(self, content: Any, dtype: Any, shape: Any, order: Any) -> "_Array":
        array = _Array()
        array.__setstate__((1, shape, dtype, _text(order) == "F", bytes(content)))
        return array


class _Encode(_StandIn):
    """`_codecs.encode(text, "latin1")`: how Python 3 writes bytes for Python 2."""

    __slots__ = ()

    def __call__(self, text: Any, codec: Any = "utf-8") -> bytes:
        if not isinstance(text, str) or _text(codec).lower().replace("-", "") not in ("latin1", "iso88591"):
            raise Refused(f"the codec {codec!r}")
        return text.encode("latin1")


ADMITTED: dict[tuple[str, str], _StandIn] = {
    ("numpy", "ndarray"): _ArrayType(),
    ("numpy", "dtype"): _NewDtype(),
    ("numpy.core.multiarray", "_reconstruct"): _NewArray(),
    ("numpy._core.multiarray", "_reconstruct"): _NewArray(),
    ("numpy.core.numeric", "_frombuffer"): _FromBuffer(),
    ("numpy._core.numeric", "_frombuffer"): _FromBuffer(),
    ("_codecs", "encode"): _Encode(),
}
"""Every name that a pickle may use, and what it gets instead."""


class _PlainUnpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="bytes")

    def find_class(self, module: str, name: str) -> Any:
        try:
            return ADMITTED[module, name]
        except KeyError:
            raise Refused(f"{module}.{name}"[:200]) from None

    def persistent_load(self, pid: Any) -> Any:
        raise Refused("an object outside the file")


@dataclass
class _Dtype:
    code: str
    order: str = "="

    def __setstate__(self, state: Any) -> None:
        version, order, *rest = state
        if version not in (3, 4) or any(part not in (None, -1, 0, ()) for part in rest[:6]):
            raise Refused("a structured dtype")
        self.order = _text(order)

    def plain(self) -> np.dtype:
        """The dtype; `_NewDtype` admits codes of numbers only."""
        if self.order not in ("<", ">", "|", "="):
            raise Refused(f"the byte order {self.order!r}")
        return np.dtype(self.code).newbyteorder(self.order)  # type: ignore[arg-type]


@dataclass
class _Array:
    shape: tuple[int, ...] = ()
    dtype: Any = None
    fortran: bool = False
    content: bytes = b""

    def __setstate__(self, state: Any) -> None:
        _, shape, self.dtype, self.fortran, self.content = state
        self.shape = tuple(int(size) for size in shape)
        if not isinstance(self.dtype, _Dtype):
            raise Refused("an array without a dtype")
        if not isinstance(self.content, bytes):
            raise Refused("an array of Python objects")

    def plain(self) -> np.ndarray:
        """The array, built from bytes of exactly the size that its shape needs."""
        if not isinstance(self.dtype, _Dtype):
            raise ValueError("an array without content")
        flat = np.frombuffer(self.content, self.dtype.plain())
        array = flat.reshape(self.shape, order="F" if self.fortran else "C")
        return array.astype(array.dtype.newbyteorder("="))


def _built(value: Any, done: dict[int, Any]) -> Any:
    """The same structure with arrays in place of their descriptions; what is shared stays shared, a cycle is refused."""
    if isinstance(value, _StandIn | _Dtype):
        raise Refused("a name without an array")
    if not isinstance(value, _Array | dict | list | tuple | set | frozenset):
        return value
    if id(value) not in done:
        done[id(value)] = _UNFINISHED
        done[id(value)] = _rebuilt(value, done)
    if done[id(value)] is _UNFINISHED:
        raise ValueError("a container that holds itself")
    return done[id(value)]


def _rebuilt(value: Any, done: dict[int, Any]) -> Any:
    if isinstance(value, _Array):
        return value.plain()
    if isinstance(value, dict):
        return {_built(k, done): _built(v, done) for k, v in value.items()}
    return type(value)(_built(v, done) for v in value)


_UNFINISHED = object()


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("latin1")
    if not isinstance(value, str):
        raise Refused(f"a {type(value).__name__} where text is written")
    return value
