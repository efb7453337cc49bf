"""The primitives that kernels are written in: LLVM code generators, or under ``NUMBA_DISABLE_JIT=1`` NumPy twins."""

from numba import config

if config.DISABLE_JIT:
    from numbadense._engine.cpu.twin import (
        address_of,
        call_kernel,
        call_layer,
        call_pass,
        copy_row,
        fence,
        load,
        matrix,
        matrix_at,
        part,
        pointer,
        rank1,
        resume,
        row_at,
        rows_at,
        rows_of,
        stack,
        start,
        store,
        stream,
        view_of,
        weights_at,
        word,
    )
else:
    from numbadense._engine.cpu.addresses import call_kernel, call_layer, call_pass, copy_row, rows_at, view_of, word
    from numbadense._engine.cpu.tile import (
        address_of,
        matrix,
        matrix_at,
        part,
        rank1,
        resume,
        row_at,
        rows_of,
        start,
        store,
        weights_at,
    )
    from numbadense._engine.cpu.vectors import fence, load, pointer, stack, stream

__all__ = [
    "address_of",
    "call_kernel",
    "call_layer",
    "call_pass",
    "copy_row",
    "fence",
    "load",
    "matrix",
    "matrix_at",
    "part",
    "pointer",
    "rank1",
    "resume",
    "row_at",
    "rows_at",
    "rows_of",
    "stack",
    "start",
    "store",
    "stream",
    "view_of",
    "weights_at",
    "word",
]
