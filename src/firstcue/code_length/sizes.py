"""How rows are cut into chunks whose sizes grow by a constant factor."""

MOST_FIRST = 1024
MOST_VALIDATION = 2048


def chunk_sizes(
    n: int, num_classes: int, num_features: int = 0, *, chunks: int = 10, batch_size: int = 32, first: int | None = None
) -> tuple[int, ...]:
    """Sizes that grow geometrically and sum to `n` exactly: the parts of a data set that are learned one after the other.

    The first chunk, whose labels are coded without a model, has twice the largest of batch size, classes and features, at
    most 1024 and at most n / (2 chunks); the factor follows by root finding, and the rows that rounding down leaves over go
    to the largest remainders.

    Args:
        n: Rows to code, those for validation not among them.
        num_classes: Number of classes.
        num_features: Numbers per row; 0 when it should not count.
        chunks: How many.
        batch_size: Of the training, for the first chunk.
        first: Size of the first chunk, in place of the rule above.

    Raises:
        ValueError: If `n` is below 2 `chunks`, a number is not positive, or `first` leaves no room to grow.

    Source:
        The chunks of Quirke and Belrose (2025), https://arxiv.org/abs/2502.02820.

    Example:
        >>> chunk_sizes(1438, 10, 64)
        (71, 82, 94, 108, 124, 142, 164, 188, 216, 249)
    """
    if chunks < 2 or num_classes < 1 or num_features < 0 or batch_size < 1:
        raise ValueError(
            f"at least two chunks, one class and one row per batch are needed; got `chunks` = {chunks}, `num_classes` = "
            f"{num_classes}, `num_features` = {num_features}, `batch_size` = {batch_size}."
        )
    if n < 2 * chunks:
        raise ValueError(
            f"{n} rows cannot be cut into {chunks} growing chunks; {2 * chunks} are needed, or fewer chunks."
        )
    start = (
        min(MOST_FIRST, 2 * max(batch_size, num_classes, num_features), n // (2 * chunks)) if first is None else first
    )
    if not 1 <= start <= n // chunks:
        raise ValueError(
            f"`first` is between 1 and n / chunks = {n // chunks} rows, so that chunks can grow; got {start}."
        )
    factor = _factor(n / start, chunks)
    exact = [start * factor**i for i in range(chunks)]
    sizes = [int(value + 1e-9) for value in exact]
    by_remainder = sorted(range(chunks), key=lambda i: sizes[i] - exact[i])
    for i in by_remainder[: n - sum(sizes)]:
        sizes[i] += 1
    return tuple(sorted(sizes))


def validation_rows(n: int) -> int:
    """How many of `n` rows are set apart to say when to stop: a fifth, at most 2048."""
    return min(MOST_VALIDATION, n // 5)


def _factor(ratio: float, chunks: int) -> float:
    """The r >= 1 for which 1 + r + ... + r^(chunks - 1) = ratio, by bisection."""
    low, high = 1.0, max(2.0, ratio)
    for _ in range(200):
        middle = (low + high) / 2
        if sum(middle**i for i in range(chunks)) < ratio:
            low = middle
        else:
            high = middle
    return high
