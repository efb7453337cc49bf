"""The primitives that kernels are written in: code generators, or in the simulator their NumPy twins."""

from numbadense._engine.cuda.device import simulated

if simulated():
    from numbadense._engine.cuda.twin import (
        CHUNK,
        address,
        block_number,
        commit,
        copy1,
        copy16,
        fma,
        int32,
        load1,
        load16,
        make_shared,
        make_wait,
        store16,
        thread,
    )
else:
    from numbadense._engine.cuda.ptx import (
        CHUNK,
        address,
        block_number,
        commit,
        copy1,
        copy16,
        fma,
        int32,
        load1,
        load16,
        make_shared,
        make_wait,
        store16,
        thread,
    )

__all__ = [
    "CHUNK",
    "address",
    "block_number",
    "commit",
    "copy1",
    "copy16",
    "fma",
    "int32",
    "load1",
    "load16",
    "make_shared",
    "make_wait",
    "store16",
    "thread",
]
