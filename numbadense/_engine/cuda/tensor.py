"""The dense kernel on tensor cores, for compute capability 8.0 and later: fragments of products in registers."""

import numpy as np
from numba import cuda

from numbadense._engine.cuda.primitives import (
    as_bits,
    as_float32,
    block_number,
    commit,
    copy1,
    copy16,
    int32,
    lane,
    load1,
    load16,
    make_dynamic_shared,
    make_wait,
    pack_bf16,
    pack_fp16,
    store8,
    store16,
    sync_warp,
    thread,
)
from numbadense._engine.cuda.tensor_products import make_multiply, swapped_float32, swapped_half
from numbadense._engine.cuda.tensor_tiles import COLUMN, DEPTH, FRAGMENT, PARTS

# How x and out lie in memory: in 16 bits, two numbers to a word of 32, their rows on boundaries of 16 bytes; in
# float32, the rows likewise; in float32 anywhere.
HALF, CHUNKS, ELEMENTS = "half", "chunks", "elements"
PACKED = {"bf16": pack_bf16, "fp16": pack_fp16}
CHUNK = 4  # words


def x_words(x_form: str) -> int:
    """Return the words that a row of x takes in a step."""
    return DEPTH // 2 if x_form == HALF else DEPTH


def make_dense(tile, precision, scalar, jit, x_form, out_form):
    """Return the kernel ``dense(x, w, b, out)``: ``out = scalar(b + x @ w)``.

    Expects C-contiguous x (m, k) and out (m, n), float32, or uint32 of half as many columns where their form is HALF;
    w, uint32 (steps, parts, columns, 16), as `tensor_pack` lays it out; b (n,) float32; out apart from the others; one
    block per tile of the output, in one dimension, with ``tile.size`` threads and the dynamic shared memory of
    ``tile.shared``.  Any m, n and k; k is a multiple of four where x is in chunks and of eight where it is halves, n
    likewise for out.

    ::

                         columns of the block       a warp has fragments of 16 x 8 outputs.  Lane 4 g + t has of each
                        +--------------------+      rows g and g + 8, columns 2 t and 2 t + 1, and gives its products
              32        | parts x 4 chunks   |      8 features of rows g and g + 8 of x, and of column g of w: those
              features  | a column           | x    from 8 t on, or where x has 16 bits those that `ldmatrix` gives it.
                        +--------------------+ stages        Tensor cores take any order of features that both have.
              32
            +-------+--------------------+          x   8 chunks a row, in float32: swapped in pairs in odd rows;
            | x     | total              | rows         4 chunks, in 16 bits: one for another in each pair of rows
            |       | in registers       | of the   w   packed, a chunk for each lane of four
            +-------+--------------------+ block        so that no two lanes meet in a bank

    Features are added in steps of 8 or 16 within tensor cores, whose sums are not rounded as float32's are; for
    `3xtf32` the products of 16 features are summed apart, and then added to what there is.  The bias comes last.
    """
    high, wide = tile.fragments
    rows, columns, stages = tile.rows, tile.columns, tile.stages
    warps_across, pitch = tile.warps[1], tile.pitch
    parts, row_words = PARTS[precision], x_words(x_form)
    down, across = FRAGMENT
    x_size, slot, ahead = rows * row_words, tile.stage(precision, row_words), stages - 1
    region = tile.shared(precision, row_words) // (tile.warps[0] * warps_across) // CHUNK * CHUNK
    part_high = _most(high, region // (down * pitch))
    sweeps = high // part_high
    piece = 2 * CHUNK if out_form == HALF else CHUNK  # columns
    pieces = wide * across // piece
    element, word = np.float32, np.uint32
    shared_memory = make_dynamic_shared(jit, np.uint32)
    place, multiply = jit(make_place(tile)), make_multiply(tile, precision, x_form == HALF, jit)
    spot_x, fetch_x = jit(make_spot(x_form)), jit(make_fetch_x(tile, x_form, jit))
    fetch_w = jit(make_fetch_w(tile, parts))
    store = jit(make_store(scalar, out_form, PACKED.get(precision)))
    wait, wait_for_all = make_wait(ahead - 1), make_wait(0)
    total_size, a_size, sums_size, four = high * wide * 4, high * 16, high * 4, CHUNK

    def dense(x, w, b, out):
        shared = shared_memory()
        total = cuda.local.array(total_size, element)
        a, held = cuda.local.array(a_size, word), cuda.local.array(8, word)
        sums = cuda.local.array(sums_size, element)
        pair = cuda.local.array(2, word)
        m, n = out.shape[0], b.shape[0]
        steps, padded = w.shape[0], w.shape[2]
        me, warp_down, warp_across, top, left = place(m, n)
        m_left, padded_left = int32(min(m - top, rows)), int32(min(padded - left, columns))

        for q in range(total_size):
            total[q] = 0

        k = x.shape[1]  # in words
        x_row, x_column = spot_x()
        x_start, w_start, k_left = (top + x_row) * k + x_column, (left * COLUMN) + me * four, k
        w_step = padded * parts * COLUMN
        x_down = int32(m_left - x_row)
        w_left = steps
        for stage in range(ahead):
            fetch_x(shared, stage * slot, x, x_start, k, x_down, x_column < k_left)
            fetch_w(shared, stage * slot + x_size, w, w_start, padded * COLUMN, padded_left, w_left > 0)
            commit()
            x_start += row_words
            w_start += w_step
            k_left -= row_words
            w_left -= 1
        here, there = int32(0), int32(ahead * slot)
        for _ in range(steps):
            wait()
            cuda.syncthreads()  # the step is there for all, and nobody computes with the one before it any more
            fetch_x(shared, there, x, x_start, k, x_down, x_column < k_left)
            fetch_w(shared, there + x_size, w, w_start, padded * COLUMN, padded_left, w_left > 0)
            commit()
            x_start += row_words
            w_start += w_step
            k_left -= row_words
            w_left -= 1
            multiply(
                shared,
                here + warp_down * high * down * row_words,
                here + x_size + (warp_across * wide * across * COLUMN) + lane() * four,
                total,
                a,
                held,
                sums,
            )
            there = here
            here = int32(0 if here == ahead * slot else here + slot)

        # The outputs go through shared memory, each warp's through its own part of it: a loop can then walk them
        # (registers have no index), the activation is there once, and rows are stored side by side.
        wait_for_all()
        cuda.syncthreads()
        me, warp_down, warp_across, top, left = place(m, n)
        m_left, n_left = int32(min(m - top, rows)), int32(min(n - left, columns))
        base = (warp_down * warps_across + warp_across) * region
        first = int32(warp_across * wide * across)
        here = base + lane() // 4 * pitch + lane() % 4 * 2
        for sweep in range(sweeps):
            for i in range(high):
                if i // part_high == sweep:
                    line = here + i % part_high * down * pitch
                    for j in range(wide):
                        for r in range(2):
                            pair[0] = as_bits(total[(i * wide + j) * 4 + 2 * r])
                            pair[1] = as_bits(total[(i * wide + j) * 4 + 2 * r + 1])
                            store8(shared, line + r * 8 * pitch + j * across, pair, 0)
            sync_warp()
            for q in range(lane(), part_high * down * pieces, 32):
                line = q // pieces
                column = first + (q - line * pieces) * piece
                row = int32((warp_down * high + sweep * part_high) * down + line)
                if row < m_left:
                    store(shared, base + line * pitch + column - first, b, out, top + row, left, n, column, n_left)
            sync_warp()

    return dense


def _most(high, room):
    """Return into how many fragments at a time `high` are divided, of which there is room for `room`."""
    return max(count for count in range(1, high + 1) if high % count == 0 and count <= room)


def make_place(tile):
    """Return the function that says where a thread is, in an output of `m` rows and `n` columns.

    That is: its number, its warp's place down and across the block, and the first row and column of the block.
    """
    rows, columns, group, warps_across = tile.rows, tile.columns, tile.group, tile.warps[1]

    def place(m, n):
        me, block = int32(thread()), block_number()
        warp = me // 32
        blocks_down, blocks_across = (m + rows - 1) // rows, (n + columns - 1) // columns
        band = block // (group * blocks_across)
        band_high = min(blocks_down - band * group, group)
        within = block - band * group * blocks_across
        column = within // band_high
        row = band * group + within - column * band_high
        return me, int32(warp // warps_across), int32(warp % warps_across), row * rows, column * columns

    return place


def make_spot(x_form):
    """Return the function that says which row and word of a step of x is the first that a thread copies."""
    step = 1 if x_form == ELEMENTS else CHUNK
    each = x_words(x_form) // step

    def spot():
        me = int32(thread())
        row = me // each
        return int32(row), int32((me - row * each) * step)

    return spot


def make_fetch_x(tile, x_form, jit):
    """Return the function that begins to copy a step of x, row after row.

    All threads of the block call it.  What a thread copies begins at `start` in x, whose rows are `pitch` long; it is
    zero beyond the next `down` rows, and wholly where the thread's column is not `inside`.
    """
    step = 1 if x_form == ELEMENTS else CHUNK
    copy, words = (copy1 if x_form == ELEMENTS else copy16), x_words(x_form)
    stride = tile.size * step // words
    turns, spot = tile.rows // stride, jit(make_spot(x_form))
    swapped = jit(swapped_half if x_form == HALF else swapped_float32)

    def fetch(shared, at, x, start, pitch, down, inside):
        row, column = spot()
        for turn in range(turns):
            line = row + turn * stride
            wanted = inside & (turn * stride < down)
            copy(shared, at + line * words + (column ^ swapped(line)), x, start, wanted)
            start += stride * pitch

    return fetch


def make_fetch_w(tile, parts):
    """Return the function that begins to copy a step of weights, `parts` after each other, `pitch` words apart."""
    size, columns = tile.size, tile.columns
    turns, words = columns * COLUMN // CHUNK // size, columns * COLUMN
    columns_a_turn = size * CHUNK // COLUMN

    def fetch(shared, at, w, start, pitch, left, inside):
        me = int32(thread())
        column = int32(me // (COLUMN // CHUNK))
        for part in range(parts):
            for turn in range(turns):
                wanted = inside & (column < int32(left - turn * columns_a_turn))
                copy16(shared, at + part * words + (me + turn * size) * CHUNK, w, start + turn * size * CHUNK, wanted)
            start += pitch

    return fetch


def make_store(scalar, out_form, pack):
    """Return the function that takes a piece of a row from shared memory to out, by way of bias and activation."""
    count = 2 * CHUNK if out_form == HALF else CHUNK
    word, element = np.uint32, np.float32
    four = CHUNK

    def half(shared, at, b, out, row, left, n, column, n_left):
        if column < n_left:
            held = cuda.local.array(count, word)
            result = cuda.local.array(four, word)
            load16(held, 0, shared, at)
            load16(held, four, shared, at + four)
            for e in range(four):
                one = as_float32(held[2 * e]) + load1(b, left + column + 2 * e)
                other = as_float32(held[2 * e + 1]) + load1(b, left + column + 2 * e + 1)
                result[e] = pack(scalar(one), scalar(other))
            store16(out, row * out.shape[1] + (left + column) // 2, result, 0)

    def chunks(shared, at, b, out, row, left, n, column, n_left):
        if column < n_left:
            held = cuda.local.array(count, word)
            result = cuda.local.array(count, element)
            load16(held, 0, shared, at)
            for e in range(count):
                result[e] = scalar(as_float32(held[e]) + load1(b, left + column + e))
            store16(out, row * n + left + column, result, 0)

    def elements(shared, at, b, out, row, left, n, column, n_left):
        held = cuda.local.array(count, word)
        load16(held, 0, shared, at)
        for e in range(count):
            if column + e < n_left:
                out[row, left + column + e] = scalar(as_float32(held[e]) + load1(b, left + column + e))

    return {HALF: half, CHUNKS: chunks, ELEMENTS: elements}[out_form]
