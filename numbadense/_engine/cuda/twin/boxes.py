"""What a simulated block of Hopper's kernels has: shared memory, barriers that count bytes, copies of boxes under way.

Threads that wait fail with a sentence when nobody comes.
"""

import ctypes
import threading
import time

import numpy as np

from numbadense._engine.cuda.twin.memory import CHUNK, _allocating, _block

ROW, WARPS = 128, 4
ALIGNED, UNALIGNED = 1024, 16  # what swizzled tiles are aligned to; where dynamic shared memory begins
PATIENCE = 20  # seconds
MAP, WORDS = 0x6D6170, 16  # the first word of a map of the simulator, and how many it has
HELD = "numbadense_hopper"


class _Barrier:
    """A barrier in shared memory: the arrivals and bytes that its phase still waits for."""

    def __init__(self, count, made):
        self.count = self.left = count
        self.bytes, self.phase, self.made, self.shown, self.copies = 0, 0, made, False, []
        self.changed = threading.Condition(shared_of_block().lock)

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


class Shared:
    """What a block has: its memory, its barriers, its warpgroups."""

    def __init__(self, size):
        self.bytes = np.full(UNALIGNED + size, 0xFF, np.uint8)
        self.lock = threading.RLock()
        self.barriers, self.meetings, self.groups, self.warps, self.maps, self.met = {}, {}, {}, {}, {}, {}

    def place(self, address, size, aligned):
        """Return a part of the memory."""
        assert address % aligned == 0, f"address {address} is not a multiple of {aligned}"
        assert UNALIGNED <= address <= self.bytes.size - size, f"{size} bytes at {address} leave shared memory"
        return self.bytes[address : address + size]


def shared_of_block():
    return vars(_block())[HELD]


def make_dynamic(jit, size):
    """Return the function that says where dynamic shared memory begins."""

    def dynamic():
        with _allocating:
            if HELD not in vars(_block()):
                vars(_block())[HELD] = Shared(size)
        return UNALIGNED

    return dynamic


def number_of_thread():
    return threading.current_thread().threadIdx.x


def _until(changed, ready, failure):
    """Wait, with the lock of the block, until `ready()`, which may be so when there is a change."""
    end = time.monotonic() + PATIENCE
    while not ready():
        if threading.current_thread().abort:
            raise RuntimeError("another thread of the block has failed")
        changed.wait(0.5)
        assert time.monotonic() < end, failure


def meet(size, what, value, act):
    """Wait until the `size` threads of a group are here with the same `what`; the last calls ``act(values)``."""
    shared, me = shared_of_block(), number_of_thread()
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
    shared = shared_of_block()
    shared.met[number_of_thread()] = shared.met.get(number_of_thread(), 0) + 1


def blocks():
    """Return how many blocks there are."""
    return _block()._grid_dim[0]


def barrier_init(address, count):
    """Make a barrier of so many arrivals."""
    shared = shared_of_block()
    shared.place(address, 8, 8)
    shared.barriers[address] = _Barrier(count, (number_of_thread(), shared.met.get(number_of_thread(), 0)))


def barrier_init_fence():
    """Show the barriers made so far to copies."""
    for barrier in shared_of_block().barriers.values():
        barrier.shown = True


def _barrier(shared, address):
    assert address in shared.barriers, f"there is no barrier at {address}"
    barrier = shared.barriers[address]
    maker, epoch = barrier.made
    seen = maker == number_of_thread() or shared.met.get(number_of_thread(), 0) > epoch
    assert seen, (
        f"thread {number_of_thread()} uses a barrier that it may not see yet: it has not met the thread that made it"
    )
    return barrier


def _arrive(address, count):
    shared = shared_of_block()
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
    shared = shared_of_block()

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


def map_release():
    """Let go of the maps that this thread has written."""
    shared_of_block().maps.setdefault(number_of_thread(), {})


def map_acquire(address):
    """Let this thread's copies see a map as it is now."""
    released = shared_of_block().maps.get(number_of_thread())
    assert released is not None, "who wrote the map has not let go of it"
    assert address % 64 == 0, "a map is not aligned"
    released[address] = ctypes.string_at(address, 8 * WORDS)


def encode(address, itemsize, columns, rows, pitch, high):
    """Return the words of a map of the simulator: of a matrix, rows `pitch` bytes apart, for boxes `high` rows high."""
    assert address % CHUNK == 0 == pitch % CHUNK and min(rows, columns) > 0 and pitch >= columns * itemsize
    assert 0 < high <= 256
    return np.array(
        [MAP, address, itemsize, columns, rows, pitch, ROW // itemsize, high] + [0] * (WORDS - 8), np.uint64
    )


def swizzled(addresses):
    """Exchange the chunks of each row of 128 bytes as its number among eight says."""
    return addresses ^ (addresses >> 7 & 7) << 4


def copy_box(target, tensor_map, column, row, barrier):
    """Begin the copy of a box: zeros beyond the matrix."""
    shared = shared_of_block()
    seen = shared.maps.get(number_of_thread(), {}).get(tensor_map)
    assert seen is not None, "the map has not been shown to copies"
    words = np.frombuffer(seen, np.uint64).astype(np.int64).tolist()
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
        arrived.copies.append((swizzled(np.arange(target, target + box.size)), box.reshape(-1)))
        arrived.changed.notify_all()
