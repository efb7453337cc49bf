"""How a call will run: (shapes, dtype, machine) -> Plan.  Pure, and able to explain itself."""

import functools
from dataclasses import dataclass

from numbadense._engine.cpu.differential import shares
from numbadense._engine.cpu.forward import DEPTH

# A parallel launch is worth its fork and join above this much work, in multiply-adds, by threading layer.
PARALLEL_FROM = {"omp": 1_000_000, "tbb": 1_000_000, "workqueue": 250_000_000}
# An activation is worth two threads above this many elements.
PARALLEL_ELEMENTS = {"omp": 100_000, "tbb": 100_000, "workqueue": 20_000_000}
# The output of a light activation, apart from x, goes past the caches from this many bytes on.  On a Zen 4 with 32 MB
# of L3 (25 November 2026, relu, one thread, both dtypes) that was 0.6 times as fast for 4 MB of output, even for 16 MB,
# and 1.15 to 1.45 times for 32 to 256 MB: docs/decisions/0015.  Other CPUs have more L3.
STREAMED_FROM = 64 << 20
FEWEST_PARALLEL = min(PARALLEL_FROM.values())
FEWEST_PARALLEL_ELEMENTS = min(PARALLEL_ELEMENTS.values())
# Rows that go through all layers together: their activations and one panel of weights share the second-level cache.
BLOCK_ROWS = 192
SMALLEST_BLOCK = 24  # and what blocks are multiples of: the height of any tile divides it
BLOCK_BYTES = 786_432
# Rows that go through all layers with their tangents.  On a Zen 4 (25 November 2026, float32, jvp and jacobian of 256
# rows) 24, 48, 96 and 192 were within 3 % of each other; deep layers want 32.
DERIVED_ROWS = 48
# What a split has to gain over the other, or over one thread, to be worth its launches.
CLEAR_GAIN = 1.1


@dataclass(frozen=True, slots=True)
class Plan:
    """How `m` rows go through a network."""

    m: int
    threads: int
    by_columns: bool  # whether the threads share the columns of each layer, or the rows
    block: int
    half: int
    scratch: int  # elements: two halves, and by rows as many for each thread
    why: str

    @property
    def parallel(self) -> bool:
        """Whether the parallel kernel runs, or its serial twin."""
        return self.threads > 1


