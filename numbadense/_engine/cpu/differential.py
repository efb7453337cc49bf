"""Derivatives on the CPU: a row of x, and beside it directions in which it moves.

A direction, or tangent, goes through a layer as rows do, without the bias; then the slopes of the activation at the
row's own sums multiply it.  So a block of rows goes through all layers first and leaves the slopes behind, and then
the tangents of all of them go through the same layers, as many at once as scratch holds:

::

    x  -->  z = a w + b  -->  a = f(z)            rows: the bits of a call
                |
             s = f'(z), kept for each layer
                |
    v  -->  dz = da w    -->  da = s dz           tangents: so many of each row of x

A Jacobian goes either way.  Forward, its tangents are the unit vectors of the features; backward, those of the outputs
go through transposed layers, last to first, each multiplied by the slopes of the layer before.  What a unit vector
gives is a row of the first weights that it meets: these are kept unpacked, and copied in place of a product.

The code is a header (words below), a record for each layer of the rows, and a record for each layer of the tangents,
in their order.  A record ends in the layer as a network of its own: see `numbadense._engine.program.pieces`.
"""

from numba import prange

from numbadense._engine.cpu import forward
from numbadense._engine.cpu.primitives import (
    call_chain,
    call_differential,
    call_kernel,
    call_pass,
    copy_matrix,
    matrix,
    matrix_at,
    moved,
    part,
    row_at,
    rows_at,
    rows_of,
    word,
)

# The words of the header: the address of the kernel, layers, the elements of the widest row, of the slopes of a row in
# all layers, features, outputs, elements of a finished tangent, the address of what unit vectors give; and what
# `numbadense._engine.cpu.direct` needs: how many rows and tangents stay on one thread, whether a Jacobian goes
# backward, and scratch, its address and its size in elements.
KERNEL, LAYERS, WIDTH, KEPT, FEATURES, OUTPUTS, RESULTS, UNITS = range(8)
ARRAY_TYPE, DTYPE, MOST_ROWS, BACKWARD, SCRATCH, ROOM = range(8, 14)
HEADER = 16
# The words of a record.  Of rows: SLOPE is the pass from z to f'(z), 0 for none, and KEEP says whether to keep a result
# instead, as what is row-wise needs it.  Of tangents: CHAIN multiplies them by slopes, or SCALE those of unit vectors,
# each by one; their columns begin so many before, and so many make up a row.
OUT_ROW, COLUMNS, PASS, SLOPE, KEEP = range(5)
CHAIN, CHAIN_BEFORE, CHAIN_ROW, SCALE, SCALE_BEFORE, SCALE_ROW = range(2, 8)
RECORD = 8
LAYER = RECORD + forward.HEADER + forward.COLUMNS
WORD, ROW_KERNEL, MANY_KERNEL = forward.WORD, forward.ROW_KERNEL, forward.KERNEL


def shares(width, kept, each, size):
    """Return how many rows, with `each` tangents, and how many tangents go together in scratch of `size` elements.

    The second is less than `each` where there is no room for all the tangents of one row, and 0 where there is none.
    """
    row, tangent = 2 * width + kept, 2 * width
    rows = size // max(1, row + each * tangent)
    if rows == 0:
        return 1, (size - row) // max(1, tangent)
    return rows, max(1, rows * each)


def multiply(slopes, tangents, rows, each, columns, s_ld, ld):
    """``tangents[i * each + j] *= slopes[i]``: the chain rule of an element-wise activation."""
    if each == 1 and s_ld == columns and ld == columns:
        columns *= rows
        rows = min(rows, 1)
    for i in range(rows):
        source = row_at(slopes, i * s_ld, columns)
        for j in range(each):
            target = row_at(tangents, (i * each + j) * ld, columns)
            for p in range(columns):
                target[p] *= source[p]


def scale(slopes, tangents, rows, each, columns, s_ld, ld):
    """``tangents[i * each + j] *= slopes[i, j]``: the same for unit vectors of outputs, past their layer already."""
    for i in range(rows):
        source = row_at(slopes, i * s_ld, each)
        for j in range(each):
            target = row_at(tangents, (i * each + j) * ld, columns)
            factor = source[j]
            for p in range(columns):
                target[p] *= factor


def make_rowwise(function):
    """Return the chain rule of a row-wise activation: ``function(y[i], tangents[i * each + j])`` changes the latter."""

    def rowwise(y, tangents, rows, each, columns, y_ld, ld):
        if columns > 0:
            for i in range(rows):
                for j in range(each):
                    function(row_at(y, i * y_ld, columns), row_at(tangents, (i * each + j) * ld, columns))

    return rowwise


