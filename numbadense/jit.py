"""What a user calls inside their own ``@njit`` functions.

Every registered activation is a scalar function of this module, compiled into the caller:
``numbadense.jit.sigmoid(x)``.
:func:`forward` runs a whole network: ``forward(program, x, out, scratch)``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba.extending import overload

from numbadense import activations
from numbadense._engine import compile as compiler
from numbadense._engine.cpu.primitives import address_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from numbadense.model import Sequential

__all__ = ["arguments", "forward"]


def arguments(network: Sequential) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Return what :func:`forward` needs of a network: its program and scratch for one thread.

    Parameters
    ----------
    network : Sequential
        Keep it alive for as long as the program is used: the program holds the addresses of its weights.

    Returns
    -------
    program : ndarray, 1-D, int64
        Good in this process only.
    scratch : ndarray, 1-D, of the network's dtype
        Room for one row of hidden activations; each thread needs its own.

    Examples
    --------
    >>> import numpy as np
    >>> from numba import njit
    >>> import numbadense as nd
    >>> from numbadense.jit import forward
    >>> @njit
    ... def settle(program, scratch, state, steps):
    ...     out = np.empty_like(state)
    ...     for _ in range(steps):
    ...         forward(program, state, out, scratch)
    ...         state[:] = out
    ...     return state
    >>> net = nd.Sequential([nd.Dense([[0.5]], [1.0])])
    >>> program, scratch = nd.jit.arguments(net)
    >>> settle(program, scratch, np.zeros((1, 1)), 60)
    array([[2.]])
    """
    program = network._program
    return program.code, np.empty(2 * program.width, program.dtype)


def forward(program: NDArray[np.int64], x: NDArray[Any], out: NDArray[Any], scratch: NDArray[Any]) -> None:
    """Propagate rows through a network, inside a compiled function or out of it.

    Parameters
    ----------
    program : ndarray, 1-D, int64
        From :func:`arguments`.
    x : ndarray, shape (m, n_in), of the network's dtype
        Examples in rows, of any strides.  Its shape is not checked.
    out : ndarray, shape (m, n_out), of the network's dtype, rows contiguous
        Where to write the result.  It must not overlap `x`.
    scratch : ndarray, 1-D, of the network's dtype
        From :func:`arguments`, one for each thread.

    Raises
    ------
    ValueError
        If `scratch` has no room for a row.

    Notes
    -----
    The bits are those of calling the network.  Nothing is allocated and the caller is compiled once for all networks.
    """
    compiler.blocks()(program.ctypes.data, x, out, scratch)


@overload(forward)
def _forward(program, x, out, scratch):  # type: ignore[no-untyped-def]  # numba compares the signatures as they are
    blocks = compiler.blocks()
    return lambda program, x, out, scratch: blocks(address_of(program), x, out, scratch)


def __getattr__(name: str) -> Any:
    entry = activations.REGISTRY.get(name)
    if entry is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return compiler.scalar(entry)
