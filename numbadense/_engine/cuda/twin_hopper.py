"""NumPy twins of the primitives of `numbadense._engine.cuda.ptx_hopper`, for numba's simulator.

They are stricter than a device.  A copy arrives when its barrier is waited for, and no sooner, with NaN in its place
until then; a multiplication reads its tiles when it is waited for, and no sooner, with NaN in its sums until then; and
what a copy would overwrite must not be read by a multiplication under way.  Threads see what others of their warp
store after they have met, and a place that one stores to and another loads from in between is an error.  Barriers
that nobody completes, and threads that do not meet, fail with a sentence.

A warp may have fewer threads than 32, and one multiplication as many fewer rows: a warpgroup is four warps.
"""

import ctypes
import threading
import time

import numpy as np

from numbadense._engine.cuda.twin import CHUNK, _allocating, _block, _chunk, _part

ROW, WARPS = 128, 4
ALIGNED, UNALIGNED = 1024, 16  # what swizzled tiles are aligned to; where dynamic shared memory begins
PATIENCE = 20  # seconds
MAP, WORDS = 0x6D6170, 16  # the first word of a map of the simulator, and how many it has
uint32_limit, int64, float32, uint16 = 2**32, int, np.float32, np.uint16


def uint32(number):
    """Return a number, which has to fit 32 bits without a sign."""
    assert 0 <= number < uint32_limit, f"{number} does not fit 32 bits"
    return int(number)


def local(size, element):
    """Return the function that gives a thread `size` registers, full of NaN."""
    return lambda: np.frombuffer(b"\xff" * (size * np.dtype(element).itemsize), element).copy()


class _Barrier:
    """A barrier in shared memory: the arrivals and bytes that its phase still waits for."""

    def __init__(self, count, made):
        self.count = self.left = count
        self.bytes, self.phase, self.made, self.shown, self.copies = 0, 0, made, False, []
        self.changed = threading.Condition(_shared().lock)

    def settle(self):
        """Begin the next phase if nothing is missing."""
        assert self.left >= 0, "more threads arrive at a barrier than it counts"
        if self.left == 0 and self.bytes == 0:
            self.left, self.phase = self.count, self.phase + 1
            self.changed.notify_all()


class _Meeting:
    """Threads of a group that wait for each other, and how often they have met."""

    def __init__(self, lock):
        self.changed, self.turn, self.come = threading.Condition(lock), 0, {}


class _Shared:
    """What a block has: its memory, its barriers, its warpgroups."""

    def __init__(self, size):
        self.bytes = np.full(UNALIGNED + size, 0xFF, np.uint8)
        self.lock = threading.RLock()
        self.barriers, self.meetings, self.groups, self.warps, self.maps, self.met = {}, {}, {}, {}, set(), {}

    def place(self, address, size, aligned):
        """Return a part of the memory."""
        assert address % aligned == 0, f"address {address} is not a multiple of {aligned}"
        assert UNALIGNED <= address <= self.bytes.size - size, f"{size} bytes at {address} leave shared memory"
        return self.bytes[address : address + size]


def _shared():
    return vars(_block())["numbadense_hopper"]


def make_dynamic(jit, size):
    """Return the function that says where dynamic shared memory begins."""

    def dynamic():
        with _allocating:
            if "numbadense_hopper" not in vars(_block()):
                vars(_block())["numbadense_hopper"] = _Shared(size)
        return UNALIGNED

    return dynamic


def _me():
    return threading.current_thread().threadIdx.x


def _until(changed, ready, failure):
    """Wait, with the lock of the block, until `ready()`, which may be so when there is a change."""
    end = time.monotonic() + PATIENCE
    while not ready():
        if threading.current_thread().abort:
            raise RuntimeError("another thread of the block has failed")
        changed.wait(0.5)
        assert time.monotonic() < end, failure


def _meet(size, what, value, act):
    """Wait until the `size` threads of a group are here with the same `what`; the last calls ``act(values)``."""
    shared, me = _shared(), _me()
    key = size, me // size
    with shared.lock:
        meeting = shared.meetings.setdefault(key, _Meeting(shared.lock))
        turn, come = meeting.turn, meeting.come
        assert all(what == other for other, _ in come.values()), (
            f"thread {me} is at {what}, but other threads of its group of {size} are at "
            f"{next(iter(come.values()))[0] if come else ''}"
        )
        come[me % size] = what, value
        if len(come) == size:
            act([come[q][1] for q in range(size)])
            meeting.come, meeting.turn = {}, turn + 1
            meeting.changed.notify_all()
        else:
            _until(
                meeting.changed,
                lambda: meeting.turn != turn,
                f"not all of the {size} threads of a group come to {what}: {len(come)} do",
            )