def make_kernel(itemsize):
    """Return the kernel that takes rows, and the tangents of each of them, through all layers."""

    def kernel(code, x, m, v, each, y, dy, step, scratch, block, group, units):
        """Take `m` rows of x, at most `block`, and `each` tangents of every one of them, through all layers.

        Tangents are the rows of v, or if `units` unit vectors; `group` of them at most go together.  What tangent j of
        row i gives goes to row j of dy moved by ``i * step`` elements.
        """
        layers, width = word(code, LAYERS), word(code, WIDTH)
        half = block * width
        kept = 2 * half
        source = x
        record = code + HEADER * WORD
        for index in range(layers):
            padded, columns, piece = word(record, OUT_ROW), word(record, COLUMNS), record + RECORD * WORD
            target, slopes = rows_at(scratch, (index & 1) * half, padded), rows_at(scratch, kept, padded)
            address = word(piece, ROW_KERNEL if m == 1 else MANY_KERNEL)
            call_kernel(address, piece, 0, source, m, target, scratch, 0)
            if word(record, SLOPE) != 0:
                call_pass(word(record, SLOPE), target, slopes, m, columns)
            if word(record, PASS) != 0:
                call_pass(word(record, PASS), target, target, m, columns)
            if word(record, KEEP) != 0:
                copy_matrix(target, slopes, m, columns)
            source = target
            kept += block * padded
            record += LAYER * WORD
        copy_matrix(source, y, m, word(code, OUTPUTS))

        begin, first, slopes_begin = kept, record, 2 * half
        together = max(1, group // max(1, each))
        for i in range(0, m, together):
            rows = min(m - i, together)
            for j in range(0, each, group):
                some = min(each - j, group)
                source, record = part(v, i * each + j, 0), first
                for index in range(layers):
                    padded, columns, piece = word(record, OUT_ROW), word(record, COLUMNS), record + RECORD * WORD
                    target = rows_at(scratch, begin + (index & 1) * group * width, padded)
                    if units and index == 0:
                        unit = matrix_at(x, word(code, UNITS) + j * padded * itemsize, some, padded, padded)
                        for r in range(rows):
                            copy_matrix(unit, part(target, r * some, 0), some, padded)
                        if word(record, SCALE) != 0:
                            before, row = word(record, SCALE_BEFORE), word(record, SCALE_ROW)
                            slopes = part(rows_at(scratch, slopes_begin + block * before, row), i, j)
                            call_chain(word(record, SCALE), slopes, target, rows, some, columns)
                    else:
                        address = word(piece, ROW_KERNEL if rows * some == 1 else MANY_KERNEL)
                        call_kernel(address, piece, 0, source, rows * some, target, scratch, 0)
                    if word(record, CHAIN) != 0:
                        before, row = word(record, CHAIN_BEFORE), word(record, CHAIN_ROW)
                        slopes = part(rows_at(scratch, slopes_begin + block * before, row), i, 0)
                        call_chain(word(record, CHAIN), slopes, target, rows, some, columns)
                    source = target
                    record += LAYER * WORD
                for r in range(rows):
                    goal = part(moved(dy, (i + r) * step), j, 0)
                    copy_matrix(part(source, r * some, 0), goal, some, word(code, RESULTS))

    return kernel


def make_inside(jit):
    """Return ``inside(...)``, which runs a differential in scratch of any size, for callers outside of Python."""
    divided = jit(shares)

    def inside(code, x, m, v, each, y, dy, step, scratch, size, units):
        """Take all `m` rows, and their tangents, through all layers; say whether scratch has room for one of them."""
        block, group = divided(word(code, WIDTH), word(code, KEPT), each, size)
        if group < 1:
            return False
        for i in range(0, m, block):
            address, rows = word(code, KERNEL), min(block, m - i)
            source, tangents, target, goal = part(x, i, 0), part(v, i * each, 0), part(y, i, 0), moved(dy, i * step)
            call_differential(
                address, code, source, rows, tangents, each, target, goal, step, scratch, block, group, units
            )
        return True

    return inside


def differential(code, x, v, y, dy, scratch, block, group, units, threads):
    """Run a differential: each thread takes its share of the blocks of rows.  The body of both twins.

    ``dy[i, j]`` takes what tangent j of row i gives.
    """
    m, each = x.shape[0], dy.shape[1]
    blocks = (m + block - 1) // block
    room = scratch.size // threads
    for t in prange(threads):
        for b in range(t * blocks // threads, (t + 1) * blocks // threads):
            xv, vv, yv, own = matrix(x), matrix(v), matrix(y), rows_of(scratch, t * room, 1)
            i, step = b * block, dy.strides[0] // dy.itemsize
            rows, address = min(block, m - i), word(code, KERNEL)
            tangents, target, dtarget = part(vv, i * each, 0), part(yv, i, 0), moved(matrix(dy[0]), i * step)
            call_differential(
                address, code, part(xv, i, 0), rows, tangents, each, target, dtarget, step, own, block, group, units
            )
