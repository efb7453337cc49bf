"""Serial or parallel: which twin of a kernel runs, and what keeps each threading layer safe.

- After a fork the OpenMP pool of the parent is gone, and using it ends the process: a child stays serial.
- The workqueue layer aborts the process when two Python threads are in a parallel kernel at once: there, the thread
  that finds another one inside runs the serial twin instead, which gives the same bits.
"""

import os
import sys
import threading

import numba
import numpy as np

from numbadense.errors import OptionError

_layer: str | None = None  # numba's threading layer, known once a parallel kernel of ours has run
_forked = False
_gate = threading.Lock()


def _after_fork() -> None:
    global _forked, _gate
    _gate = threading.Lock()
    try:
        numba.threading_layer()
    except ValueError:  # no pool had started: the child may start its own
        return
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def settled() -> bool:
    """Say whether the threading layer is known, a parallel kernel of ours having run."""
    return _layer is not None


def expected_layer() -> str:
    """Return the threading layer, or before any has started the one that the settings suggest."""
    return _layer or ("workqueue" if numba.config.THREADING_LAYER == "workqueue" else "omp")


def layer() -> str:
    """Return the threading layer that runs parallel kernels, running one if none has run yet."""
    if _layer is None:
        from numbadense import activations
        from numbadense._engine import compile as compiler

        nothing = np.empty(0, np.float32)
        address = compiler.activation_pass(activations.get("identity"), nothing.dtype)
        launch(compiler.apply(nothing.dtype, True), address, nothing, nothing, 1, 1)
    return _layer or "none"


def checked(threads: int) -> int:
    """Return a number of threads if it is one."""
    if not isinstance(threads, int) or isinstance(threads, bool) or threads < 1:
        raise OptionError(f"threads is {threads!r} but must be a positive integer, or None to let the plan choose.")
    return threads


def limit(threads: int | None = None) -> int:
    """Return the most threads that a call may use: `threads`, ``NUMBADENSE_THREADS`` and numba's own setting.

    1 in a child that was forked after the pool started, under ``NUMBA_DISABLE_JIT``, and, unless `threads` says
    otherwise, in a task of Dask, whose workers run a task on each core already.
    """
    if threads is not None:
        checked(threads)
    if _forked or numba.config.DISABLE_JIT or (threads is None and in_dask_task()):
        return 1
    most = numba.config.NUMBA_NUM_THREADS if _layer is None else numba.get_num_threads()
    if own := os.environ.get("NUMBADENSE_THREADS"):
        if not own.isdecimal() or int(own) < 1:
            raise OptionError(f"NUMBADENSE_THREADS is {own!r} but must be a positive integer; unset it to use all.")
        most = min(most, int(own))
    return most if threads is None else min(most, threads)


def in_dask_task() -> bool:
    """Say whether this thread is running a task of a distributed Dask worker."""
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return False
    try:
        distributed.get_worker()
    except ValueError:
        return False
    return True


def launch(kernel, *args) -> bool:
    """Run a parallel kernel if that is safe now, and say whether it ran; if not, the caller runs the serial twin."""
    global _layer
    if _forked:
        return False
    if _layer is None:
        with _gate:  # which layer it is, and so whether it bears company, is known only afterwards
            kernel(*args)
            _layer = numba.threading_layer()
        return True
    if _layer != "workqueue":
        kernel(*args)
        return True
    if not _gate.acquire(blocking=False):
        return False
    try:
        kernel(*args)
    finally:
        _gate.release()
    return True
