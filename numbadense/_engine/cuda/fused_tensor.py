"""Whole networks on tensor cores in one kernel: activations never leave the registers."""

import numpy as np
from numba import cuda

from numbadense._engine.cuda.primitives import (
    CHUNK,
    as_float32,
    block_number,
    commit,
    copy16,
    int32,
    load1,
    load16,
    make_dynamic_shared,
    make_wait,
    mma_bf16,
    mma_fp16,
    pack_bf16,
    pack_fp16,
    store16,
    sync_warp,
    thread,
)

LANES, TILE, HALF = 32, 16, 8  # threads of a warp; rows and features of a product of fragments; its columns
FACTS, WORDS = 4, CHUNK // 4
SPAN = 16  # numbers in a loop over registers
WORD, NUMBER = np.uint32, np.float32
ZERO = NUMBER(0)
HALVES = {"bf16": (mma_bf16, pack_bf16), "fp16": (mma_fp16, pack_fp16)}


def words(width: int) -> int:
    """Return how many words a layer of a program has."""
    return FACTS + width + width * width // 2


def make_fused(tile, mma, pack, jit, elementwise, rowwise, streamed, x_in_chunks, out_in_chunks):
    """Return the kernel ``out = network(x)``, for many networks of one shape or for one.

    Expects `programs`, ``(networks, words)`` of uint32 as `tensor_program` packs them, C-contiguous x ``(rows, n_in)``
    and out ``(networks * m, n_out)`` of float32, out apart from the others.  The rows of network i are those from i * m
    on, of x too unless all networks share x.  There are `per` blocks of ``tile.size`` threads for each network, which
    walk its rows in strides, and ``tile.shared`` bytes of dynamic shared memory.  `x_in_chunks` says that x, and each
    of its rows, begins at a multiple of 16 bytes, `out_in_chunks` the same of out.  `mma` multiplies fragments of
    numbers of 16 bits, which `pack` rounds.  `rowwise` is None if no activation is.

    ::

        inputs, by 16 features                 sums, by 16 outputs               inputs of the next layer
        row g      a0: 0 1   a2: 2 3           s0: 0 1   s2: 0 1  (t 2 3)        row g      a0 a2
        row g + 8  a1: 0 1   a3: 2 3    x w ->  of two products of 8      ->     row g + 8  a1 a3

    Lane ``l = 4 g + t`` has features 4 t to 4 t + 3 of each 16, for the rows g and g + 8, on both sides: a product of
    fragments does not care in which order features are summed, and the weights are packed in that of the lanes.  So a
    lane reads and writes 16 bytes of a row, and what it has summed, activated and rounded is its part of the next
    layer's inputs.  Between the layers nothing is exchanged but, for a row-wise activation, through shared memory.

    Weights in shared memory are resident, copied once, or streamed, the next layer while one is computed with.
    """
    width, parts, warps = tile.width, tile.parts, tile.warps
    groups, pitch, rows, layer = width // TILE, width + WORDS, parts * TILE, words(width)
    size, scratch = tile.size, parts * TILE * (width + WORDS)
    sums, inputs = parts * width // HALF * 4, parts * groups * 4
    shared_words, shared_floats = make_dynamic_shared(jit, WORD), make_dynamic_shared(jit, NUMBER)
    load_inputs = jit(make_load(tile, pack, x_in_chunks))
    store_outputs = jit(make_store(tile, out_in_chunks))
    wait_for_all, begin, clear = make_wait(0), jit(begin_sums), jit(clear_beyond)
    spread, collect = jit(make_spread(tile)), jit(make_collect(tile))
    has_rowwise = rowwise is not None
    rowwise = rowwise or elementwise

    def fused(programs, x, out, m, per, shares):
        shared = shared_words()
        a = cuda.local.array(inputs, WORD)
        b = cuda.local.array(WORDS, WORD)
        total = cuda.local.array(sums, NUMBER)
        lane = int32(thread() % LANES)
        g, t = lane // 4, lane % 4
        network = block_number() // per
        numbers = int32(programs.shape[1])
        base = network * programs.shape[1]
        here, source = int32(0), int32(layer)
        for q in range(thread() * WORDS, layer if streamed else numbers, size * WORDS):
            copy16(shared, q, programs, base + q, True)
        commit()
        wait_for_all()
        cuda.syncthreads()
        turns = int32((m + rows * warps - 1) // (rows * warps))
        for turn in range(int32(block_number() - network * per), turns, int32(per)):
            top = (turn * warps + thread() // LANES) * rows
            left = int32(max(min(m - top, rows), 0))
            if streamed or left > 0:
                load_inputs(a, x, (0 if shares else network * m) + top, left, g, t)
                at = int32(0)
                while at < numbers:
                    if streamed:
                        # the layer is there, and nobody reads the one before it any more
                        wait_for_all()
                        cuda.syncthreads()
                        source = int32(0 if source >= numbers else source)
                        for q in range(thread() * WORDS, layer, size * WORDS):
                            copy16(shared, layer - here + q, programs, base + source + q, True)
                        commit()
                        source += int32(layer)
                    for q in range(groups * parts):  # of two loops CUDA 13.5 makes local memory, for 12.0
                        load16(b, 0, shared, here + FACTS + q // parts * TILE + t * 4)
                        begin(total, (q % parts * groups + q // parts) * 8, b)
                    w_at = here + FACTS + width + lane * WORDS
                    for k in range(groups):
                        for group in range(groups):
                            load16(b, 0, shared, w_at + (k * groups + group) * LANES * WORDS)
                            for part in range(parts):
                                mma(total, (part * groups + group) * 8, a, (part * groups + k) * 4, b, 0)
                                mma(total, (part * groups + group) * 8 + 4, a, (part * groups + k) * 4, b, 2)
                    n, each = int32(load1(shared, here + 1)), int32(load1(shared, here + 2))
                    whole = int32(load1(shared, here + 3))
                    elementwise(each, total)
                    if has_rowwise and whole != 0:
                        rows_at = int32((2 * layer if streamed else numbers) + thread() // LANES * scratch)
                        floats = shared_floats()
                        spread(floats, rows_at, total, g, t)
                        sync_warp()
                        for row in range(lane, left, LANES):
                            rowwise(whole, floats[rows_at + row * pitch : rows_at + row * pitch + n])
                        sync_warp()
                        collect(floats, rows_at, total, g, t)  # from where this lane stored, and nobody else will
                    if n < width:
                        for q in range(parts * groups):
                            clear(total, q * 8, q % groups * TILE + t * 4, n)
                    at += int32(layer)
                    if at < numbers:
                        for q in range(inputs):
                            a[q] = pack(total[2 * q], total[2 * q + 1])
                    here = int32(layer - here) if streamed else at
                here = here if streamed else int32(0)
                store_outputs(out, total, network * m + top, left, g, t)
        wait_for_all()

    return fused


def begin_sums(total, at, b):
    """Let the eight sums of a lane in a group of 16 outputs begin with four biases."""
    first, second, third, fourth = as_float32(b[0]), as_float32(b[1]), as_float32(b[2]), as_float32(b[3])
    total[at], total[at + 1], total[at + 2], total[at + 3] = first, second, first, second
    total[at + 4], total[at + 5], total[at + 6], total[at + 7] = third, fourth, third, fourth


def clear_beyond(total, at, column, n):
    """Let those of the eight outputs of a lane in a group be 0 that are not among the first n of the layer."""
    total[at], total[at + 2] = (total[at], total[at + 2]) if column < n else (ZERO, ZERO)
    total[at + 1], total[at + 3] = (total[at + 1], total[at + 3]) if column + 1 < n else (ZERO, ZERO)
    total[at + 4], total[at + 6] = (total[at + 4], total[at + 6]) if column + 2 < n else (ZERO, ZERO)
    total[at + 5], total[at + 7] = (total[at + 5], total[at + 7]) if column + 3 < n else (ZERO, ZERO)


def make_load(tile, pack, in_chunks):
    """Return the function that loads the inputs of a lane: `count` rows of x, from `first` on, and zeros beyond."""
    parts, groups = tile.parts, tile.width // TILE

    def load(a, x, first, count, g, t):
        held = cuda.local.array(WORDS, NUMBER)
        n_in = int32(x.shape[1])
        for part in range(parts):
            for half in range(2):
                row = part * TILE + half * HALF + g
                for group in range(groups):
                    column = group * TILE + t * 4
                    for e in range(WORDS):
                        held[e] = 0
                    if row < count:
                        if in_chunks:
                            if column < n_in:
                                load16(held, 0, x, (first + row) * n_in + column)
                        else:
                            for e in range(WORDS):
                                if column + e < n_in:
                                    held[e] = load1(x, (first + row) * n_in + column + e)
                    at = (part * groups + group) * 4 + half
                    a[at], a[at + 2] = pack(held[0], held[1]), pack(held[2], held[3])

    return load


def make_store(tile, in_chunks):
    """Return the function that stores the outputs of a lane: `count` rows of out, from `first` on."""
    parts, groups = tile.parts, tile.width // TILE

    def store(out, total, first, count, g, t):
        held = cuda.local.array(WORDS, NUMBER)
        n_out = int32(out.shape[1])
        for part in range(parts):
            for half in range(2):
                row = part * TILE + half * HALF + g
                for group in range(groups):
                    column = group * TILE + t * 4
                    if row < count and column < n_out:
                        at = (part * groups + group) * 8 + half * 2
                        held[0], held[1], held[2], held[3] = total[at], total[at + 1], total[at + 4], total[at + 5]
                        if in_chunks:
                            store16(out, (first + row) * n_out + column, held, 0)
                        else:
                            for e in range(WORDS):
                                if column + e < n_out:
                                    out[first + row, column + e] = held[e]

    return store


def make_spread(tile):
    """Return the function that stores the outputs of a lane to rows in shared memory."""
    parts, groups, pitch = tile.parts, tile.width // TILE, tile.width + WORDS

    def spread(floats, at, total, g, t):
        for part in range(parts):
            for half in range(2):
                for group in range(groups):
                    place = at + (part * TILE + half * HALF + g) * pitch + group * TILE + t * 4
                    q = (part * groups + group) * 8 + half * 2
                    floats[place], floats[place + 1] = total[q], total[q + 1]
                    floats[place + 2], floats[place + 3] = total[q + 4], total[q + 5]

    return spread


def make_collect(tile):
    """Return the function that takes the outputs of a lane back from rows in shared memory."""
    parts, groups, pitch = tile.parts, tile.width // TILE, tile.width + WORDS

    def collect(floats, at, total, g, t):
        for part in range(parts):
            for half in range(2):
                for group in range(groups):
                    place = at + (part * TILE + half * HALF + g) * pitch + group * TILE + t * 4
                    q = (part * groups + group) * 8 + half * 2
                    total[q], total[q + 1] = load1(floats, place), load1(floats, place + 1)
                    total[q + 4], total[q + 5] = load1(floats, place + 2), load1(floats, place + 3)

    return collect


def make_each(device, pair, begin, end):
    """Return ``each(values)``: an element-wise activation over registers, in place.

    Two at a time, side by side in one row.  In spans, for not every compiler unrolls a loop as long as this, and
    registers have no index.
    """
    if end - begin > SPAN:
        middle = (begin + end) // 2
        low, high = make_each(device, pair, begin, middle), make_each(device, pair, middle, end)

        def both(values):
            low(values)
            high(values)

        return device(both)

    def each(values):
        for j in range(begin, end, 2):
            values[j], values[j + 1] = pair((values[j], values[j + 1]))

    return device(each)
