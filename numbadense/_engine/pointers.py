"""A network behind C pointers: for C itself, for ctypes, for SciPy's callbacks."""

import ctypes

import numpy as np

from numbadense._engine import compile as compiler
from numbadense._engine.cpu import trampoline
from numbadense._engine.program import Program
from numbadense.errors import DTypeError, MissingDependencyError, ShapeError

DOUBLES = ctypes.POINTER(ctypes.c_double)
# What SciPy's integrators call, with the address of the network's code as their user data.
SCIPY = {
    "number": ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_double, ctypes.c_void_p),
    "numbers": ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_int, DOUBLES, ctypes.c_void_p),
}


class Code(ctypes.c_void_p):
    """The address of a network's code, with what keeps it alive."""


def function(program: Program, owner):
    """Return ``int64 f(const T *x, T *out, int64 m)`` as a ctypes function that keeps `owner` alive."""
    numbers = ctypes.POINTER(np.ctypeslib.as_ctypes_type(program.dtype))
    kind = ctypes.CFUNCTYPE(ctypes.c_int64, numbers, numbers, ctypes.c_int64)
    shared = compiler.c_function(program.dtype, "rows")
    if callable(shared):
        found = kind(lambda x, out, m: shared(program.address, address(x), address(out), m))
    else:
        place, code = trampoline.bind(shared, program.address)
        found = kind(place)
        found.code = code
    found.owner = owner
    return found


def address(pointer) -> int:
    """Return where a pointer, or a function, of ctypes points."""
    return ctypes.cast(pointer, ctypes.c_void_p).value or 0


def low_level_callable(program: Program, owner):
    """Return a function of one number, or of several, as SciPy's integrators call it."""
    if program.dtype != np.float64:
        raise DTypeError(
            f"the network computes in {program.dtype} but SciPy integrates in float64; use net.astype(float)."
        )
    if program.n_out != 1:
        raise ShapeError(f"the network has {program.n_out} outputs but SciPy integrates functions that have 1.")
    try:
        from scipy import LowLevelCallable
    except ImportError:
        raise MissingDependencyError("SciPy is not installed; run: python -m pip install scipy") from None
    kind = "number" if program.n_in == 1 else "numbers"
    shared = compiler.c_function(program.dtype, kind)
    if callable(shared) and kind == "numbers":
        found = SCIPY[kind](lambda n, x, code: shared(n, address(x), code))
    else:
        found = SCIPY[kind](shared)
    code = Code(program.address)
    code.owner = owner
    return LowLevelCallable(found, code)
