"""NumPy twins of the primitives of `numbadense._engine.cuda.ptx.hopper`, for numba's simulator.

They are stricter than a device.  A copy arrives when its barrier is waited for, and no sooner, with NaN in its place
until then; a multiplication reads its tiles when it is waited for, and no sooner, with NaN in its sums until then; and
what a copy would overwrite must not be read by a multiplication under way.  Threads see what others of their warp
store after they have met, and a place that one stores to and another loads from in between is an error.  Barriers
that nobody completes, and threads that do not meet, fail with a sentence.

A warp may have fewer threads than 32, and one multiplication as many fewer rows: a warpgroup is four warps.
"""

import time

import numpy as np

from numbadense._engine.cuda.twin.boxes import (
    ALIGNED,
    ROW,
    WARPS,
    barrier_arrive,
    barrier_expect,
    barrier_init,
    barrier_init_fence,
    barrier_wait,
    blocks,
    copy_box,
    make_arrive_at,
    make_copy_to_all,
    make_dynamic,
    make_meet,
    make_rank,
    map_acquire,
    map_release,
    meet,
    number_of_thread,
    shared_of_block,
    swizzled,
)
from numbadense._engine.cuda.twin.memory import CHUNK, _block, _chunk, part

__all__ = [
    "barrier_arrive",
    "barrier_expect",
    "barrier_init",
    "barrier_init_fence",
    "barrier_wait",
    "blocks",
    "copy_box",
    "descriptor",
    "float32",
    "larger",
    "load_four",
    "make_arrive_at",
    "make_copy_to_all",
    "make_dynamic",
    "make_local",
    "make_meet",
    "make_multiply",
    "make_multiply_commit",
    "make_multiply_end",
    "make_multiply_fence",
    "make_multiply_wait",
    "make_narrow",
    "make_rank",
    "make_registers",
    "make_sync_warp",
    "map_acquire",
    "map_release",
    "power_of_two",
    "reciprocal",
    "store_four",
    "store_halves",
    "store_two",
    "uint16",
    "uint32",
]

float32, uint16 = np.float32, np.uint16


def uint32(number):
    """Return a number, which has to fit 32 bits without a sign."""
    assert 0 <= number < 2**32, f"{number} does not fit 32 bits"
    return int(number)


def make_local(jit, size, element):
    """Return the function that gives a thread `size` registers, full of NaN."""
    return lambda: np.frombuffer(b"\xff" * (size * np.dtype(element).itemsize), element).copy()


class _Group:
    """The multiplications of a warpgroup that are under way, in groups; the last is still open."""

    def __init__(self):
        self.pending, self.fenced, self.sums = [[]], False, {}

    def reads(self):
        """Return where the tiles are that they read, as begin and end."""
        return [extent for group in self.pending for operation in group for extent in operation[1]]