def syncthreads():
    """Wait for all threads of the block."""
    thread = threading.current_thread()
    thread.syncthreads()
    shared = _shared()
    shared.met[_me()] = shared.met.get(_me(), 0) + 1


def blocks():
    """Return how many blocks there are."""
    return _block()._grid_dim[0]


def barrier_init(address, count):
    """Make a barrier of so many arrivals."""
    shared = _shared()
    shared.place(address, 8, 8)
    shared.barriers[address] = _Barrier(count, (_me(), shared.met.get(_me(), 0)))


def barrier_init_fence():
    """Show the barriers made so far to copies."""
    for barrier in _shared().barriers.values():
        barrier.shown = True


def _barrier(shared, address):
    assert address in shared.barriers, f"there is no barrier at {address}"
    barrier = shared.barriers[address]
    maker, epoch = barrier.made
    seen = maker == _me() or shared.met.get(_me(), 0) > epoch
    assert seen, f"thread {_me()} uses a barrier that it may not see yet: it has not met the thread that made it"
    return barrier


def _arrive(address, count):
    shared = _shared()
    with shared.lock:
        barrier = _barrier(shared, address)
        barrier.left -= 1
        barrier.bytes += count
        barrier.settle()


def barrier_arrive(address):
    """Arrive."""
    _arrive(address, 0)


def barrier_expect(address, count):
    """Arrive, and have the phase wait for `count` bytes more."""
    _arrive(address, count)


def barrier_wait(address, parity):
    """Wait until the phase of this parity is complete: let the copies arrive that it waits for."""
    shared = _shared()

    def complete():
        for target, data in barrier.copies:
            shared.bytes[target] = data
            barrier.bytes -= data.size
        barrier.copies.clear()
        barrier.settle()
        return barrier.phase % 2 != parity

    with shared.lock:
        barrier = _barrier(shared, address)
        _until(barrier.changed, complete, f"nobody completes phase {barrier.phase} of the barrier at {address}")


def map_fence(address):
    """Let this thread's copies see a map."""
    _shared().maps.add((_me(), address))


