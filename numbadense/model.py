"""Networks of dense layers: immutable, callable, saved and loaded without pickle."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from numbadense.errors import DeviceError, OptionError, ShapeError
from numbadense.layer import Dense, dtypes

if TYPE_CHECKING:
    import os

    from numpy.typing import ArrayLike, DTypeLike, NDArray

    from numbadense._engine.program import Program
    from numbadense.cuda import DeviceSequential

__all__ = ["Dense", "Sequential"]

BATCH_BYTES = 8_388_608  # of input and output that `predict` has in flight by default


@dataclass(frozen=True, eq=False, repr=False)
class Sequential:
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

        try:
            layers = tuple(layers)
        except TypeError:
            raise OptionError(
                f"layers is a {type(layers).__name__} but must be a sequence of layers; pass [layer, ...]."
            ) from None
        if not layers:
            raise ShapeError(
                "a network has 0 layers but needs 1 at least; pass [numbadense.Dense(w, b, activation), ...]."
            )
        for index, layer in enumerate(layers):
            if not isinstance(layer, Dense):
                raise OptionError(
                    f"layer {index} is a {type(layer).__name__} but must be a numbadense.Dense; "
                    "pass Dense(w, b, activation)."
                )
        for index, (before, after) in enumerate(itertools.pairwise(layers), start=1):
            if before.n_out != after.n_in:
                raise ShapeError(
                    f"layer {index} takes {after.n_in} features but layer {index - 1} gives {before.n_out}: "
                    f"w.shape={after.w.shape} after w.shape={before.w.shape}; "
                    "w is (n_in, n_out), so if they came from PyTorch, pass w.T."
                )
        object.__setattr__(self, "layers", layers)
        object.__setattr__(self, "metadata", MappingProxyType(validate.notes(metadata)))

    @property
    def n_in(self) -> int:
        """Features in."""
        return self.layers[0].n_in

    @property
    def n_out(self) -> int:
        """Features out."""
        return self.layers[-1].n_out

    @functools.cached_property
    def dtype(self) -> np.dtype[Any]:
        """float32 or float64: what the network computes in, and the dtype of its results."""
        return np.result_type(*(layer.dtype for layer in self.layers))

    @functools.cached_property
    def storage(self) -> str:
        """What the packed weights are kept in: ``"float16"`` or ``"bfloat16"`` if all layers are, or else `dtype`."""
        kinds = {layer.storage for layer in self.layers}
        return kinds.pop() if len(kinds) == 1 else self.dtype.name

    @functools.cached_property
    def _program(self) -> Program:
        from numbadense._engine import program

        layers = [program.Layer(layer._kept, layer.b, layer.activation) for layer in self.layers]
        return program.build(layers, self.dtype)

    @functools.cached_property
    def _forward(self) -> Callable[..., NDArray[Any]]:
        from numbadense._engine import run

        return run.bind(self._program, self)

    @functools.cached_property
    def _direct(self) -> Callable[..., int]:
        from numbadense._engine import run

        return run.direct_network(self._program)

    @functools.cached_property
    def _address(self) -> int:
        return self._program.address

    def __call__(self, x: ArrayLike, *, out: NDArray[Any] | None = None, threads: int | None = None) -> NDArray[Any]:
        """Propagate examples forward.

        Parameters
        ----------
        x : array_like, shape (..., n_in)
            Examples in rows, of any real dtype; they are cast to the network's.
        out : ndarray, shape (..., n_out), optional
            Where to write the result.  It may overlap `x`.
        threads : int, optional
            The most threads to use; by default as many as pay for the amount of work.

        Returns
        -------
        ndarray, shape (..., n_out), of the network's dtype
            `out`, if given.

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
        from numbadense._engine import validate

        rows = validate.as_array("x", x)
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
        return result if out is None else out

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

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the network to a file; an existing one is replaced only by a whole one.

        Parameters
        ----------
        path : path_like
            The file, with the suffix ``.safetensors``, or ``.onnx`` as :meth:`to_onnx` does.

        Raises
        ------
        ModelFormatError
            If the suffix names no format that can be written.
        OSError
            If the file cannot be written.
        """
        from numbadense import io

        io.save(self, path)

    def to_onnx(self, path: str | os.PathLike[str]) -> None:
        """Write the network as ONNX, for other runtimes; :func:`numbadense.load` gives it back as it is.

        Parameters
        ----------
        path : path_like
            The file, with the suffix ``.onnx``.

        Raises
        ------
        ModelFormatError
            If the suffix is another, or a layer has an activation of your own, or there are 2 GiB of weights.
        MissingDependencyError
            If the library `onnx` is not installed.
        OSError
            If the file cannot be written.

        Notes
        -----
        The model is one of opset 13 with an input ``x`` of shape (batch, n_in).  Weights at half size are widened to
        float32.  Activations of high accuracy become their plain twins, as accurate as the runtime has them.
        """
        from numbadense import io

        io.save(self, path, suffix=".onnx")

    def to(self, device: str) -> DeviceSequential:
        """Return the network on a CUDA device, its weights uploaded once.

        Parameters
        ----------
        device : {"cuda"}
            Where to.

        Returns
        -------
        numbadense.cuda.DeviceSequential

        Raises
        ------
        DeviceError
            If CUDA cannot be had, or there is no such device.
        """
        if device != "cuda":
            raise DeviceError(f"device is {device!r} but must be 'cuda'; the network itself runs on the CPU.")
        from numbadense import cuda

        return cuda.DeviceSequential.from_network(self)

    def summary(self) -> str:
        """Return the layers as a table of text: shapes, activations, parameters.

        Returns
        -------
        str
        """
        lines = [f"{'layer':>5}  {'shape':<16}{'activation':<14}{'parameters':>12}"]
        for index, layer in enumerate(self.layers):
            shape = f"{layer.n_in} -> {layer.n_out}"
            lines.append(f"{index:>5}  {shape:<16}{layer.activation.name:<14}{layer.parameters:>12,}")
        total, size = (sum(getattr(layer, name) for layer in self.layers) for name in ("parameters", "nbytes"))
        lines.append(f"total  {total:,} parameters, {size:,} bytes in {dtypes(self)}")
        return "\n".join(lines)

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
