"""Derivatives of networks by their inputs, forward."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from numbadense.once import once

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from numbadense._engine.derivatives import Differential
    from numbadense._engine.program import Program
    from numbadense.layer import Dense

__all__ = ["Differentiable"]


class Differentiable:
    """What gives a network, its program and layers, the derivatives of its outputs by its inputs."""

    layers: tuple[Dense, ...]

    @property
    def _program(self) -> Program:
        raise NotImplementedError

    @once
    def _forward_derivatives(self) -> Differential:
        from numbadense._engine import derivatives

        return derivatives.for_tangents(self._program, self.layers)

    @once
    def _jacobian_derivatives(self) -> Differential:
        from numbadense._engine import derivatives

        return derivatives.for_jacobian(self._program, self.layers, lambda: self._forward_derivatives)

    def _differentials(self) -> tuple[Differential, Differential]:
        """Return both, built if they are not there: for tangents and for Jacobians."""
        return self._forward_derivatives, self._jacobian_derivatives

    @once
    def _jvp(self) -> Callable[..., Any]:
        from numbadense._engine import derivatives

        return functools.partial(derivatives.jvp, self._forward_derivatives)

    @once
    def _jacobian(self) -> Callable[..., Any]:
        from numbadense._engine import derivatives

        return functools.partial(derivatives.jacobian, self._jacobian_derivatives)

    def jvp(
        self,
        x: ArrayLike,
        v: ArrayLike,
        *,
        out: tuple[NDArray[Any] | None, NDArray[Any] | None] | None = None,
        threads: int | None = None,
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        r"""Propagate examples, and directions in which they move: :math:`f(x)` and :math:`J_f(x) \, v`.

        Parameters
        ----------
        x : array_like, shape (..., n_in)
            Examples in rows, of any real dtype; they are cast to the network's.
        v : array_like, shape (..., n_in) or (..., t, n_in)
            A tangent for each example, or t of them.
        out : tuple of two ndarrays, optional
            Where to write the two results; None in place of one makes it anew.  They may overlap `x` and `v`.
        threads : int, optional
            The most threads to use; by default as many as pay for the amount of work.

        Returns
        -------
        y : ndarray, shape (..., n_out), of the network's dtype
            The bits of calling the network.
        dy : ndarray, shape (..., n_out) or (..., t, n_out), of the network's dtype
            The derivative of y in the direction of each tangent.

        Raises
        ------
        ShapeError, DTypeError, OutputError, OptionError
            If an argument does not fit.
        ActivationError
            If an activation has no derivative.

        See Also
        --------
        jacobian : All partial derivatives.

        Notes
        -----
        Derivatives go forward with the values, so that nothing but the slopes of a block of rows is kept.  At a kink
        the derivative is that of PyTorch, such as 0 for relu at 0.  The bits of an example and a tangent do not depend
        on the others, nor on the number of threads.

        Examples
        --------
        >>> import numbadense as nd
        >>> net = nd.Sequential([nd.Dense([[2.0], [3.0]], [-1.0], "relu")])
        >>> y, dy = net.jvp([1.0, 1.0], [1.0, -1.0])
        >>> y, dy
        (array([4.]), array([-1.]))
        """
        return self._jvp(x, v, out, threads, self)

    def jacobian(self, x: ArrayLike, *, out: NDArray[Any] | None = None, threads: int | None = None) -> NDArray[Any]:
        """Return the partial derivatives of every output by every feature.

        Parameters
        ----------
        x : array_like, shape (..., n_in)
            Examples in rows, of any real dtype; they are cast to the network's.
        out : ndarray, shape (..., n_out, n_in), optional
            Where to write the result.  It may overlap `x`.
        threads : int, optional
            The most threads to use; by default as many as pay for the amount of work.

        Returns
        -------
        ndarray, shape (..., n_out, n_in), of the network's dtype
            `out`, if given.

        Raises
        ------
        ShapeError, DTypeError, OutputError, OptionError
            If an argument does not fit.
        ActivationError
            If an activation has no derivative.

        See Also
        --------
        jvp : The network and its derivative in given directions, in one pass.

        Notes
        -----
        Derivatives go forward in the directions of the features, or backward from the outputs where that is less work:
        that of ``min(n_in, n_out)`` rows for each example, less a layer.  What is row-wise, such as softmax, goes
        forward only.  Backward, weights are packed once more, transposed.  See :meth:`jvp` for kinks and bits.

        Examples
        --------
        >>> import numbadense as nd
        >>> net = nd.Sequential([nd.Dense([[2.0], [3.0]], [-1.0], "relu")])
        >>> net.jacobian([[1.0, 1.0], [0.0, 0.0]])
        array([[[2., 3.]],
        <BLANKLINE>
               [[0., 0.]]])
        """
        return self._jacobian(x, out, threads, self)
