"""The primitives that kernels are written in: LLVM code generators, or under ``NUMBA_DISABLE_JIT=1`` NumPy twins."""

from numba import config

if config.DISABLE_JIT:
    from numbadense._engine.cpu.twin import (
        address_of,
        call_pass,
        fence,
        load,
        matrix,
        matrix_at,
        part,
        pointer,
        rank1,
        row_at,
        rows_of,
        stack,
        start,
        store,
        stream,
    )
else:
    from numbadense._engine.cpu.tile import (
        address_of,
        call_pass,
        matrix,
        matrix_at,
        part,
        rank1,
        row_at,
        rows_of,
        start,
        store,
    )
    from numbadense._engine.cpu.vectors import fence, load, pointer, stack, stream

__all__ = [
    "address_of",
    "call_pass",
    "fence",
    "load",
    "matrix",
    "matrix_at",
    "part",
    "pointer",
    "rank1",
    "row_at",
    "rows_of",
    "stack",
    "start",
    "store",
    "stream",
]
