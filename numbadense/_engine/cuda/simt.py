"""The dense kernel on ordinary CUDA cores: a pipeline of tiles through shared memory, outputs in registers."""

from typing import Any, NamedTuple

from numba import cuda

from numbadense._engine.cuda.primitives import (
    CHUNK,
    block_number,
    commit,
    copy1,
    copy16,
    fma,
    int32,
    load1,
    load16,
    make_shared,
    make_wait,
    part_number,
    store16,
    thread,
)
from numbadense._engine.cuda.split import make_length


class Copies(NamedTuple):
    """How a tile comes to shared memory: ``chunk`` and ``one`` begin copies, which may be there at once."""

    chunk: Any
    one: Any
    commit: Any
    make_wait: Any


def asynchronous() -> Copies:
    """Return the copies of devices from compute capability 8.0 on."""
    return Copies(copy16, copy1, commit, make_wait)


def synchronous(dtype, jit) -> Copies:
    """Return the copies of any device: those through registers."""
    element, count = dtype.type, CHUNK // dtype.itemsize

    def chunk(shared, at, array, index, wanted):
        held = cuda.local.array(count, element)
        for e in range(count):
            held[e] = 0
        if wanted:
            load16(held, 0, array, index)
        store16(shared, at, held, 0)

    def one(shared, at, array, index, wanted):
        shared[at] = load1(array, index) if wanted else element(0)

    def nothing():
        pass

    return Copies(jit(chunk), jit(one), jit(nothing), lambda pending: jit(nothing))


