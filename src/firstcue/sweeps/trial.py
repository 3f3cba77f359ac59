"""A trial is one run of an experiment: its settings and its seed, and the name under which the result is kept."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from typing import Any


def canonical(value: Any) -> str:
    """The one JSON text of a value: keys sorted, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)


@dataclass(frozen=True, eq=False)
class Trial:
    """One run of an experiment.

    Two trials are the same when experiment, version, settings and seed are; `key` is their common name.

    Args:
        experiment: Name of the experiment, as in `firstcue reproduce`; any text for your own.
        settings: What the run is told; plain JSON values (numbers, text, lists, None).
        seed: Source of all its randomness.
        version: Raise it when the experiment's code changes its results: old results are then run again.

    Raises:
        ValueError: If a setting is no plain JSON value, is not finite, or its name is taken by the trial itself.

    Example:
        >>> Trial("mine", {"rate": 0.1, "rows": 50}, seed=3).key == Trial("mine", {"rows": 50, "rate": 0.1}, seed=3).key
        True
    """

    experiment: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    version: int = 1

    def __post_init__(self) -> None:
        taken = {"experiment", "seed"} & set(self.settings)
        if taken:
            raise ValueError(f"the setting {min(taken)!r} is an argument of Trial itself; leave it out of `settings`.")
        try:
            text = canonical(dict(self.settings))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"settings of trial {self.experiment!r} have to be plain JSON values, since they name the result's file "
                f"({error}): numbers, text, lists, None; a tensor or a function does not belong here."
            ) from None
        object.__setattr__(self, "settings", json.loads(text))  # lists for tuples, text for number keys: as read back

    @cached_property
    def key(self) -> str:
        """Hash of all that decides the result."""
        return sha256(canonical(self.to_dict()).encode()).hexdigest()[:24]

    def to_dict(self) -> dict[str, Any]:
        """What a result file says of its trial."""
        return {
            "experiment": self.experiment,
            "settings": dict(self.settings),
            "seed": self.seed,
            "version": self.version,
        }

    def label(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Rows with the experiment, the seed and every setting beside what was measured."""
        return [{"experiment": self.experiment, "seed": self.seed, **self.settings, **row} for row in rows]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Trial) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)
