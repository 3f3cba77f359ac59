"""SELF: finetune the head on the few held-out rows where an early model and the final one disagree most.

What was learned late is what the early model gets wrong: where the shortcut came first, those rows are the ones that
contradict it, and no group label is needed to find them.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from firstcue.batch import Batch
from firstcue.training.logistic import Readout, Space
from firstcue.training.loop import minibatches, train

STEPS = 250
BATCH_SIZE = 32
RATE = 1e-2


def disagreement(early: Float[Tensor, "n k"], final: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
    """Total variation between the two models' class probabilities, from 0 to 1.

    Example:
        >>> disagreement(torch.tensor([[9.0, -9.0]]), torch.tensor([[-9.0, 9.0]]))
        tensor([1.])
    """
    return (early.softmax(dim=1) - final.softmax(dim=1)).abs().sum(dim=1) / 2


def select(
    early: Float[Tensor, "n k"], final: Float[Tensor, "n k"], y: Int[Tensor, " n"], num_classes: int
) -> Int[Tensor, " m"]:
    """Row ids, equally many of every class: those of highest disagreement, as many as change class in the mean class.

    Raises:
        ValueError: If the two models decide alike on every row.
    """
    differs = int((early.argmax(dim=1) != final.argmax(dim=1)).sum())
    if differs == 0:
        raise ValueError(
            "the early and the final model decide alike on every held-out row, so there is nothing to select; give an "
            'earlier checkpoint as `early`, or use the method "class-balanced".'
        )
    members = [(y == c).nonzero()[:, 0] for c in range(num_classes)]
    size = min(max(2, -(-differs // num_classes)), *(len(m) for m in members))
    score = disagreement(early, final)
    return torch.cat([m[score[m].argsort(descending=True, stable=True)[:size]] for m in members])


def finetune(
    readout: Readout, space: Space, features: Float[Tensor, "n d"], y: Int[Tensor, " n"], seed: int
) -> Readout:
    """The read-out after `STEPS` steps of gradient descent on these rows, in standardised features."""
    head = nn.Linear(features.shape[1], len(readout.bias), dtype=torch.float64)
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(readout.weight * space.scale))
        head.bias.copy_(torch.from_numpy(readout.bias + readout.weight @ space.mean))
    standard = torch.from_numpy(space(features.numpy()))
    per_epoch = -(-len(y) // BATCH_SIZE)
    batches = minibatches(Batch(standard, y), BATCH_SIZE, epochs=-(-STEPS // per_epoch), seed=seed)
    train(head, batches, torch.optim.SGD(head.parameters(), lr=RATE, momentum=0.9), seed=seed)
    return space.fold(Readout(head.weight.detach().numpy(), head.bias.detach().numpy()))
