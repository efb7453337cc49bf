"""How far a forward propagation may be from the truth: bounds that are derived, not chosen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from numbadense import activations

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from numbadense.model import Dense

__all__ = ["assert_forward_close", "error_bound"]


def _gamma(count: int, dtype: np.dtype[Any]) -> Any:
    """Return ``gamma_n = n u / (1 - n u)`` with the unit roundoff u of `dtype`."""
    nu = np.longdouble(count) * np.finfo(dtype).eps / 2
    return nu / (1 - nu)


def _exactly(activation: activations.Activation, z: NDArray[Any]) -> NDArray[Any]:
    """Return the activation of `z` in float64, from its Python definition."""
    with np.errstate(all="ignore"):
        if activation.rowwise:
            rows = z.astype(np.float64)
            for row in rows:
                activation.function(row)
            return rows
        values = [activation.function(value) for value in z.astype(np.float64).flat]
        return np.array(values, np.float64).reshape(z.shape)


def error_bound(
    x: ArrayLike, layers: Sequence[Dense], dtype: Any, *, weight_error: float = 0.0, activation_error: float = 0.0
) -> NDArray[Any]:
    """Bound the absolute error of every output of a forward propagation.

    Parameters
    ----------
    x : array_like, shape (m, n_in)
        Examples, exactly representable in `dtype`.
    layers : sequence of Dense
        The layers, of weights exactly representable in `dtype`.
    dtype : dtype_like
        float32 or float64: what was computed in.
    weight_error : float, optional
        The relative error of each weight and bias, for a network that was rounded.
    activation_error : float, optional
        How much more the activations may be off, for another library: in eps of ``1 + |y|``.

    Returns
    -------
    ndarray, shape (m, n_out), longdouble

    Notes
    -----
    A sum of k products and a bias, in any order, is within ``gamma(k + 1) (|x| @ |w| + |b|)`` of the exact one [1]_,
    and each product that underflows adds the least subnormal number.  Errors of the layer before arrive through
    ``|w|``, and go through the activation times its Lipschitz constant, or for one that has none by its own growth
    over the interval.  The activation adds the units in the last place that it is held to.

    References
    ----------
    .. [1] N. J. Higham, *Accuracy and Stability of Numerical Algorithms*, 2nd ed., SIAM, 2002, section 3.1.
    """
    dtype = np.dtype(dtype)
    info = np.finfo(dtype)
    a = np.asarray(x).astype(np.longdouble)
    error: NDArray[Any] = np.zeros_like(a)
    for layer in layers:
        w = layer.w.astype(np.longdouble)
        b = np.zeros(w.shape[1]) if layer.b is None else layer.b.astype(np.longdouble)
        k = w.shape[0]
        z = a @ w + b
        factor = _gamma(k + 2, dtype) + weight_error
        spread = error @ abs(w) + factor * ((abs(a) + error) @ abs(w) + abs(b))
        spread = spread + k * np.longdouble(info.smallest_subnormal)
        activation = layer.activation
        a = _exactly(activation, z).astype(np.longdouble)
        if activation.rowwise:
            width = max(1, w.shape[1])
            ulp = 4 * (width + 8) * info.eps * (1 + abs(a))
            error = activation.lipschitz * spread.max(axis=-1, keepdims=True, initial=0) + ulp
        else:
            if np.isinf(activation.lipschitz):
                above, below = _exactly(activation, z + spread), _exactly(activation, z - spread)
                grown = np.maximum(abs(above - a), abs(below - a))
            else:
                grown = activation.lipschitz * spread
            ulps = activation.max_ulp.get(dtype.name, 4.0) + 1
            error = grown + ulps * (info.eps * (abs(a) + grown) + info.smallest_subnormal)
        error = error + activation_error * info.eps * (1 + abs(a))
    return error


def assert_forward_close(actual: ArrayLike, expected: ArrayLike, x: ArrayLike, layers: Sequence[Dense]) -> None:
    """Assert that a forward propagation is within its error bound of the truth.

    Parameters
    ----------
    actual : array_like, shape (m, n_out), float32 or float64
        What was computed, in the dtype of `actual`.
    expected : array_like, shape (m, n_out)
        The truth, in higher precision.
    x : array_like, shape (m, n_in)
        The examples.
    layers : sequence of Dense
        The layers.

    Raises
    ------
    AssertionError
        If an output is further from the truth than :func:`error_bound` allows.

    Examples
    --------
    >>> import numpy as np
    >>> import numbadense as nd
    >>> x = np.float32([[1.5, -2.0]])
    >>> layer = nd.Dense(np.float32([[0.5], [0.25]]), None, "tanh")
    >>> nd.testing.assert_forward_close(layer(x), np.tanh([[0.25]]), x, [layer])
    """
    actual = np.asarray(actual)
    bound = error_bound(x, layers, actual.dtype)
    distance = abs(actual.astype(np.longdouble) - np.asarray(expected))
    outside = ~(distance <= bound)
    if outside.any():
        where = tuple(int(i) for i in np.argwhere(outside)[0])
        raise AssertionError(
            f"{int(outside.sum())} of {outside.size} outputs are outside their bounds; at {where}: "
            f"{actual[where]!r} is {float(distance[where]):.3g} from the truth, and may be {float(bound[where]):.3g}."
        )
