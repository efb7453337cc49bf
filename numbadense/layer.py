"""A dense layer: immutable, its weights kept in full or at half size."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from numbadense import activations
from numbadense.errors import NonFiniteWarning
from numbadense.once import once

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from numbadense._engine.half import Half
    from numbadense.model import Sequential

__all__ = ["Dense"]


@dataclass(frozen=True, eq=False, repr=False)
class Dense:
    """A dense layer: ``activation(x @ w + b)``.

    Parameters
    ----------
    w : array_like, shape (n_in, n_out)
        Weights, a column for each neuron.  Copied, unless the array and what it views are read-only.  float16 and
        bfloat16 are widened to float32: weights stay at half size where :meth:`Sequential.astype` makes them so.
    b : array_like, shape (n_out,) or (1, n_out), optional
        Biases; none by default.
    activation : str, Activation or function, optional
        A name such as ``"sigmoid"``, or a function such as :func:`numbadense.sigmoid`; none by default.

    Attributes
    ----------
    w : ndarray, shape (n_in, n_out), float32 or float64
        Read-only.  Of weights that are kept at half size this is a new array each time, in float32.
    b : ndarray, shape (n_out,), of the dtype of `w`, or None
        Read-only.
    activation : Activation
    storage : str
        What the weights are kept in: ``"float32"``, ``"float64"``, ``"float16"`` or ``"bfloat16"``.

    Raises
    ------
    ShapeError
        If `w` is not 2-D or `b` does not fit it.
    DTypeError
        If they are not real numbers.
    ActivationError
        If there is no such activation.

    Warns
    -----
    NonFiniteWarning
        If a weight or a bias is NaN or infinite.

    Examples
    --------
    >>> import numbadense as nd
    >>> layer = nd.Dense([[1.0, -3.0, 5.0], [-2.0, 4.0, -6.0]], [-1.0, 1.0, 2.0], "relu")
    >>> layer([200.0, 17.0])
    array([165.,   0., 900.])
    """

    w: NDArray[Any]
    b: NDArray[Any] | None = None
    activation: activations.Activation = None  # type: ignore[assignment]
    _kept: NDArray[Any] | Half = field(init=False)  # the weights as they are stored: w itself, or bits

    def __init__(self, w: ArrayLike, b: ArrayLike | None = None, activation: Any = None) -> None:
        from numbadense._engine import half, validate

        weights = validate.weights(w)
        bias = validate.bias(b, weights)
        dtype = validate.operands_dtype(weights, weights, bias)
        weights = validate.native(weights, dtype)
        if bias is not None:
            bias = validate.native(bias, dtype)
        finite = np.isfinite(weights).all() and (bias is None or np.isfinite(bias).all())
        if not finite:
            warnings.warn(
                f"the weights of a {weights.shape[0]} -> {weights.shape[1]} layer hold NaN or infinity, "
                "and so will its outputs: check how the network was trained or converted.",
                NonFiniteWarning,
                stacklevel=2,
            )
        kept: NDArray[Any] | Half
        if isinstance(w, half.Half) and dtype == np.float32:
            kept = half.Half(w.kind, validate.frozen(w.bits))
        else:
            kept = validate.frozen(weights)
            object.__setattr__(self, "w", kept)
        object.__setattr__(self, "_kept", kept)
        object.__setattr__(self, "b", None if bias is None else validate.frozen(bias))
        object.__setattr__(self, "activation", activations.get(activation))

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name != "w" or "_kept" not in self.__dict__:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            w = np.asarray(self._kept)  # at half size: widened, and not kept a second time
            w.flags.writeable = False
            return w

    @property
    def n_in(self) -> int:
        """Features in."""
        return int(self._kept.shape[0])

    @property
    def n_out(self) -> int:
        """Features out."""
        return int(self._kept.shape[1])

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 or float64: what the layer computes in."""
        return getattr(self._kept, "dtype", np.dtype(np.float32))

    @property
    def storage(self) -> str:
        """What the weights are kept in: ``"float32"``, ``"float64"``, ``"float16"`` or ``"bfloat16"``."""
        return getattr(self._kept, "kind", self.dtype.name)

    @property
    def parameters(self) -> int:
        """Weights and biases."""
        return self._kept.size + (0 if self.b is None else self.b.size)

    @property
    def nbytes(self) -> int:
        """The memory that weights and biases take."""
        return self._kept.nbytes + (0 if self.b is None else self.b.nbytes)

    def __call__(self, x: ArrayLike, *, out: NDArray[Any] | None = None, threads: int | None = None) -> NDArray[Any]:
        """Return the layer's output, as a network of this layer alone would: see `Sequential`."""
        alone = self._alone
        if threads is None and alone._direct(alone._address, x, out):
            return out  # type: ignore[return-value]
        return alone(x, out=out, threads=threads)

    @once
    def _alone(self) -> Sequential:
        from numbadense.model import Sequential

        return Sequential([self])

    def __reduce__(self) -> tuple[Any, ...]:
        return Dense, (self._kept, self.b, self.activation)

    def __repr__(self) -> str:
        return f"Dense({self.n_in} -> {self.n_out}, {self.activation.name}, {dtypes(self)})"


def dtypes(holder: Dense | Sequential) -> str:
    """Return what a layer or a network computes in, and what its weights are kept in if that is another."""
    name = holder.dtype.name
    return name if holder.storage == name else f"{name} with {holder.storage} weights"


def table(network: Sequential) -> str:
    """Return the layers of a network as a table of text."""
    name_width = 2 + max(12, *(len(layer.activation.name) for layer in network.layers))
    lines = [f"{'layer':>5}  {'shape':<16}{'activation':<{name_width}}{'parameters':>12}"]
    for index, layer in enumerate(network.layers):
        shape = f"{layer.n_in} -> {layer.n_out}"
        lines.append(f"{index:>5}  {shape:<16}{layer.activation.name:<{name_width}}{layer.parameters:>12,}")
    total, size = (sum(getattr(layer, name) for layer in network.layers) for name in ("parameters", "nbytes"))
    lines.append(f"total  {total:,} parameters, {size:,} bytes in {dtypes(network)}")
    return "\n".join(lines)
