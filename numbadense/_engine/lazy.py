"""Dask arrays: the graph of a call, with one key for all that the blocks share.

::

    x      (chunk 0)   (chunk 1)   (chunk 2)  ...        features in one chunk
               |           |           |
               +---- numbadense-<digest of the weights> ----   one key: sent once to each worker
               |           |           |
    result (chunk 0)   (chunk 1)   (chunk 2)  ...        computed by the serial twin
"""

import functools
import hashlib
import math
import uuid

import numpy as np

from numbadense._engine import compile as compiler
from numbadense._engine import half, validate
from numbadense._engine import threads as threading
from numbadense.errors import OutputError, ShapeError


def digest(layers, names=None) -> str:
    """Return a name for what layers ``(w, b, activation)`` compute, the same in every process.

    A function of a user's own that refers to others cannot be told from its next version: its name is never the same.
    `names` are the features' names, by which frames are checked.
    """
    found = hashlib.blake2b(repr(names).encode(), digest_size=16)
    for w, b, activation in layers:
        kind, stored = (w.kind, w.bits) if isinstance(w, half.Half) else (w.dtype.str, w)
        formula = "built in"
        if activation.function.__module__ != "numbadense.activations":
            formula = compiler.fingerprint(activation.function) or uuid.uuid4().hex
        found.update(repr((kind, w.shape, activation.name, formula, b is None)).encode())
        for array in (stored,) if b is None else (stored, b):
            found.update(np.ascontiguousarray(array).data.cast("B") if array.size else b"")
    return found.hexdigest()


def network(net, x, out, threads: int | None):
    """Return the Dask array of what a network makes of a Dask array."""
    return _rows(net, net._digest, x, net.n_in, net.n_out, net.dtype, net, out, threads)


def dense(layer, x, w: np.ndarray, b: np.ndarray | None, activation, out, threads: int | None):
    """Return the Dask array of what `layer`, a function like `numbadense.dense`, makes of a Dask array."""
    shared, name = functools.partial(layer, w=w, b=b, activation=activation), digest([(w, b, activation)])
    return _rows(shared, name, x, *w.shape, validate.operands_dtype(x, w, b), w, out, threads)


def activation(function, entry, x, out, threads: int | None):
    """Return the Dask array of what an activation, ``function(entry, x, threads=)``, makes of a Dask array."""
    if entry.rowwise:
        if x.ndim == 0:
            raise validate.single_number_error(entry)
        x = x.rechunk({x.ndim - 1: -1})
    name = digest([(validate.zeros(0, validate.FLOAT32), None, entry)])
    return _blocks(functools.partial(function, entry), name, x, x.chunks, validate.compute_dtype("x", x), out, threads)


def _rows(shared, name: str, x, n_in: int, n_out: int, dtype: np.dtype, owner, out, threads):
    validate.compute_dtype("x", x)
    if x.ndim and math.isnan(x.shape[-1]):
        raise ShapeError(
            f"x has an unknown number of features: x.shape={x.shape}; call x.compute_chunk_sizes() first. "
            "An unknown number of rows is no hindrance."
        )
    if x.ndim == 0 or x.shape[-1] != n_in:
        raise validate.features_error(x, owner)
    x = x.rechunk({x.ndim - 1: -1})
    return _blocks(shared, name, x, (*x.chunks[:-1], (n_out,)), dtype, out, threads)


def _blocks(shared, name: str, x, chunks, dtype: np.dtype, out, threads: int | None):
    import dask

    if out is not None:
        raise OutputError(
            f"out is a {type(out).__name__} but the result of a Dask array is lazy; "
            "leave it out and write the result, for example with y.to_zarr(url) or dask.array.store(y, out)."
        )
    validate.as_array("x", x._meta)  # masked chunks, say, or chunks on a device
    threads = 1 if threads is None else threading.checked(threads)
    one = dask.delayed(shared, name=f"numbadense-{name}", traverse=False)
    token = dask.base.tokenize(x.name, name, dtype, threads)
    meta = np.empty((0,) * x.ndim, dtype)
    name = f"{forward_block.__name__}-{token}"
    return x.map_blocks(forward_block, one, threads, name=name, chunks=chunks, dtype=dtype, meta=meta)


def forward_block(block: np.ndarray, shared, threads: int) -> np.ndarray:
    """Run in a worker: one block through what all blocks share."""
    return shared(block, threads=threads)