def _group(shared, size):
    return shared.groups.setdefault(number_of_thread() // size, _Group())


def make_registers(count, more, lanes):
    """Return the function by which a warpgroup has `count` registers a thread."""
    assert count % 8 == 0 and 24 <= count <= 256
    return lambda: meet(WARPS * lanes, f"setmaxnreg {count}", None, lambda values: None)


def make_multiply_fence(lanes):
    """Return the function that orders what was done to sums before multiplications."""

    def act(values):
        _group(shared_of_block(), WARPS * lanes).fenced = True

    return lambda: meet(WARPS * lanes, "wgmma.fence", None, act)


def make_multiply_commit(lanes):
    """Return the function that closes the group of multiplications."""

    def act(values):
        _group(shared_of_block(), WARPS * lanes).pending.append([])

    return lambda: meet(WARPS * lanes, "wgmma.commit_group", None, act)


def _complete(size, pending):
    group = _group(shared_of_block(), size)
    while len(group.pending) - 1 > pending:
        for multiply, _ in group.pending.pop(0):
            multiply()


def make_multiply_wait(pending, lanes):
    """Return the function that waits until at most `pending` groups are under way."""

    def wait():
        if number_of_thread() % (WARPS * lanes) == 0:
            time.sleep(1e-4)  # for who may overwrite what multiplications still read
        meet(WARPS * lanes, "wgmma.wait_group", None, lambda values: _complete(WARPS * lanes, pending))

    return wait


def make_multiply_end(count, lanes):
    """Return ``end(total)``: wait for all multiplications, and take their sums."""

    def end(total):
        def act(values):
            group = _group(shared_of_block(), WARPS * lanes)
            assert not group.pending[-1], "multiplications are waited for that no group has"
            _complete(WARPS * lanes, 0)
            for at, sums in group.sums.items():
                for thread, registers in enumerate(values):
                    held = registers[at : at + sums.shape[1] // 2]
                    held[:] = sums[_fragment(thread, sums.shape[1], lanes)]
            group.sums, group.fenced = {}, False

        meet(WARPS * lanes, "wgmma.wait_group 0", total, act)

    return end


def _fragment(thread, columns, lanes):
    """Return the rows and columns of the sums that a thread has, in order (PTX ISA, the accumulator of wgmma)."""
    warp, lane = divmod(thread, lanes)
    each = np.arange(columns // 2)
    rows = warp * (lanes // 2) + lane // 4 + each % 4 // 2 * (lanes // 4)
    return rows, each // 4 * 8 + lane % 4 * 2 + each % 2


def descriptor(address):
    """Return what tells of a tile: its address, in 16 bytes; eight rows after each other; swizzled."""
    return 1 << 62 | ALIGNED >> 4 << 32 | 1 << 16 | (address & 0x3FFFF) >> 4


def _tile(word, rows, kind):
    """Return the addresses of 32 bytes of each row of a tile, as its descriptor says, and where they begin and end."""
    assert word >> 62 == 1, "a descriptor does not tell of tiles that are swizzled by 128 bytes"
    assert word >> 46 & 0xFFFF == 0 == (word >> 14 & 3 | word >> 30 & 3), (
        "bits of a descriptor are set that mean nothing"
    )
    start, step = (word & 0x3FFF) << 4, (word >> 32 & 0x3FFF) << 4
    row = np.arange(rows)[:, None]
    addresses = swizzled(start + row // 8 * step + row % 8 * ROW + np.arange(32))
    return addresses, (int(addresses.min()), int(addresses.max()) + 1)


def _values(data, kind):
    """Return the numbers of rows of bytes in float64; of float32, what the hardware takes of them."""
    if kind == "f16":
        return data.view(np.float16).astype(np.float64)
    bits = data.view(np.uint16).astype(np.uint32) << 16 if kind == "bf16" else data.view(np.uint32) & 0xFFFFE000
    return bits.astype(np.uint32).view(np.float32).astype(np.float64)


def make_multiply(columns, kind, depth, lanes):
    """Return ``multiply(total, at, x, w, more)``: exact products, summed in float64, rounded once."""
    rows, size = 2 * lanes, WARPS * lanes
    assert columns % 8 == 0 and 8 <= columns <= 256 and depth == (8 if kind == "tf32" else 16)

    def multiply(total, at, x, w, more):
        def act(values):
            shared = shared_of_block()
            group = _group(shared, size)
            assert group.fenced, "a multiplication comes before the fence"
            (_, first_x, first_w, first_more), *others = values
            assert all(other[1:] == values[0][1:] for other in others), "threads of a warpgroup differ in operands"
            (x_at, x_extent), (w_at, w_extent) = _tile(first_x, rows, kind), _tile(first_w, columns, kind)
            if at not in group.sums:
                group.sums[at] = np.empty((rows, columns), np.float32)
                for thread, (registers, *_) in enumerate(values):
                    group.sums[at][_fragment(thread, columns, lanes)] = registers
                    registers[:] = np.nan
            sums = group.sums[at]

            def now():
                products = _values(shared.bytes[x_at], kind) @ _values(shared.bytes[w_at], kind).T
                sums[:] = products + (sums if first_more else 0)

            group.pending[-1].append((now, (x_extent, w_extent)))

        held = part(total, at, columns // 2)
        meet(size, "wgmma.mma_async", (held, int(x), int(w), int(more)), act)

    return multiply


class _Warp:
    """What the threads of a warp have loaded and stored since they met."""

    def __init__(self):
        self.loads, self.stores = [], []


def make_sync_warp(lanes):
    """Return the function that waits for the threads of the warp: then they see what each has stored."""

    def act(values):
        shared = shared_of_block()
        warp = shared.warps.setdefault(number_of_thread() // lanes, _Warp())
        for number, (me, address, data) in enumerate(warp.stores):
            for other, begin, size in warp.loads + [(n, a, d.size) for n, a, d in warp.stores[:number]]:
                apart = other == me or address + data.size <= begin or begin + size <= address
                assert apart, f"threads {me} and {other} of a warp use one place at once"
            shared.bytes[address : address + data.size] = data
        warp.loads, warp.stores = [], []

    return lambda: meet(lanes, "bar.warp.sync", None, act)


def _warp_of(shared):
    size = next(size for size in (32, 16, 8, 4) if _block()._block_dim[0] == 3 * WARPS * size)
    return shared.warps.setdefault(number_of_thread() // size, _Warp())


def store_two(address, registers, at):
    """Store two float32 to shared memory."""
    shared = shared_of_block()
    shared.place(address, 8, 8)
    data = np.array(part(registers, at, 2), np.float32).view(np.uint8)
    with shared.lock:
        _warp_of(shared).stores.append((number_of_thread(), address, data))


def load_four(registers, at, address):
    """Load four float32 from shared memory."""
    shared = shared_of_block()
    place = shared.place(address, CHUNK, CHUNK)
    with shared.lock:
        _warp_of(shared).loads.append((number_of_thread(), address, CHUNK))
    part(registers, at, 4)[:] = place.view(np.float32)


def store_four(array, index, registers, at):
    """Store four elements at once."""
    four = part(array, index, 4)
    assert four.ctypes.data % four.nbytes == 0, f"element {index} is not aligned for four"
    four[:] = part(registers, at, 4)


def store_halves(array, index, registers):
    """Store eight elements of 16 bits at once."""
    _chunk(array, index)[:] = part(registers, 0, 8)


def make_narrow(kind):
    """Return ``narrow(x)``: the bits of float32 `x` rounded to nearest, ties to even, as bf16 or fp16."""

    def to_bf16(x):
        if np.isnan(x):
            return np.uint16(0x7FFF)
        bits = int(np.float32(x).view(np.uint32))
        return np.uint16((bits + 0x7FFF + (bits >> 16 & 1)) >> 16)

    def to_fp16(x):
        with np.errstate(over="ignore"):
            return np.float32(x).astype(np.float16).view(np.uint16)

    return to_bf16 if kind == "bf16" else to_fp16


def power_of_two(x):
    """Return 2**x, with 0 for what is not a normal number."""
    return _normal(np.exp2(np.float32(x)))


def reciprocal(x):
    """Return 1/x, with 0 for what is not a normal number."""
    return _normal(np.float32(1) / _normal(np.float32(x)))


def larger(x, y):
    """Return the larger of two float32, or NaN if one is."""
    return np.maximum(np.float32(x), np.float32(y))


def _normal(x):
    return np.copysign(np.float32(0), x) if abs(x) < np.finfo(np.float32).tiny else x
