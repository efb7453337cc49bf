"""Dense layers and activations as functions: arrays in, arrays out.

Besides :func:`dense`, every registered activation is a function of this module, made from its entry in
`numbadense.activations`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Protocol

from numbadense import activations
from numbadense._engine import foreign, lazy, run, validate

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["dense"]


class ActivationFunction(Protocol):
    """An activation over arrays, such as :func:`numbadense.sigmoid`."""

    activation: activations.Activation

    def __call__(
        self,
        x: ArrayLike,
        out: NDArray[Any] | None = None,
        *,
        threads: int | None = None,
        accuracy: str | None = None,
    ) -> NDArray[Any]: ...


def dense(
    x: ArrayLike,
    w: ArrayLike,
    b: ArrayLike | None = None,
    activation: Any = None,
    *,
    out: NDArray[Any] | None = None,
    threads: int | None = None,
) -> NDArray[Any]:
    """Forward propagation through one dense layer: ``activation(x @ w + b)``.

    Parameters
    ----------
    x : array_like, shape (..., n_in)
        Examples in rows.  A 1-D `x` is one example and gives a 1-D result.
    w : array_like, shape (n_in, n_out)
        Weights, a column for each neuron.  PyTorch keeps the transpose: pass ``weight.T``.
    b : array_like, shape (n_out,) or (1, n_out), optional
        Biases; zero by default.
    activation : str, Activation or function, optional
        A name such as ``"sigmoid"``, or a function such as :func:`numbadense.sigmoid`; none by default.
    out : ndarray, shape (..., n_out), optional
        Where to write the result.  It may overlap the operands.
    threads : int, optional
        The most threads to use; by default as many as pay for the amount of work.

    Returns
    -------
    ndarray, shape (..., n_out), float32 or float64
        `out`, if given.  The dtype is what NumPy promotes the operands to; integers count as float64, float16 and
        bfloat16 (of ml_dtypes) as float32.  A Dask array `x` gives a lazy one; an array of PyTorch, JAX or another
        library that speaks DLPack gives one of that library, here and in the activations.

    Raises
    ------
    ShapeError
        If the shapes do not fit each other.
    DTypeError
        If an operand is complex, an object, a string or a masked array.
    ActivationError
        If there is no such activation.
    OutputError
        If `out` cannot take the result.

    Notes
    -----
    Each output is the bias plus the products in the order of the features, one fused multiply-add at a time: a row's
    bits do not depend on the other rows, on their number or on the number of threads.  The error before the activation
    is at most ``(n_in + 1) u (|x| @ |w| + |b|)`` with unit roundoff u [1]_.  No floating-point warnings are given.

    A layer that is used again runs faster as a :class:`numbadense.Dense`, which packs its weights once.

    References
    ----------
    .. [1] N. J. Higham, *Accuracy and Stability of Numerical Algorithms*, 2nd ed., SIAM, 2002, section 3.1.

    Examples
    --------
    The layer of the lesson, with three neurons:

    >>> import numpy as np
    >>> import numbadense as nd
    >>> X = np.array([[200, 17]])
    >>> W = np.array([[1, -3, 5], [-2, 4, -6]])
    >>> B = np.array([[-1, 1, 2]])
    >>> A = nd.dense(X, W, B, activation="sigmoid")
    >>> (A >= 0.5).astype(int)
    array([[1, 0, 1]])
    """
    chosen = activations.get(activation)
    wa = validate.weights(w)
    ba = validate.bias(b, wa)
    if foreign.is_dask_array(x):
        return lazy.dense(dense, x, wa, ba, chosen, out, threads)
    xa = validate.as_array("x", x)
    if xa.ndim == 0 or xa.shape[-1] != wa.shape[0]:
        raise validate.features_error(xa, wa)
    dtype = validate.operands_dtype(xa, wa, ba)
    wa = validate.native(wa, dtype)
    ba = validate.zeros(wa.shape[1], dtype) if ba is None else validate.native(ba, dtype)
    result = run.dense(xa, wa, ba, chosen, out, threads)
    return result if xa is x or out is not None else foreign.like(x, result)


_functions: dict[activations.Activation, ActivationFunction] = {}


def _over_arrays(entry: activations.Activation) -> ActivationFunction:
    """Return the activation as a function of arrays."""
    direct, address, call = run.bind_activation(entry)

    def function(
        x: ArrayLike,
        out: NDArray[Any] | None = None,
        *,
        threads: int | None = None,
        accuracy: str | None = None,
    ) -> NDArray[Any]:
        if accuracy is not None:
            chosen = activations.get(entry, accuracy)
            if chosen is not entry:
                return _of(chosen)(x, out, threads=threads)
        if threads is None and direct(address, x, out):
            return out  # type: ignore[return-value]
        return call(x, out, threads)

    function.__name__ = function.__qualname__ = entry.name
    function.__module__ = "numbadense"
    function.__doc__ = _docstring(entry)
    function.activation = entry  # type: ignore[attr-defined]
    return function  # type: ignore[return-value]


def _docstring(entry: activations.Activation) -> str:
    summary, _, rest = (entry.function.__doc__ or f"The activation {entry.name}.").strip().partition("\n")
    shape = "(..., n)" if entry.rowwise else "any"
    raises = "\n    ShapeError\n        If `x` is a single number." if entry.rowwise else ""
    what = "Its rows, along the last axis, are independent." if entry.rowwise else "Evaluated element by element."
    formula = f"\n    .. math:: {entry.tex}\n" if entry.tex else ""
    ulp = entry.max_ulp
    accuracy = ", ".join(f"{value:g} ULP in {dtype}" for dtype, value in ulp.items())
    notes = f"\n    The largest error seen is {accuracy}.\n" if accuracy else ""
    high = f"Within {activations.HIGH:g} ULP, as `{entry.high}` is; slower." if entry.high else "Nothing changes."
    good = max(ulp.values(), default=math.inf) <= activations.HIGH
    without = "" if entry.high or good else ', or "high": there is no such variant'
    if without:
        high = "Not to be had for this activation."
    names = f"\n    Other names: {', '.join(entry.aliases)}.\n" if entry.aliases else ""
    return f"""{summary}
{rest.rstrip()}

    Parameters
    ----------
    x : array_like, shape {shape}
        {what}  Integers count as float64, float16 and bfloat16 as float32.
    out : ndarray, of the shape of `x`, optional
        Where to write the result; `x` itself will do.
    threads : int, optional
        The most threads to use; by default as many as pay for the amount of work.
    accuracy : "high", optional
        {high}

    Returns
    -------
    ndarray, of the shape of `x`, float32 or float64
        `out`, if given.

    Raises
    ------
    DTypeError
        If `x` is complex, an object, a string or a masked array.
    OutputError
        If `out` cannot take the result.
    ActivationError
        If `accuracy` is something else{without}.{raises}

    Notes
    -----{formula}{notes}{names}
    NaN in, NaN out.  No floating-point warnings are given.
"""


def __getattr__(name: str) -> ActivationFunction:
    entry = activations.REGISTRY.get(name)
    if entry is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _of(entry)


def _of(entry: activations.Activation) -> ActivationFunction:
    if entry not in _functions:
        _functions[entry] = _over_arrays(entry)
    return _functions[entry]