def encode(address, itemsize, columns, rows, pitch, high):
    """Return the words of a map of the simulator: of a matrix, rows `pitch` bytes apart, for boxes `high` rows high."""
    assert address % CHUNK == 0 == pitch % CHUNK and min(rows, columns) > 0 and pitch >= columns * itemsize
    assert 0 < high <= 256
    return np.array([MAP, address, itemsize, columns, rows, pitch, ROW // itemsize, high] + [0] * (WORDS - 8), np.uint64)


def _swizzled(addresses):
    """Exchange the chunks of each row of 128 bytes as its number among eight says."""
    return addresses ^ (addresses >> 7 & 7) << 4


def copy_box(target, tensor_map, column, row, barrier):
    """Begin the copy of a box: zeros beyond the matrix."""
    shared = _shared()
    assert (_me(), tensor_map) in shared.maps, "the map has not been shown to copies"
    assert tensor_map % 64 == 0, "a map is not aligned"
    words = np.frombuffer(ctypes.string_at(tensor_map, 8 * WORDS), np.uint64).astype(np.int64).tolist()
    kind, address, itemsize, columns, rows, pitch, wide, high = words[:8]
    assert kind == MAP, "there is no map"
    box = np.zeros((high, wide * itemsize), np.uint8)
    right, down = min(wide, columns - column), min(high, rows - row)
    assert column >= 0 <= row
    if right > 0 and down > 0:
        size = (down - 1) * pitch + right * itemsize
        data = np.frombuffer((ctypes.c_uint8 * size).from_address(address + row * pitch + column * itemsize), np.uint8)
        box[:down, : right * itemsize] = np.lib.stride_tricks.as_strided(data, (down, right * itemsize), (pitch, 1))
    with shared.lock:
        place = shared.place(target, box.size, ALIGNED)
        arrived = _barrier(shared, barrier)
        assert arrived.shown, "the barrier has not been shown to copies"
        for group in shared.groups.values():
            for read in group.reads():
                assert not (read[0] < target + box.size and target < read[1]), (
                    f"a copy to {target} overwrites what a multiplication under way reads"
                )
        place[:] = 0xFF
        arrived.copies.append((_swizzled(np.arange(target, target + box.size)), box.reshape(-1)))
        arrived.changed.notify_all()


class _Group:
    """The multiplications of a warpgroup that are under way, in groups; the last is still open."""

    def __init__(self):
        self.pending, self.fenced, self.sums = [[]], False, {}

    def reads(self):
        """Return where the tiles are that they read, as begin and end."""
        return [extent for group in self.pending for operation in group for extent in operation[1]]


def _group(shared, size):
    return shared.groups.setdefault(_me() // size, _Group())


def make_registers(count, more, lanes):
    """Return the function by which a warpgroup has `count` registers a thread."""
    assert count % 8 == 0 and 24 <= count <= 256
    return lambda: _meet(WARPS * lanes, f"setmaxnreg {count}", None, lambda values: None)


def make_multiply_fence(lanes):
    """Return the function that orders what was done to sums before multiplications."""

    def act(values):
        _group(_shared(), WARPS * lanes).fenced = True

    return lambda: _meet(WARPS * lanes, "wgmma.fence", None, act)


def make_multiply_commit(lanes):
    """Return the function that closes the group of multiplications."""

    def act(values):
        _group(_shared(), WARPS * lanes).pending.append([])

    return lambda: _meet(WARPS * lanes, "wgmma.commit_group", None, act)


def _complete(size, pending):
    group = _group(_shared(), size)
    while len(group.pending) - 1 > pending:
        for multiply, _ in group.pending.pop(0):
            multiply()


def make_multiply_wait(pending, lanes):
    """Return the function that waits until at most `pending` groups are under way."""

    def wait():
        if _me() % (WARPS * lanes) == 0:
            time.sleep(1e-4)  # for who may overwrite what multiplications still read
        _meet(WARPS * lanes, "wgmma.wait_group", None, lambda values: _complete(WARPS * lanes, pending))

    return wait


def make_multiply_end(count, lanes):
    """Return ``end(total)``: wait for all multiplications, and take their sums."""

    def end(total):
        def act(values):
            group = _group(_shared(), WARPS * lanes)
            assert not group.pending[-1], "multiplications are waited for that no group has"
            _complete(WARPS * lanes, 0)
            for at, sums in group.sums.items():
                for thread, registers in enumerate(values):
                    held = registers[at : at + sums.shape[1] // 2]
                    held[:] = sums[_fragment(thread, sums.shape[1], lanes)]
            group.sums, group.fenced = {}, False

        _meet(WARPS * lanes, "wgmma.wait_group 0", total, act)

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
    assert word >> 46 & 0xFFFF == 0 == (word >> 14 & 3 | word >> 30 & 3), "bits of a descriptor are set that mean nothing"
    start, step = (word & 0x3FFF) << 4, (word >> 32 & 0x3FFF) << 4
    row = np.arange(rows)[:, None]
    addresses = _swizzled(start + row // 8 * step + row % 8 * ROW + np.arange(32))
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
            shared = _shared()
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

        held = _part(total, at, columns // 2)
        _meet(size, "wgmma.mma_async", (held, int(x), int(w), int(more)), act)

    return multiply


class _Warp:
    """What the threads of a warp have loaded and stored since they met."""

    def __init__(self):
        self.loads, self.stores = [], []


def make_sync_warp(lanes):
    """Return the function that waits for the threads of the warp: then they see what each has stored."""

    def act(values):
        shared = _shared()
        warp = shared.warps.setdefault(_me() // lanes, _Warp())
        for number, (me, address, data) in enumerate(warp.stores):
            for other, begin, size in warp.loads + [(n, a, d.size) for n, a, d in warp.stores[:number]]:
                apart = other == me or address + data.size <= begin or begin + size <= address
                assert apart, f"threads {me} and {other} of a warp use one place at once"
            shared.bytes[address : address + data.size] = data
        warp.loads, warp.stores = [], []

    return lambda: _meet(lanes, "bar.warp.sync", None, act)


def _warp_of(shared):
    size = next(size for size in (32, 16, 8, 4) if _block()._block_dim[0] == 3 * WARPS * size)
    return shared.warps.setdefault(_me() // size, _Warp())


def store_two(address, registers, at):
    """Store two float32 to shared memory."""
    shared = _shared()
    shared.place(address, 8, 8)
    data = np.array(_part(registers, at, 2), np.float32).view(np.uint8)
    with shared.lock:
        _warp_of(shared).stores.append((_me(), address, data))


def load_four(registers, at, address):
    """Load four float32 from shared memory."""
    shared = _shared()
    place = shared.place(address, CHUNK, CHUNK)
    with shared.lock:
        _warp_of(shared).loads.append((_me(), address, CHUNK))
    _part(registers, at, 4)[:] = place.view(np.float32)


def store_four(array, index, registers, at):
    """Store four elements at once."""
    four = _part(array, index, 4)
    assert four.ctypes.data % four.nbytes == 0, f"element {index} is not aligned for four"
    four[:] = _part(registers, at, 4)


def store_halves(array, index, registers):
    """Store eight elements of 16 bits at once."""
    _chunk(array, index)[:] = _part(registers, 0, 8)


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


def _normal(x):
    return np.copysign(np.float32(0), x) if abs(x) < np.finfo(np.float32).tiny else x
