"""Richness beside the forward pass that feeds it and beside other measures of it, on one thread, in CPU seconds.

claim   MLP 784-p-p-10, 10,000 images of Fashion-MNIST, p of 512, 1024 and 2048, untrained and trained: D_LR costs at most
        the forward pass; by probes at p = 2048 at most 0.2 of it, with errors below 1e-3.
        256 images, p = 512: at least 100 times less than the empirical tangent kernel of all 10 x 10 outputs.
        5,000 images, p = 512: at least 20 times less than kernels of rows with explicit centring products.
        A run of 9,380 steps (20 epochs of 60,000 images) recorded at 20 steps, log-spaced: at most 5 % of the training. What
        one row costs in steps is printed too, to judge shorter runs by.
false   if a line printed below says MISSED

Needs Debian's dataset-fashion-mnist. Where OPENBLAS_CORETYPE is set, numpy's kernels are slowed: run with
`env -u OPENBLAS_CORETYPE`.
"""

import argparse
import copy
import gc
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import scipy.linalg  # noqa: F401 - loaded before threads are limited, or its BLAS would keep two
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap
from torch.nn.functional import cross_entropy

from firstcue import Recorder, log_spaced, low_rank_measure, measure_richness, richness_measure
from firstcue.batch import Batch
from firstcue.data import read, shipped
from firstcue.layers import features_and_outputs

BATCH = 512


def images(n: int, fast: bool) -> Batch:
    data = shipped() if fast else read("builtin:fashion-mnist")
    return Batch(data.x[:n].flatten(1).contiguous(), data.y[:n])


def mlp(p: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(784, p), nn.ReLU(), nn.Linear(p, p), nn.ReLU(), nn.Linear(p, 10))


def train(model: nn.Module, data: Batch, steps: int, after: Callable[[int], Any] = lambda step: None) -> nn.Module:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    generator = torch.Generator().manual_seed(0)
    after(0)
    for step in range(1, steps + 1):
        rows = torch.randint(0, len(data), (128,), generator=generator)
        optimizer.zero_grad()
        cross_entropy(model(data.x[rows]), data.y[rows]).backward()
        optimizer.step()
        after(step)
    return model


