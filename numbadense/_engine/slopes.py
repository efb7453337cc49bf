"""What derivatives compile: the kernels of `numbadense._engine.cpu.differential`, and activations' slopes."""

import dataclasses
import functools
import itertools

import numba
import numpy as np
from numba import types

from numbadense import activations
from numbadense._engine.compile import (
    DIRECT,
    _address,
    _array,
    _compiled,
    _dispatcher,
    _identity,
    _once,
    activation_pass,
    fingerprint,
    jit,
    scalar,
)
from numbadense._engine.cpu import differential, direct, operand, twin
from numbadense._engine.cpu.primitives import make_borrow
from numbadense._engine.cpu.tile import View

_python_addresses = itertools.count(1)


@_once
def kernel(dtype: np.dtype) -> int:
    """Return the address of the kernel of derivatives of a dtype."""
    view, integer = View(numba.from_dtype(dtype)), types.intp
    rows = integer, view, integer, view, integer, view, view, integer, view
    signature = types.void(*rows, integer, integer, integer)
    return _address(lambda: differential.make_kernel(dtype.itemsize), signature, ("derivatives", dtype.str))


@_once
def run(dtype: np.dtype, parallel: bool):
    """Return ``run(code, x, v, y, dy, scratch, block, group, units, threads)``: in parallel, or its serial twin."""
    x, scratch = _array(dtype, 2, "A", readonly=True), _array(dtype, 1, "C")
    y, dy = _array(dtype, 2, "A"), _array(dtype, 3, "A")
    signature = types.void(types.intp, x, x, y, dy, scratch, *[types.intp] * 4)
    return _dispatcher(differential.differential, signature, ("differential", dtype.str), parallel)


@_once
def direct_jvp(dtype: np.dtype):
    """Return ``jvp(code, x, v, y, dy)``, for plain arrays, which leaves others alone; None where there is none."""
    signature = types.intp(types.intp, *[operand.operand] * 4)
    return _direct(direct.make_jvp, dtype, signature, "direct jvp") if DIRECT else None


@_once
def direct_jacobian(dtype: np.dtype):
    """Return ``jacobian(code, x, y, jac)``, for plain arrays, which leaves others alone; None where there is none."""
    signature = types.intp(types.intp, *[operand.operand] * 3)
    return _direct(direct.make_jacobian, dtype, signature, "direct jacobian") if DIRECT else None


def _direct(make, dtype, signature, name):
    def made():
        return make(jit, make_borrow(dtype), dtype.itemsize)

    return made() if numba.config.DISABLE_JIT else _compiled(made, signature, (name, dtype.str)).entry_point


@_once
def inside():
    """Return what other compiled code calls: see `numbadense._engine.cpu.differential.make_inside`."""
    return jit(differential.make_inside(jit), "inside")


@_once
def derivative(activation):
    """Return the derivative of an activation, as an activation of its own."""
    return dataclasses.replace(activation, name=f"{activation.name}'", function=activation.derivative, aliases=())


def slope_pass(activation, dtype: np.dtype) -> int:
    """Return the address of the pass from sums to slopes: 0, none, for identity and what is row-wise."""
    if activation.rowwise or activation.name == "identity":
        return 0
    return activation_pass(derivative(activation), dtype)


def chain(activation, dtype: np.dtype) -> int:
    """Return the address of the activation's chain rule, from slopes and tangents to tangents: 0 for identity."""
    if activation.name == "identity":
        return 0
    return _rowwise_chain(activation, dtype) if activation.rowwise else product(dtype)


def _chain_signature(dtype):
    pointer = types.CPointer(numba.from_dtype(dtype))
    return types.void(pointer, pointer, *[types.int64] * 5)


@_once
def product(dtype: np.dtype) -> int:
    """Return the address of the chain rule of everything that is not row-wise."""
    if numba.config.DISABLE_JIT:
        return _python_chain(lambda slopes, row, j: np.multiply(row, slopes[: row.size], row))
    return _address(lambda: differential.multiply, _chain_signature(dtype), ("multiply", dtype.str))


@_once
def scale(dtype: np.dtype) -> int:
    """Return the address of the chain rule of the unit vectors of outputs."""
    if numba.config.DISABLE_JIT:
        return _python_chain(lambda slopes, row, j: np.multiply(row, slopes[j], row))
    return _address(lambda: differential.scale, _chain_signature(dtype), ("scale", dtype.str))


@_once
def _rowwise_chain(activation, dtype):
    found = derivative(activation)
    if numba.config.DISABLE_JIT:
        return _python_chain(lambda y, row, j: found.function(y[: row.size], row))
    cached = fingerprint(found.function) is not None
    key = ("chain", _identity(found), dtype.str)
    return _address(lambda: differential.make_rowwise(scalar(found)), _chain_signature(dtype), key, cached)


def _python_chain(function) -> int:
    """Register a chain rule in plain Python with the twins, under an address of its own."""

    def run(slopes, tangents, each):
        with np.errstate(all="ignore"):
            for i, row in enumerate(tangents):
                function(slopes[i // each], row, i % each)

    address = next(_python_addresses)
    twin.CHAINS[address] = run
    return address


def jobs() -> list:
    """Return what `numbadense._engine.compile.warm` compiles ahead: names and functions."""
    found = []
    for dtype in (np.dtype(np.float32), np.dtype(np.float64)):
        found.append((f"derivatives {dtype}", functools.partial(kernel, dtype)))
        found.append((f"direct jvp {dtype}", functools.partial(direct_jvp, dtype)))
        found.append((f"direct jacobian {dtype}", functools.partial(direct_jacobian, dtype)))
        for parallel, kind in ((False, "serial"), (True, "parallel")):
            found.append((f"differential {kind} {dtype}", functools.partial(run, dtype, parallel)))
        for entry in activations.REGISTRY.values():
            if entry.derivative is not None:
                name = f"derivative of {entry.name} {dtype}"
                found.append((name, functools.partial(_slopes, entry, dtype)))
    return found


def _slopes(entry, dtype):
    slope_pass(entry, dtype)
    chain(entry, dtype)
