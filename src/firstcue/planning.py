"""What a measure will cost before it is run: operations, bytes read and memory, as formulas of the sizes.

Operations are those of a large product; what runs slower than that, an eigenvalue problem above all, counts for as many
operations as a product would do in its time (constants measured at d = 512 and 1,024).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil, log2

Number = int | float


@dataclass(frozen=True)
class Cost:
    """What one measure takes.

    Example:
        >>> Cost("sum", 2e9, 8e9, 1e6).seconds(Machine())
        0.8
    """

    name: str
    flops: Number
    """Floating-point operations; a multiplication and an addition count as two."""

    bytes_read: Number
    """From disk or network, once."""

    memory: Number
    """Bytes that one worker holds at the same time, mapped files not counted."""

    parallel: bool = True
    """Whether workers share it; otherwise one of them does it all."""

    bytes_written: Number = 0.0

    def seconds(self, machine: "Machine") -> float:
        """The slower of computing and reading; see `limit`."""
        return max(self._parts(machine).values())

    def limit(self, machine: "Machine") -> str:
        """Which number decides: "processors", "reading" or "memory"."""
        if self.memory > machine.memory:
            return "memory"
        parts = self._parts(machine)
        return max(parts, key=lambda name: parts[name])

    def _parts(self, machine: "Machine") -> dict[str, float]:
        workers = machine.workers if self.parallel else 1
        moved = (self.bytes_read + self.bytes_written) / (machine.read * (machine.machines if self.parallel else 1))
        return {"processors": self.flops / (machine.flops * workers), "reading": moved}


@dataclass(frozen=True)
class Machine:
    """Workers and what each can do.

    Args:
        workers: Processes in all, one thread each.
        flops: Operations a second of one worker in large float64 products (twice that for float32).
        read: Bytes a second that one machine reads.
        memory: Bytes for one worker.
        machines: Over which the workers are spread.
    """

    workers: Number = 2
    flops: Number = 2e10
    read: Number = 1e10
    memory: Number = 4e9
    machines: Number = 1


def moments(n: Number, d: Number, k: Number = 1, bytes_per_number: Number = 4, shards: Number = 1, **_: Number) -> Cost:
    """Moments of n rows of d numbers in k groups, over shards.

    A symmetric product of n x d takes n d^2 operations (half of a general one); one sum is 8 k d^2 bytes. A worker holds
    two sums and the one it writes, the product of a chunk, and two chunks of 4,096 rows.
    """
    sum_ = 8 * k * d**2
    return Cost(
        "moments",
        n * d**2,
        n * d * bytes_per_number,
        3 * sum_ + 8 * d**2 + 2 * 4096 * d * 8,
        bytes_written=shards * sum_,
    )


def merging(d: Number, k: Number = 1, shards: Number = 1, **_: Number) -> Cost:
    """Adding up one sum for each shard, in place: half of each is added, and one product for 32 of them joins the means."""
    return Cost("merging", shards * k * d**2 * 1.5, shards * 8 * k * d**2, 3 * 8 * k * d**2, parallel=False)


def leace(d: Number, k: Number = 2, **_: Number) -> Cost:
    """LEACE from moments: a Cholesky factor, solved for k columns."""
    return Cost("leace", d**3 + 6 * d**2 * k, 0, 8 * (k + 5) * d**2, parallel=False)


def qleace(d: Number, k: Number = 2, iterations: Number = 6, **_: Number) -> Cost:
    """Quadratic LEACE: roots for each class, again in each iteration of the barycentre; two classes need no iterations."""
    rounds = iterations if k > 2 else 0
    return Cost("qleace", k * (12 + 7 * rounds) * d**3, 0, 8 * (2 * k + 6) * d**2, parallel=False)


def linear_probe(d: Number, k: Number = 2, **_: Number) -> Cost:
    """Linear probe from moments: a Cholesky factor, solved for k columns."""
    return Cost("linear probe", d**3 + 4 * d**2 * k, 0, 8 * (k + 4) * d**2, parallel=False)


def quadratic_probe(d: Number, k: Number = 2, **_: Number) -> Cost:
    """Quadratic probe from moments: an eigenvalue problem for each class."""
    return Cost("quadratic probe", 16 * k * d**3, 0, 8 * (2 * k + 3) * d**2, parallel=False)


def low_rank(d: Number, outputs: Number = 10, **_: Number) -> Cost:
    """D_LR from joint moments of features and outputs: norms and products with the outputs' columns."""
    return Cost("low rank", (d + outputs) ** 2 * (4 * outputs + 20), 0, 8 * 5 * (d + outputs) ** 2, parallel=False)


