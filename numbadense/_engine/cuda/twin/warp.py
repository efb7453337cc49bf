"""NumPy twins of the primitives of a warp, for numba's simulator, in which each of its threads is one of Python's.

They are stricter than a device: if not all threads of a warp come, or two come from different places, all fail.
"""

import sys
import threading

import numpy as np

__all__ = ["WARP", "lane", "shuffle", "shuffle_xor", "sync_warp"]

WARP = 32  # threads in a warp; read at each call, so that a test may have smaller ones
LOOK = 0.1  # seconds between the looks of a thread that waits at what the others do
PATIENCE = 600  # looks; counted, for on a busy machine seconds pass while no thread of this process runs
GIVEN_UP = 10  # looks after which it gives up on threads none of which runs, or has been started
_WORDS = (np.float32, np.float64, np.int32, np.uint32, int)
MEETINGS = "numbadense_meetings"  # what a simulated block has
_door = threading.Lock()


class _Meeting:
    """The threads of a warp at one collective: their values by lane, and what each of them waits for."""

    def __init__(self, size, lane, frame):
        self.size, self.lane, self.place, self.site = size, lane, _place(frame), _site(frame)
        self.values, self.waiting = {}, []
        self.results = self.failure = None

    def come(self, lane, frame, value, lock):
        """Let a thread take part, or fail if it is elsewhere."""
        if _site(frame) != self.site:
            self.fail(f"lane {lane} is at {_place(frame)} while lane {self.lane} is at {self.place}")
        self.values[lane] = value
        self.waiting.append(lock)

    def conclude(self, combine):
        """Give all their results."""
        if not self.failure:
            try:
                self.results = combine([self.values[number] for number in range(self.size)])
            except Exception as error:
                self.failure = f"{self.place} fails: {error}"
        self._release()

    def give_up(self):
        """Fail because not all came."""
        if self.results is None and not self.failure:
            missing = sorted(set(range(self.size)) - set(self.values))
            self.fail(f"lanes {missing} do not come to {self.place}")

    def fail(self, why):
        """Let all who wait fail, and all who come later."""
        self.failure = why
        self._release()

    def _release(self):
        for lock in self.waiting:
            lock.release()
        self.waiting = []


def collective(value, combine, size=None):
    """Return what `combine` makes of the values of the threads of a warp: from a list by lane, a list by lane.

    Expects to be called by all `size` threads, a warp by default, from one place in the code of the kernel.  One of
    them calls `combine`; where that fails, all fail.
    """
    size = WARP if size is None else size
    me = threading.current_thread()
    block = me._manager
    threads = int(np.prod(block._block_dim))
    assert threads % size == 0, f"a block of {threads} threads has no whole number of warps of {size}"
    group, mine = divmod(me.thread_id, size)
    place = sys._getframe(1)
    lock = threading.Lock()
    lock.acquire()
    with _door:
        meetings = vars(block).setdefault(MEETINGS, {})
        meeting = meetings.setdefault((size, group), None) or _Meeting(size, mine, place)
        meetings[size, group] = meeting
        if not meeting.failure:
            meeting.come(mine, place, value, lock)
            if len(meeting.values) == size:
                meetings[size, group] = None  # the next one
                meeting.conclude(combine)
    if meeting.results is None and not meeting.failure:
        _wait(meeting, lock, me, block, group)
    assert not meeting.failure, f"the threads of warp {group} do not meet: {meeting.failure}"
    return meeting.results[mine]


def _wait(meeting, lock, me, block, group):
    """Wait for the end of a meeting, or end it when the rest will not come."""
    looks = 0
    while not lock.acquire(timeout=LOOK):
        assert not me.abort, "another thread of the block has failed"
        looks += 1
        if looks > (PATIENCE if _comes(meeting, block, group) else GIVEN_UP):
            with _door:
                meeting.give_up()
            return


def _comes(meeting, block, group):
    """Say whether a thread that has not come still runs: it has not returned, nor waits for its block."""
    for other in threading.enumerate():
        if getattr(other, "_manager", None) is block and other.thread_id // meeting.size == group:
            missing = other.thread_id % meeting.size not in meeting.values
            if missing and not other.syncthreads_blocked:
                return True
    return False


def _site(frame):
    """Return the place in the code: the calls that led to it, down to the kernel's."""
    calls = []
    while frame.f_code is not threading.Thread.run.__code__:
        calls.append((id(frame.f_code), frame.f_lasti))
        frame = frame.f_back
    return calls


def _place(frame):
    """Return a place in words: the primitive, and the line that calls it."""
    caller = frame.f_back
    return f"{frame.f_code.co_name} in line {caller.f_lineno} of {caller.f_code.co_name}"


def lane():
    """Return the number of the thread in its warp."""
    return threading.current_thread().thread_id % WARP


def shuffle(value, from_lane):
    """Return the value of another lane."""
    assert 0 <= from_lane < WARP, f"there is no lane {from_lane}"
    return collective((_word(value), from_lane), _exchange)


def shuffle_xor(value, mask):
    """Return the value of the lane whose number differs in the bits of `mask`."""
    assert 0 <= mask < WARP, f"a mask of {mask} leads out of the warp"
    return collective((_word(value), lane() ^ mask), _exchange)


def _exchange(values):
    assert len({type(value) for value, _ in values}) == 1, "values of different types"
    return [values[other][0] for _, other in values]


def _word(value):
    assert isinstance(value, _WORDS), f"a {type(value).__name__} cannot be shuffled"
    return value


def sync_warp():
    """Wait for all lanes."""
    collective(None, lambda values: values)