def make_dense(tile, dtype, scalar, jit, copies, x_in_chunks, w_in_chunks, split=False):
    """Return the kernel ``out = scalar(b + x @ w)``.

    Expects C-contiguous x (m, k), w (k, n) and out (m, n), and b (n,), all of `dtype`, out apart from the others; one
    block per tile of the output, in one dimension, with ``tile.size`` threads.  `x_in_chunks` says that x, and each of
    its rows, begins at a multiple of 16 bytes, `w_in_chunks` the same of w, b and out.  Any m, n and k: what a
    tile has beyond the edges of x and w is zero, and beyond those of out it is not stored.

    ::

                      columns of the block               a thread at (ty, tx) has the outputs
                     +--------------------+              rows     ty, ty + threads[0], ...
              depth  | w[p, j]            | of `stages`  chunks   tx, tx + threads[1], ... of columns,
                     +--------------------+
              depth                                      so that the threads of a warp read w, and store,
            +-------+--------------------+               side by side, and few of them different rows of x.
            | x     | total[i, j]        | rows
            | [i,p] | in registers       | of the
            +-------+--------------------+ block

    Shared memory has `stages` such pairs of tiles: one is computed with while the others are on their way.

    Bias first, then the products in the order of the features, one fused multiply-add at a time: the order of the CPU.

    Where the features are `split`, the grid has a second dimension, a part of them, and out (parts * m, n) gets the
    sums of each, a matrix below the other, without b: they begin with -0, which leaves what is added to it as it is.
    """
    element = dtype.type
    chunk = CHUNK // dtype.itemsize
    down, across = tile.threads
    high, wide = tile.outputs
    rows, columns, depth = tile.rows, tile.columns, tile.depth
    shape, x_shape, chunks = (high, wide), (high, chunk), wide // chunk
    size, part_high = tile.size, min(high, tile.shared // (tile.size * wide))
    parts = -(-high // part_high)
    x_size, slot, ahead = rows * depth, (rows + columns) * depth, tile.stages - 1
    shared_memory, none = make_shared(jit, tile.shared, element), element(-0.0)
    part_of = jit(_make_part(split, jit))
    place = jit(make_place(tile))
    multiply, pairs = jit(make_multiply(tile, chunk)), depth // (2 * chunk)
    copy_x, x_step = (copies.chunk, chunk) if x_in_chunks else (copies.one, 1)
    copy_w, w_step = (copies.chunk, chunk) if w_in_chunks else (copies.one, 1)
    spot_x, fetch_x = jit(make_spot(depth, x_step)), jit(make_fetch(rows, depth, size, copy_x, x_step))
    spot_w, fetch_w = jit(make_spot(columns, w_step)), jit(make_fetch(depth, columns, size, copy_w, w_step))
    commit, wait, wait_for_all = copies.commit, copies.make_wait(ahead - 1), copies.make_wait(0)

    def dense(x, w, b, out):
        shared = shared_memory()
        total = cuda.local.array(shape, element)
        x_part = cuda.local.array(x_shape, element)
        w_part = cuda.local.array(wide, element)
        held = cuda.local.array(chunk, element)
        m, k = x.shape
        n = w.shape[1]
        pitch = k
        _, first, k = part_of(m, k, out.shape[0])
        me, ty, tx, top, left = place(n)
        m_left, n_left = int32(min(m - top, rows)), int32(min(n - left, columns))

        for q in range(chunks):
            for e in range(chunk):
                w_part[q * chunk + e] = 0
            column = (tx + q * across) * chunk
            if w_in_chunks:
                if column < n_left and not split:
                    load16(w_part, q * chunk, b, left + column)
            else:
                for e in range(chunk):
                    if column + e < n_left and not split:
                        w_part[q * chunk + e] = b[left + column + e]
        for i in range(high):
            for j in range(wide):
                total[i, j] = none if split else w_part[j]

        x_row, x_column = spot_x()
        w_row, w_column = spot_w()
        x_start, w_start = (top + x_row) * pitch + first + x_column, (first + w_row) * n + left + w_column
        k_left = k
        x_down, w_inside = int32(m_left - x_row), w_column < n_left
        for stage in range(ahead):
            fetch_x(shared, stage * slot, x, x_start, pitch, x_down, x_column < k_left)
            fetch_w(shared, stage * slot + x_size, w, w_start, n, k_left - w_row, w_inside)
            commit()
            x_start += depth
            w_start += depth * n
            k_left -= depth
        here, there = int32(0), int32(ahead * slot)
        steps = k // depth
        for _ in range(steps):
            wait()
            cuda.syncthreads()  # the tiles are there for all, and nobody computes with those before them any more
            fetch_x(shared, there, x, x_start, pitch, x_down, x_column < k_left)
            fetch_w(shared, there + x_size, w, w_start, n, k_left - w_row, w_inside)
            commit()
            x_start += depth
            w_start += depth * n
            k_left -= depth
            x_at, w_at = here + ty * depth, here + x_size + tx * chunk
            for _ in range(pairs):  # two at a time, for not every compiler unrolls a loop as long as this
                multiply(shared, x_at, w_at, total, x_part, w_part)
                multiply(shared, x_at + chunk, w_at + columns * chunk, total, x_part, w_part)
                x_at += 2 * chunk
                w_at += 2 * columns * chunk
            there = here
            here = int32(0 if here == ahead * slot else here + slot)

        # The features that are left, and not a zero more: adding one would turn -0 into 0.
        wait_for_all()
        cuda.syncthreads()
        for p in range(k - steps * depth):
            for q in range(chunks):
                load16(w_part, q * chunk, shared, here + x_size + p * columns + (tx + q * across) * chunk)
            for i in range(high):
                feature = shared[here + (ty + i * down) * depth + p]
                for j in range(wide):
                    total[i, j] = fma(feature, w_part[j], total[i, j])

        # The outputs go through shared memory, each thread's through its own part of it: a loop can then walk them
        # (registers have no index), the activation is there once, and needs no register beside them.
        cuda.syncthreads()
        me, ty, tx, top, left = place(n)
        m_left, n_left = int32(min(m - top, rows)), int32(min(n - left, columns))
        above, _, _ = part_of(m, k, out.shape[0])
        top += above
        for part in range(parts):
            for i in range(high):
                if i // part_high == part:
                    for q in range(chunks):
                        store16(shared, ((i % part_high * chunks + q) * size + me) * chunk, total, i * wide + q * chunk)
            for i in range(part_high):
                row = ty + (part * part_high + i) * down
                if row < rows and row < m_left:
                    for q in range(chunks):
                        column = (tx + q * across) * chunk
                        load16(held, 0, shared, ((i * chunks + q) * size + me) * chunk)
                        if w_in_chunks:
                            if column < n_left:
                                for e in range(chunk):
                                    held[e] = scalar(held[e])
                                store16(out, (top + row) * n + left + column, held, 0)
                        else:
                            for e in range(chunk):
                                if column + e < n_left:
                                    out[top + row, left + column + e] = scalar(held[e])

    return dense


def _make_part(split, jit):
    """Return ``part_of(m, k, height)``: the rows of out above the block's part, its first feature, and how many it has.

    `height` is that of out; the whole is the only part unless it is `split`.
    """
    length_of = jit(make_length())

    def part_of(m, k, height):
        if not split:
            return 0, 0, k
        part, length = int(part_number()), length_of(k, height // m)
        return part * m, part * length, max(0, min(length, k - part * length))

    return part_of


def make_place(tile):
    """Return the function that says where a thread is, in an output of `n` columns.

    That is: its number, its place down and across the block, and the first row and column of the block.  It finds out
    anew each time it is called, so that nothing of it takes up registers in between.
    """
    across = tile.threads[1]
    rows, columns = tile.rows, tile.columns
    warp_down, warp_across = tile.warp
    lanes, warps_across = warp_down * warp_across, across // warp_across

    def place(n):
        me, block = thread(), block_number()
        warp = me // lanes
        lane = me - warp * lanes
        ty = int32(warp // warps_across * warp_down + lane // warp_across)
        tx = int32(warp % warps_across * warp_across + lane % warp_across)
        blocks_across = (n + columns - 1) // columns
        row_of_blocks = block // blocks_across
        return me, ty, tx, row_of_blocks * rows, (block - row_of_blocks * blocks_across) * columns

    return place


def make_multiply(tile, chunk):
    """Return the function that adds the products of one chunk of features, at `x_at` and `w_at`, to `total`."""
    down, across = tile.threads
    high, wide = tile.outputs
    columns, depth, chunks = tile.columns, tile.depth, wide // chunk

    def multiply(shared, x_at, w_at, total, x_part, w_part):
        for i in range(high):
            load16(x_part, i * chunk, shared, x_at + i * down * depth)
        for e in range(chunk):
            for q in range(chunks):
                load16(w_part, q * chunk, shared, w_at + e * columns + q * across * chunk)
            for i in range(high):
                for j in range(wide):
                    total[i, j] = fma(x_part[i, e], w_part[j], total[i, j])

    return multiply


def make_spot(columns, step):
    """Return the function that says where in a tile of `columns` the first copy of a thread is: its row and column."""
    pieces = columns // step

    def spot():
        me = thread()
        row = me // pieces
        return int32(row), int32((me - row * pieces) * step)

    return spot


def make_fetch(rows, columns, threads, copy, step):
    """Return the function that begins to copy a tile to shared memory, row after row, `step` elements a thread at once.

    All threads of the block call it.  What a thread copies begins at `start` in `array`, whose rows are `pitch` long;
    it is zero beyond the next `down` rows, and wholly where the thread's column is not `inside`.
    """
    turns = rows * columns // (threads * step)
    stride = threads * step // columns

    def fetch(shared, at, array, start, pitch, down, inside):
        place = at + thread() * step
        for turn in range(turns):
            wanted = inside & (turn * stride < down)
            copy(shared, place + turn * threads * step, array, start, wanted)
            start += stride * pitch

    return fetch
