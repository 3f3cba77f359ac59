"""`discover`: what could a model lean on, when nobody has named an attribute?"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from firstcue._checks import as_tensor, encode_labels, require_classes, require_finite, require_rows
from firstcue._progress import Progress, silent
from firstcue.auditing.order import states
from firstcue.forward import predict
from firstcue.heads import features_and_outputs, find_head
from firstcue.spurious.discover import Material, discovered
from firstcue.spurious.discovery import Discovery
from firstcue.spurious.properties import Kind


def discover(
    model_or_embeddings: Any,
    x: Any,
    y: Any,
    metadata: Mapping[str, Any] | None = None,
    *,
    outputs: Any = None,
    checkpoints: Any = None,
    edit: Mapping[str, Callable[[Any, int], Any]] | None = None,
    kind: Kind = "auto",
    most: int = 5,
    seed: int = 0,
    batch_size: int = 512,
    progress: Progress = silent,
) -> Discovery:
    """Which simple property goes with the class, does the model rely on it, which groups and slices show?

    Properties are scanned by themselves, each against chance on rows its rule has not seen; what varies only with a
    stronger one is set aside. A candidate is *associated*; it is *relied on* only if carrying it over from other rows,
    all else kept, moves the model's decisions. Whether it belongs to the class is not in the data: that is yours to say.

    Args:
        model_or_embeddings: A classifier that returns logits, any function from inputs to logits, or embeddings `(n, d)`;
            None to look at the data only.
        x: Images `(n, c, h, w)`, a table `(n, columns)`, texts, or None where there are embeddings only.
        y: `(n,)` labels of any kind; their sorted order is that of the outputs.
        metadata: Columns `(n,)` by name: place, camera, file size.
        outputs: `(n, K)` logits, where there is no model to ask.
        checkpoints: As `audit` takes them, or pairs `(step, logits (n, K))`: adds what was learned early.
        edit: Your own `edit(x, value)` of properties, by the candidate's name; others are carried over between rows.
        kind: What `x` is, where its shape does not tell: "tokens" of token ids, which look like a table.
        most: Candidates at the most.
        seed: Of every draw.
        batch_size: Rows per call of the model.
        progress: Told the stage and the fraction done.

    Returns:
        Candidates, groups, slices and warnings.

    Raises:
        ValueError: If shapes do not fit, values are not finite, or there is one class only.

    Source:
        EIIL (arXiv 2010.07249), JTT (2107.09044), SPARE (2305.18761), GEORGE (2011.12945), Domino
        (2203.14960), Spotlight (2107.00758), SliceLine (SIGMOD 2021); where early inference fails: arXiv 2403.03375.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> y = torch.arange(400) % 2
        >>> cue = torch.where(torch.rand(400, generator=generator) < 0.95, y, 1 - y)
        >>> x = torch.randn(400, 3, generator=generator)
        >>> x[:, 1] = cue + 0.1 * x[:, 1]
        >>> found = discover(lambda x: torch.stack([0 * x[:, 1], x[:, 1] - 0.5], dim=1), x, y)
        >>> [(c.name, c.standing) for c in found.candidates]
        [('column 1', 'relied on')]
    """
    labels, classes = encode_labels(y)
    labels = labels.cpu()
    require_classes(torch.bincount(labels), classes)
    for name, column in (metadata or {}).items():
        if len(column) != len(labels):
            raise ValueError(f"metadata column {name!r} has {len(column)} rows but `y` has {len(labels)}.")
    model, embeddings, logits = _answers(model_or_embeddings, x, labels, outputs, batch_size)
    material = Material(
        y=labels,
        classes=classes,
        x=x if x is None or _is_text(x) else as_tensor(x),
        metadata=metadata,
        outputs=logits,
        embeddings=embeddings,
        course=_course(model, checkpoints, x, labels, batch_size),
        predict=_asker(model, batch_size),
        edits=edit,
        kind=kind,
    )
    return discovered(material, most=most, seed=seed, progress=progress)


def _answers(given: Any, x: Any, y: Tensor, outputs: Any, batch_size: int) -> tuple[Any, Tensor | None, Tensor | None]:
    """The model if there is one, embeddings and logits of all rows."""
    if x is not None and len(x) != len(y):
        raise ValueError(f"`x` has {len(x)} rows but `y` has {len(y)}; one per row is needed.")
    told = None if outputs is None else _logits(outputs, y)
    if given is None:
        return None, None, told
    if isinstance(given, nn.Module):
        features, logits = _looked_inside(given, x, batch_size)
        return given, features, _logits(logits, y) if told is None else told
    if callable(given):
        return given, None, _logits(given(x), y) if told is None else told
    rows = as_tensor(given, "embeddings").detach().cpu()
    if rows.ndim != 2:
        raise ValueError(f"embeddings have shape {tuple(rows.shape)}; (n, d) is needed: pool or flatten them first.")
    require_rows(rows, y, "embeddings")
    require_finite(rows, "embeddings")
    return None, rows, told


def _looked_inside(model: nn.Module, x: Any, batch_size: int) -> tuple[Tensor | None, Tensor]:
    """Features and logits; no features where the outputs are not those of a linear layer."""
    try:
        head = find_head(model, x)
    except ValueError:
        return None, predict(model, x, batch_size=batch_size)
    return features_and_outputs(model, x, batch_size=batch_size, head=head)


def _asker(model: Any, batch_size: int) -> Callable[[Any], Tensor] | None:
    if model is None:
        return None
    if not isinstance(model, nn.Module):
        return lambda x: _two_columns(as_tensor(model(x), "outputs").detach().cpu())
    return lambda x: predict(model, x, batch_size=batch_size)


def _course(model: Any, checkpoints: Any, x: Any, y: Tensor, batch_size: int) -> Sequence[tuple[int, Tensor]]:
    """`(step, logits)` of every checkpoint, in order."""
    if checkpoints is None:
        return ()
    if _are_outputs(checkpoints):
        return sorted(((int(step), _logits(o, y)) for step, o in checkpoints), key=lambda pair: pair[0])
    if not isinstance(model, nn.Module):
        raise ValueError(
            "`checkpoints` of weights need the model they belong to; for embeddings give pairs (step, logits (n, K))."
        )
    copied, found = copy.deepcopy(model), []
    for step, state in states(checkpoints):
        try:
            copied.load_state_dict(dict(state))
        except RuntimeError as error:
            raise ValueError(f"the checkpoint of step {step} does not fit the model: {error}") from error
        found.append((step, _logits(predict(copied, x, batch_size=batch_size), y)))
    return found


def _are_outputs(checkpoints: Any) -> bool:
    return isinstance(checkpoints, list | tuple) and all(
        isinstance(item, tuple)
        and len(item) == 2
        and not isinstance(item[1], Mapping | str)
        and hasattr(item[1], "__len__")
        for item in checkpoints
    )


def _logits(outputs: Any, y: Tensor) -> Tensor:
    logits = _two_columns(as_tensor(outputs, "outputs").detach().cpu())
    require_rows(logits, y, "outputs")
    require_finite(logits, "outputs")
    if logits.ndim != 2 or logits.shape[1] <= int(y.max()):
        raise ValueError(
            f"`outputs` has shape {tuple(logits.shape)} but y has classes up to {int(y.max())}; one column per class."
        )
    return logits


def _two_columns(logits: Tensor) -> Tensor:
    logits = logits[:, None] if logits.ndim == 1 else logits
    return torch.cat([torch.zeros_like(logits), logits], dim=1) if logits.shape[1] == 1 else logits


def _is_text(x: Any) -> bool:
    return not isinstance(x, Tensor) and len(x) > 0 and isinstance(x[0], str)
