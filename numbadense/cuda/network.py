"""A network whose weights are on a device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from numbadense import activations
from numbadense._engine.cuda import device
from numbadense.errors import OptionError

if TYPE_CHECKING:
    from numbadense._engine.cuda.steps import Step
    from numbadense.model import Sequential


PRECISIONS = ("bf16", "fp16")


def known_precision(precision: str | None) -> str | None:
    """Return `precision` if there is such a one, None among them."""
    if precision is not None and precision not in PRECISIONS:
        raise OptionError(
            f"precision is {precision!r} but must be one of {', '.join(map(repr, PRECISIONS))}, or None for that of "
            "the weights."
        )
    return precision


@dataclass(frozen=True, eq=False, repr=False)
class DeviceSequential:
    """A network whose weights are on a CUDA device: what :meth:`numbadense.Sequential.to` returns.

    Attributes
    ----------
    n_in, n_out : int
        Features in and out.
    dtype : dtype
        float32 or float64: what the network computes in, and the dtype of its results.
    precision : str or None
        What it computes in on tensor cores, if it does.

    Notes
    -----
    A network whose widths, that of x too, are 256 at most, 128 in float64, is one launch on devices of compute
    capability 8.0 and later: each block takes rows through all layers, and between them the activations do not leave
    the multiprocessor.  The layers of others run one after the other, and the activations stay on the device.  Either
    way the outputs have the same bits.

    It cannot be pickled: send the network itself and call its ``to("cuda")`` in the other process.

    Examples
    --------
    >>> import numbadense as nd
    >>> net = nd.Sequential([nd.Dense([[1.0], [1.0]], [-1.0], "relu")])
    >>> net.to("cuda")([[2.0, 3.0]])  # doctest: +SKIP
    array([[4.]])
    """

    _steps: tuple[Step, ...]
    _shape: tuple[int, ...]
    _activations: tuple[str, ...]
    dtype: np.dtype[Any]
    precision: str | None = None

    @classmethod
    def from_network(cls, network: Sequential, precision: str | None = None) -> DeviceSequential:
        """Upload the weights of a network.

        Parameters
        ----------
        network : Sequential
            It can be dropped afterwards.
        precision : {"tf32", "bf16", "fp16", "3xtf32"}, optional
            As for :meth:`numbadense.Sequential.to`.

        Returns
        -------
        DeviceSequential

        Raises
        ------
        DeviceError
            If CUDA cannot be used.
        """
        engine = device.engine()
        layers = network.layers
        dtype = np.result_type(*(layer.w.dtype for layer in layers))
        widths = (layers[0].w.shape[0], *(layer.w.shape[1] for layer in layers))
        names = tuple(activations.get(layer.activation).name for layer in layers)
        return cls(engine.of_network(layers, dtype, precision), widths, names, dtype, precision)

    @property
    def n_in(self) -> int:
        """Features in."""
        return self._shape[0]

    @property
    def n_out(self) -> int:
        """Features out."""
        return self._shape[-1]

    def __call__(self, x: Any, out: Any = None, *, stream: Any = 0) -> Any:
        """Propagate examples forward on the device.

        Parameters
        ----------
        x : array_like or device array, shape (..., n_in)
            Examples in rows, of any real dtype; they are cast to the network's.
        out : ndarray or device array, shape (..., n_out), optional
            Where to write the result, on either side.  It may overlap `x`.
        stream : numba stream or int, optional
            Where to queue the work, as in :func:`numbadense.cuda.dense`.

        Returns
        -------
        array of the kind of `x`, shape (..., n_out), of the network's dtype
            `out`, if given.

        Raises
        ------
        ShapeError, DTypeError, OutputError
            If an argument does not fit.
        """
        return device.engine().network(self._steps, x, out, self.dtype, self, stream)

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError(
            "a DeviceSequential cannot be pickled: its weights are in the memory of this process's device; "
            "send the Sequential and call its to('cuda') there."
        )

    def __repr__(self) -> str:
        widths = "-".join(map(str, self._shape))
        return f"DeviceSequential({widths}, {', '.join(self._activations)}, {self.precision or self.dtype})"