def sample_audit(d: Number, rows: Number = 20_000, k: Number = 2, **_: Number) -> Cost:
    """The part of an audit of shards that needs rows: about 60 passes of products over the sample, by five folds."""
    return Cost(
        "audit of the sample", 60 * rows * d**2, rows * d * 4, rows * d * 4 * 6 + 8 * (k + 6) * d**2, parallel=False
    )


def environment_gradients(
    n: Number, parameters: Number, environments: Number = 2, batch: Number = 64, **_: Number
) -> Cost:
    """A pass of training by a rule over n rows: forward and backward (6 per parameter and row), and the rule on the gradients."""
    return Cost(
        "environment gradients",
        6 * parameters * n + 4 * environments * parameters * n / batch,
        0,
        4 * (environments + 4) * parameters,
    )


def all_reduce(
    parameters: Number, environments: Number = 1, workers: Number = 2, steps: Number = 1, **_: Number
) -> Cost:
    """Adding up gradients over data-parallel workers: a ring sends 2 (w - 1)/w of them from each, at every step."""
    size = 4 * environments * parameters
    return Cost("adding up gradients", size / 4 * steps, 2 * (workers - 1) / workers * size * steps, 2 * size)


def sweep(
    trials: Number,
    seconds: Number = 60,
    overhead: Number = 0.005,
    row_bytes: Number = 2000,
    flops: Number = 2e10,
    **_: Number,
) -> Cost:
    """A sweep of trials of some seconds each; its results, and the list of all of them in the memory of the caller."""
    return Cost(
        "sweep", trials * (seconds + overhead) * flops, 0, trials * 4 * row_bytes, bytes_written=trials * row_bytes
    )


METHODS: Mapping[str, Callable[..., Cost]] = {
    "moments": moments,
    "merging": merging,
    "leace": leace,
    "qleace": qleace,
    "linear probe": linear_probe,
    "quadratic probe": quadratic_probe,
    "low rank": low_rank,
    "audit of the sample": sample_audit,
}
"""What an audit of n rows of d numbers may ask for."""

SIZES = {
    "n": "rows",
    "d": "numbers per row",
    "k": "groups (classes times values of the cues)",
    "outputs": "logits per row",
    "shards": "files",
    "bytes_per_number": "4 for float32, 2 for float16",
    "rows": "rows of the sample",
    "iterations": "of the barycentre in qleace",
    "trials": "trials of a sweep",
    "seconds": "of one trial",
    "parameters": "of a model to be trained by a rule",
    "environments": "of each batch",
    "batch": "rows of a batch",
    "workers": "processes",
    "machines": "over which they are spread",
    "flops": "operations a second of one worker",
    "read": "bytes a second that one machine reads",
    "memory": "bytes for one worker",
}
"""What `firstcue doctor --plan` takes."""


def plan(sizes: Mapping[str, Number]) -> tuple[list[Cost], Machine]:
    """The costs that these sizes allow to name, and the machine they are told for.

    Args:
        sizes: Numbers by the names in `SIZES`; n and d for an audit of shards, trials for a sweep, n and parameters for
            training by a rule.

    Raises:
        ValueError: For a name that is unknown, a number that is not positive, or too few of them.

    Example:
        >>> costs, machine = plan({"n": 1e9, "d": 4096, "workers": 64})
        >>> costs[0].name, costs[0].limit(machine), round(costs[0].seconds(machine) / 3600, 1)
        ('moments', 'processors', 3.6)
    """
    unknown = [name for name in sizes if name not in SIZES]
    if unknown:
        raise ValueError(f"there is no size {unknown[0]!r} to plan with; there are {', '.join(SIZES)}.")
    wrong = [name for name, value in sizes.items() if not 0 < value < float("inf")]
    if wrong:
        raise ValueError(f"{wrong[0]} has to be a positive number; got {sizes[wrong[0]]:g}.")
    given = dict(sizes)
    machine = Machine(
        **{name: given[name] for name in ("workers", "machines", "flops", "read", "memory") if name in given}
    )
    costs: list[Cost] = []
    if {"n", "d"} <= given.keys():
        given.setdefault("shards", shards_for(given["n"], given["d"], given.get("bytes_per_number", 4)))
        costs += [method(**given) for method in METHODS.values()]
    if "trials" in given:
        costs.append(sweep(**{**given, "flops": machine.flops}))
    if {"n", "parameters"} <= given.keys():
        costs.append(environment_gradients(**given))
    if not costs:
        raise ValueError(
            "give n and d for an audit of shards, trials for a sweep, n and parameters for training by a rule."
        )
    return costs, machine


def shards_for(n: Number, d: Number, bytes_per_number: Number = 4, size: Number = 2e9) -> int:
    """How many files of about 2 GB n rows of d numbers fill, a power of two.

    Example:
        >>> shards_for(1e7, 512)
        16
    """
    return int(2 ** ceil(log2(max(1.0, n * d * bytes_per_number / size))))
