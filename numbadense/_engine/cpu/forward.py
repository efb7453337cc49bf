"""Dense forward propagation on the CPU: one function that runs every network.

A network is an int64 table, one row a layer (columns below), that says where the packed weights lie, how wide their
panels are and which activation pass follows.  Rows of x go through all the layers a block at a time, so that hidden
activations stay in cache.

Every output is ``bias + x[0] w[0] + x[1] w[1] + ...``, one fused multiply-add at a time in this order, whatever the
batch, the block, the tile or the thread: the bits of a row depend on that row and the weights alone.
"""

from numba import prange

from numbadense._engine.cpu.primitives import (
    address_of,
    call_pass,
    matrix,
    matrix_at,
    part,
    rank1,
    rows_of,
    start,
    store,
)

# The columns of the program table.  Weights and biases are memory addresses, strides are in elements.
N_IN, N_OUT, VECTORS, WEIGHTS, BIAS, W_ROW, W_PANEL, OUT_ROW, PASS, PASS_COLUMNS = range(10)
COLUMNS = 10

ROWS_AT_ONCE = 8  # of weights that are not packed, for a single row of x


def make_tile(jit, mr, nv, lanes):
    """Return the kernel ``y[:mr, :columns] = bias + x[:mr] @ w`` for one panel of weights."""

    def tile(x, k, w, bias, y, columns):
        t = start(mr, nv, lanes, bias)
        for p in range(k):
            t = rank1(t, x, w, p)
        store(t, y, columns)

    return jit(tile, mr, nv, lanes)


def make_layer(jit, mr, nv, lanes, itemsize):
    """Return the kernel ``y[:m, :n] = bias + x[:m] @ w``, m > 0, for weights in panels `nv` vectors wide.

    The last tile of rows overlaps the one before it.  So does the last panel of weights that are not packed
    (``w_panel == 0``, which expects n to be a panel's width at least): an overlap computes the same bits again.
    """
    tile, pair, row = (make_tile(jit, height, nv, lanes) for height in (mr, 2, 1))
    nr = nv * lanes

    def layer(x, m, k, n, w, w_row, w_panel, bias, y):
        panel = w
        for j0 in range(0, n, nr):
            j = j0
            if w_panel == 0:
                j = min(j0, n - nr)
                panel = w + j * itemsize
            wj = matrix_at(x, panel, k, nr, w_row)
            bj = matrix_at(x, bias + j * itemsize, 1, nr, nr)
            if m >= mr:
                for i0 in range(0, m, mr):
                    i = min(i0, m - mr)
                    tile(part(x, i, 0), k, wj, bj, part(y, i, j), n - j)
            elif m > 1:
                for i0 in range(0, m, 2):
                    i = min(i0, m - 2)
                    pair(part(x, i, 0), k, wj, bj, part(y, i, j), n - j)
            else:
                row(x, k, wj, bj, part(y, 0, j), n - j)
            panel += w_panel * itemsize

    return jit(layer, mr, nv, lanes)


def make_row(jit, nv, lanes, itemsize):
    """Return the kernel ``y[0, :n] = bias + x[0] @ w`` for weights that are not packed; n is a wide panel at least.

    A few rows of w are read from end to end before the next ones, so that their pages are met once: y holds the sums
    between.  The columns that remain overlap the last panel, and so take all the rows at once.
    """
    tile = make_tile(jit, 1, nv, lanes)
    nr = nv * lanes

    def row(x, k, n, w, w_row, bias, y):
        for p in range(0, max(k, 1), ROWS_AT_ONCE):
            some = min(ROWS_AT_ONCE, k - p)
            for j in range(0, n - nr + 1, nr):
                wj = matrix_at(x, w + (p * w_row + j) * itemsize, some, nr, w_row)
                yj = part(y, 0, j)
                tile(part(x, 0, p), some, wj, matrix_at(x, bias + j * itemsize, 1, nr, nr) if p == 0 else yj, yj, nr)
        if n % nr != 0:
            j = n - nr
            wj = matrix_at(x, w + j * itemsize, k, nr, w_row)
            tile(x, k, wj, matrix_at(x, bias + j * itemsize, 1, nr, nr), part(y, 0, j), nr)

    return jit(row, nv, lanes)