def forward(model: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        for part in x.split(BATCH):
            model(part)


def kernels_of_rows(features: Tensor, outputs: Tensor) -> float:
    """The definition in float32, as most code for kernel alignment computes it."""
    n = len(features)
    centring = torch.eye(n) - 1 / n
    span = torch.linalg.qr(outputs).Q
    kernel = centring @ (features @ features.T) @ centring
    projector = centring @ (span @ span.T) @ centring
    return float(1 - (kernel * projector).sum() / (kernel.norm() * projector.norm()))


def tangent_kernel_blocks(model: nn.Module, x: Tensor, rows: int) -> Tensor:
    """Jacobians of every input and output once, and the products of each block of inputs with itself alone.

    The method of PyTorch's own tutorial on neural tangent kernels. The products between blocks, which the whole kernel
    also needs, are left out because all Jacobians do not fit into memory: the time is a lower bound.
    """
    parameters = {name: value.detach() for name, value in model.named_parameters()}

    def one(values: dict[str, Tensor], row: Tensor) -> Tensor:
        return functional_call(model, values, (row[None],))[0]

    blocks = []
    for part in x.split(rows):
        jacobians = vmap(jacrev(one), (None, 0))(parameters, part)
        flat = [value.flatten(2).flatten(0, 1) for value in jacobians.values()]
        blocks.append(sum(value @ value.T for value in flat))
    return torch.stack(blocks)


def seconds(run: Callable[[], Any]) -> float:
    gc.collect()
    start = time.process_time()
    run()
    return time.process_time() - start


def interleaved(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median CPU seconds of each, after one run outside the clock; a busy machine slows all of them alike."""
    for run in runs.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            times[name].append(seconds(run))
    return {name: statistics.median(found) for name, found in times.items()}


def told(text: str, held: bool) -> bool:
    print(f"{text}  {'held' if held else 'MISSED'}", flush=True)
    return held


def beside_the_forward_pass(data: Batch, p: int, steps: int, repeats: int) -> bool:
    held = True
    for name, model in (("untrained", mlp(p)), ("trained", train(mlp(p), data, steps))):
        features, outputs = features_and_outputs(model, data.x)
        times = interleaved(
            {
                "forward": lambda model=model: forward(model, data.x),
                "exact": lambda f=features, o=outputs: low_rank_measure(f, o),
                "probe": lambda f=features, o=outputs: low_rank_measure(f, o, method="probe"),
                "whole": lambda model=model: measure_richness(model, data.x, debias=False),
            },
            repeats,
        )
        exact = low_rank_measure(features, outputs)
        found = [low_rank_measure(features, outputs, method="probe", seed=seed) for seed in range(5)]
        error = max(abs(probe.dlr - exact.dlr) for probe in found)
        share, probed = times["exact"] / times["forward"], times["probe"] / times["forward"]
        good = share <= 1 and error < 1e-3 and (p < 2048 or probed <= 0.2)
        held &= told(
            f"p {p} {name:9}  D_LR {exact.dlr:.3f}  forward {times['forward']:.3f} s  exact {times['exact']:.3f} s = "
            f"{share:.2f} of it  probe {times['probe']:.3f} s = {probed:.2f} of it, error up to {error:.0e} (own "
            f"estimate {found[0].probe_error:.0e})  forward and D_LR in one pass {times['whole']:.3f} s",
            good,
        )
    return held


def beside_the_tangent_kernel(data: Batch, p: int, n: int, repeats: int) -> bool:
    model, x = mlp(p), data.x[:n]
    times = interleaved({"ours": lambda: measure_richness(model, x)}, 3 * repeats)
    tangent_kernel_blocks(model, x[:16], 16)
    kernel = seconds(lambda: tangent_kernel_blocks(model, x, 16))
    ratio = kernel / times["ours"]
    text = f"{n} images, p {p}  tangent kernel 10 x 10 at least {kernel:.2f} s  forward and D_LR {times['ours']:.4f} s"
    return told(f"{text}  {ratio:.0f} x less, 100 wanted", ratio >= 100)


def beside_kernels_of_rows(data: Batch, p: int, n: int, repeats: int) -> bool:
    features, outputs = features_and_outputs(mlp(p), data.x[:n])
    times = interleaved({"ours": lambda: low_rank_measure(features, outputs)}, 3 * repeats)
    kernels = seconds(lambda: kernels_of_rows(features, outputs))
    gap = abs(kernels_of_rows(features, outputs) - low_rank_measure(features, outputs).dlr) if n < 2000 else 0.0
    ratio = kernels / times["ours"]
    text = f"{n:,} images, p {p}  kernels of rows {kernels:.2f} s  ours {times['ours']:.4f} s  {ratio:.0f} x less"
    return told(f"{text}, 20 wanted", ratio >= 20 and gap < 1e-3)


def beside_training(data: Batch, p: int, steps: int) -> bool:
    recorder = Recorder([richness_measure(data)], every=log_spaced(steps, 20))
    model, spent = copy.deepcopy(mlp(p)), [0.0]

    def record(step: int) -> None:
        start = time.process_time()
        recorder.step(model, step)
        spent[0] += time.process_time() - start

    whole = seconds(lambda: train(model, data, steps, record))
    share = spent[0] / (whole - spent[0])
    text = f"{steps:,} steps, p {p}  training {whole - spent[0]:.1f} s  {len(recorder.rows)} rows recorded {spent[0]:.2f} s"
    each = spent[0] / len(recorder.rows) / ((whole - spent[0]) / steps)
    return told(f"{text}, each as much as {each:.0f} steps  {share:.1%} of it, 5 % allowed", share <= 0.05)


def main(fast: bool = False) -> int:
    """Print one line per case; 1 if a claim is false (small sizes claim nothing)."""
    with threadpool_limits(1):
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            data = images(2_000 if fast else 10_000, fast)
            repeats: int = 1 if fast else 3
            held: list[bool] = []
            widths = (64,) if fast else (512, 1024, 2048)
            held += [beside_the_forward_pass(data, p, 20 if fast else 200, repeats) for p in widths]
            held.append(beside_the_tangent_kernel(data, 32 if fast else 512, 32 if fast else 256, repeats))
            held.append(beside_kernels_of_rows(data, 64 if fast else 512, 500 if fast else 5_000, repeats))
            held.append(beside_training(data, 64 if fast else 512, 100 if fast else 9_380))
        finally:
            torch.set_num_threads(threads)
    return int(not fast and not all(held))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Richness beside what feeds it and its rivals, in CPU seconds.")
    parser.add_argument("--fast", action="store_true", help="small sizes, a few seconds, at which no claim is made")
    sys.exit(main(**vars(parser.parse_args())))
