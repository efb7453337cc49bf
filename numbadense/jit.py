"""What a user calls inside their own ``@njit`` functions.

Every registered activation is a scalar function of this module, compiled into the caller:
``numbadense.jit.sigmoid(x)``.
A whole network is an argument: :attr:`numbadense.Sequential.jit`, a :class:`Network`.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import numpy as np

from numbadense import activations
from numbadense._engine import compile as compiler
from numbadense._engine import handle
from numbadense._engine.cpu.forward import JACOBIAN, TANGENTS
from numbadense._engine.cpu.inside import STACK
from numbadense.errors import DTypeError, OptionError, OutputError, ShapeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from numbadense.model import Sequential

__all__ = ["Network"]


class Network:
    """A network as compiled functions take it: ``f = net.jit``, an argument that they call, ``f(x, out)``.

    Parameters
    ----------
    network : Sequential
        It is kept alive.

    Notes
    -----
    A call takes a row, `x` of shape ``(n_in,)`` and `out` of shape ``(n_out,)``, or a block of rows, ``(m, n_in)`` and
    ``(m, n_out)``, both of the network's dtype: `x` read-only or of any strides, `out` with contiguous rows and apart
    from `x`.  The bits are those of ``net(x)``.  `f.n_in` and `f.n_out` are there too.

    Nothing is allocated.  Hidden activations are on the stack, in 16 KiB; a network with a hidden layer beyond 2048
    outputs in float32, 1024 in float64, needs ``f(x, out, scratch)``, with an array from :meth:`scratch` for each
    thread.  More scratch than the stack's also serves blocks of many rows: more of them go through the layers at once.

    :meth:`jvp` and :meth:`jacobian` are there for a network that is :meth:`differentiable`.

    Shapes that do not fit are a ValueError.  In a ``prange``, where numba loses what is raised, it is a SystemError.
    Another dtype is a typing error.

    The caller is compiled once for all networks of a dtype, and with ``cache=True`` once for all processes; another
    version of numbadense compiles it anew.  It runs the kernels of the process it is in, and releases the GIL if it
    says ``nogil=True``.  The network has to be an argument, not a global variable, which would be a constant to numba.

    Examples
    --------
    A dynamical system ``dy/dt = net(y)``, by the classical Runge-Kutta method:

    >>> import numpy as np
    >>> from numba import njit
    >>> import numbadense as nd
    >>> @njit
    ... def solve(f, y, h, steps):
    ...     k = np.empty((4, f.n_out), y.dtype)
    ...     for _ in range(steps):
    ...         f(y, k[0])
    ...         f(y + h / 2 * k[0], k[1])
    ...         f(y + h / 2 * k[1], k[2])
    ...         f(y + h * k[2], k[3])
    ...         y += h / 6 * (k[0] + 2 * k[1] + 2 * k[2] + k[3])
    ...     return y
    >>> rotation = nd.Sequential([nd.Dense([[0.0, -1.0], [1.0, 0.0]])])
    >>> y = solve(rotation.jit, np.array([1.0, 0.0]), np.pi / 200, 100)
    >>> bool(np.allclose(y, [0.0, -1.0]))
    True
    """

    __slots__ = ("__weakref__", "_address", "_network", "_numba_type_")

    def __init__(self, network: Sequential) -> None:
        self._network = network
        self._address = network._address
        self._numba_type_ = handle.type_of(network.dtype)

    @property
    def n_in(self) -> int:
        """Features in."""
        return self._network.n_in

    @property
    def n_out(self) -> int:
        """Features out."""
        return self._network.n_out

    def differentiable(self) -> Network:
        """Build what :meth:`jvp` and :meth:`jacobian` need, once.

        Returns
        -------
        Network
            Itself.

        Raises
        ------
        ActivationError
            If an activation has no derivative.

        Examples
        --------
        Newton's method for ``net(x) = 0``:

        >>> import numpy as np
        >>> from numba import njit
        >>> import numbadense as nd
        >>> @njit
        ... def newton(f, x, steps):
        ...     y, jac = np.empty(f.n_out, x.dtype), np.empty((f.n_out, f.n_in), x.dtype)
        ...     for _ in range(steps):
        ...         f.jacobian(x, y, jac)
        ...         x -= np.linalg.solve(jac, y)
        ...     return x
        >>> net = nd.Sequential([nd.Dense([[1.0]], None, "exp"), nd.Dense([[1.0]], [-2.0])])
        >>> newton(net.jit.differentiable(), np.array([1.0]), 6)  # log(2)
        array([0.69314718])
        """
        self._network._differentials()
        return self

    def jvp(
        self,
        x: NDArray[Any],
        v: NDArray[Any],
        out: NDArray[Any],
        dout: NDArray[Any],
        scratch: NDArray[Any] | None = None,
    ) -> None:
        """Propagate a row, or a block of rows, and a tangent of each; inside compiled code after `differentiable`.

        Parameters
        ----------
        x, v : ndarray, shape (n_in,) or (m, n_in), of the network's dtype
            Of any strides.
        out, dout : ndarray, shape (n_out,) or (m, n_out), of the network's dtype
            Where to write what the network gives, and its derivative in the direction v.  They must be apart from x, v
            and each other.
        scratch : ndarray, 1-D, of the network's dtype, optional
            From :meth:`scratch`; one for each thread.

        Raises
        ------
        DTypeError, ShapeError, OptionError
            If an argument does not fit.
        """
        self._check(x, out, scratch, v=v, dout=dout)
        if v.shape != x.shape or dout.shape != out.shape:
            raise ShapeError(handle.TANGENT_SHAPE)
        self._network.jvp(x, v, out=(out, dout), threads=1)

    def jacobian(
        self, x: NDArray[Any], out: NDArray[Any], jac: NDArray[Any], scratch: NDArray[Any] | None = None
    ) -> None:
        """Propagate a row, or a block of rows, and write their Jacobians; inside compiled code after `differentiable`.

        Parameters
        ----------
        x : ndarray, shape (n_in,) or (m, n_in), of the network's dtype
            Of any strides.
        out : ndarray, shape (n_out,) or (m, n_out), of the network's dtype
            Where to write what the network gives, apart from x.
        jac : ndarray, shape (n_out, n_in) or (m, n_out, n_in), of the network's dtype
            Where to write the Jacobians, apart from x and out.
        scratch : ndarray, 1-D, of the network's dtype, optional
            From :meth:`scratch`; one for each thread.

        Raises
        ------
        DTypeError, ShapeError, OptionError
            If an argument does not fit.
        """
        self._check(x, out, scratch, jac=jac)
        if jac.shape != (*out.shape, self.n_in):
            raise ShapeError(handle.JACOBIAN_SHAPE)
        self._network(x, out=out, threads=1)
        self._network.jacobian(x, out=jac, threads=1)

    def scratch(self, rows: int | None = None, *, derivatives: bool = False) -> NDArray[Any]:
        """Return scratch for one thread's calls.

        Parameters
        ----------
        rows : int, optional
            How many rows at once there should be room for; by default as many as a call of the network itself takes.
        derivatives : bool, optional
            Whether it serves :meth:`jvp` and :meth:`jacobian` too.

        Returns
        -------
        ndarray, 1-D, of the network's dtype

        Raises
        ------
        OptionError
            If `rows` is not a positive integer.
        """
        if rows is None:
            rows = handle.block_rows(self._address)
        elif not isinstance(rows, int) or isinstance(rows, bool) or rows < 1:
            raise OptionError(f"rows is {rows!r} but must be a positive integer, or None to choose one.")
        size = 2 * self._network._program.width * rows
        if derivatives:
            for of in self._network._differentials():
                size = max(size, rows * (4 * of.width + of.slopes))
        return np.empty(size, self._network.dtype)

    def __call__(self, x: NDArray[Any], out: NDArray[Any], scratch: NDArray[Any] | None = None) -> None:
        """Propagate a row, or a block of rows: from Python as in a compiled function.

        Parameters
        ----------
        x : ndarray, shape (n_in,) or (m, n_in), of the network's dtype
            Of any strides.
        out : ndarray, shape (n_out,) or (m, n_out), of the network's dtype, rows contiguous
            Where to write the result.
        scratch : ndarray, 1-D, of the network's dtype, optional
            From :meth:`scratch`.

        Raises
        ------
        DTypeError, ShapeError, OutputError, OptionError
            If an argument does not fit.
        """
        self._check(x, out, scratch)
        if out.strides[-1] != out.itemsize and self.n_out > 1 and out.size > 0:
            raise OutputError(handle.OUT_ROWS)
        needed = 2 * self._network._program.width
        if scratch is None and needed * out.itemsize > STACK:
            raise OptionError(handle.NO_ROOM)
        if scratch is not None and scratch.size < needed:
            raise OptionError(handle.SMALL)
        self._network(x, out=out, threads=1)

    def _check(self, x: NDArray[Any], out: NDArray[Any], scratch: NDArray[Any] | None, **others: NDArray[Any]) -> None:
        """Raise one sentence for arguments that do not fit, but for the shapes of the others."""
        for name, array in (("x", x), ("out", out), ("scratch", scratch), *others.items()):
            if array is not None and not (isinstance(array, np.ndarray) and array.dtype == self._network.dtype):
                kind = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
                raise DTypeError(f"{name} is {kind} but must be an array of {self._network.dtype}.")
        if x.ndim == 1 and (x.shape != (self.n_in,) or out.shape != (self.n_out,)):
            raise ShapeError(handle.ROW_SHAPE)
        if x.ndim != 1 and (x.shape[1:] != (self.n_in,) or out.shape != (*x.shape[:1], self.n_out)):
            raise ShapeError(handle.BLOCK_SHAPE)

    def __reduce__(self) -> tuple[Any, ...]:
        built = self._network._program.code[[TANGENTS, JACOBIAN]].all()
        return _differentiable if built else operator.attrgetter("jit"), (self._network,)

    def __repr__(self) -> str:
        return f"{self._network!r}.jit"


def _differentiable(network: Sequential) -> Network:
    return network.jit.differentiable()


handle.register(Network)


def __getattr__(name: str) -> Any:
    entry = activations.REGISTRY.get(name)
    if entry is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return compiler.scalar(entry)
