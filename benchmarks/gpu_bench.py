"""What the sections of `gpu.py` share: the device and its peers, checks, times taken in turns, and the bars.

A bar is decided by one row: by its own figure, or by the median over rounds of a peer's time over ours, in the rounds
in which all engines of the row take turns.  Where work differs, as for a peak, the ratio is that of rates.
"""

import functools
import itertools
import statistics
import sys
import time
import traceback
from dataclasses import dataclass

import numpy as np
from numba import cuda, float32

import numbadense as nd
from numbadense._engine.cuda import compile as compiler
from numbadense._engine.cuda import device

ALLOWED = {"float32": 1e-6, "float64": 1e-14}  # relative Frobenius error against float64, up to 1024 features
PEERS_DIFFER = 0.05  # relative: more, and a peer computes something else
ROUNDS = 7
SLICE = 0.02  # seconds of calls in a row between two events
CALLS = 2000  # in a row, at most
COPIED = 2**28  # float32 that are copied where bandwidth is measured
MORE_THAN_CACHED = 2**28  # bytes, several times any L2, over which inputs rotate where bandwidth is claimed
WHAT_FEW = 100  # calls of a graph whose kernels are short

# By major compute capability, a cycle of a multiprocessor: multiply-adds of its tensor cores in 16 bits by the data
# sheets; operations of its special-function units by the programming guide.
TENSOR, SPECIAL = {8: 1024, 9: 2048}, 16


@dataclass(frozen=True)
class Bar:
    """What is to be reached: a figure of at least `limit`, or at most, in so many `cases`."""

    work: str
    what: str
    limit: float
    cases: int = 1
    most: bool = False

    def met(self, figure: float) -> bool:
        """Say whether a figure reaches the bar."""
        return figure <= self.limit if self.most else figure >= self.limit


_DENSE = "dense + sigmoid, float32: 4096^3, 8192 x 1024 x 1024, 65536 x 256 x 256"
_HALF = "dense + gelu, bf16: 8192^3, 65536 x 1024 x 1024"
_DEEP = "64 wide, 5 layers, 2^20 rows: float32 and bf16"
_CALL = "a call of 3 layers on ready arrays: 1 to 1024 rows"
_ERROR = "relative error against float64"
BARS = {
    "copy": Bar("sigmoid, 2^28 float32", "of the copy's bandwidth", 0.92),
    "elementwise": Bar("sigmoid, 2^28 float32", "times torch's speed", 1.0),
    "peak": Bar(_DENSE, "of the FFMA peak", 0.85, 3),
    "cublas": Bar(_DENSE, "of cuBLAS's product", 0.85, 3),
    "dense": Bar(_DENSE, "times torch eager's speed", 1.0, 3),
    "3xtf32": Bar(f"{_DENSE}, by 3xtf32", "times torch float32's speed", 1.5, 3),
    "3xtf32 error": Bar(f"{_DENSE}, by 3xtf32", "times float32's error", 2.0, 3, most=True),
    "mma.sync": Bar(_HALF, "of torch's product, by mma.sync", 0.55, 2),
    "wgmma": Bar(_HALF, "of torch's product, by wgmma", 0.80, 2),
    "gelu": Bar("dense + gelu, bf16: 65536 x 1024 x 1024", "times torch eager's speed", 1.0),
    "deep": Bar(_DEEP, "times torch eager's speed", 6.0, 2),
    "deep, compiled": Bar(_DEEP, "times torch.compile's speed", 3.0, 2),
    "deep, bf16": Bar("64 wide, 5 layers, 2^20 rows: bf16", "of what the arithmetic allows", 0.60),
    "host": Bar(_CALL, "us of the host", 12.0, 5, most=True),
    "launches": Bar(_CALL, "launches", 1, 5, most=True),
    "call": Bar(_CALL, "times torch eager's speed", 3.0, 5),
    "call of tensors": Bar(_CALL, "times torch eager's speed, on its tensors", 3.0, 5),
    "stepping": Bar("1000 steps of 8-32-32-2 in 10^5 threads", "times the speed of torch's graph", 20.0),
    "vmap": Bar("10 000 networks 8-32-32-2, 64 rows", "times torch.func.vmap's speed", 5.0),
    "bmm": Bar("10 000 networks 8-32-32-2, 64 rows", "times torch.bmm's speed", 5.0),
    "float32": Bar(_ERROR, "float32, the largest", 1e-6, most=True),
    "tf32": Bar(_ERROR, "tf32, the largest", 1e-3, most=True),
    "bf16": Bar(_ERROR, "bf16, the largest", 1e-2, most=True),
    "fp16": Bar(_ERROR, "fp16, the largest", 1e-2, most=True),
    "classes": Bar("NaN and infinity as on the CPU", "outputs of another class", 0, most=True),
}
LARGEST = ("float32", "tf32", "bf16", "fp16", "classes")  # the bars that are decided by the worst of all rows