def speed_up(pieces: int, threads: int) -> float:
    """Return how much faster `threads` do equal `pieces` than one: the thread that has most of them counts."""
    return pieces / -(-pieces // threads) if pieces else 1.0


def work(shapes: tuple[tuple[int, int], ...], m: int) -> int:
    """Return the multiply-adds of `m` rows through layers of `shapes`."""
    return m * sum(k * n for k, n in shapes)


def block_rows(shapes: tuple[tuple[int, int], ...], width: int, itemsize: int) -> int:
    """Return how many rows at most go through layers of `shapes` together."""
    deepest = max(max(min(k, DEPTH) for k, _ in shapes), width, 1)
    return max(SMALLEST_BLOCK, min(BLOCK_ROWS, BLOCK_BYTES // (deepest * itemsize) // SMALLEST_BLOCK * SMALLEST_BLOCK))


def most_serial_rows(shapes: tuple[tuple[int, int], ...]) -> int:
    """Return the number of rows up to which layers of `shapes` stay on one thread, whatever the settings."""
    return FEWEST_PARALLEL // max(1, work(shapes, 1))


@functools.lru_cache(maxsize=1024)
def forward(
    shapes: tuple[tuple[int, int], ...],
    panels: tuple[int, ...],
    width: int,
    itemsize: int,
    quantum: int,
    m: int,
    limit: int,
    layer: str,
) -> Plan:
    """Plan `m` rows through layers of `shapes`, whose weights are in `panels`, with at most `limit` threads.

    Threads share the rows, in multiples of a tile's height, the `quantum`; or the panels of each layer, one launch a
    layer, where that splits more evenly: few rows, or a single one, through wide layers.  Blocks of rows are as equal
    as can be and as many for each thread, for the slowest thread is what counts.
    """
    amount, crossover = work(shapes, m), PARALLEL_FROM[layer]
    most = block_rows(shapes, width, itemsize)
    if limit <= 1:
        return _serial(m, most, width, "one thread allowed")
    if amount < crossover:
        return _serial(m, most, width, f"{amount:.3g} units of work, under the crossover of {crossover:.3g}")
    by_rows = speed_up(-(-m // quantum), limit)
    slowest = sum(work((shape,), m) / speed_up(count, limit) for shape, count in zip(shapes, panels, strict=True))
    by_columns = amount / slowest if amount >= crossover * len(shapes) else 1.0
    if max(by_rows, by_columns) < CLEAR_GAIN:
        return _serial(m, most, width, "too few rows and columns to share")
    why = f"{amount:.3g} units of work, over the crossover of {crossover:.3g}"
    if by_columns > CLEAR_GAIN * by_rows and m <= most:
        return Plan(m, limit, True, m, m * width, 2 * m * width, f"{why}, shared by columns")
    threads = min(limit, -(-m // quantum))
    blocks = threads * -(-m // (threads * most))
    block = -(-m // blocks // quantum) * quantum
    return Plan(m, threads, False, block, block * width, 2 * block * width * threads, why)


def _serial(m: int, most: int, width: int, why: str) -> Plan:
    block = max(1, min(m, most))
    return Plan(m, 1, False, block, block * width, 2 * block * width, why)


@functools.lru_cache(maxsize=1024)
def population(
    shapes: tuple[tuple[int, int], ...],
    width: int,
    itemsize: int,
    quantum: int,
    networks: int,
    m: int,
    routed: bool,
    limit: int,
    layer: str,
) -> Plan:
    """Plan `m` rows through each of many networks, or if they are `routed`, through some one of them.

    A unit of work is all the rows of a network, or where these are too many, or the networks fewer than the threads, an
    equal part of them.  Routed rows are shared out as they are.
    """
    total = m if routed else networks * m
    lists = 1 if routed else max(1, networks)
    amount, crossover = work(shapes, total), PARALLEL_FROM[layer]
    threads, why = (
        min(limit, lists * -(-m // quantum)),
        f"{amount:.3g} units of work, over the crossover of {crossover:.3g}",
    )
    if limit <= 1:
        threads, why = 1, "one thread allowed"
    elif amount < crossover:
        threads, why = 1, f"{amount:.3g} units of work, under the crossover of {crossover:.3g}"
    most = block_rows(shapes, width, itemsize)
    parts = max(-(-m // most), -(-threads // lists))
    unit = max(1, m if parts == 1 else min(m, -(-m // parts // quantum) * quantum))
    half = unit * width
    room = 2 * half + (unit * (shapes[0][0] + shapes[-1][1]) if routed else 0)
    return Plan(total, max(1, threads), False, unit, half, room * max(1, threads), why)


def room_of_derivatives(shapes: tuple[tuple[int, int], ...], width: int, kept: int, itemsize: int) -> int:
    """Return the elements of scratch in which a thread works well: for a block of rows, each with one tangent."""
    return min(DERIVED_ROWS, block_rows(shapes, width, itemsize)) * (4 * width + kept)


@functools.lru_cache(maxsize=1024)
def derivatives(
    shapes: tuple[tuple[int, int], ...],
    width: int,
    kept: int,
    itemsize: int,
    m: int,
    each: int,
    limit: int,
    layer: str,
) -> Plan:
    """Plan `m` rows with `each` tangents of every one of them through layers of `shapes`; threads share the rows.

    `half` is how many tangents go together: those of some rows, or some of those of one.
    """
    amount, crossover = work(shapes, m * (1 + each)), PARALLEL_FROM[layer]
    threads, why = min(limit, m), f"{amount:.3g} units of work, over the crossover of {crossover:.3g}"
    if limit <= 1:
        threads, why = 1, "one thread allowed"
    elif amount < crossover:
        threads, why = 1, f"{amount:.3g} units of work, under the crossover of {crossover:.3g}"
    threads = max(1, threads)
    most, group = shares(width, kept, each, room_of_derivatives(shapes, width, kept, itemsize))
    blocks = threads * max(1, -(-m // (threads * most)))
    block = max(1, -(-m // blocks))
    group = min(group, max(1, block * each))
    return Plan(m, threads, False, block, group, threads * (block * (2 * width + kept) + group * 2 * width), why)


def elementwise(size: int, limit: int, layer: str) -> int:
    """Return how many threads an activation over `size` elements deserves."""
    return min(limit, -(-size // 2048)) if limit > 1 and size >= PARALLEL_ELEMENTS[layer] else 1
