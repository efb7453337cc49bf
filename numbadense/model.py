"""Networks of dense layers: immutable, callable, saved and loaded without pickle."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from numbadense import vectors
from numbadense.arrays import OverArrays
from numbadense.derivatives import Differentiable
from numbadense.errors import DeviceError, OptionError, ShapeError
from numbadense.layer import Dense, dtypes, table
from numbadense.once import once

if TYPE_CHECKING:
    import os

    from numpy.typing import ArrayLike, DTypeLike, NDArray

    from numbadense._engine.program import Program
    from numbadense.cuda import DeviceSequential
    from numbadense.jit import Network

__all__ = ["Dense", "Sequential"]

BATCH_BYTES = 8_388_608  # of input and output that `predict` has in flight by default


@dataclass(frozen=True, eq=False, repr=False)
class Sequential(OverArrays, Differentiable):
    """A network of dense layers, one after the other.

    Parameters
    ----------
    layers : sequence of Dense
        At least one; each takes what the one before gives.
    metadata : mapping of str to str, optional
        Notes that are saved with the network.

    Attributes
    ----------
    layers : tuple of Dense
    metadata : mapping of str to str
        Read-only.
    feature_names : tuple of str, or None
        What ``metadata["feature_names"]``, a JSON list, holds: the columns that a frame has to have.

    Raises
    ------
    ShapeError
        If there is no layer, or a layer does not fit the one before it.

    Notes
    -----
    The weights are packed for the CPU at the first call, beside the originals.  A network may be called from many
    threads at once.  Hidden activations stay in cache: a block of rows goes through all layers.

    Examples
    --------
    >>> import numpy as np
    >>> import numbadense as nd
    >>> net = nd.Sequential([
    ...     nd.Dense([[1.0, -1.0], [1.0, -1.0]], [-0.5, 1.5], "relu"),
    ...     nd.Dense([[1.0], [1.0]], [-1.0]),
    ... ])
    >>> net([[0.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    array([[0.5],
           [0. ],
           [0.5]])
    """

    layers: tuple[Dense, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __init__(self, layers: Sequence[Dense], metadata: Mapping[str, str] | None = None) -> None:
        from numbadense._engine import validate

        object.__setattr__(self, "layers", validate.chain(layers, Dense))
        object.__setattr__(self, "metadata", MappingProxyType(validate.notes(metadata)))

    from_arrays = classmethod(vectors.from_arrays)
    from_vector = classmethod(vectors.from_vector)
    to_vector = vectors.to_vector

    @property
    def n_in(self) -> int:
        """Features in."""
        return self.layers[0].n_in

    @property
    def n_out(self) -> int:
        """Features out."""
        return self.layers[-1].n_out

    @once
    def dtype(self) -> np.dtype[Any]:
        """float32 or float64: what the network computes in, and the dtype of its results."""
        return np.result_type(*(layer.dtype for layer in self.layers))

    @once
    def storage(self) -> str:
        """What the packed weights are kept in: ``"float16"`` or ``"bfloat16"`` if all layers are, or else `dtype`."""
        kinds = {layer.storage for layer in self.layers}
        return kinds.pop() if len(kinds) == 1 else self.dtype.name

    @once
    def _program(self) -> Program:
        from numbadense._engine import program

        layers = [program.Layer(layer._kept, layer.b, layer.activation) for layer in self.layers]
        return program.build(layers, self.dtype)

    @once
    def _forward(self) -> Callable[..., NDArray[Any]]:
        from numbadense._engine import run

        return run.bind(self._program, self)

    @once
    def _direct(self) -> Callable[..., int]:
        from numbadense._engine import run

        return run.direct_network(self._program)

    @once
    def _address(self) -> int:
        return self._program.address

    @once
    def jit(self) -> Network:
        """The network for the user's own compiled functions: an argument ``f`` that they call, ``f(x, out)``.

        See :class:`numbadense.jit.Network`.
        """
        from numbadense import jit

        return jit.Network(self)

    @once
    def ctypes(self) -> Any:
        """The network as a C function, ``int64 f(const T *x, T *out, int64 m)``: a ``ctypes`` function.

        `x` has m rows of `n_in` numbers of the network's dtype, one after the other, and `out`, apart from it, m of
        `n_out`.  It returns 0, or 1 if there is no memory for the hidden activations of a wide network; up to 16 KiB
        they are on the stack.  Many threads may call it at once.  It keeps the network alive, and belongs to this
        process, where some 2 ms make it at the first use.

        Examples
        --------
        >>> import numpy as np
        >>> import numbadense as nd
        >>> net = nd.Sequential([nd.Dense([[1.0], [1.0]], [0.5])])
        >>> x, out = np.array([[1.0, 2.0], [3.0, 4.0]]), np.empty((2, 1))
        >>> pointer = net.ctypes.argtypes[0]
        >>> net.ctypes(x.ctypes.data_as(pointer), out.ctypes.data_as(pointer), 2)
        0
        >>> out
        array([[3.5],
               [7.5]])
        """
        from numbadense._engine import pointers

        return pointers.function(self._program, self)

    @property
    def address(self) -> int:
        """The memory address of the C function :attr:`ctypes`, in this process, for as long as the network is kept."""
        from numbadense._engine import pointers

        return pointers.address(self.ctypes)

    def low_level_callable(self) -> Any:
        """Return the network as a function that SciPy's integrators call without Python.

        Returns
        -------
        scipy.LowLevelCallable
            ``double (double, void *)``, for ``scipy.integrate.quad``, if the network has one feature, and else
            ``double (int, double *, void *)``, for ``scipy.integrate.nquad``, which gives NaN for another number of
            them.  It keeps the network alive.

        Raises
        ------
        DTypeError, ShapeError
            If the network does not compute in float64, or has more outputs than one.
        MissingDependencyError
            If there is no SciPy.

        Examples
        --------
        >>> import numbadense as nd
        >>> from scipy.integrate import quad  # doctest: +SKIP
        >>> net = nd.Sequential([nd.Dense([[1.0]], None, "sigmoid")])
        >>> integral, error = quad(net.low_level_callable(), -1.0, 1.0)  # doctest: +SKIP
        >>> round(integral, 12)  # doctest: +SKIP
        1.0
        """
        from numbadense._engine import pointers

        return pointers.low_level_callable(self._program, self)

    def __call__(self, x: ArrayLike, *, out: NDArray[Any] | None = None, threads: int | None = None) -> NDArray[Any]:
        """Propagate examples forward.

        Parameters
        ----------
        x : array_like, shape (..., n_in)
            Examples in rows, of any real dtype; they are cast to the network's.  The columns of a pandas or polars
            frame have to be the `feature_names`, in order, if the network has them.
        out : ndarray, shape (..., n_out), optional
            Where to write the result.  It may overlap `x`.
        threads : int, optional
            The most threads to use; by default as many as pay for the amount of work, and one in a task of Dask.

        Returns
        -------
        ndarray, shape (..., n_out), of the network's dtype
            `out`, if given.  A Dask array gives a lazy Dask array; an array of PyTorch, JAX or another library that
            speaks DLPack gives one of that library, and may be `out`.

        Raises
        ------
        ShapeError, DTypeError, OutputError, OptionError
            If an argument does not fit.
        """
        if threads is None and self._direct(self._address, x, out):
            return out  # type: ignore[return-value]
        return self._forward(x, out, threads)

    def predict(
        self,
        x: ArrayLike,
        batch_size: int | None = None,
        *,
        out: NDArray[Any] | None = None,
        progress: bool = False,
        threads: int | None = None,
    ) -> NDArray[Any]:
        """Propagate many examples forward, a batch at a time.

        The result is that of calling the network.  The memory in use does not grow with the number of rows beyond the
        result, so that memory-mapped `x` and `out` may be larger than the memory.

        Parameters
        ----------
        x : array_like, shape (m, n_in)
            Examples in rows, for example an ``np.load(..., mmap_mode="r")``.
        batch_size : int, optional
            Rows in a batch; by default about 8 MiB of input and output.
        out : ndarray, shape (m, n_out), optional
            Where to write the result, for example an ``np.lib.format.open_memmap(...)``.
        progress : bool, optional
            Whether to draw a progress bar on stderr.
        threads : int, optional
            The most threads to use; by default as many as pay for the amount of work.

        Returns
        -------
        ndarray, shape (m, n_out), of the network's dtype
            `out`, if given.

        Raises
        ------
        ShapeError, DTypeError, OutputError, OptionError
            If an argument does not fit.
        """
        from numbadense._engine import foreign, validate

        rows = validate.as_array("x", x, self)
        validate.compute_dtype("x", rows)
        if rows.ndim != 2:
            raise ShapeError(
                f"x has {rows.ndim} dimension{'s' * (rows.ndim != 1)} but predict takes 2, (m, n_in): "
                f"x.shape={rows.shape}; call the network itself for other shapes."
            )
        if rows.shape[1] != self.n_in:
            raise validate.features_error(rows, self)
        if batch_size is None:
            row_bytes = (self.n_in + self.n_out) * max(self.dtype.itemsize, rows.dtype.itemsize)
            batch_size = max(1, BATCH_BYTES // max(1, row_bytes))
        elif not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
            raise OptionError(f"batch_size is {batch_size!r} but must be a positive integer, or None to choose one.")
        shape = (rows.shape[0], self.n_out)
        result = np.empty(shape, self.dtype) if out is None else validate.check_output(out, shape, self.dtype)
        if out is not None and np.may_share_memory(rows, result):
            rows = rows.copy()  # a batch must not overwrite the input of the next
        starts: Any = range(0, max(1, rows.shape[0]), batch_size)  # no rows are checked too, as a batch of none
        if progress:
            from rich.console import Console
            from rich.progress import track

            starts = track(starts, description="predict", console=Console(stderr=True), transient=True)
        for begin in starts:
            batch = slice(begin, begin + batch_size)
            self(rows[batch], out=result[batch], threads=threads)
        return foreign.like(x, result) if out is None else out

    def astype(self, dtype: DTypeLike) -> Sequential:
        """Return the network with its weights in another dtype, or itself if they have it already.

        Parameters
        ----------
        dtype : dtype_like
            float32, float64, float16 or bfloat16.  The last two keep the weights at half the bytes of float32, and the
            network computes in float32.

        Returns
        -------
        Sequential

        Raises
        ------
        DTypeError
            If it is none of them.

        Warns
        -----
        NonFiniteWarning
            If a weight is too large for float16, and so becomes infinite.

        Notes
        -----
        Weights are rounded to nearest, ties to even.  Kernels widen them exactly, and so the results are, bit for bit,
        those of a float32 network with the rounded weights; biases, hidden activations and results are float32.  What
        is gained is memory, and speed where reading the weights takes the time: one row, or a few, through wide layers.
        Layers that are kept in different ways may make a network too; it is packed in full.  :meth:`to` a device and
        :func:`numbadense.stack` widen weights to float32.

        Examples
        --------
        >>> import numbadense as nd
        >>> net = nd.Sequential([nd.Dense([[1.0, 1.001]])]).astype("bfloat16")
        >>> net.layers[0].w
        array([[1., 1.]], dtype=float32)
        >>> net([3.0])
        array([3., 3.], dtype=float32)
        """
        from numbadense._engine import half, validate

        wanted = validate.network_dtype(dtype)
        if all(layer.storage == wanted for layer in self.layers):
            return self
        computed = "float32" if wanted in half.FORMS else wanted
        layers = [
            Dense(
                half.rounded(layer.w, wanted) if wanted in half.FORMS else layer.w.astype(wanted),
                None if layer.b is None else layer.b.astype(computed),
                layer.activation,
            )
            for layer in self.layers
        ]
        return Sequential(layers, self.metadata)

    def save(self, path: str | os.PathLike[str], *, examples: ArrayLike | None = None) -> None:
        """Write the network to a file; an existing one is replaced only by a whole one.

        Parameters
        ----------
        path : path_like
            The file, with the suffix ``.safetensors``, or ``.onnx`` as :meth:`to_onnx` does.
        examples : array_like, shape (m, n_in), optional
            Rows to keep in a ``.safetensors`` file, with their results, for :func:`numbadense.load` to find again.

        Raises
        ------
        ModelFormatError, OptionError, OSError
            If the suffix names no format, or one that has no place for examples, or the file cannot be written.
        """
        from numbadense import io

        io.save(self, path, examples=examples)

    def to_onnx(self, path: str | os.PathLike[str]) -> None:
        """Write the network as ONNX, of opset 13; :func:`numbadense.load` gives it back as it is.

        It raises what :meth:`save` does; an activation of your own, or no onnx installed, is an error too.

        Parameters
        ----------
        path : path_like
            The file, with the suffix ``.onnx``.
        """
        from numbadense import io

        io.save(self, path, suffix=".onnx")

    def to(self, device: str, *, precision: str | None = None, split_k: int | str = 1) -> DeviceSequential:
        """Return the network on a CUDA device, its weights uploaded once.

        Parameters
        ----------
        device : {"cuda"}
        precision, split_k : optional
            As for :func:`numbadense.cuda.dense`, in every layer; weights are rounded once.

        Returns
        -------
        numbadense.cuda.DeviceSequential

        Raises
        ------
        DeviceError
            If CUDA cannot be had, there is no such device, or it lacks the `precision`.
        OptionError
            If there is no such `precision` or number of parts, or the network is float64.
        """
        from numbadense import cuda

        if device != "cuda":
            raise DeviceError(f"device is {device!r} but must be 'cuda'; the network itself runs on the CPU.")
        return cuda.DeviceSequential.from_network(self, precision=precision, split_k=split_k)

    def summary(self) -> str:
        """Return the layers as a table of text: shapes, activations, parameters.

        Returns
        -------
        str
        """
        return table(self)

    def explain(self, shape: int | tuple[int, ...] = 1, *, threads: int | None = None) -> str:
        """Say how a call would run: which kernel, tiles, blocks and threads, how much arithmetic and memory.

        Parameters
        ----------
        shape : int or tuple of int, optional
            The number of rows, or the shape of x.
        threads : int, optional
            As for a call.

        Returns
        -------
        str
        """
        from numbadense._engine import explain, validate

        return explain.forward(self._program, validate.rows_of(shape, self.n_in), threads)

    def __reduce__(self) -> tuple[Any, ...]:
        return Sequential, (self.layers, dict(self.metadata))

    def __repr__(self) -> str:
        widths = "-".join(str(n) for n in (self.n_in, *(layer.n_out for layer in self.layers)))
        names = ", ".join(layer.activation.name for layer in self.layers)
        return f"Sequential({widths}, {names}, {dtypes(self)})"