class LostError(Exception):
    """The device does not answer any more, and will not in this process."""


class Bench:
    """The device, its peers, and where what is found goes: ``tell(kind, value)``."""

    def __init__(self, dry, tell):
        self.dry, self.tell, self.section, self.deadline = dry, tell, "", float("inf")
        self.rng = np.random.default_rng()
        self.peers = {}
        for name in ("torch", "cupy"):
            try:
                if dry:
                    raise ImportError("a dry run has no peers")
                self.peers[name] = __import__(name)
                if name == "torch":
                    self.peers[name].cuda.init()  # a build for the CPU has none
            except Exception as error:  # whatever a broken installation raises
                self.peers.pop(name, None)
                self.absent(name, error)
        if "torch" in self.peers:
            torch = self.peers["torch"]
            torch.backends.cuda.matmul.allow_tf32 = False
            torch.set_grad_enabled(False)

    def absent(self, what, error):
        """Note what there is not, and why."""
        self.tell("absent", (what, f"{type(error).__name__}: {error}"[:300]))

    def peer(self, make, *arguments):
        """Return the engines of a peer, or none if they cannot be made."""
        try:
            return make(self, *arguments)
        except Exception as error:
            self.absent(f"{self.section}: {make.__name__}", error)
            return {}

    def attempt(self, case, *arguments, **options):
        """Run a case of a section; one that fails is noted, and the next ones run while the device answers."""
        try:
            case(self, *arguments, **options)
        except TimeoutError:
            raise
        except Exception as error:
            named = ", ".join(str(value) for value in arguments if isinstance(value, int | str | tuple))
            self.failed(f"{case.__name__}({named})", error)
            self.answers()

    def failed(self, what, error):
        """Note a failure, and where it was."""
        where = "".join(traceback.format_exception(error))
        self.tell("failure", {"section": self.section, "case": what, "traceback": where[-4000:]})

    def answers(self):
        """Raise `LostError` unless the device still does."""
        try:
            cuda.synchronize()
        except Exception as error:
            raise LostError(str(error)) from error

    def spent(self):
        """Raise an error if the section's time is over."""
        if time.monotonic() > self.deadline:
            raise TimeoutError(f"the time of {self.section} is over")

    def normal(self, *shape, dtype="float32"):
        """Return fresh random numbers on the device."""
        self.spent()
        return cuda.to_device(self.rng.standard_normal(shape, np.dtype(dtype)))

    def poisoned(self, *shape, dtype="float32"):
        """Return an output full of NaN: of 16 bits too, which are given as unsigned integers."""
        return self.poison(cuda.device_array(shape, dtype))

    def poison(self, array):
        """Fill an output with NaN."""
        if device.simulated():
            bits = np.full(array.nbytes, 0xFF, np.uint8).view(array.dtype)
            array.copy_to_device(bits.reshape(array.shape))
        else:
            cuda.cudadrv.driver.device_memset(array, 0xFF, array.nbytes)
        return array

    def rotation(self, nbytes):
        """Return how many sets of operands of so many bytes are beyond any cache."""
        return 2 if self.dry else max(1, min(64, -(-MORE_THAN_CACHED // nbytes)))

    def record(self, section, case, engines, error, bars=None, expected=None, **facts):
        """Time the engines in turns, and keep what was found; `error` is ours, checked before.

        `bars` are the figures of bars by their names: a number; or an engine, and our work over its work; or None, and
        seconds for us to be compared with.  A peer that returns something else than `expected`, some rows and which
        they are, is left out.
        """
        row = {"section": section, "case": case, "error": error, **facts}
        self.spent()
        measured, rounds = self.timed(engines, expected)
        if not self.dry:  # what the simulator takes says nothing
            row |= measured
        row["bars"] = {name: self.figure(given, rounds) for name, given in (bars or {}).items()}
        self.tell("row", row)

    def figure(self, given, rounds):
        """Return the figure for a bar, or None where its engine was not there."""
        if not isinstance(given, tuple):
            return given
        engine, work = given
        if self.dry or (engine is not None and engine not in rounds):
            return None
        theirs = itertools.repeat(1.0) if engine is None else rounds[engine]
        return work * statistics.median(b / a for a, b in zip(rounds["ours"], theirs, strict=False))

    def timed(self, engines, expected=None):
        """Return the medians of seconds a call, and of the ratios to ours; and the seconds of each round."""
        counts = {}
        for name, call in list(engines.items()):
            try:
                given = call()
                if self.dry:
                    counts[name] = 1
                    continue
                cuda.synchronize()
                if name != "ours" and "alone" not in name:
                    self.compare(name, given, expected)
                counts[name] = max(1, min(CALLS, int(SLICE / max(self.slice(call, 3), 1e-6))))
            except Exception as error:  # a peer that cannot do it
                if name == "ours":
                    raise
                self.absent(f"{self.section}: {name}", error)
                self.answers()
        rounds = {name: [] for name in counts}
        for turn in range(1 if self.dry else ROUNDS):
            for name in sorted(counts, reverse=bool(turn % 2)):
                rounds[name].append(self.slice(engines[name], counts[name]))
        ours = rounds["ours"]
        ratios = {
            name: statistics.median(theirs / own for theirs, own in zip(each, ours, strict=True))
            for name, each in rounds.items()
            if name != "ours"
        }
        return {"seconds": {name: statistics.median(each) for name, each in rounds.items()}, "ratio": ratios}, rounds

    def compare(self, name, given, expected):
        """Raise an error if a peer's tensor is not what is expected."""
        if expected is None or type(given).__module__ != "torch":
            return
        rows, places = expected
        host = given[np.asarray(places).tolist()].double().cpu().numpy() if np.ndim(places) else given.cpu().numpy()
        error = float(np.linalg.norm(host.reshape(np.shape(rows)) - rows) / np.linalg.norm(rows))
        if not error <= PEERS_DIFFER:
            raise ArithmeticError(f"{name} differs from the reference by {error}")

    def slice(self, call, count):
        """Return the seconds a call of `count` in a row, by events of the default stream, which all engines use."""
        begin, end = cuda.event(), cuda.event()
        begin.record()
        for _ in range(count):
            call()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3 / count / getattr(call, "calls", 1)

    def kernels(self, calls, turns=1):
        """Return engines, none or one, in which the host has no part: calls on tensors of torch as one CUDA graph.

        That of torch, which ours are queued in too, on its current stream.
        """
        if "torch" not in self.peers:
            return {}
        torch, calls = self.peers["torch"], list(calls) * turns
        side, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
        with torch.cuda.stream(side):
            for call in dict.fromkeys(calls):
                call()
        torch.cuda.synchronize()
        # Numba frees nothing while it is noted; what our calls need besides is torch's memory, as their arrays are.
        with cuda.defer_cleanup(), torch.cuda.graph(graph, capture_error_mode="relaxed"):
            for call in calls:
                call()

        def replay():
            graph.replay()

        replay.calls = len(calls)
        return {"ours, the kernel": replay}

    def compiled(self, call, *arguments):
        """Return the engine of torch's compiler, or none: it needs a C compiler, among other things, and time."""
        torch = self.peers["torch"]
        try:
            torch._dynamo.reset()
            made = torch.compile(call, dynamic=False)
            made(*arguments)
            return {"torch.compile": lambda: made(*arguments)}
        except Exception as error:
            self.absent(f"{self.section}: torch.compile", error)
            return {}

    @functools.cached_property
    def rates(self):
        """What this device does in a second: as measured, or by its clock and its multiprocessors.

        `float32` are operations, two a multiply-add, and `memory` bytes read and written; those are measured.
        """
        if self.dry:
            return dict.fromkeys(("float32", "memory", "tensor", "special"), 1.0)
        one, other = (cuda.device_array(COPIED, np.float32) for _ in range(2))
        current = cuda.get_current_device()
        cycles = current.MULTIPROCESSOR_COUNT * current.CLOCK_RATE * 1e3
        peak, operations = self.peak
        timed, found = {"memory": (lambda: other.copy_to_device(one), 8 * COPIED), "float32": (peak, operations)}, {}
        for name, (call, work) in timed.items():
            call()
            found[name] = work / statistics.median(self.slice(call, 5) for _ in range(ROUNDS))
        found |= {"tensor": 2 * TENSOR.get(current.compute_capability[0], 1024) * cycles, "special": SPECIAL * cycles}
        self.tell("rates", found)
        return found

    @functools.cached_property
    def peak(self):
        """The call that multiplies and adds float32 in registers alone, and how many operations it is."""
        blocks, threads, loops = (1, 2, 2) if self.dry else (compiler.multiprocessors() * 16, 256, 1024)
        kernel, out = cuda.jit(multiply_add), cuda.to_device(np.full(2, 0.5, np.float32))
        return lambda: kernel[blocks, threads](out, loops), 2 * TOTALS * loops * blocks * threads


TOTALS = 192  # sums of a thread, in registers, that do not wait for each other: 97 % of the loop adds to them


def multiply_add(out, loops):
    """Multiply and add as often as it goes."""
    totals = cuda.local.array(TOTALS, float32)
    for i in range(TOTALS):
        totals[i] = float32(i + cuda.threadIdx.x)
    factor = out[0]
    while loops > 0:
        for i in range(TOTALS):
            totals[i] = totals[i] * factor + factor
        loops -= 1
    for i in range(1, TOTALS):
        totals[0] += totals[i]
    if totals[0] == float32(-1):
        out[1] = totals[0]


def in_turns(calls):
    """Return the call that makes one of others after the other, over and over."""
    turn = itertools.cycle(calls)
    return lambda: next(turn)()


def checked(out, expected, places=slice(None), features=1):
    """Return the relative Frobenius error of an output, of which no element may be missing; fail if it is too large.

    That of sums in order grows with the root of the number of features.
    """
    host = out.copy_to_host()
    assert not np.isnan(host).any(), "some outputs were not written"
    error = float(np.linalg.norm(host[places] - expected) / np.linalg.norm(expected))
    allowed = ALLOWED[host.dtype.name] * max(1, features / 1024) ** 0.5
    assert error <= allowed, f"relative error {error}, and {allowed} is allowed"
    return error


def reference(bench, x, w, b, name):
    """Return some rows of the result in float64, and which they are."""
    m = x.shape[0]
    rows = np.unique(np.r_[0, m - 1, bench.rng.integers(0, m, 30)])
    given = x.copy_to_host()[rows].astype(np.float64)
    w, b = (array.copy_to_host().astype(np.float64) for array in (w, b))
    return getattr(nd, name)(given @ w + b), rows


def tensors(bench, *arrays):
    """Return torch's tensors of the same memory."""
    return tuple(bench.peers["torch"].as_tensor(array, device="cuda") for array in arrays)


def launches(call):
    """Return how many kernels a call launches."""
    seen, launch = [], compiler.launch

    def counted(*arguments, **options):
        seen.append(arguments[0])
        launch(*arguments, **options)

    compiler.launch = counted
    try:
        call()
    finally:
        compiler.launch = launch
    return len(seen)


def quick_turns(seconds=1e-4):
    """Let Python's threads, which in the simulator are CUDA's and wait for each other, take short turns."""
    if device.simulated():
        sys.setswitchinterval(seconds)
