"""What a simulated block of Hopper's kernels has: shared memory, barriers that count bytes, copies of boxes under way.

Threads that wait fail with a sentence when nobody comes.
"""

import ctypes
import threading
import time

import numpy as np

from numbadense._engine.cuda.twin import clusters
from numbadense._engine.cuda.twin.memory import CHUNK, _allocating, _block

ROW, WARPS = 128, 4
ALIGNED, UNALIGNED = 1024, 16  # what swizzled tiles are aligned to; where dynamic shared memory begins
PATIENCE = 20  # seconds in which nothing happens
MAP, WORDS = 0x6D6170, 16  # the first word of a map of the simulator, and how many it has
HELD = "numbadense_hopper"


class _Barrier:
    """A barrier in shared memory: the arrivals and bytes that its phase still waits for."""

    def __init__(self, count, made):
        self.count = self.left = count
        self.bytes, self.phase, self.made, self.shown, self.copies = 0, 0, made, False, []
        self.used = self.waited = 0  # the last phase, plus one, that another block has part in, and that was waited for
        self.changed = threading.Condition(shared_of_block().lock)

    def settle(self):
        """Begin the next phase if nothing is missing."""
        assert self.left >= 0, "more threads arrive at a barrier than it counts"
        if self.left == 0 and self.bytes == 0:
            self.left, self.phase = self.count, self.phase + 1
            _happened()
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
        self.barriers, self.meetings, self.groups, self.warps, self.maps = {}, {}, {}, {}, {}

    def end(self):
        """Check that no thread of another block could still use this memory when the last thread of its own ends."""
        for address, barrier in self.barriers.items():
            assert barrier.waited >= barrier.used, (
                f"a block may end while others use its barrier at {address}: nobody waits for phase {barrier.used - 1}"
            )

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
                vars(_block())[HELD] = shared = Shared(size)
                clusters.at_end(shared.end)
        return UNALIGNED

    return dynamic


def number_of_thread():
    return threading.current_thread().threadIdx.x


_events = [0]


def _happened():
    """Count what threads wait for; one more or less does not matter."""
    _events[0] += 1


def _until(changed, ready, failure):
    """Wait, with the lock of the block, until `ready()`, which may be so when there is a change."""
    seen = end = -1
    while not ready():
        if clusters.failed():
            raise RuntimeError("another thread of the block, or of its cluster, has failed")
        if seen != _events[0]:
            seen, end = _events[0], time.monotonic() + PATIENCE
        assert time.monotonic() < end, failure
        changed.wait(0.5)


def meet(size, what, value, act):
    """Wait until the `size` threads of a group are here with the same `what`; the last calls ``act(values)``."""
    shared, me = shared_of_block(), number_of_thread()
    _meet(shared, (size, me // size), me % size, size, what, value, act)


def _meet(place, key, me, size, what, value, act):
    """Meet where the lock is that of a block, or of a cluster."""
    with place.lock:
        meeting = place.meetings.setdefault(key, _Meeting(place.lock))
        turn, come = meeting.turn, meeting.come
        assert all(what == other for other, _ in come.values()), (
            f"thread {me} is at {what}, but other threads of its group of {size} are at "
            f"{next(iter(come.values()))[0] if come else ''}"
        )
        come[me] = what, value
        if len(come) == size:
            act([come[q][1] for q in range(size)])
            meeting.come, meeting.turn = {}, turn + 1
            _happened()
            meeting.changed.notify_all()
        else:
            _until(
                meeting.changed,
                lambda: meeting.turn != turn,
                f"not all of the {size} threads of a group come to {what}: {len(come)} do",
            )


def make_meet(cluster):
    """Return the function that waits for all threads of the block, or of the cluster: then they see shown barriers."""

    def meet_all():
        found = clusters.cluster_of_block(cluster)
        each = _block()._block_dim[0]

        def act(values):
            found.met += 1

        me = found.rank() * each + number_of_thread()
        _meet(found, cluster, me, cluster * each, "barrier.cluster", None, act)

    return meet_all


def make_rank(cluster):
    """Return the function that says which block of its cluster this is."""
    return lambda: clusters.cluster_of_block(cluster).rank()


def blocks():
    """Return how many blocks there are."""
    return _block()._grid_dim[0]


def barrier_init(address, count):
    """Make a barrier of so many arrivals."""
    shared = shared_of_block()
    shared.place(address, 8, 8)
    shared.barriers[address] = _Barrier(count, (number_of_thread(), clusters.met()))


def barrier_init_fence():
    """Show the barriers made so far to copies, and to the cluster."""
    for barrier in shared_of_block().barriers.values():
        barrier.shown = True


def _barrier(shared, address):
    assert address in shared.barriers, f"there is no barrier at {address}"
    barrier = shared.barriers[address]
    (maker, met), me = barrier.made, number_of_thread()
    seen = (maker == me and shared is shared_of_block()) or (barrier.shown and clusters.met() > met)
    assert seen, f"thread {me} uses a barrier that it may not see yet: it has not met the thread that made it"
    return barrier


def _note(shared, barrier):
    if shared is not shared_of_block():
        barrier.used = barrier.phase + 1


def _arrive(shared, address, count):
    with shared.lock:
        barrier = _barrier(shared, address)
        _note(shared, barrier)
        barrier.left -= 1
        barrier.bytes += count
        barrier.settle()


def barrier_arrive(address):
    """Arrive."""
    _arrive(shared_of_block(), address, 0)


def make_arrive_at(cluster):
    """Return ``arrive_at(address, rank)``: arrive at the barrier at this address in the block of that rank."""
    return lambda address, rank: _arrive(_shared_of(cluster, rank), address, 0)


def _shared_of(cluster, rank):
    return vars(clusters.cluster_of_block(cluster).reach(rank))[HELD]


def barrier_expect(address, count):
    """Arrive, and have the phase wait for `count` bytes more."""
    _arrive(shared_of_block(), address, count)


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
        barrier.waited = barrier.phase


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
    _begin(shared_of_block(), target, _box(tensor_map, column, row), barrier)


def make_copy_to_all(cluster):
    """Return `copy_box` to the same address in each block of the cluster, where the same barrier counts the bytes."""

    def copy_to_all(target, tensor_map, column, row, barrier):
        box = _box(tensor_map, column, row)
        for rank in range(cluster):
            _begin(_shared_of(cluster, rank), target, box, barrier)

    return copy_to_all


def _box(tensor_map, column, row):
    seen = shared_of_block().maps.get(number_of_thread(), {}).get(tensor_map)
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
    return box


def _begin(shared, target, box, barrier):
    with shared.lock:
        place = shared.place(target, box.size, ALIGNED)
        arrived = _barrier(shared, barrier)
        assert arrived.shown, "the barrier has not been shown to copies"
        _note(shared, arrived)
        for group in shared.groups.values():
            for read in group.reads():
                assert not (read[0] < target + box.size and target < read[1]), (
                    f"a copy to {target} overwrites what a multiplication under way reads"
                )
        place[:] = 0xFF
        arrived.copies.append((swizzled(np.arange(target, target + box.size)), box.reshape(-1)))
        _happened()
        arrived.changed.notify_all()
