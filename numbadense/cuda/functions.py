"""Dense layers and activations as functions of arrays on a device."""

from __future__ import annotations

from typing import Any, Protocol

from numbadense import activations
from numbadense._engine.cuda import device


class DeviceActivationFunction(Protocol):
    """An activation over arrays on a device, such as ``numbadense.cuda.sigmoid``."""

    activation: activations.Activation

    def __call__(self, x: Any, out: Any = None, *, stream: Any = None) -> Any:
        """Return the activation of x."""


def dense(
    x: Any,
    w: Any,
    b: Any = None,
    activation: Any = None,
    *,
    out: Any = None,
    stream: Any = None,
    split_k: int | str = 1,
    precision: str | None = None,
) -> Any:
    """Forward propagation through one dense layer on a CUDA device: ``activation(x @ w + b)``.

    Parameters
    ----------
    x : array_like or device array, shape (..., n_in)
        Examples in rows.  A 1-D `x` is one example and gives a 1-D result.  bfloat16 and float16 are read exactly, from
        PyTorch, CuPy, JAX, Numba or NumPy, with ml_dtypes or without.
    w : array_like or device array, shape (n_in, n_out)
        Weights, a column for each neuron.  PyTorch keeps the transpose: pass ``weight.T``.
    b : array_like or device array, shape (n_out,) or (1, n_out), optional
        Biases; zero by default.
    activation : str, Activation or function, optional
        A name such as ``"sigmoid"``, or a function such as :func:`numbadense.sigmoid`; none by default.
    out : ndarray or device array, shape (..., n_out), optional
        Where to write the result, on either side: of its dtype, or of another float's that NumPy would cast it to,
        bfloat16 among them, rounded once to nearest, ties to even.  It may overlap the operands.
    stream : numba stream or int, optional
        Where to queue the work: a stream of Numba's, or the handle of another library's.  By default the current stream
        of PyTorch or CuPy, if one of the arrays is theirs, and else the default stream.  Work that ends in a NumPy
        array is waited for.
    split_k : int or "auto", optional
        In how many parts of the features to sum, side by side: for outputs too few to fill a device.  1 by default.
    precision : {"tf32", "bf16", "fp16", "3xtf32"}, optional
        Compute on tensor cores: round float32 operands to this format, and add the products in float32.  ``"3xtf32"``
        splits each operand into two numbers of tf32 and has about the accuracy of float32.  By default, nothing is
        rounded.

    Returns
    -------
    array of the kind of `x`, shape (..., n_out), float32 or float64
        `out`, if given.  The dtype is what NumPy promotes the operands to; integers count as float64, half precision
        as float32, so that nothing is rounded to 16 bits but in an `out` that has them.

    Raises
    ------
    DeviceError
        If CUDA cannot be used, or a `precision` is asked of a device older than compute capability 8.0.
    OptionError
        If there is no such `precision` or stream, the operands of a `precision` are float64, or `split_k` is neither
        "auto" nor a number of parts, or is asked for beside a `precision`.
    ShapeError
        If the shapes do not fit each other, or a device array of three dimensions or more is not contiguous.
    DTypeError
        If an operand is complex, an object, a string or a masked array.
    ActivationError
        If there is no such activation.
    OutputError
        If `out` cannot take the result.

    Notes
    -----
    Each output is the bias plus the products in the order of the features, one fused multiply-add at a time, as on
    the CPU, in true float32 or float64: tensor cores are not used unless a `precision` is asked for.  With
    `split_k` above 1 it is the bias plus the sums of the parts, in their order: its bits are then not those of the
    CPU, but the same in every run and every batch, and nearer to the exact sum where there are many features.  With
    ``"auto"`` the number of parts depends on the shapes and the device too, so that a row may change in its last
    digits with the size of its batch.

    Device arrays that are not C-contiguous, such as ``weight.T``, are copied first.  Rows that begin at multiples of
    16 bytes (the features and outputs multiples of four in float32, of two in float64) are moved 16 bytes at a time,
    others element by element.  The kernels have been compiled, and run in the simulator; how fast they are on a device
    has not been measured.

    A `precision` trades digits for the rate of tensor cores.  Relative to the sum of the sizes of an output's products,
    the operands' rounding costs at most:

    ============ ======= =====================================================================
    precision    error   numbers
    ============ ======= =====================================================================
    ``"tf32"``   1.2e-3  those of float32; beyond 3.401e38 they count as infinite
    ``"bf16"``   7.9e-3  those of float32; beyond 3.39e38 they count as infinite
    ``"fp16"``   9.8e-4  up to 65504, beyond which they are infinite; digits go below 6.1e-5
    ``"3xtf32"`` 1.1e-6  as in tf32; below 1e-34 with fewer digits
    ============ ======= =====================================================================

    Errors of many products cancel: of normal numbers, relative to the norm of the outputs, they were 3e-4, 2.5e-3, 3e-4
    and 1e-7, in the simulator.  The order of the sums is the hardware's, not the CPU's, and the bias comes last; a
    row's bits do not depend on its batch, unless Hopper's own kernel, which is for 64 rows, features and outputs or
    more, takes one of the two.  Device arrays of bfloat16 in ``"bf16"``, and of float16 in ``"fp16"``, are read and
    written as they are where each of their rows begins at a multiple of 16 bytes, which an out of Hopper's own kernel
    need not do; such an x may be summed in another order than the same numbers in float32.  Other arrays of 16 bits are
    cast by launches of their own.
    Activations are then computed to some 16 bits, in ``"3xtf32"`` as always.  NaN and infinity are what float32 makes
    of them, where finite operands are finite in the format.  The weights are rounded at each call;
    :meth:`numbadense.Sequential.to` does it once.

    Examples
    --------
    >>> import numbadense as nd
    >>> nd.cuda.dense([[200, 17]], [[1, -3, 5], [-2, 4, -6]], [[-1, 1, 2]], "relu")  # doctest: +SKIP
    array([[165.,   0., 900.]])
    """
    return device.engine().dense(x, w, b, activation, out, stream, split_k, precision)


def over_arrays(entry: activations.Activation) -> DeviceActivationFunction:
    """Return the activation as a function of arrays."""

    def function(x: Any, out: Any = None, *, stream: Any = None) -> Any:
        return device.engine().activate(entry, x, out, stream)

    function.__name__ = function.__qualname__ = entry.name
    function.__module__ = "numbadense.cuda"
    function.__doc__ = _docstring(entry)
    function.activation = entry  # type: ignore[attr-defined]
    return function  # type: ignore[return-value]


def _docstring(entry: activations.Activation) -> str:
    summary = (entry.function.__doc__ or f"The activation {entry.name}.").strip().partition("\n")[0]
    shape = "(..., n), its rows along the last axis" if entry.rowwise else "any"
    return f"""{summary}

    Parameters
    ----------
    x : array_like or device array, shape {shape}
        Integers count as float64, bfloat16 and float16 as float32.
    out : ndarray or device array, of the shape of `x`, optional
        Where to write the result, on either side, rounded once if it has 16 bits; `x` itself will do.
    stream : numba stream or int, optional
        Where to queue the work, as in :func:`numbadense.cuda.dense`.

    Returns
    -------
    array of the kind and shape of `x`, float32 or float64
        `out`, if given.

    Raises
    ------
    DeviceError
        If CUDA cannot be used.
    ShapeError, DTypeError, OutputError
        If an argument does not fit.

    See Also
    --------
    numbadense.{entry.name} : The same on the CPU.
"""
