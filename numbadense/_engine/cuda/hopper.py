"""The dense kernel on Hopper: one warpgroup has boxes copied by hardware, two multiply them."""

from dataclasses import dataclass

import numpy as np

from numbadense._engine.cuda.device import simulated
from numbadense._engine.cuda.primitives import address, block_number, int32, thread

if simulated():
    from numbadense._engine.cuda.twin import hopper as primitives
else:
    from numbadense._engine.cuda.ptx import hopper as primitives

ROW, ALIGNED = 128, 1024  # bytes of a row of a tile, and what the swizzle of eight rows is aligned to
WARPS = 4  # of a warpgroup
CONSUMERS = 2
MAP, MAPS = 16, 32  # int64 of a tensor map, and of those of a block
DEPTH = {"bf16": 64, "fp16": 64, "tf32": 32}  # features in a row of a tile
WIDTH = {"bf16": 2, "fp16": 2, "tf32": 4}  # bytes of each
KINDS = {"bf16": "bf16", "fp16": "f16", "tf32": "tf32"}


@dataclass(frozen=True)
class Tile:
    """How a block computes: ``high`` multiplications of 64 rows and `columns` columns a warpgroup.

    Two warpgroups compute: the two halves of one tile (`apart` False), or tiles of their own in turns, so that one
    applies the activation while the other multiplies.  `stages` steps of 128 bytes of each row are in shared memory.
    `group` rows of tiles are computed by columns, so that blocks that run at once share what they read.
    `part` columns at a time pass through shared memory on their way out.
    `cluster` blocks that run at once compute tiles below each other: each copies its share of the columns for all.
    `lanes` are the threads of a warp: fewer in the simulator, with as many fewer rows.
    """

    high: int
    columns: int
    apart: bool
    stages: int
    group: int = 16
    part: int = 32
    cluster: int = 1
    lanes: int = 32
    producer_registers: int = 24
    consumer_registers: int = 240

    @property
    def warpgroup(self) -> int:
        """Threads of a warpgroup."""
        return WARPS * self.lanes

    @property
    def size(self) -> int:
        """Threads of a block: the first warpgroup copies, the others compute."""
        return (1 + CONSUMERS) * self.warpgroup

    @property
    def atom(self) -> int:
        """Rows of one multiplication."""
        return 2 * self.lanes

    @property
    def rows(self) -> int:
        """Rows of a tile of the output."""
        return self.atom * self.high * (1 if self.apart else CONSUMERS)

    @property
    def share(self) -> int:
        """Columns whose weights a block copies: those of its tile, or its share of them for the cluster."""
        return self.columns // self.cluster

    @property
    def stage(self) -> int:
        """Bytes of a step."""
        return (self.rows + self.columns) * ROW

    @property
    def pitch(self) -> int:
        """Bytes from a row of outputs in shared memory to the next: no two threads of a store in one bank."""
        return 4 * (self.part + 8)

    @property
    def staged(self) -> int:
        """Bytes of shared memory for the outputs of a warp."""
        return self.atom // WARPS * self.pitch

    @property
    def shared(self) -> int:
        """Bytes of shared memory, with what it takes to align them."""
        return ALIGNED + self.stages * self.stage + CONSUMERS * WARPS * self.staged + 8 * (2 * self.stages + CONSUMERS)

    def tiles(self, m: int, n: int) -> int:
        """Return how many tiles an output has."""
        return -(-m // self.rows) * -(-n // self.columns)

    def blocks(self, m: int, n: int, multiprocessors: int) -> int:
        """Return how many blocks compute them: whole clusters, at most a block for each multiprocessor."""
        clusters = -(-m // (self.cluster * self.rows)) * -(-n // self.columns)
        return self.cluster * min(clusters, multiprocessors // self.cluster)


def make_dense(tile, kind, narrow, scalar, jit, in_fours):
    """Return the kernel ``out = scalar(b + x @ w)``.

    Expects `x_map` and `w_map`, the words of tensor maps of x ``(m, k)`` and of w transposed, ``(n, k)``, with boxes of
    a row of 128 bytes by ``tile.rows`` and ``tile.share``; `maps`, MAPS int64 for each block, from a multiple of 64
    bytes on, where blocks write them for the unit that copies; b (n,) float32; out (m, n), C-contiguous, of float32, or
    of uint16 where `narrow` rounds to it; and at most the blocks that ``tile.blocks`` says, whole clusters, of
    ``tile.size`` threads, with ``tile.shared`` bytes of dynamic shared memory.  `in_fours` says that out, and each row
    of it, begins at a multiple of four elements.  Any m, n and k from 1 on.

    ::

        warpgroup 0        one thread copies:   wait until a stage is empty, say how many bytes come, begin two copies
        warpgroups 1, 2    multiply:            wait until a stage is full, multiply, say that the one before is empty
                           then the epilogue:   32 columns at a time through shared memory, each warp its own

    A block computes one tile after another; while its outputs are on their way, so are the first steps of the next.
    In a cluster each block has rows of its own; a stage is full when the shares of all blocks have come, and empty when
    the warps of all have said so.  A block whose rows lie beyond the edge does as the others, and stores nothing.
    """
    apart, columns, high, stages, group_high = tile.apart, tile.columns, tile.high, tile.stages, tile.group
    cluster, share = tile.cluster, tile.share
    rows, atom, lanes, warpgroup, stage_bytes = tile.rows, tile.atom, tile.lanes, tile.warpgroup, tile.stage
    depth, inner = DEPTH[kind], 32 // WIDTH[kind]
    x_bytes, atom_bytes, mine_bytes = rows * ROW, atom * ROW, atom * high * ROW
    count, part, pitch, staged = columns // 2, tile.part, tile.pitch, tile.staged
    parts, part_count, lines = columns // part, part // 2, atom // WARPS
    across = part // 4
    down = lanes // across
    turns = lines // down
    staging_at = stages * stage_bytes
    full_at = staging_at + CONSUMERS * WARPS * staged
    empty_at, turn_at = full_at + 8 * stages, full_at + 16 * stages
    arrivals = WARPS * (1 if apart else CONSUMERS) * cluster
    skipped = CONSUMERS if apart else 1

    uint32, zero = primitives.uint32, np.float32(0)
    dynamic = primitives.make_dynamic(jit, tile.shared)
    multiply = primitives.make_multiply(columns, KINDS[kind], inner, lanes)
    wait_for_others = primitives.make_multiply_wait(1, lanes)
    wait_for_all = primitives.make_multiply_end(high * count, lanes)
    fence, commit = primitives.make_multiply_fence(lanes), primitives.make_multiply_commit(lanes)
    give_back = primitives.make_registers(tile.producer_registers, False, lanes)
    take = primitives.make_registers(tile.consumer_registers, True, lanes)
    sync_warp = primitives.make_sync_warp(lanes)
    barrier_init, barrier_init_fence = primitives.barrier_init, primitives.barrier_init_fence
    barrier_wait, barrier_arrive, barrier_expect = (
        primitives.barrier_wait,
        primitives.barrier_arrive,
        primitives.barrier_expect,
    )
    arrive_at = primitives.make_arrive_at(cluster)
    rank_of_block, meet = primitives.make_rank(cluster), primitives.make_meet(cluster)
    map_release, map_acquire = primitives.map_release, primitives.map_acquire
    copy_box, copy_to_all = primitives.copy_box, primitives.make_copy_to_all(cluster)
    descriptor = primitives.descriptor
    store_two, load_four, store_four = primitives.store_two, primitives.load_four, primitives.store_four
    totals, fours = (primitives.make_local(jit, size, primitives.float32) for size in (high * count, 4))
    element = primitives.uint16 if narrow else primitives.float32
    outputs = primitives.make_local(jit, 4, element)
    place = jit(make_place(rows * cluster, columns, group_high))
    blocks = primitives.blocks
    finish = narrow or jit(keep)

    def dense(x_map, w_map, maps, b, out, k):
        base = (dynamic() + uint32(ALIGNED - 1)) & uint32(0xFFFFFFFF - (ALIGNED - 1))
        me = int32(thread())
        group = me // warpgroup
        m, n = out.shape
        steps = int32((k + depth - 1) // depth)
        tiles = int32((m + rows * cluster - 1) // (rows * cluster) * ((n + columns - 1) // columns))
        rank, begin = rank_of_block(), int32(block_number() // cluster)
        stride = int32(blocks() // cluster)
        full, empty, turn = base + uint32(full_at), base + uint32(empty_at), base + uint32(turn_at)
        if me == 0:
            for stage in range(stages):
                barrier_init(full + uint32(8 * stage), uint32(1))
                barrier_init(empty + uint32(8 * stage), uint32(arrivals))
            for consumer in range(CONSUMERS):
                barrier_init(turn + uint32(8 * consumer), uint32(WARPS))
            barrier_init_fence()
        meet()

        if group == 0:
            give_back()
            if me == 0:
                slot = int(block_number()) * MAPS
                for word in range(MAP):
                    maps[slot + word], maps[slot + MAP + word] = x_map[word], w_map[word]
                map_release()
                x_at = address(maps) + slot * 8
                w_at = x_at + MAP * 8
                map_acquire(x_at)
                map_acquire(w_at)
                stage, phase = uint32(0), uint32(1)
                for number in range(begin, tiles, stride):
                    top, left = place(number, m, n)
                    for step in range(steps):
                        barrier_wait(empty + uint32(8) * stage, phase)
                        arrived = full + uint32(8) * stage
                        barrier_expect(arrived, uint32(stage_bytes))
                        to = base + stage * uint32(stage_bytes)
                        copy_box(to, x_at, int32(step * depth), int32(top + rank * rows), arrived)
                        to += uint32(x_bytes) + uint32(rank * (share * ROW))
                        copy_to_all(to, w_at, int32(step * depth), int32(left + rank * share), arrived)
                        stage += uint32(1)
                        if stage == uint32(stages):
                            stage = uint32(0)
                            phase ^= uint32(1)
                if cluster > 1:  # a block ends when the others have nothing more to say to its barriers
                    for _ in range(stages):
                        barrier_wait(empty + uint32(8) * stage, phase)
                        stage += uint32(1)
                        if stage == uint32(stages):
                            stage = uint32(0)
                            phase ^= uint32(1)
        else:
            take()
            consumer = group - int32(1)
            total = totals()
            held = fours()
            bias = fours()
            result = outputs()
            lane = me % lanes
            warp = me // lanes % WARPS
            # Apart, each waits for its turn, the first to begin with not, and passes over the other's stages.
            first, my_turn = int32(consumer if apart else 0), uint32(1) - uint32(consumer)
            at = first * steps
            stage, phase = uint32(at % stages), uint32(at // stages & 1)
            mine = base + uint32(0 if apart else consumer * mine_bytes)
            staging = base + uint32(staging_at) + uint32((consumer * WARPS + warp) * staged)
            store_at = staging + uint32(lane // 4 * pitch + lane % 4 * 8)
            load_at = staging + uint32(lane // across * pitch + lane % across * 16)
            for number in range(begin + first * stride, tiles, skipped * stride):
                if apart:
                    barrier_wait(turn + uint32(8) * uint32(consumer), my_turn)
                    my_turn ^= uint32(1)
                before = stage
                for step in range(steps):
                    barrier_wait(full + uint32(8) * stage, phase)
                    x_tile = descriptor(mine + stage * uint32(stage_bytes))
                    w_tile = descriptor(base + stage * uint32(stage_bytes) + uint32(x_bytes))
                    fence()
                    for q in range(ROW // 32):
                        more = int32(step + q != 0)
                        for h in range(high):
                            multiply(total, h * count, x_tile + q * 2 + h * (atom_bytes // 16), w_tile + q * 2, more)
                    commit()
                    wait_for_others()
                    if step > 0 and lane < cluster:
                        arrive_at(empty + uint32(8) * before, uint32(lane))
                    before = stage
                    stage += uint32(1)
                    if stage == uint32(stages):
                        stage = uint32(0)
                        phase ^= uint32(1)
                if apart:
                    if lane == 0:
                        barrier_arrive(turn + uint32(8) * uint32(1 - consumer))
                    at = int32(stage) + steps
                    stage = uint32(at % stages)
                    phase ^= uint32(at // stages & 1)
                wait_for_all(total)
                if lane < cluster:
                    arrive_at(empty + uint32(8) * before, uint32(lane))

                top, left = place(number, m, n)
                top += rank * rows + (0 if apart else consumer * (high * atom)) + warp * lines + lane // across
                left += lane % across * 4
                for piece in range(high * parts):
                    for h in range(high):
                        for q in range(parts):
                            if piece == h * parts + q:
                                for j in range(part // 8):
                                    at_total = h * count + q * part_count + j * 4
                                    store_two(store_at + uint32(j * 32), total, at_total)
                                    store_two(store_at + uint32(j * 32 + lines // 2 * pitch), total, at_total + 2)
                    sync_warp()
                    row = top + piece // parts * atom
                    column = left + piece % parts * part
                    for e in range(4):
                        bias[e] = b[column + e] if column + e < n else zero
                    for t in range(turns):
                        load_four(held, 0, load_at + uint32(t * down * pitch))
                        for e in range(4):
                            result[e] = finish(scalar(held[e] + bias[e]))
                        if row + t * down < m:
                            index = (row + t * down) * n + column
                            if in_fours:
                                if column < n:
                                    store_four(out, index, result, 0)
                            else:
                                for e in range(4):
                                    if column + e < n:
                                        out[row + t * down, column + e] = result[e]
                    sync_warp()

    return dense


def keep(x):
    """Return x."""
    return x


def make_place(rows, columns, group):
    """Return the function that says where the tile of a number begins: its first row and column.

    `group` rows of tiles are walked column by column before the next.
    """

    def place(number, m, n):
        down, across = (m + rows - 1) // rows, (n + columns - 1) // columns
        first = number // (group * across) * group
        inside = number - first * across
        high = min(down - first, group)
        column = inside // high
        return (first + inside - column * high) * rows, column * columns

    return place
