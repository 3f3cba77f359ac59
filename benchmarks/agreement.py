"""Gradients of environments and of examples: firstcue beside TorchJD and the obvious loop, on one thread, in CPU seconds.

claim   AND-mask over environments, 136k-parameter MLP: at most 1.25 times one pooled forward and backward pass with 16
        environments of 256 rows, at most 1.3 times with 32 of 128; at least 8 times faster than a backward pass through
        the pooled graph for each environment, and than `torchjd.autojac.jac`.
        Agreement of 256 single examples: at most 1.6 times a plain step on the MLP, at most 1.5 times on a small
        convolutional network.
        The mask over time: at most 1.15 times a whole training step without it (MLP at batch 256, network at 128).
        A ResNet-18 with four environments fits into 4 GB.
false   if a line printed below says MISSED

The plain step of the first two is a forward and a backward pass; that of the mask over time has Adam's update as well.
Runs of what is compared alternate, so that a busy machine slows both alike; times are lower quartiles over runs.

Needs the extras `peers` and `torchjd`.
"""

import argparse
import resource
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from _timing import quartiles
from firstcue import TemporalAndMask, and_mask, apply_rule, environment_gradients, example_agreement

MEGABYTES = 4096
ENVIRONMENTS = [(16, 256, 1.25), (32, 128, 1.3)]


def mlp() -> nn.Module:
    """136k parameters."""
    widths = [16, 256, 256, 256]
    layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(256, 1))


def conv_net() -> nn.Module:
    """Small images, 95k parameters, group normalisation."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.GroupNorm(4, 32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.GroupNorm(4, 64), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(64, 128, 3, padding=1), nn.GroupNorm(4, 128), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip


class Block(nn.Module):
    """Two convolutions and a short cut, with group normalisation."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.path = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.GroupNorm(8, outputs), nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.GroupNorm(8, outputs),
        )  # fmt: skip
        self.short = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return (self.path(x) + self.short(x)).relu()


def resnet() -> nn.Module:
    """ResNet-18 for 32 x 32 images: 11 million parameters."""
    widths = [
        (64, 64, 1),
        (64, 64, 1),
        (64, 128, 2),
        (128, 128, 1),
        (128, 256, 2),
        (256, 256, 1),
        (256, 512, 2),
        (512, 512, 1),
    ]
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.ReLU(), *(Block(*w) for w in widths),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10),
    )  # fmt: skip


def pooled_step(model: nn.Module, loss: Callable[..., Tensor], x: Tensor, y: Tensor) -> None:
    model.zero_grad()
    loss(model(x), y).backward()


def by_loop(model: nn.Module, loss: Callable[..., Tensor], x: Tensor, y: Tensor, environment: Tensor) -> list[Tensor]:
    """The slow reference: pooled forward pass, then a backward pass through all of it for each environment."""
    outputs, params = model(x), list(model.parameters())
    rows = [torch.autograd.grad(v, params, retain_graph=True) for v in losses_of(loss, outputs, y, environment)]
    return [torch.stack(stack) for stack in zip(*rows, strict=True)]


def by_peer(model: nn.Module, loss: Callable[..., Tensor], x: Tensor, y: Tensor, environment: Tensor) -> list[Tensor]:
    from torchjd.autojac import jac

    return list(jac(losses_of(loss, model(x), y, environment), list(model.parameters())))


def losses_of(loss: Callable[..., Tensor], outputs: Tensor, y: Tensor, environment: Tensor) -> list[Tensor]:
    return [loss(outputs[environment == e], y[environment == e]) for e in environment.unique()]


def masked(stacks: list[Tensor]) -> list[Tensor]:
    return [and_mask(stack) for stack in stacks]


def told(what: str, plain: float, ours: float, most: float, more: str = "", held: bool = True) -> bool:
    """Print a line; whether it holds."""
    held = held and ours <= most * plain
    print(
        f"{what:44}  plain {1e3 * plain:6.1f} ms  ours {1e3 * ours:6.1f} ms  {ours / plain:.2f} x, at most {most} wanted"
        f"{more}  {'held' if held else 'MISSED'}",
        flush=True,
    )
    return held


def rows_for(model: nn.Module, n: int) -> tuple[Callable[..., Tensor], Tensor, Tensor]:
    """A loss, inputs and labels, the same each time."""
    generator = torch.Generator().manual_seed(0)
    first = next(model.parameters())
    if first.ndim == 2:
        x = torch.randn(n, first.shape[1], generator=generator)
        return binary_cross_entropy_with_logits, x, torch.randint(0, 2, (n, 1), generator=generator).float()
    return (
        cross_entropy,
        torch.randn(n, 3, 16, 16, generator=generator),
        torch.randint(0, 10, (n,), generator=generator),
    )


