"""Records that survive a round trip through JSON, and one-line complaints about files that do not."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator


def plain(value: Any) -> Any:
    """`value` as JSON can hold it: numpy scalars as numbers, NaN and infinity as None, text without lone surrogates.

    Example:
        >>> plain({"gap": float("nan"), "n": (1, 2)})
        {'gap': None, 'n': [1, 2]}
    """
    if isinstance(value, bool | int | BaseModel) or value is None:
        return value
    if isinstance(value, str):
        return str(value) if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {plain(str(k)): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(v) for v in value]
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        return plain(value.item())
    return plain(value.tolist()) if hasattr(value, "tolist") else value


class Record(BaseModel):
    """Frozen, and refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Value(Record):
    """A record of measurements: whatever JSON cannot hold, NaN above all, becomes null."""

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, given: Any) -> Any:
        return plain(given) if isinstance(given, Mapping) else given


def read_text(target: Path, what: str, way_out: str) -> str:
    """The text of a file that has to be there.

    Raises:
        ValueError: If it is missing or no UTF-8 text, with `way_out`.
    """
    if not target.is_file():
        raise ValueError(f"no {what} at {target}; {way_out}.")
    try:
        return target.read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError) as error:
        raise ValueError(f"{target} cannot be read as text ({error}); {way_out}.") from None


def condensed(error: ValidationError, most: int = 3) -> str:
    """The first complaints of pydantic on one line."""
    said = [": ".join(filter(None, [".".join(str(p) for p in e["loc"])[:80], e["msg"]])) for e in error.errors()[:most]]
    more = error.error_count() - len(said)
    return "; ".join(said) + (f"; and {more} more" if more > 0 else "")
