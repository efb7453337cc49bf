"""A network's launches as one CUDA graph, bound to its arrays."""

import contextlib
import threading
import weakref

from numba import cuda

from numbadense._engine.cuda import current, direct, failures, halves, memory
from numbadense._engine.cuda import room as rooms
from numbadense._engine.cuda.borrowed import Borrowed
from numbadense._engine.cuda.chain import between
from numbadense._engine.cuda.device import simulated
from numbadense._engine.cuda.steps import Step
from numbadense.errors import DeviceError, DTypeError, OutputError, ShapeError


class Graph:
    """A step from one matrix to another, to be replayed; the arrays live as long as it does.

    It is made by running the step twice: once, so that kernels are compiled and loaded, and then on the same stream,
    which only notes what is queued.
    """

    def __init__(self, step: Step, a: Borrowed, b: Borrowed, stream):
        room = rooms.made(step.room(a), stream)
        self.held, self.device = (a, b, step, room), current.number()

        def run(stream):
            step.run(a, b, room, stream)

        if simulated():
            run(stream)
            self.launch = run
            return
        self.executable = _record(run, stream)
        self.launch = _launcher(self.executable)
        weakref.finalize(self, _destroy, self.executable).atexit = False  # then the process takes all with it

    @failures.owner("the call of a bound network")
    def replay(self, x, stream) -> None:
        """Queue it on a stream, by default on the one that the library of `x` works on."""
        current.stay(self.device, "the bound network")
        self.launch(memory.stream_of(stream, x))


def _record(run, before):
    """Return an executable graph of what `run` queues; `before` is a stream.

    The first run is over when this returns.
    """
    from cuda.bindings import driver as binding
    from numba.cuda.cudadrv.driver import Stream, driver

    memory.wait_for(before)  # what x comes from
    handle = driver.cuStreamCreate(binding.CUstream_flags.CU_STREAM_NON_BLOCKING.value)
    graph, stream = None, Stream(handle)
    try:
        run(stream)
        stream.synchronize()
        # Memory must not be freed while this records; other streams, and other threads, may do what they like.
        with cuda.defer_cleanup():
            driver.cuStreamBeginCapture(handle, binding.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED)
            try:
                run(stream)
            except BaseException:
                with contextlib.suppress(Exception):
                    driver.cuGraphDestroy(driver.cuStreamEndCapture(handle))
                raise
            graph = driver.cuStreamEndCapture(handle)
            return driver.cuGraphInstantiate(graph, 0)
    finally:
        if graph is not None:
            driver.cuGraphDestroy(graph)
        driver.cuStreamDestroy(handle)


def _launcher(executable):
    from cuda.bindings import driver as binding
    from numba.cuda.cudadrv.driver import CudaAPIError

    from numbadense._engine.cuda.launch import DEFAULT, ELSEWHERE

    one_at_a_time = threading.Lock()  # the driver asks for that, and the call lets other threads run

    def launch(stream):
        queue = stream.handle if stream else DEFAULT
        with one_at_a_time:
            (code,) = binding.cuGraphLaunch(executable, queue)
            if code in ELSEWHERE:  # a thread that is new to CUDA
                cuda.current_context()
                (code,) = binding.cuGraphLaunch(executable, queue)
        if code:
            raise CudaAPIError(code, f"Call to cuGraphLaunch results in {code.name}")

    return launch


def _destroy(executable) -> None:
    from cuda.bindings import driver as binding

    binding.cuGraphExecDestroy(executable)  # nobody is left to be told of a failure


@failures.owner("binding the network to its arrays")
def bind(step: Step, x, out, dtype, owner, stream):
    """Return ``launch(stream)``, and `out` or a new array of the kind of `x`, after the first run."""
    current.stay(owner.device, "the network")
    a = _ready("x", x, dtype, owner.n_in)
    shape = (*a.shape[:-1], owner.n_out)
    stream = memory.stream_of(stream, x)
    given = memory.new(x, shape, dtype, stream) if out is None else out
    b = _ready("out", given, dtype, owner.n_out)
    if b.shape != shape:
        raise OutputError(f"out has shape {b.shape} but the result has shape {shape}; pass an array of that shape.")
    if direct.overlap(a, b):
        raise OutputError("out shares memory with x, which every call reads anew; pass an array apart.")
    m = a.size // owner.n_in
    a, b = a.reshape(m, owner.n_in), b.reshape(m, owner.n_out)
    graph = Graph(between(step, a, b, dtype), a, b, stream)
    return graph, given


def _ready(name: str, array, dtype, columns: int) -> Borrowed:
    """Return the memory of an array that a graph can be bound to."""
    operand = memory.operand(name, array)
    if operand.view is None:
        raise DeviceError(
            f"{name} is a {type(array).__name__} in the memory of the host but a graph is bound to device arrays; "
            "pass one, or call the network itself."
        )
    if operand.like.ndim == 0 or operand.shape[-1] != columns:
        raise ShapeError(
            f"{name} has shape {operand.shape} but its last axis must be {columns} long; pass (m, {columns})."
        )
    if not direct.fits(operand.dtype, dtype):
        given = halves.name(operand.dtype)
        raise DTypeError(f"{name} has dtype {given} but the network computes in {dtype}; pass that.")
    if not operand.like.size or not memory.contiguous(operand.view):
        raise ShapeError(
            f"{name} is not contiguous, or empty, but a graph is bound to memory as it is: "
            f"{name}.shape={operand.shape}; pass a contiguous copy."
        )
    return memory.lent(operand, operand.shape)
