"""The JSON schemas of what is written and read."""

from typing import Any, Literal

from pydantic import BaseModel

from firstcue.finding import Finding, Gate, Groups, Remedy, Report

MODELS: dict[str, type[BaseModel]] = {
    "report": Report,
    "finding": Finding,
    "groups": Groups,
    "remedy": Remedy,
    "gate": Gate,
}
"""What has a schema, by the name used in `firstcue schema NAME`."""


def schema(name: str) -> dict[str, Any]:
    """The JSON schema of one format (draft 2020-12).

    Args:
        name: "report", "finding", "groups", "remedy" or "gate".

    Raises:
        ValueError: If there is no such format.

    Example:
        >>> sorted(schema("gate")["properties"])
        ['allow_shortcut', 'inconclusive', 'max_group_gap', 'min_worst_group']
    """
    if name not in MODELS:
        raise ValueError(f"no schema is called {name!r}; schemas: {', '.join(MODELS)}.")
    # what is written always has every key; what is read (a gate) may leave keys out
    mode: Literal["validation", "serialization"] = "validation" if name == "gate" else "serialization"
    made = MODELS[name].model_json_schema(mode=mode)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made}
