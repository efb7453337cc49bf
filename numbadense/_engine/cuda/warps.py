"""What kernels of whole networks need besides the primitives: warps that wait, shared memory of any size."""

from numba import cuda

from numbadense._engine.cuda.device import simulated
from numbadense._engine.cuda.primitives import CHUNK

if simulated():
    import threading

    import numpy as np

    from numbadense._engine.cuda import twin

    _door = threading.Lock()

    def make_sync_warp(lanes):
        """Return the function that waits for all lanes of a warp."""

        def sync_warp():
            me = threading.current_thread()
            with _door:
                warps = vars(me._manager).setdefault("numbadense_warps", {})
                barrier = warps.setdefault(me.thread_id // lanes, threading.Barrier(lanes))
            barrier.wait(20)

        return sync_warp

    def make_dynamic_shared(jit, element):
        """Return the function that gives all threads of a block the dynamic shared memory of the launch."""

        def shared():
            block = twin._block()
            with twin._allocating:
                held = vars(block).setdefault(twin.SHARED, {})
                if shared not in held:
                    bytes_ = threading.current_thread()._manager._f.__globals__["cuda"].shared._dynshared_size
                    held[shared] = twin._poisoned(bytes_ // np.dtype(element).itemsize, element)
            return held[shared]

        return shared

else:
    from numbadense._engine.cuda.ptx import instruction

    def make_sync_warp(lanes):
        """Return the function that waits for all lanes of a warp, whose stores to shared memory are then seen."""
        return instruction("bar.warp.sync 0xffffffff;")

    def make_dynamic_shared(jit, element):
        """Return the function that gives all threads of a block the dynamic shared memory of the launch, aligned."""

        def shared():
            return cuda.shared.array(0, element, CHUNK)

        return jit(shared)
