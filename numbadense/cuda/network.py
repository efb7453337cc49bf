"""A network whose weights are on a device."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from numbadense import activations
from numbadense._engine.cuda import device

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from numbadense._engine.cuda.steps import Step
    from numbadense.model import Sequential


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
    device : int
        Where its weights are: the number of the device that was current when it was sent there, and has to be whenever
        it is called.

    Notes
    -----
    A network whose widths, that of x too, are 256 at most, 128 in float64, is one launch on devices of compute
    capability 8.0 and later: each block takes rows through all layers, and between them the activations do not leave
    the multiprocessor. So do two layers and more, one after the other, that are as narrow in a network that is not. The
    other layers are launches of their own, and the activations stay on the device. Either way the outputs have the same
    bits, unless a `precision` or `split_k` is asked for, or the last activation is softmax or log_softmax.

    A call with contiguous arrays of the network's dtype on the device is one launch for each step that :meth:`explain`
    names; :meth:`bind` makes them one.  Arrays of bfloat16 and float16 are read exactly and written with one rounding;
    those of the network's own `precision`, ``"bf16"`` or ``"fp16"``, cost no launch more, others one each, which casts
    them.  Large NumPy arrays go to the device and back in batches, copied
    while others are computed, small ones in one piece.  What the device reports when it is too late for the launch to
    fail is a :class:`numbadense.DeviceError` of the call that waits: one with a NumPy result, or :meth:`predict`.

    With ``precision="bf16"`` or ``"fp16"`` layers no wider than 128 are one launch, and what their hidden layers give
    is rounded too.  In wider ones, activations between layers whose width is a multiple of eight are kept in 16 bits
    where the next layer would round them anyway.  The results are float32 all the same, unless `out` has 16 bits.

    It cannot be pickled: send the network itself and call its ``to("cuda")`` in the other process.

    Examples
    --------
    >>> import numbadense as nd
    >>> net = nd.Sequential([nd.Dense([[1.0], [1.0]], [-1.0], "relu")])
    >>> net.to("cuda")([[2.0, 3.0]])  # doctest: +SKIP
    array([[4.]])
    """

    _step: Step
    _shape: tuple[int, ...]
    _activations: tuple[str, ...]
    dtype: np.dtype[Any]
    precision: str | None = None
    device: int = 0

    @classmethod
    def from_network(
        cls, network: Sequential, *, precision: str | None = None, split_k: int | str = 1
    ) -> DeviceSequential:
        """Upload the weights of a network.

        Parameters
        ----------
        network : Sequential
            It can be dropped afterwards.
        precision : {"tf32", "bf16", "fp16", "3xtf32"}, optional
            As for :meth:`numbadense.Sequential.to`.
        split_k : int or "auto", optional
            In how many parts of the features its layers sum, as in :func:`numbadense.cuda.dense`.

        Returns
        -------
        DeviceSequential

        Raises
        ------
        DeviceError
            If CUDA cannot be used, or the device lacks the `precision`.
        OptionError
            If there is no such `precision` or number of parts, or a `precision` is asked of float64.
        """
        engine = device.engine()
        layers = network.layers
        dtype = np.result_type(*(layer.w.dtype for layer in layers))
        widths = (layers[0].w.shape[0], *(layer.w.shape[1] for layer in layers))
        names = tuple(activations.get(layer.activation).name for layer in layers)
        step = engine.of_network(layers, dtype, precision, split_k)
        return cls(step, widths, names, dtype, precision, engine.number())

    @property
    def n_in(self) -> int:
        """Features in."""
        return self._shape[0]

    @property
    def n_out(self) -> int:
        """Features out."""
        return self._shape[-1]

    def __call__(self, x: Any, out: Any = None, *, stream: Any = None) -> Any:
        """Propagate examples forward on the device.

        Parameters
        ----------
        x : array_like or device array, shape (..., n_in)
            Examples in rows, of any real dtype, bfloat16 among them; they are cast to the network's.
        out : ndarray or device array, shape (..., n_out), optional
            Where to write the result, on either side, rounded once if it has 16 bits.  It may overlap `x`.
        stream : numba stream or int, optional
            Where to queue the work, as in :func:`numbadense.cuda.dense`.

        Returns
        -------
        array of the kind of `x`, shape (..., n_out), of the network's dtype
            `out`, if given.

        Raises
        ------
        DeviceError
            If CUDA fails; without enough memory it says how much was asked for and how much is free.
        ShapeError, DTypeError, OutputError
            If an argument does not fit.
        """
        return self._engine.network(self._step, x, out, self.dtype, self, stream)

    def predict(
        self,
        x: Any,
        batch_size: int | None = None,
        *,
        out: NDArray[Any] | None = None,
        progress: bool = False,
    ) -> Any:
        """Propagate many examples forward, a batch at a time: the result of calling the network.

        Batches take turns in two sets of buffers: while one is computed and brought back, the next is read and
        sent.  Neither host nor device need hold all rows: `x` and `out` may be memory-mapped, and larger than either.

        Parameters
        ----------
        x : array_like, shape (m, n_in)
            Examples in rows: an array, or whatever has a shape and a dtype and gives rows for ``x[begin:end]``, such as
            an ``np.memmap``, or an array of h5py or Zarr.
        batch_size : int, optional
            Rows in a batch; by default about 16 MiB of input and output, or less if the device has little memory free.
        out : ndarray, shape (m, n_out), optional
            Where to write the result, for example an ``np.lib.format.open_memmap(...)``.
        progress : bool, optional
            Whether to draw a progress bar on stderr.

        Returns
        -------
        ndarray, shape (m, n_out), of the network's dtype
            `out`, if given.

        Raises
        ------
        DeviceError
            If CUDA fails; without memory for a batch it says how much was asked for and how much is free.
        ShapeError, DTypeError, OutputError, OptionError
            If an argument does not fit.
        """
        from numbadense._engine.cuda import streaming

        return streaming.predict(self._step, x, batch_size, out, progress, self.dtype, self)

    def bind(self, x: Any, out: Any = None, *, stream: Any = None) -> BoundNetwork:
        """Return the call ``net(x, out)`` for these arrays, to be made again and again, as one CUDA graph.

        Parameters
        ----------
        x : device array, shape (..., n_in), of the network's dtype
            Contiguous, and not empty.  For a float32 network it may be of bfloat16 or float16 too.
        out : device array, shape (..., n_out), of the network's dtype, optional
            Where to write the results: contiguous, and apart from `x`; of 16 bits likewise.
        stream : numba stream or int, optional
            Where to queue the first run.

        Returns
        -------
        BoundNetwork

        Raises
        ------
        DeviceError, ShapeError, DTypeError, OutputError
            If CUDA fails, an array is not on the device, or does not fit.

        Notes
        -----
        All launches of the network are noted once, in a CUDA graph, and each call queues the graph: one call of the
        driver, however many layers there are.  The contents of `x` may change between calls; where the arrays are, and
        how many rows they have, may not: bind again for that.

        Examples
        --------
        >>> import numbadense as nd
        >>> net = nd.Sequential([nd.Dense([[1.0], [1.0]], [-1.0], "relu")]).to("cuda")  # doctest: +SKIP
        >>> step = net.bind(x)  # doctest: +SKIP
        >>> y = step()  # doctest: +SKIP
        """
        from numbadense._engine.cuda import graph

        made, given = graph.bind(self._step, x, out, self.dtype, self, stream)
        return BoundNetwork(x, given, made)

    def explain(self, shape: int | tuple[int, ...] = 1) -> str:
        """Say how a call would run on this device: which kernels, tiles and launches, how much arithmetic and memory.

        Parameters
        ----------
        shape : int or tuple of int, optional
            The number of rows, or the shape of x.

        Returns
        -------
        str
        """
        from numbadense._engine import validate
        from numbadense._engine.cuda import explain

        return explain.network(self._step, self._shape, validate.rows_of(shape, self.n_in), self.dtype, self.device)

    @functools.cached_property
    def _engine(self) -> Any:
        return device.engine()

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError(
            "a DeviceSequential cannot be pickled: its weights are in the memory of this process's device; "
            "send the Sequential and call its to('cuda') there."
        )

    def __repr__(self) -> str:
        widths = "-".join(map(str, self._shape))
        return f"DeviceSequential({widths}, {', '.join(self._activations)}, {self.precision or self.dtype})"


@dataclass(frozen=True, eq=False, repr=False)
class BoundNetwork:
    """A network bound to device arrays: what :meth:`DeviceSequential.bind` returns.

    Attributes
    ----------
    x, out : device arrays
        Those that every call reads and writes.  They live as long as this does.

    Notes
    -----
    A call runs after what its stream holds, and after the call before, on whatever stream that was.  It can be called
    from any thread.  The graph is freed when this is dropped.

    Examples
    --------
    >>> step = net.bind(x)  # doctest: +SKIP
    >>> for _ in range(1000):  # doctest: +SKIP
    ...     advance(x, step())
    """

    x: Any
    out: Any
    _graph: Any

    def __call__(self, *, stream: Any = None) -> Any:
        """Fill `out` from what is in `x` now.

        Parameters
        ----------
        stream : numba stream or int, optional
            Where to queue the work, as in :func:`numbadense.cuda.dense`.

        Returns
        -------
        device array
            `out`.

        Raises
        ------
        DeviceError
            If CUDA fails.
        """
        self._graph.replay(self.x, stream)
        return self.out

    def __repr__(self) -> str:
        return f"BoundNetwork({tuple(self.x.shape)} -> {tuple(self.out.shape)})"
