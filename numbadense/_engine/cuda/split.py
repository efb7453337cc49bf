"""How a sum over features is split into parts, where that is asked for: pure."""

from typing import NamedTuple

from numbadense._engine.cuda import tiles
from numbadense.errors import OptionError

FEW = 8  # rows that the kernel for few takes
MOST_PARTS = 64  # of a block of that kernel
MOST_BLOCKS = 65535  # in the second dimension of a grid
LEAST = 16, 256  # features of a part, for few rows and for more, below which "auto" does not go
UNIT = 4  # features, of which all parts but the last have a multiple
# What adding the parts costs a multiprocessor, in multiply-adds: to write and read an element, and to launch another
# kernel.  From the figures of an H200's data sheet, and not measured.
AN_ELEMENT, A_LAUNCH = 50, 500_000


class Plan(NamedTuple):
    """How a layer is computed: in so many parts, by blocks of a `tile`, or where that is None by those for few rows."""

    parts: int
    tile: tiles.DenseTile | None


def check(split, precision: str | None = None) -> None:
    """Refuse what is no number of parts, and parts of sums on tensor cores."""
    if split != "auto" and (not isinstance(split, int) or isinstance(split, bool) or split < 1):
        raise OptionError(
            f"split_k is {split!r} but must be a number of parts, from 1, or 'auto'; pass split_k='auto'."
        )
    if split != 1 and precision is not None:
        raise OptionError(
            f"split_k is {split!r} and precision is {precision!r} but tensor cores do not sum in parts; leave one out."
        )


def make_length():
    """Return the function of the features of a part."""

    def length(k, parts):
        return ((k + parts - 1) // parts + UNIT - 1) // UNIT * UNIT

    return length


length_of = make_length()


def parts_of(k: int, split: int) -> int:
    """Return how many parts `k` features have at most `split` of, none of them empty.  It depends on nothing else."""
    parts = max(1, min(split, k, MOST_BLOCKS))
    while (fewer := max(1, -(-k // length_of(k, parts)) if k else 1)) < parts:
        parts = fewer
    return parts


def choose(shapes: tuple[tiles.DenseTile, ...], shape: tuple[int, int, int], split, processors: int) -> Plan:
    """Return the plan for an output of m rows, k features and n columns; `split` is a number of parts, or "auto"."""
    m, k, _ = shape
    if split == "auto":
        if m <= FEW:
            split = max(1, min(MOST_PARTS, k // LEAST[0]))
        else:
            choices = [1 << power for power in range(7) if power == 0 or k >> power >= LEAST[1]]
            split = min(choices, key=lambda parts: _best(shapes, shape, parts, processors)[0])
    parts = parts_of(k, split)
    if 1 < parts <= MOST_PARTS and m <= FEW:
        return Plan(parts, None)
    return Plan(parts, _best(shapes, shape, parts, processors)[1])


def _best(shapes, shape, parts, processors):
    """Return the least cost, and the tile that has it.

    The largest tile has no register left to know its part, nor is it for outputs too few to fill a device.
    """
    allowed = shapes if parts == 1 else shapes[1:] or shapes
    return min(((_cost(tile, shape, parts, processors), tile) for tile in allowed), key=lambda pair: pair[0])


def _cost(tile: tiles.DenseTile, shape: tuple[int, int, int], parts: int, processors: int) -> float:
    """Return what the busiest multiprocessor does, in multiply-adds."""
    m, k, n = shape
    busiest = -(-tile.blocks(m, n) * parts // processors)
    added = 0.0 if parts == 1 else A_LAUNCH + AN_ELEMENT * parts * m * n / processors
    return busiest * tile.rows * tile.columns / tile.share * k / parts + added


def across(n: int, chunk: int, processors: int) -> int:
    """Return the chunks of columns of a block for few rows: 8, or 4 where that leaves multiprocessors without one."""
    return 8 if n >= 8 * chunk * processors else 4