def make_one(jit, tiles, itemsize):
    """Return the kernel ``y[:m, :n] = bias + x[:m] @ w``, m > 0, for panels of any width that `tiles` has."""
    lanes = tiles.lanes(itemsize)
    layer1, layer2, layer3 = (make_layer(jit, tiles.rows[nv], nv, lanes, itemsize) for nv in (1, 2, 3))
    layer4 = make_layer(jit, tiles.rows[4], 4, lanes, itemsize) if 4 in tiles.rows else layer3
    wide = tiles.wide
    row = make_row(jit, wide, lanes, itemsize)

    def one(x, m, k, n, nv, w, w_row, w_panel, bias, y):
        if nv == wide:
            row(x, k, n, w, w_row, bias, y)
        elif nv == 4:
            layer4(x, m, k, n, w, w_row, w_panel, bias, y)
        elif nv == 3:
            layer3(x, m, k, n, w, w_row, w_panel, bias, y)
        elif nv == 2:
            layer2(x, m, k, n, w, w_row, w_panel, bias, y)
        else:
            layer1(x, m, k, n, w, w_row, w_panel, bias, y)

    return jit(one, itemsize)


def make_rows(jit, one):
    """Return the kernel that takes `m` rows of x, at most a block, through every layer of a program into y.

    The weights lie `base` bytes after where the program says.  `scratch` holds the hidden activations: two halves,
    written in turn.
    """

    def rows(program, base, x, m, y, scratch, offset, half):
        layers = program.shape[0]
        source = x
        for index in range(layers):
            k, w, w_row = program[index, N_IN], program[index, WEIGHTS] + base, program[index, W_ROW]
            bias, w_panel, nv = program[index, BIAS] + base, program[index, W_PANEL], program[index, VECTORS]
            if index == layers - 1:
                n = program[index, N_OUT]
                target = y
            else:
                n = program[index, OUT_ROW]
                target = rows_of(scratch, offset + (index & 1) * half, n)
            one(source, m, k, n, nv, w, w_row, w_panel, bias, target)
            if program[index, PASS] != 0:
                call_pass(program[index, PASS], target, target, m, program[index, PASS_COLUMNS])
            source = target

    return jit(rows)


def make_single(one):
    """Return the kernel of one layer over few rows, whose weights are not packed: the program lacks their addresses."""

    def single(program, w, b, x, y):
        m, y_view = x.shape[0], matrix(y)
        if m == 0:
            return
        k, n, nv, w_row = program[0, N_IN], program[0, N_OUT], program[0, VECTORS], program[0, W_ROW]
        one(matrix(x), m, k, n, nv, address_of(w), w_row, 0, address_of(b), y_view)
        if program[0, PASS] != 0:
            call_pass(program[0, PASS], y_view, y_view, m, n)

    return single


def make_forward(rows):
    """Return the body of both twins: each thread takes its share of the blocks through the network."""

    def forward(program, x, y, scratch, block, half, threads):
        m = x.shape[0]
        blocks = (m + block - 1) // block
        for t in prange(threads):
            xv, yv = matrix(x), matrix(y)
            for b in range(t * blocks // threads, (t + 1) * blocks // threads):
                i = b * block
                rows(program, 0, part(xv, i, 0), min(block, m - i), part(yv, i, 0), scratch, t * 2 * half, half)

    return forward


def make_blocks(rows):
    """Return ``forward(program, x, out, scratch)`` for callers inside compiled code: as many rows at once as fit."""

    def forward(program, x, out, scratch):
        width = 0
        for index in range(program.shape[0] - 1):
            width = max(width, program[index, OUT_ROW])
        half = scratch.size // 2
        block = half // width if width > 0 else x.shape[0]
        if block == 0 and x.shape[0] > 0:
            raise ValueError("scratch is too small for one row: take it from numbadense.jit.arguments(network).")
        for i in range(0, x.shape[0], max(1, block)):
            m = min(block, x.shape[0] - i)
            rows(program, 0, part(matrix(x), i, 0), m, part(matrix(out), i, 0), scratch, 0, half)

    return forward