def environments(e: int, b: int, most: float, repeats: int) -> bool:
    """AND-mask over environments, beside the pooled step, the loop and the peer."""
    model = mlp()
    loss, x, y = rows_for(model, e * b)
    environment = torch.randperm(e * b, generator=torch.Generator().manual_seed(1)) % e
    slow = by_loop(model, loss, x, y, environment)
    ours = environment_gradients(model, loss, (x, y), environment)
    error = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(ours.values(), slow, strict=True))
    fast = quartiles(
        {
            "plain": lambda: pooled_step(model, loss, x, y),
            "ours": lambda: apply_rule(model, and_mask, loss, (x, y), environment),
        },
        3 * repeats,
    )
    others = quartiles(
        {
            "loop": lambda: masked(by_loop(model, loss, x, y, environment)),
            "torchjd": lambda: masked(by_peer(model, loss, x, y, environment)),
        },
        max(2, repeats // 3),
    )
    times = {name: value / fast["ours"] for name, value in others.items()}
    more = "".join(f"  {name} {value:.1f} x slower, 8 wanted" for name, value in times.items())
    held = min(times.values()) >= 8 and error < 1e-4
    return told(f"{e} environments of {b}, AND-mask", *fast.values(), most, more + f"  error {error:.0e}", held)


def examples(name: str, make: Callable[[], nn.Module], n: int, most: float, repeats: int) -> bool:
    """Agreement of single examples beside a plain step."""
    model = make()
    loss, x, y = rows_for(model, n)
    runs = {
        "plain": lambda: pooled_step(model, loss, x, y),
        "ours": lambda: example_agreement(model, loss, (x, y)),
    }
    return told(f"{n} examples, {name}", *quartiles(runs, (25 if make is mlp else 3) * repeats).values(), most)


def over_time(name: str, make: Callable[[], nn.Module], n: int, repeats: int) -> bool:
    """A training step with the mask over time, beside the same step without."""
    models = [make(), make()]
    plain = torch.optim.Adam(models[0].parameters(), lr=1e-3)
    other = TemporalAndMask(torch.optim.Adam(models[1].parameters(), lr=1e-3), threshold=0.4, decay=0.8)
    loss, x, y = rows_for(models[0], n)

    def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        pooled_step(model, loss, x, y)
        optimizer.step()

    runs = {"plain": lambda: step(models[0], plain), "ours": lambda: step(models[1], other)}
    return told(f"mask over time, {name} at {n}", *quartiles(runs, (25 if make is mlp else 5) * repeats).values(), 1.15)


def memory() -> bool:
    """Peak of a process that makes the gradients of four environments side by side, and that applies a mask."""
    code = (
        "import resource, torch\n"
        "import agreement as b\n"
        "torch.set_num_threads(1)\n"
        "model = b.resnet(); n = 64\n"
        "x, y, e = torch.randn(n, 3, 32, 32), torch.arange(n) % 10, torch.arange(n) % 4\n"
        "g = b.environment_gradients(model, b.cross_entropy, (x, y), e)\n"
        "b.apply_rule(model, b.and_mask, b.cross_entropy, (x, y), e)\n"
        "assert sum(v[0].numel() for v in g.values()) > 11_000_000\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)\n"
    )
    peak = int(
        subprocess.run([sys.executable, "-c", code], cwd=sys.path[0], capture_output=True, text=True, check=True).stdout
    )
    held = peak <= MEGABYTES
    print(
        f"ResNet-18, 4 environments of 16 images: peak {peak} MB, at most {MEGABYTES} wanted  {'held' if held else 'MISSED'}"
    )
    return held


def main(fast: bool = False) -> int:
    """Print one line per claim; 1 if one is false (few repetitions claim nothing)."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    repeats = 1 if fast else 10
    try:
        held = [environments(*size, repeats) for size in ENVIRONMENTS]
        held += [
            examples("MLP", mlp, 256, 1.6, repeats),
            examples("convolutional network", conv_net, 256, 1.5, repeats),
        ]
        held += [over_time("MLP", mlp, 256, repeats), over_time("convolutional network", conv_net, 128, repeats)]
        held += [] if fast else [memory()]
    finally:
        torch.set_num_threads(threads)
    print(f"peak of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MB")
    return int(not fast and not all(held))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Agreement of gradients beside TorchJD, in CPU seconds on one thread.")
    parser.add_argument("--fast", action="store_true", help="few repetitions, about half a minute")
    sys.exit(main(**vars(parser.parse_args())))
