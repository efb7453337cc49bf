"""The primitives that kernels are written in: LLVM code generators, or under ``NUMBA_DISABLE_JIT=1`` NumPy twins."""

from numba import config

if config.DISABLE_JIT:
    from numbadense._engine.cpu.twin import (
        address_of,
        call_pass,
        matrix,
        matrix_at,
        part,
        rank1,
        rows_of,
        start,
        store,
    )
else:
    from numbadense._engine.cpu.tile import (
        address_of,
        call_pass,
        matrix,
        matrix_at,
        part,
        rank1,
        rows_of,
        start,
        store,
    )

__all__ = ["address_of", "call_pass", "matrix", "matrix_at", "part", "rank1", "rows_of", "start", "store"]
