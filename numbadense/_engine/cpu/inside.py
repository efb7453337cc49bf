"""A network for callers outside of Python: compiled code and C.  Scratch is on the caller's own stack, or is given.

What C calls takes the address of the network's code as an argument: SciPy's callbacks carry one, and others have a
trampoline that knows it (`numbadense._engine.trampoline`).  It cannot raise: a number that cannot be had is NaN.
"""

from numbadense._engine.cpu.forward import BLOCK, FEATURES, KERNEL, OUTPUTS, ROW_KERNEL, WIDTH
from numbadense._engine.cpu.primitives import (
    allocate,
    call_kernel,
    is_null,
    part,
    release,
    row_at,
    stack,
    view_of,
    word,
)

STACK = 16_384  # bytes of the stack that a call may take for hidden activations
NO_MEMORY = 1  # what a function that C calls returns, for 0


def propagate(code, x, m, y, scratch, size):
    """Take `m` rows of x through every layer into y, as many at once as `size` elements of scratch have room for.

    Two rows of the widest hidden layer are the least.
    """
    width = word(code, WIDTH)
    if m == 1:
        call_kernel(word(code, ROW_KERNEL), code, 0, x, 1, y, scratch, width)
        return
    block = word(code, BLOCK)
    if width > 0:
        block = min(block, size // 2 // width)
    for i in range(0, m, block):
        rows = min(block, m - i)
        kernel = word(code, ROW_KERNEL if rows == 1 else KERNEL)
        call_kernel(kernel, code, 0, part(x, i, 0), rows, part(y, i, 0), scratch, block * width)


def make_run(jit, elements):
    """Return ``run(code, x, m, y)``: `propagate` with scratch of its own, on the stack up to so many elements.

    Wider networks allocate theirs; then it returns `NO_MEMORY` if there is none.
    """
    through = jit(propagate, "run")

    def run(code, x, m, y):
        size = 2 * word(code, WIDTH)
        if size <= elements:
            through(code, x, m, y, view_of(stack(x, elements), elements), elements)
            return 0
        size *= max(1, min(m, word(code, BLOCK)))
        own = allocate(x, size)
        if is_null(own):
            return NO_MEMORY
        through(code, x, m, y, view_of(own, size), size)
        release(own)
        return 0

    return jit(run, elements)


def make_rows(run, borrow):
    """Return ``rows(code, x, out, m)``: m rows at an address, contiguous, to another; it returns 0, or `NO_MEMORY`."""

    def rows(code, x, out, m):
        return run(code, borrow(x, m, word(code, FEATURES)), m, borrow(out, m, word(code, OUTPUTS)))

    return rows


def make_number(run, borrow):
    """Return ``number(x, code)``: a network of one feature and one output."""

    def number(x, code):
        like = borrow(code, 1, 1)
        source, target = stack(like, 1), stack(like, 1)
        row_at(source, 0, 1)[0] = x
        if run(code, view_of(source, 1), 1, view_of(target, 1)) != 0:
            return float("nan")
        return row_at(target, 0, 1)[0]

    return number


def make_numbers(run, borrow):
    """Return ``numbers(n, x, code)``: a network of one output, of n features at an address."""

    def numbers(n, x, code):
        source = borrow(x, 1, n)
        target = stack(source, 1)
        if n != word(code, FEATURES) or run(code, source, 1, view_of(target, 1)) != 0:
            return float("nan")
        return row_at(target, 0, 1)[0]

    return numbers
