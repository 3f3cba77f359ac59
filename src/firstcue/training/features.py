"""Penalties on features: what a head is given should look alike in every environment (CORAL, MMD)."""

import torch
from torch import Tensor, nn

from firstcue.agreement.penalties import Penalized
from firstcue.batch import Batch


class HeadInputs:
    """What a head was given in the last forward pass, with gradients; one hook."""

    def __init__(self, head: nn.Module, name: str):
        self._name = name
        self._last: Tensor | None = None
        self._hook = head.register_forward_pre_hook(self._see)

    def _see(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self._last = args[0]

    def take(self, n: int) -> Tensor:
        """`(n, d)`, once per forward pass.

        Raises:
            ValueError: If the head was not called, or not with one vector per row.
        """
        found, self._last = self._last, None
        if found is None:
            raise ValueError(
                f"the head given to {self._name} was not called in the forward pass; hand over the model's own head."
            )
        if len(found) != n:
            raise ValueError(f"{self._name} needs one vector per row before the head; it saw {tuple(found.shape)}.")
        return found.flatten(start_dim=1)

    def remove(self) -> None:
        """Take the hook off the head."""
        self._hook.remove()


class Matched(Penalized):
    """What `coral` and `mmd` return. Call `.remove()` when training is over."""

    def __init__(self, head: nn.Module, distance: str, strength: float, anneal: int):
        super().__init__(self._apart, strength, anneal, distance)
        self._inputs = HeadInputs(head, distance)
        self._distance = _DISTANCES[distance]

    def remove(self) -> None:
        """Take the hook off the head."""
        self._inputs.remove()

    def _apart(self, losses: Tensor, outputs: Tensor, group: Tensor) -> Tensor:
        features = self._inputs.take(len(losses))
        parts = [features[group == e] for e in group.unique()]
        return self._distance(parts) if len(parts) > 1 else losses.new_zeros(())


def coral(head: nn.Module, strength: float = 1.0, *, anneal: int = 0) -> Matched:
    """Features with equal means and covariances in every environment (CORAL), beside the environments' mean loss.

    The penalty is the mean over pairs of environments of the mean squared difference of means plus that of covariances.
    Covariances of environments with one row in the batch are left out.

    Args:
        head: The last linear layer of the network that is trained; its inputs are the features.
        strength: Factor of the penalty, at least 0.
        anneal: Number of first updates with a factor of at most 1.

    Source:
        Sun and Saenko, "Deep CORAL" (2016), https://arxiv.org/abs/1607.01719.

    Example:
        >>> weighting = coral(torch.nn.Linear(4, 2))
        >>> weighting.needs, weighting.remove()
        (('group',), None)
    """
    return Matched(head, "coral", strength, anneal)


def mmd(head: nn.Module, strength: float = 1.0, *, anneal: int = 0) -> Matched:
    """Features with the same distribution in every environment, by the maximum mean discrepancy, beside the mean loss.

    The penalty is the mean over pairs of environments of their squared discrepancy under a sum of Gaussian kernels
    exp(-gamma |a - b|^2) with gamma = 0.001, 0.01, ..., 1000.

    Args:
        head: As for `coral`.
        strength: Factor of the penalty, at least 0.
        anneal: Number of first updates with a factor of at most 1.

    Source:
        Li et al., "Domain generalization with adversarial feature learning" (2018), CVPR; kernels as in Gulrajani and
        Lopez-Paz (2020), https://arxiv.org/abs/2007.01434.

    Example:
        >>> weighting = mmd(torch.nn.Linear(4, 2))
        >>> weighting.remove()
    """
    return Matched(head, "mmd", strength, anneal)


def _coral(parts: list[Tensor]) -> Tensor:
    means = torch.stack([part.mean(dim=0) for part in parts])
    covariances = [part.mT.cov().reshape(-1) for part in parts if len(part) > 1]
    apart = _pairs_apart(means)
    return apart + _pairs_apart(torch.stack(covariances)) if len(covariances) > 1 else apart


def _pairs_apart(rows: Tensor) -> Tensor:
    """The mean over pairs of rows of the mean squared difference; as the sum over i < j is e sum|r|^2 - |sum r|^2."""
    centred = rows - rows.detach().mean(dim=0)
    count = len(rows)
    total = count * centred.square().mean(dim=1).sum() - centred.sum(dim=0).square().mean()
    return total / (count * (count - 1) / 2)


_GAMMAS = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)


def _mmd(parts: list[Tensor]) -> Tensor:
    """From the means k_ef of the kernel between environments: the mean over pairs of k_ee + k_ff - 2 k_ef."""
    x = torch.cat(parts)
    member = torch.cat([torch.full((len(part),), float(i)) for i, part in enumerate(parts)]).to(x).long()
    # by differences and not by inner products, whose rounding the narrowest kernel would take for distance
    apart = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").square()
    kernel = torch.stack([(-gamma * apart).exp() for gamma in _GAMMAS]).sum(dim=0)
    share = torch.nn.functional.one_hot(member, len(parts)).to(x)
    share = share / share.sum(dim=0)
    k = share.mT @ kernel @ share
    own = k.diagonal()
    pairs = own[:, None] + own[None] - 2 * k
    return pairs.sum() / (len(parts) * (len(parts) - 1))


_DISTANCES = {"coral": _coral, "mmd": _mmd}


def head_of(model: nn.Module, batch: Batch) -> nn.Module:
    """The module of the model's last linear layer.

    Raises:
        ValueError: If the model has no linear head.
    """
    from firstcue.heads import find_head

    return model.get_submodule(find_head(model, batch.x[:2]).name)
