"""Simplicity: what its steps cost beside the sum of their parts, on one thread, in CPU seconds.

claim   A step of `act_grad` takes at most 1.3 times, and one of `lookahead` at most 1.6 times, the sum of its parts: a plain
        step of the classifier, a forward and backward pass of the simplifier, one of the density. Batch 32 at 28 x 28, all
        gates open, so that every image is measured.
        The bits of 10,000 images of 28 x 28 under gray28 take at most 60 s, even on one core. A step of fitting an
        `ImageGlow` takes at most 1.2 times that of normflows' Glow of the same size. Fitting gray28 and gray28-glow from
        scratch takes at most 30 minutes each, even on one core.
        Explaining 64 decisions at 28 x 28 to a budget of 0.1 nat each takes at most 60 s, even on one core; condensing for
        1,000 steps, one image per class of 16 x 16, at most 4 CPU minutes.
false   if a line printed below says MISSED

Runs of what is compared alternate, so that a busy machine slows both alike; times are lower quartiles over runs. Needs the
extra `peers`.
"""

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from _timing import quartiles
from firstcue._allocator import keep_freed
from firstcue.data import digits, shipped
from firstcue.forward import seeded
from firstcue.simplicity._outputs import training_without_batches
from firstcue.simplicity.autoregressive import PixelAR
from firstcue.simplicity.condense import condense
from firstcue.simplicity.density import bits
from firstcue.simplicity.explain import explain_simplify
from firstcue.simplicity.fitting import Plan, Run, _optimizer, _step
from firstcue.simplicity.gating import Pressure
from firstcue.simplicity.glow import ImageGlow
from firstcue.simplicity.loading import density_card, load_density
from firstcue.simplicity.simplify import Simplifier
from firstcue.training.loop import minibatches, train

ROWS, SIZE = 32, 28
MOST = {"act_grad": 1.3, "lookahead": 1.6}


def classifier() -> nn.Module:
    """Two convolutions and a linear head, 34k parameters, the same each time."""
    with seeded(0):
        return two_convolutions()


def two_convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 24, 3, padding=1), nn.ELU(), nn.AvgPool2d(2),
        nn.Conv2d(24, 48, 3, padding=1), nn.ELU(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(48 * 7 * 7, 10),
    )  # fmt: skip


def told(what: str, found: float, most: float, unit: str) -> bool:
    """Print a line; whether it holds."""
    print(
        f"{what:72} {found:8.2f} {unit}, at most {most:g} wanted  {'held' if found <= most else 'MISSED'}", flush=True
    )
    return found <= most


# steps of simplified training


