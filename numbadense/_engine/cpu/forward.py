"""Dense forward propagation on the CPU: one function that runs every network.

A network is int64 code: a header (words below), then a table, one row a layer (columns below), that says where the
packed weights lie, how wide their panels are and which activation pass follows.  Rows of x go through all the layers a
block at a time, so that hidden activations stay in cache.

Every output is ``bias + x[0] w[0] + x[1] w[1] + ...``, one fused multiply-add at a time in this order, whatever the
batch, the block, the tile or the thread: the bits of a row depend on that row and the weights alone.

All heavy code of a dtype is one kernel behind one address, which the header holds.  What calls it, from Python or from
the user's own compiled code, is thin.
"""

from numba import prange

from numbadense._engine.cpu.primitives import (
    address_of,
    call_kernel,
    call_layer,
    call_pass,
    copy_row,
    matrix,
    matrix_at,
    part,
    rank1,
    resume,
    rows_at,
    rows_of,
    stack,
    start,
    store,
    view_of,
    weights_at,
    word,
)
from numbadense._engine.half import FULL, weight_bytes

# The columns of the program table.  Weights and biases are memory addresses, strides are in elements.
N_IN, N_OUT, VECTORS, WEIGHTS, BIAS, W_ROW, W_PANEL, OUT_ROW, PASS, PASS_COLUMNS, ROWWISE, LAYER = range(12)
COLUMNS = 12
# The words of the header: the addresses of the kernels for many rows and for one, the number of layers, the elements
# of the widest hidden row, what `numbadense._engine.cpu.direct` needs, of a piece of a layer which column of the
# layer is its first, and the addresses of the code of derivatives, 0 until they are built.  The table begins after
# HEADER words.
KERNEL, ROW_KERNEL, LAYERS, WIDTH, ARRAY_TYPE, DTYPE, FEATURES, OUTPUTS, MOST_ROWS, BLOCK, SCRATCH = range(11)
FIRST_COLUMN, TANGENTS, JACOBIAN = 11, 12, 13
HEADER = 16
WORD = 8  # bytes

# Zen 4, float32, GF/s at (m, k, n) = (1024, 8192, 1024) and (256, 8192, 1024), benchmarks/run.py --suite deep:
# 112 and 112 with 1024, 109 and 109 with 512, 100 and 102 without blocks.
DEPTH = 1024  # features of a deep layer that are summed before the next panel's turn
FEW_TILES = 4  # tiles of rows that read x too seldom for that to pay
ROWS_AT_ONCE = 8  # of weights that are not packed, for a single row of x


def make_tile(jit, mr, nv, lanes):
    """Return the kernel ``y[:mr, :columns] = bias + x[:mr] @ w`` for one panel of weights."""

    def tile(x, k, w, bias, y, columns):
        t = start(mr, nv, lanes, bias)
        for p in range(k):
            t = rank1(t, x, w, p)
        store(t, y, columns)

    return jit(tile, mr, nv, lanes)


def make_row_tile(jit, nv, lanes):
    """Return the kernel of `make_tile` for one row, eight steps at a time.

    A single row is a chain of multiply-adds; while it runs, the CPU could be reading the weights of what follows, if it
    knew where the loop ends.  The fewer its turns, the better it does: docs/decisions/0010.
    """

    def tile(x, k, w, bias, y, columns):
        t = start(1, nv, lanes, bias)
        whole = k & ~7
        for p in range(0, whole, 8):
            t = rank1(rank1(rank1(rank1(t, x, w, p), x, w, p + 1), x, w, p + 2), x, w, p + 3)
            t = rank1(rank1(rank1(rank1(t, x, w, p + 4), x, w, p + 5), x, w, p + 6), x, w, p + 7)
        for p in range(whole, k):
            t = rank1(t, x, w, p)
        store(t, y, columns)

    return jit(tile, nv, lanes)


def make_row_pair(jit, nv, lanes):
    """Return the kernel of `make_row_tile` for two panels at once: one alone leaves multipliers idle while it waits."""
    nr = nv * lanes

    def pair(x, k, w, v, bias, y, columns):
        t, u = start(1, nv, lanes, bias), start(1, nv, lanes, part(bias, 0, nr))
        whole = k & ~3
        for p in range(0, whole, 4):
            t, u = rank1(t, x, w, p), rank1(u, x, v, p)
            t, u = rank1(t, x, w, p + 1), rank1(u, x, v, p + 1)
            t, u = rank1(t, x, w, p + 2), rank1(u, x, v, p + 2)
            t, u = rank1(t, x, w, p + 3), rank1(u, x, v, p + 3)
        for p in range(whole, k):
            t, u = rank1(t, x, w, p), rank1(u, x, v, p)
        store(t, y, columns)
        store(u, part(y, 0, nr), columns - nr)

    return jit(pair, nv, lanes)


