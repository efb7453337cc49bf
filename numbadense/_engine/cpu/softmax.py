"""The passes of softmax and log_softmax: the same mathematics as their row functions, in stages over many rows.

A row of ten logits is too short for a vectorised loop, and a maximum is no reduction that LLVM vectorises while NaN
counts.  So a block of rows goes through stages in a buffer that the first-level cache holds:

::

    x     rows of n, `ld` apart        buffer     the same rows, end to end
    +-------+--                        +-------+-------+-------+----
    | row 0 |     each row: - max      | row 0 | row 1 | row 2 | ...     one loop: exp
    +-------+--   ---------------->    +-------+-------+-------+----     each row: sum, then scaled to y
    | row 1 |

What is done row by row is done with the vectors of :mod:`.vectors`, whose last one is masked.  The exponentials of all
rows are one long loop.  A row that is longer than the buffer goes through the stages alone, in y.

The order of a sum depends on n alone, and everything else on the element alone: the bits of a row depend on that row.
"""

from numbadense._engine.cpu.intrinsics import stand_alone
from numbadense._engine.cpu.tile import row_at
from numbadense._engine.cpu.vectors import (
    fold_larger,
    fold_sum,
    full,
    larger,
    largest,
    load,
    minus,
    noughts,
    plus,
    put,
    stack,
    times,
    total,
)

NAN = float("nan")
STAGE = 1024  # elements that go through the stages together


def make_steps(inline, lanes):
    """Return what is done row by row: ``center``, ``add``, ``scale`` and ``lower``.

    Each takes four vectors at a time as long as they are whole, then one by one, the last of them in part.
    """
    wide = 4 * lanes

    def center(x, i, n, y, o):
        """``y[o:o + n] = x[i:i + n] - max``; return how often the maximum is there, which NaN makes arbitrary."""
        first = x[i]
        zero = type(first)(0)
        whole = n - n % wide
        some, one = full(4, lanes, first), full(1, lanes, first)
        for j in range(0, whole, wide):
            some = larger(load(4, lanes, x, i + j, wide, first), some)
        for j in range(whole, n, lanes):
            one = larger(load(1, lanes, x, i + j, n - j, first), one)
        most = largest(larger(fold_larger(some), one))
        some, one = full(4, lanes, zero), full(1, lanes, zero)
        for j in range(0, whole, wide):
            t = minus(load(4, lanes, x, i + j, wide, first), most)
            put(t, y, o + j, wide)
            some = plus(some, noughts(t, type(first)(1)))
        for j in range(whole, n, lanes):
            t = minus(load(1, lanes, x, i + j, n - j, type(first)(NAN)), most)
            put(t, y, o + j, n - j)
            one = plus(one, noughts(t, type(first)(1)))
        return total(plus(fold_sum(some), one))

    def add(x, i, n):
        """Return ``sum(x[i:i + n])``."""
        zero = type(x[i])(0)
        whole = n - n % wide
        some, one = full(4, lanes, zero), full(1, lanes, zero)
        for j in range(0, whole, wide):
            some = plus(some, load(4, lanes, x, i + j, wide, zero))
        for j in range(whole, n, lanes):
            one = plus(one, load(1, lanes, x, i + j, n - j, zero))
        return total(plus(fold_sum(some), one))

    def scale(x, i, n, factor, y, o):
        """``y[o:o + n] = x[i:i + n] * factor``."""
        whole = n - n % wide
        for j in range(0, whole, wide):
            put(times(load(4, lanes, x, i + j, wide, factor), factor), y, o + j, wide)
        for j in range(whole, n, lanes):
            put(times(load(1, lanes, x, i + j, n - j, factor), factor), y, o + j, n - j)

    def lower(x, i, n, step, y, o):
        """``y[o:o + n] = x[i:i + n] - step``."""
        whole = n - n % wide
        for j in range(0, whole, wide):
            put(minus(load(4, lanes, x, i + j, wide, step), step), y, o + j, wide)
        for j in range(whole, n, lanes):
            put(minus(load(1, lanes, x, i + j, n - j, step), step), y, o + j, n - j)

    return tuple(inline(step, lanes) for step in (center, add, scale, lower))


def make_softmax(jit, inline, lanes, exp, log1p):
    """Return the pass of softmax; the sum, 1 at least, is inverted once for the row."""
    center, add, scale, _ = make_steps(inline, lanes)

    def powers(x, i, n):
        stand_alone()
        row = row_at(x, i, n)
        for j in range(row.size):
            row[j] = exp(row[j])

    powers = jit(powers)

    def softmax(x, y, rows, columns, ld, apart):
        if columns <= 0:
            return
        buffer, factors = stack(x, STAGE), stack(x, STAGE)
        together = max(1, STAGE // columns)
        for first in range(0, rows, together):
            count = min(together, rows - first)
            z, base = (buffer, 0) if columns <= STAGE else (y, first * ld)
            for r in range(count):
                center(x, (first + r) * ld, columns, z, base + r * columns)
            powers(z, base, count * columns)
            for r in range(count):
                s = add(z, base + r * columns, columns)
                factors[r] = type(s)(1) / s
            for r in range(count):
                scale(z, base + r * columns, columns, factors[r], y, (first + r) * ld)

    return softmax


def make_log_softmax(jit, inline, lanes, exp, log1p):
    """Return the pass of log_softmax.

    The maximum, ``exp(0) = 1`` after the subtraction, stays out of the sum and enters through ``log1p``; where it
    occurs more than once, so do the others.
    """
    center, add, _, lower = make_steps(inline, lanes)

    def powers_below(x, i, n, y):
        stand_alone()
        source, target = row_at(x, i, n), row_at(y, 0, n)
        for j in range(n):
            zero = type(source[j])(0)
            target[j] = zero if source[j] == zero else exp(source[j])

    def logarithms(x, n):
        stand_alone()
        row = row_at(x, 0, n)
        for j in range(row.size):
            row[j] = log1p(row[j])

    powers_below, logarithms = jit(powers_below), jit(logarithms)

    def log_softmax(x, y, rows, columns, ld, apart):
        if columns <= 0:
            return
        buffer, powers, others = stack(x, STAGE), stack(x, STAGE), stack(x, STAGE)
        together = max(1, STAGE // columns)
        for first in range(0, rows, together):
            count = min(together, rows - first)
            z, base = (buffer, 0) if columns <= STAGE else (y, first * ld)
            for r in range(count):
                ties = center(x, (first + r) * ld, columns, z, base + r * columns)
                others[r] = ties - type(ties)(1)
            for start in range(0, count * columns, STAGE):
                size = min(STAGE, count * columns - start)
                powers_below(z, base + start, size, powers)
                for r in range(count):
                    others[r] += add(powers, r * columns, min(columns, size))
            logarithms(others, count)
            for r in range(count):
                lower(z, base + r * columns, columns, others[r], y, (first + r) * ld)

    return log_softmax


STAGED = {"softmax": make_softmax, "log_softmax": make_log_softmax}