def images() -> tuple[Tensor, Tensor]:
    """The same images each time, with the labels that the classifier gives them: the gate of `act_grad` is then open."""
    x = torch.rand(ROWS, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return x, classifier()(x).argmax(dim=1)


def plain_step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    cross_entropy(model(x), y).backward()
    optimizer.step()


def simplifier_pass(net: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    net(x).sum().backward()
    optimizer.step()


def density_pass(density: Any, x: Tensor) -> None:
    images = x.clone().requires_grad_()
    torch.autograd.grad(density.bits(images).sum(), images)


def fit_of(strategy: str, density: Any) -> Run:
    """A fit about to take steps, with tolerances that leave every gate open."""
    net, model = Simplifier().build((1, SIZE, SIZE), density), classifier()
    plan = Plan(
        strategy=strategy, lam=0.1, tau=1e6, d_max=1e6, bits_target=None, warmup=0, steps=1, ramp=0, frozen=False,
        augment=None, batch_size=ROWS, rate=1e-5, classifier_rate=1e-5, virtual_rate=0.1, seed=0,
    )  # fmt: skip
    adam = torch.optim.Adam(net.parameters(), lr=1e-5)
    return Run(net, model, density, plan, Pressure(0.1), 1e6, adam, _optimizer(model, 1e-5))


def training_steps(repeats: int) -> bool:
    """Both strategies beside their parts, with an autoregressive density of the size that ships."""
    keep_freed()  # as `fit` does; the parts gain as well
    (x, y), density, model = images(), PixelAR(hidden=32, blocks=3).requires_grad_(False).eval(), classifier()
    net = Simplifier().build((1, SIZE, SIZE), density)
    adam = torch.optim.Adam(net.parameters(), lr=1e-5)
    plain = _optimizer(model, 1e-5)
    runs: dict[str, Callable[[], Any]] = {
        "plain step": lambda: plain_step(model, plain, x, y),
        "simplifier": lambda: simplifier_pass(net, adam, x),
        "density": lambda: density_pass(density, x),
    }
    fits = {strategy: fit_of(strategy, density) for strategy in MOST}
    runs |= {strategy: partial(_step, fit, 0, x, y) for strategy, fit in fits.items()}
    with training_without_batches(model):
        found = quartiles(runs, repeats)
    parts = sum(found[name] for name in ("plain step", "simplifier", "density"))
    print("parts of a step: " + ", ".join(f"{name} {1e3 * found[name]:.1f} ms" for name in list(runs)[:3]), flush=True)
    held = [
        told(f"a step of {strategy} ({1e3 * found[strategy]:.1f} ms) over the sum of its parts", found[strategy] / parts, most, "x")
         for strategy, most in MOST.items()
    ]  # fmt: skip
    return all(held)


# densities


def bits_of_many(repeats: int) -> bool:
    """10,000 images under the density that ships, from 1,000 of them."""
    density = load_density("gray28")
    x = torch.rand(1000, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    found = quartiles({"bits": lambda: bits(density, x)}, max(4, repeats // 5))["bits"]
    return told("bits of 10,000 images under gray28", 10 * found, 60, "CPU s")


def peer_glow(steps: int, scales: int, hidden: int) -> nn.Module:
    """normflows' Glow of the same size, for grey images."""
    import normflows

    latents, merges, flows = [], [], []
    for scale in range(scales):
        channels, side = 2 ** (scales + 1 - scale), SIZE // 2 ** (scales - scale)
        blocks = [normflows.flows.GlowBlock(channels, hidden, split_mode="channel", scale=True) for _ in range(steps)]
        flows.append([*blocks, normflows.flows.Squeeze()])
        merges += [normflows.flows.Merge()] if scale else []
        shape = (channels // 2, side, side) if scale else (channels, side, side)
        latents.append(normflows.distributions.DiagGaussian(shape))
    return normflows.MultiscaleFlow(latents, flows, merges, class_cond=False)


def stepping(model: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], None]:
    """A step of training: forward, backward, update."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss().backward()
        optimizer.step()

    return step


def glow_beside_peer(repeats: int) -> bool:
    """One training step of both, batch 64, eight steps per scale, two scales, 64 hidden channels."""
    x = torch.rand(64, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    with seeded(0):
        peer = peer_glow(8, 2, 64)
    ours = ImageGlow((1, SIZE, SIZE), depth=8, scales=2, hidden=64)
    ours.initialise(x)
    found = quartiles(
        {
            "ours": stepping(ours, lambda: ours.bits(x).mean()),
            "peer": stepping(peer, lambda: -peer.log_prob(x, None).mean()),
        },
        repeats,
    )
    sizes = [sum(p.numel() for p in model.parameters()) for model in (ours, peer)]
    print(
        f"parameters: ours {sizes[0]}, normflows {sizes[1]}; a step: {1e3 * found['ours']:.0f} and {1e3 * found['peer']:.0f} ms"
    )
    return told("a step of ImageGlow over one of normflows' Glow", found["ours"] / found["peer"], 1.2, "x")


def fitting_what_ships(repeats: int) -> bool:
    """Steps of the recorded number, from the time of one."""
    held = []
    for name in ("gray28", "gray28-glow"):
        card = density_card(name)
        density = load_density(name).requires_grad_(True)
        x = torch.rand(card["batch_size"], 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
        step = stepping(density, partial(lambda density, x: density.bits(x).mean(), density, x))
        minutes = quartiles({name: step}, max(4, repeats // 5))[name] * card["steps"] / 60
        held.append(told(f"fitting {name} from scratch, {card['steps']} steps", minutes, 30, "CPU min"))
    return all(held)


def explaining(repeats: int) -> bool:
    """64 decisions about garments under gray28, without controls."""
    batch = shipped().rows(slice(0, 2000))
    with seeded(0):
        model = nn.Sequential(*list(two_convolutions())[:-1], nn.Linear(48 * 7 * 7, 2))
    train(model, minibatches(batch, 64, 2), torch.optim.Adam(model.parameters(), lr=1e-3))
    density, rows = load_density("gray28"), shipped().rows(slice(2000, 2064)).x
    began = time.process_time()
    found = explain_simplify(model, rows, density, kl_budget=0.1, controls=False)
    spent = time.process_time() - began
    saved = 1 - float(found.bits_after.sum() / found.bits_before.sum())
    same = float((found.decision_before == found.decision_after).double().mean())
    print(
        f"64 garments: {saved:.0%} of the bits saved, divergence at most {float(found.kl.max()):.3f} nat, {same:.0%} decided alike"
    )
    return told("explaining 64 decisions", spent, 60, "CPU s") and float(found.kl.max()) <= 0.1


def condensing(repeats: int) -> bool:
    """1,000 steps on digits of 16 x 16, one image per class."""
    batch = digits(tuple(range(10)), 16)
    began = time.process_time()
    condense(batch.x, batch.y, load_density("dct"), per_class=1, steps=1000)
    return told("condensing for 1,000 steps", (time.process_time() - began) / 60, 4, "CPU min")


PARTS = {
    "training": training_steps,
    "bits": bits_of_many,
    "glow": glow_beside_peer,
    "fitting": fitting_what_ships,
    "explaining": explaining,
    "condensing": condensing,
}
"""Name of a part to what measures it, given the number of repetitions; whether all of its lines hold."""


def main() -> int:
    """`simplicity.py [PART ...] [--repeats N]`; 1 if any claim is false."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []])
    parser.add_argument("--repeats", type=int, default=25)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    held = [PARTS[name](chosen.repeats) for name in chosen.parts or PARTS]
    return int(not all(held))


if __name__ == "__main__":
    sys.exit(main())