def make_deep_tile(jit, mr, nv, lanes):
    """Return `make_tile`'s kernel, or if `further` ``y[:mr, :columns] += x[:mr] @ w``: the sum is taken up again."""

    def tile(x, k, w, bias, y, columns, further):
        t = start(mr, nv, lanes, bias)
        if further:
            t = resume(mr, nv, lanes, y)
        for p in range(k):
            t = rank1(t, x, w, p)
        store(t, y, columns)

    return jit(tile, mr, nv, lanes)


def make_layer(jit, mr, nv, lanes, itemsize, form):
    """Return the kernel ``y[:m, :n] = bias + x[:m] @ w``, m > 1, for weights in panels `nv` vectors wide.

    The last tile of rows overlaps the one before it, unless no more than two rows remain, for which there is a tile two
    rows high.  So does the last panel of weights that are not packed (``w_panel == 0``, which expects n to be a panel's
    width at least).  An overlap computes the same bits again.

    A deep layer is summed `DEPTH` features at a time over all its panels, so that the part of x stays in cache; y holds
    the sums between.  What cannot hold them takes all features at once: a panel that y has not all the columns of, and
    the rows that remain below the last whole tile.
    """
    tile, pair = make_deep_tile(jit, mr, nv, lanes), make_tile(jit, 2, nv, lanes)
    nr, w_bytes = nv * lanes, weight_bytes(itemsize, form)

    def layer(x, m, k, n, w, w_row, w_panel, bias, y):
        deep = k > DEPTH and w_panel != 0 and m >= FEW_TILES * mr
        steps, rest, height = 1, 0, mr
        if m < mr:
            height = 2
        if deep:
            steps, rest = (k + DEPTH - 1) // DEPTH, m % mr
        for step in range(steps + min(rest, 1)):
            for j0 in range(0, n, nr):
                j, panel = j0, w + j0 // nr * w_panel * w_bytes
                if w_panel == 0:
                    j = min(j0, n - nr)
                    panel = w + j * w_bytes
                p, depth, first, stop = 0, k, 0, m
                if step == steps:
                    first = m - mr
                elif deep and j + nr <= n:
                    p, stop = step * DEPTH, m - rest
                    depth = min(DEPTH, k - p)
                if step > 0 and j + nr > n:
                    continue
                wj = weights_at(x, panel + p * w_row * w_bytes, depth, nv, lanes, w_row, form)
                bj = matrix_at(x, bias + j * itemsize, 1, nr, nr)
                for i0 in range(first, stop, height):
                    if height == mr and m - i0 > 2:
                        i = min(i0, m - mr)
                        tile(part(x, i, p), depth, wj, bj, part(y, i, j), n - j, p > 0)
                    else:
                        i = min(i0, m - 2)
                        pair(part(x, i, 0), k, wj, bj, part(y, i, j), n - j)

    return layer


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


def make_row_kernel(jit, tiles, itemsize, form):
    """Return the kernel that takes one row of x through every layer of the code into y: arguments as `kernel`'s.

    A row alone waits for one multiply-add after another, and whatever comes between two layers adds to that: hidden
    layers are whole vectors, and so is a narrow last one, on the stack, before its columns are copied.
    """
    lanes = tiles.lanes(itemsize)
    tile1, tile2, tile3 = (make_row_tile(jit, nv, lanes) for nv in (1, 2, 3))
    tile4 = make_row_tile(jit, 4, lanes) if 4 in tiles.rows else tile3
    widest = max(tiles.rows)
    pair, pair2 = make_row_pair(jit, widest, lanes), make_row_pair(jit, 2, lanes)
    wide, row = tiles.wide, make_row(jit, tiles.wide, lanes, itemsize)
    few, w_bytes = 4 * lanes, weight_bytes(itemsize, form)

    def row_kernel(code, base, x, m, y, scratch, half):
        last = word(code, LAYERS) - 1
        layer = code + HEADER * WORD
        narrow = view_of(stack(x, few), few)
        source = x
        for index in range(last + 1):
            n, padded, nv = word(layer, N_OUT), word(layer, OUT_ROW), word(layer, VECTORS)
            copied = index == last and n % lanes != 0 and padded <= few
            target, columns = y, n
            if index < last:
                target, columns = rows_at(scratch, (index & 1) * half, padded), padded
            elif copied:
                target, columns = narrow, padded
            k, nr, w, bias = word(layer, N_IN), nv * lanes, word(layer, WEIGHTS) + base, word(layer, BIAS) + base
            w_row, w_panel = word(layer, W_ROW), word(layer, W_PANEL)
            if form == FULL and nv == wide:  # in another form weights are always packed, and this is not compiled
                row(source, k, n, w, w_row, bias, target)
                padded = 0
            panel, j = w, 0
            if (nv == widest or nv == 2) and w_panel != 0:
                while j + 2 * nr <= padded:
                    bj = matrix_at(x, bias + j * itemsize, 1, 2 * nr, 2 * nr)
                    wj = weights_at(x, panel, k, nv, lanes, w_row, form)
                    vj = weights_at(x, panel + w_panel * w_bytes, k, nv, lanes, w_row, form)
                    if nv == widest:
                        pair(source, k, wj, vj, bj, part(target, 0, j), columns - j)
                    else:
                        pair2(source, k, wj, vj, bj, part(target, 0, j), columns - j)
                    panel += 2 * w_panel * w_bytes
                    j += 2 * nr
            while j < padded:
                if w_panel == 0 and j > n - nr:
                    j = n - nr
                if w_panel == 0:
                    panel = w + j * w_bytes
                wj = weights_at(x, panel, k, nv, lanes, w_row, form)
                bj = matrix_at(x, bias + j * itemsize, 1, nr, nr)
                yj = part(target, 0, j)
                if nv == 4:
                    tile4(source, k, wj, bj, yj, columns - j)
                elif nv == 3:
                    tile3(source, k, wj, bj, yj, columns - j)
                elif nv == 2:
                    tile2(source, k, wj, bj, yj, columns - j)
                else:
                    tile1(source, k, wj, bj, yj, columns - j)
                panel += w_panel * w_bytes
                j += nr
            if word(layer, PASS) != 0 and columns > 0:
                call_pass(word(layer, PASS), target, target, 1, min(word(layer, PASS_COLUMNS), columns))
            if copied:
                copy_row(target, y, n)
            source = target
            layer += COLUMNS * WORD

    return row_kernel


