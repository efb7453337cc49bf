"""Whole networks on ordinary CUDA cores in one kernel: activations never leave the multiprocessor."""

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
    make_dynamic_shared,
    make_wait,
    store16,
    sync_warp,
    thread,
)
from numbadense._engine.cuda.program import FOUR


def make_fused(tile, dtype, jit, elementwise, rowwise, streamed, x_in_chunks, out_in_chunks):
    """Return the kernel ``out = network(x)``, for many networks of one shape or for one.

    Expects `programs`, ``(networks, numbers)`` as `fused_program` packs them, C-contiguous x ``(rows, n_in)`` and out
    ``(networks * m, n_out)``, all of `dtype`, out apart from the others.  The rows of network i are those from i * m
    on, of x too unless all networks share x.  There are `per` blocks of ``tile.size`` threads for each network, which
    walk its rows in strides, and ``tile.shared`` bytes of dynamic shared memory.  `x_in_chunks` says that x, and each
    of its rows, begins at a multiple of 16 bytes, `out_in_chunks` the same of out.

    ::

        shared   [ weights ][ rows of warp 0 ][ rows of warp 1 ] ...         one step of a layer, in a warp:

        weights  resident: the program, copied once                  rows         width      a thread at (ty, tx) has
                 streamed: `stages` pieces of `depth` features,      +--------+   +--------+   rows    ty, ty + down, ..
                 copied while the ones before are computed with      | x      | x | w      |   chunks  tx, tx + across,
                                                                     +--------+   +--------+           ... of columns
        rows     of width + a chunk each, so that rows below each
                 other are in different banks; a layer's outputs     sums in registers; once all lanes have read x
                 take the place of its inputs                        they are stored there, and activated there

    A warp owns its rows, and waits for nobody but, where weights are streamed, for the block at each piece.

    Bias first, then the products in the order of the features, one fused multiply-add at a time: the order of the CPU.
    Features beyond the last, up to a whole chunk, are +0 times -0, which leaves any sum as it is.
    """
    element = dtype.type
    chunk = CHUNK // dtype.itemsize
    high, wide = tile.outputs
    width, across, down, rows = tile.width, tile.across, tile.down, tile.rows
    lanes, warps, size = tile.lanes, tile.warps, tile.size
    pitch, chunks, shape, x_shape = tile.pitch(chunk), wide // chunk, (high, wide), (high, chunk)
    depth, ahead, slot = tile.depth, tile.stages - 1, tile.depth * width
    shared_memory = make_dynamic_shared(jit, element)
    place = jit(make_place(tile, chunk, streamed))
    multiply, fetch = jit(make_multiply(tile, chunk)), jit(make_fetch(tile, chunk))
    load_rows = jit(make_load_rows(tile, chunk, copy16 if x_in_chunks else copy1, chunk if x_in_chunks else 1))
    store_rows = jit(make_store_rows(tile, chunk, element, chunk if out_in_chunks else 1))
    wait, wait_for_all = make_wait(ahead - 1), make_wait(0)

    def fused(programs, x, out, m, per, shares):
        shared = shared_memory()
        total = cuda.local.array(shape, element)
        x_part = cuda.local.array(x_shape, element)
        w_part = cuda.local.array(wide, element)
        numbers = int32(programs.shape[1])
        network = block_number() // per
        base = network * programs.shape[1]
        here, source = int32(0), int32(load1(programs, base))
        if streamed:
            for stage in range(ahead):
                source = fetch(shared, stage * slot, programs, base, source)
                commit()
        else:
            for q in range(thread() * chunk, numbers, size * chunk):
                copy16(shared, q, programs, base + q, True)
            commit()
            wait_for_all()
            cuda.syncthreads()

        turns = int32((m + rows * warps - 1) // (rows * warps))
        for turn in range(int32(block_number() - network * per), turns, int32(per)):
            lane, warp, ty, tx, mine = place(numbers)
            top = (turn * warps + warp) * rows
            if streamed or top < m:
                load_rows(shared, mine, lane, x, (0 if shares else network * m) + top, int32(min(m - top, rows)))
                commit()
                wait_for_all()
                sync_warp()

                at, w_at = int32(FOUR), int32(load1(programs, base))
                while at < int32(load1(programs, base)):
                    lane, warp, ty, tx, mine = place(numbers)
                    facts, facts_at = (programs, base + at) if streamed else (shared, at)
                    chunks_left = (int32(load1(facts, facts_at)) + chunk - 1) // chunk
                    for q in range(chunks):
                        load16(w_part, q * chunk, facts, facts_at + FOUR + (tx + q * across) * chunk)
                    for i in range(high):
                        for j in range(wide):
                            total[i, j] = w_part[j]
                    x_at = mine + ty * pitch
                    if streamed:
                        while chunks_left > 0:
                            wait()
                            cuda.syncthreads()  # the piece is there, and nobody reads the one before it any more
                            there = int32(ahead * slot if here == 0 else here - slot)
                            source = fetch(shared, there, programs, base, source)
                            commit()
                            w_at = here + tx * chunk
                            for _ in range(min(depth // chunk, chunks_left)):
                                multiply(shared, x_at, w_at, total, x_part, w_part)
                                x_at += chunk
                                w_at += width * chunk
                            chunks_left -= depth // chunk
                            here = int32(0 if here == ahead * slot else here + slot)
                    else:
                        w_at += tx * chunk
                        for _ in range(chunks_left):
                            multiply(shared, x_at, w_at, total, x_part, w_part)
                            x_at += chunk
                            w_at += width * chunk
                        w_at -= tx * chunk

                    # Registers have no index: through shared memory a loop can walk the outputs, and the activations
                    # are there once.
                    sync_warp()  # all lanes have read the inputs
                    lane, warp, ty, tx, mine = place(numbers)
                    begin = mine + ty * pitch + tx * chunk
                    for i in range(high):
                        for q in range(chunks):
                            store16(shared, begin + i * down * pitch + q * across * chunk, total, i * wide + q * chunk)
                    facts, facts_at = (programs, base + at) if streamed else (shared, at)
                    n, each = int32(load1(facts, facts_at + 1)), int32(load1(facts, facts_at + 2))
                    whole = int32(load1(facts, facts_at + 3))
                    at += int32(FOUR + width)
                    for _ in range(high):
                        for q in range(chunks):
                            load16(w_part, q * chunk, shared, begin + q * across * chunk)
                        elementwise(each, w_part)
                        for q in range(chunks):
                            for e in range(chunk):
                                w_part[q * chunk + e] = (
                                    w_part[q * chunk + e] if (tx + q * across) * chunk + e < n else 0
                                )
                            store16(shared, begin + q * across * chunk, w_part, q * chunk)
                        begin += down * pitch
                    sync_warp()
                    if whole != 0:
                        for row in range(lane, min(m - (turn * warps + warp) * rows, rows), lanes):
                            rowwise(whole, shared[mine + row * pitch : mine + row * pitch + n])
                        sync_warp()

                lane, warp, ty, tx, mine = place(numbers)
                top = (turn * warps + warp) * rows
                store_rows(shared, mine, lane, out, network * m + top, int32(min(m - top, rows)))
                sync_warp()  # the next rows may take the place of these
        wait_for_all()

    return fused


def make_place(tile, chunk, streamed):
    """Return the function that says where a thread is, behind a program of so many `numbers`.

    That is: its lane and its warp, its place down and across the outputs, and where the rows of its warp begin.  It
    finds out anew each time it is called, so that nothing of it takes up registers in between.
    """
    lanes, across, each = tile.lanes, tile.across, tile.rows * tile.pitch(chunk)
    ring = tile.stages * tile.depth * tile.width

    def place(numbers):
        me = thread()
        warp = int32(me // lanes)
        lane = int32(me - warp * lanes)
        ty = lane // across
        return lane, warp, ty, lane - ty * across, int32((ring if streamed else numbers) + warp * each)

    return place


def make_multiply(tile, chunk):
    """Return the function that adds the products of one chunk of features, at `x_at` and `w_at`, to `total`."""
    high, wide = tile.outputs
    width, across, down, pitch, chunks = tile.width, tile.across, tile.down, tile.pitch(chunk), wide // chunk

    def multiply(shared, x_at, w_at, total, x_part, w_part):
        for i in range(high):
            load16(x_part, i * chunk, shared, x_at + i * down * pitch)
        for e in range(chunk):
            for q in range(chunks):
                load16(w_part, q * chunk, shared, w_at + e * width + q * across * chunk)
            for i in range(high):
                for j in range(wide):
                    total[i, j] = fma(x_part[i, e], w_part[j], total[i, j])

    return multiply


def make_fetch(tile, chunk):
    """Return the function that begins to copy the piece of weights at `source`, and says where the next one is.

    All threads of the block call it.  After the last piece of the program comes the first.
    """
    slot, size = tile.depth * tile.width, tile.size

    turns = -(-slot // (size * chunk))
    whole = slot % (size * chunk) == 0

    def fetch(shared, to, programs, base, source):
        for turn in range(turns):
            q = (turn * size + thread()) * chunk
            if whole or q < slot:
                copy16(shared, to + q, programs, base + source + q, True)
        source += int32(slot)
        return int32(load1(programs, base)) if source == programs.shape[1] else source

    return fetch


def make_load_rows(tile, chunk, copy, step):
    """Return the function with which a warp begins to copy `count` rows of x, from `first` on, to shared memory.

    Features beyond the last, up to a whole chunk, become +0.
    """
    lanes, pitch = tile.lanes, tile.pitch(chunk)

    def load_rows(shared, to, lane, x, first, count):
        n_in = int32(x.shape[1])
        columns = (n_in + chunk - 1) // chunk * chunk // step
        row = lane // columns
        column, rows_further = lane - row * columns, lanes // columns
        further = lanes - rows_further * columns
        while row < count:
            place = column * step
            copy(shared, to + row * pitch + place, x, (first + row) * n_in + place, place < n_in)
            row += rows_further
            column += further
            if column >= columns:
                column -= columns
                row += 1

    return load_rows


def make_store_rows(tile, chunk, element, step):
    """Return the function with which a warp stores `count` rows from shared memory, to out from `first` on."""
    lanes, pitch = tile.lanes, tile.pitch(chunk)

    def store_rows(shared, start, lane, out, first, count):
        held = cuda.local.array(chunk, element)
        n_out = int32(out.shape[1])
        columns = n_out // step
        row = lane // columns
        column, rows_further = lane - row * columns, lanes // columns
        further = lanes - rows_further * columns
        while row < count:
            place = column * step
            if step == chunk:
                load16(held, 0, shared, start + row * pitch + place)
                store16(out, (first + row) * n_out + place, held, 0)
            else:
                out[first + row, place] = load1(shared, start + row * pitch + place)
            row += rows_further
            column += further
            if column >= columns:
                column -= columns
                row += 1

    return store_rows
