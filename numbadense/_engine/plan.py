"""How a call will run: (shapes, dtype, machine) -> Plan.  Pure, and able to explain itself."""

import functools
from dataclasses import dataclass

# A parallel launch is worth its fork and join above this much work, in multiply-adds, by threading layer.
PARALLEL_FROM = {"omp": 1_000_000, "tbb": 1_000_000, "workqueue": 250_000_000}
# An activation is worth two threads above this many elements.
PARALLEL_ELEMENTS = {"omp": 100_000, "tbb": 100_000, "workqueue": 20_000_000}
# The output of a light activation, apart from x, goes past the caches from this many bytes on.  On a Zen 4 with 32 MB
# of L3 (25 November 2026, relu, one thread, both dtypes) that was 0.6 times as fast for 4 MB of output, even for 16 MB,
# and 1.15 to 1.45 times for 32 to 256 MB: docs/decisions/0031.  Other CPUs have more L3.
STREAMED_FROM = 64 << 20
FEWEST_PARALLEL = min(PARALLEL_FROM.values())
FEWEST_PARALLEL_ELEMENTS = min(PARALLEL_ELEMENTS.values())
# Rows that go through all layers together: their activations and one panel of weights share the second-level cache.
BLOCK_ROWS = 192
BLOCK_BYTES = 786_432
ROW_QUANTUM = 24  # a multiple of every tile's height, so that only the last block has a remainder


@dataclass(frozen=True, slots=True)
class Plan:
    """How `m` rows go through a network."""

    m: int
    threads: int
    block: int
    half: int
    scratch: int  # elements: two halves for each thread
    why: str

    @property
    def parallel(self) -> bool:
        """Whether the parallel kernel runs, or its serial twin."""
        return self.threads > 1


def threads_for(amount: float, pieces: int, limit: int, crossover: float) -> tuple[int, str]:
    """Return how many threads an `amount` of work deserves, and the reason."""
    if limit <= 1:
        return 1, "one thread allowed"
    if pieces < 2:
        return 1, "too few rows to share"
    if amount < crossover:
        return 1, f"{amount:.3g} units of work, under the crossover of {crossover:.3g}"
    return min(limit, pieces), f"{amount:.3g} units of work, over the crossover of {crossover:.3g}"


def work(shapes: tuple[tuple[int, int], ...], m: int) -> int:
    """Return the multiply-adds of `m` rows through layers of `shapes`."""
    return m * sum(k * n for k, n in shapes)


@functools.lru_cache(maxsize=1024)
def forward(shapes: tuple[tuple[int, int], ...], width: int, itemsize: int, m: int, limit: int, layer: str) -> Plan:
    """Plan `m` rows through layers of `shapes`, with at most `limit` threads of a threading layer.

    Blocks are as equal as the row quantum allows and as many for each thread, for the slowest thread is what counts.
    """
    threads, why = threads_for(work(shapes, m), -(-m // ROW_QUANTUM), limit, PARALLEL_FROM[layer])
    deepest = max(max(k for k, _ in shapes), width, 1)
    most = max(ROW_QUANTUM, min(BLOCK_ROWS, BLOCK_BYTES // (deepest * itemsize) // ROW_QUANTUM * ROW_QUANTUM))
    blocks = threads * max(1, -(-m // (threads * most)))
    block = max(1, min(most, -(-m // blocks // ROW_QUANTUM) * ROW_QUANTUM if m > most or threads > 1 else m))
    return Plan(m, threads, block, block * width, 2 * block * width * threads, why)


def elementwise(size: int, limit: int, layer: str) -> int:
    """Return how many threads an activation over `size` elements deserves."""
    return threads_for(size, -(-size // 2048), limit, PARALLEL_ELEMENTS[layer])[0]