def kernel(code, base, x, m, y, scratch, half):
    """Take `m` rows of x, m > 1 and at most a block, through every layer of the code into y.

    The weights lie `base` bytes after where the code says.  `scratch` holds the hidden activations: two halves of
    `half` elements, written in turn.
    """
    last = word(code, LAYERS) - 1
    layer = code + HEADER * WORD
    source = x
    for index in range(last + 1):
        w, w_row, w_panel = word(layer, WEIGHTS) + base, word(layer, W_ROW), word(layer, W_PANEL)
        k, n, target = word(layer, N_IN), word(layer, N_OUT), y
        if index < last:
            n = word(layer, OUT_ROW)
            target = rows_at(scratch, (index & 1) * half, n)
        call_layer(word(layer, LAYER), source, m, k, n, w, w_row, w_panel, word(layer, BIAS) + base, target)
        if word(layer, PASS) != 0:
            call_pass(word(layer, PASS), target, target, m, min(word(layer, PASS_COLUMNS), n))
        source = target
        layer += COLUMNS * WORD


def single(code, w, b, x, y):
    """Run one layer over few rows, whose weights are not packed: the code, an array, takes their addresses here."""
    m, xv = x.shape[0], matrix(x)
    if m > 0:
        code[HEADER + WEIGHTS], code[HEADER + BIAS] = address_of(w), address_of(b)
        call_kernel(code[ROW_KERNEL if m == 1 else KERNEL], address_of(code), 0, xv, m, matrix(y), xv, 0)


def forward(code, x, y, scratch, block, half, threads):
    """Run a network: each thread takes its share of the blocks through all layers.  The body of both twins."""
    m = x.shape[0]
    blocks = (m + block - 1) // block
    for t in prange(threads):
        xv, yv, own = matrix(x), matrix(y), rows_of(scratch, t * 2 * half, 1)
        for b in range(t * blocks // threads, (t + 1) * blocks // threads):
            i = b * block
            rows = min(block, m - i)
            address = word(code, ROW_KERNEL if rows == 1 else KERNEL)
            call_kernel(address, code, 0, part(xv, i, 0), rows, part(yv, i, 0), own, half)


def columns(code, pieces, x, y, scratch, half, threads):
    """Run few rows through a network: each thread takes its share of every layer's columns, layer after layer.

    `pieces` is the address of code for each layer and thread: see `numbadense._engine.program.pieces`.  The body of
    both twins.
    """
    m, layers = x.shape[0], word(code, LAYERS)
    for index in range(layers):
        layer = code + (HEADER + index * COLUMNS) * WORD
        for t in prange(threads):
            piece = pieces + (index * threads + t) * (HEADER + COLUMNS) * WORD
            source, target, own = matrix(x), matrix(y), rows_of(scratch, 0, 1)
            if index > 0:
                source = rows_at(own, (index - 1 & 1) * half, word(layer - COLUMNS * WORD, OUT_ROW))
            if index < layers - 1:
                target = rows_at(own, (index & 1) * half, word(layer, OUT_ROW))
            address = word(piece, ROW_KERNEL if m == 1 else KERNEL)
            call_kernel(address, piece, 0, source, m, part(target, 0, word(piece, FIRST_COLUMN)), own, 0)
        if word(layer, ROWWISE) != 0:
            whole = matrix(y)
            if index < layers - 1:
                whole = rows_at(rows_of(scratch, 0, 1), (index & 1) * half, word(layer, OUT_ROW))
            call_pass(word(layer, PASS), whole, whole, m, word(layer, PASS_COLUMNS))
