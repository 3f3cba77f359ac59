"""Train twice: a first network, stopped early or not, says which rows the second one has to look at."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from firstcue.batch import Batch
from firstcue.forward import as_logits, left_as_found, predict, run
from firstcue.heads import features_and_outputs
from firstcue.spurious.inference import crossed, eiil_environments, george_clusters, silhouette, spare_clusters
from firstcue.training.features import HeadInputs
from firstcue.training.weighting import by_size


class Jtt:
    """What `jtt` returns; needs no labels beyond the class."""

    needs: tuple[str, ...] = ()

    def __init__(self, reference: nn.Module, up: float):
        self._reference, self._up = reference, up

    def __call__(self, losses: Tensor, outputs: Any, batch: Batch) -> Tensor:
        """`(n,)` weights, whose mean over the batch is 1."""
        wrong = _answers(self._reference, batch) != batch.y
        weights = torch.where(wrong, self._up, 1.0).to(losses)
        return weights / weights.mean()


def jtt(reference: nn.Module, up: float = 20.0) -> Jtt:
    """Just train twice: rows that a first network gets wrong count `up` times.

    The reference is a network trained for an epoch or a few in the ordinary way; it answers each batch anew, so that rows
    need no numbers and may be augmented. With the reference at chance for the minority, so is this.

    Args:
        reference: The first network; it is left as found. Train the second from scratch.
        up: How many times more a row in the error set counts, at least 1.

    Raises:
        ValueError: If `up` is below 1.

    Source:
        Liu et al., "Just train twice" (2021), https://arxiv.org/abs/2107.09044.

    Example:
        >>> first = torch.nn.Linear(1, 2, bias=False)
        >>> _ = first.load_state_dict({"weight": torch.tensor([[-1.0], [1.0]])})
        >>> batch = Batch(torch.tensor([[1.0], [-1.0]]), torch.tensor([1, 1]))
        >>> jtt(first, up=3.0)(torch.zeros(2), torch.zeros(2, 2), batch).tolist()
        [0.5, 1.5]
    """
    if not 1 <= up < float("inf"):
        raise ValueError(f"`up` is at least 1, which is plain training; got {up}.")
    return Jtt(reference, up)


class Cnc:
    """What `cnc` returns; needs no labels beyond the class. Call `.remove()` when training is over."""

    needs: tuple[str, ...] = ()

    def __init__(self, reference: nn.Module, head: nn.Module, strength: float, temperature: float):
        self._reference, self._strength, self._temperature = reference, strength, temperature
        self._inputs = HeadInputs(head, "cnc")

    def remove(self) -> None:
        """Take the hook off the head."""
        self._inputs.remove()

    def __call__(self, losses: Tensor, outputs: Any, batch: Batch) -> Tensor:
        """The objective."""
        features = normalize(self._inputs.take(len(losses)), dim=1)
        return losses.mean() + self._strength * contrast(
            features, batch.y, _answers(self._reference, batch), self._temperature
        )


def cnc(reference: nn.Module, head: nn.Module, strength: float = 1.0, *, temperature: float = 0.1) -> Cnc:
    """Correct and contrast: features are pulled together over rows of a class that the reference answers differently.

    Beside the mean loss, a supervised contrastive loss on the inputs of the head, in each batch: for an anchor, positives
    have its class and another answer of the reference, negatives another class and the same answer. Anchors without
    either are left out.

    Args:
        reference: A network trained in the ordinary way, which leans on the shortcut; it is left as found.
        head: The last linear layer of the network that is trained.
        strength: Factor of the contrastive loss, at least 0.
        temperature: Of the similarities, positive.

    Raises:
        ValueError: If a number is out of its range.

    Source:
        Zhang et al., "Correct-n-Contrast" (2022), https://arxiv.org/abs/2203.01517.

    Example:
        >>> weighting = cnc(torch.nn.Linear(2, 2), torch.nn.Linear(4, 2))
        >>> weighting.remove()
    """
    if not strength >= 0 or not temperature > 0:
        raise ValueError(f"`strength` is at least 0 and `temperature` positive; got {strength} and {temperature}.")
    return Cnc(reference, head, strength, temperature)


def contrast(features: Tensor, y: Tensor, answers: Tensor, temperature: float) -> Tensor:
    """Mean over anchors and their positives of -log(e^s+ / (e^s+ + sum over negatives e^s-)); 0 without such anchors.

    Args:
        features: `(n, d)` of length 1.
        y: `(n,)` class ids.
        answers: `(n,)` classes that the reference gives.
        temperature: Divides the similarities.

    Example:
        >>> contrast(torch.eye(3), torch.tensor([0, 0, 1]), torch.tensor([0, 1, 0]), 1.0).round(decimals=3)
        tensor(0.6930)
    """
    similar = features @ features.mT / temperature
    same, alike = y[:, None] == y, answers[:, None] == answers
    positive, negative = same & ~alike, ~same & alike
    against = similar.masked_fill(~negative, -torch.inf).logsumexp(dim=1, keepdim=True)
    terms = torch.logaddexp(similar, against) - similar
    used = positive & negative.any(dim=1, keepdim=True)
    counts = used.sum(dim=1)
    per_anchor = terms.masked_fill(~used, 0.0).sum(dim=1) / counts.clamp(min=1)
    return per_anchor.sum() / (counts > 0).sum().clamp(min=1)


def eiil(reference: nn.Module, batch: Batch, *, steps: int = 2000, seed: int = 0, batch_size: int = 512) -> Batch:
    """Rows with `group` set to environments, inferred by EIIL, crossed with the class; for `group_dro`, `irm`, `vrex`.

    The two environments are those between which the reference is as far from invariant as can be. Taken alone, they are
    what `irm` compares; crossed with the class, they are groups as others know them.

    Args:
        reference: A network early in training; it is left as found.
        batch: All training rows.
        steps: Of the inference.
        seed: Of its start.
        batch_size: Rows per call of the reference.

    Source:
        Creager et al. (2021), https://arxiv.org/abs/2010.07249.

    Example:
        >>> x = torch.tensor([[-2.0], [-2.0], [2.0], [2.0], [2.0]])
        >>> first = torch.nn.Linear(1, 2, bias=False)
        >>> _ = first.load_state_dict({"weight": torch.tensor([[-1.0], [1.0]])})
        >>> eiil(first, Batch(x, torch.tensor([0, 0, 0, 1, 1]))).group.tolist()
        [0, 0, 1, 2, 2]
    """
    outputs = predict(reference, batch.x, batch_size=batch_size)
    return replace(batch, group=crossed(eiil_environments(outputs, batch.y, steps=steps, seed=seed), batch.y))


def spare(
    reference: nn.Module, batch: Batch, *, clusters: int | None = 2, seed: int = 0, batch_size: int = 512
) -> Batch:
    """Rows with `group` set to clusters of the reference's outputs within each class; `spare_weights` says how to draw them.

    Args:
        reference: A network after an epoch of training; it is left as found.
        batch: All training rows.
        clusters: Per class; None lets the silhouette choose.
        seed: Of k-means.
        batch_size: Rows per call of the reference.

    Source:
        Yang et al. (2024), https://arxiv.org/abs/2305.18761.

    Example:
        >>> x = torch.tensor([[-2.0], [-2.0], [2.0], [2.0], [2.0], [-2.0]])
        >>> first = torch.nn.Linear(1, 2, bias=False)
        >>> _ = first.load_state_dict({"weight": torch.tensor([[-1.0], [1.0]])})
        >>> spare(first, Batch(x, torch.tensor([0, 0, 0, 1, 1, 1]))).group.tolist()
        [0, 0, 1, 2, 2, 3]
    """
    outputs = predict(reference, batch.x, batch_size=batch_size)
    return replace(batch, group=spare_clusters(outputs, batch.y, clusters=clusters, seed=seed))


def spare_weights(reference: nn.Module, batch: Batch, *, well_apart: float = 0.9, batch_size: int = 512) -> Tensor:
    """How often to draw each row of a batch from `spare`: 1 / |cluster|^p, with every class drawn equally often.

    p is 1 in a class whose clusters lie well apart and 2 where they do not, and clusters are a poor guide to groups.

    Args:
        reference: As for `spare`.
        batch: What `spare` returned.
        well_apart: Silhouette from which clusters count as apart.
        batch_size: Rows per call of the reference.

    Returns:
        `(n,)` float64 weights, whose mean is 1, for `drawn`.
    """
    if batch.group is None:
        raise ValueError("the batch has no clusters; make them with spare(reference, batch).")
    logits = predict(reference, batch.x, batch_size=batch_size)
    points = (logits - logits[:, :1])[:, 1:].numpy()
    weights = torch.zeros(len(batch), dtype=torch.float64)
    for label in batch.y.unique():
        rows = (batch.y == label).cpu()
        ids = batch.group.cpu()[rows]
        apart = silhouette(points[rows.numpy()], ids.numpy())
        power = 1.0 if apart >= well_apart or len(ids.unique()) == 1 else 2.0
        own = by_size(ids.bincount(), power)[ids]
        weights[rows] = own / own.sum()
    return weights * len(weights) / weights.sum()


def george(
    reference: nn.Module, batch: Batch, *, clusters: int | None = None, seed: int = 0, batch_size: int = 512
) -> Batch:
    """Rows with `group` set to clusters of the reference's features within each class; for `group_dro`.

    Args:
        reference: A trained network with a linear head; it is left as found.
        batch: All training rows.
        clusters: Per class; None lets the silhouette choose.
        seed: Of projection and mixtures.
        batch_size: Rows per call of the reference.

    Source:
        Sohoni et al. (2020), https://arxiv.org/abs/2011.12945.

    Example:
        >>> x = torch.tensor([[-2.0], [-2.1], [2.0], [2.0], [2.1], [-2.0]])
        >>> george(torch.nn.Linear(1, 2), Batch(x, torch.tensor([0, 0, 0, 1, 1, 1])), clusters=2).group.tolist()
        [0, 0, 1, 2, 2, 3]
    """
    features, _ = features_and_outputs(reference, batch.x, batch_size=batch_size)
    return replace(batch, group=george_clusters(features, batch.y, clusters=clusters, seed=seed))


def _answers(reference: nn.Module, batch: Batch) -> Tensor:
    """Classes that the reference gives, on the device of the labels."""
    with left_as_found(reference):
        return as_logits(run(reference, batch.x)).argmax(dim=1).to(batch.y.device)
