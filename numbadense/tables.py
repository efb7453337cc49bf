"""Rows in ``.npy`` and ``.csv`` files: memory-mapped where they can be, and written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import uuid
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.progress import track

from numbadense.errors import NumbadenseError, ShapeError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from rich.console import Console

    from numbadense.cuda import DeviceSequential
    from numbadense.model import Sequential

__all__ = ["batch_size", "predict", "read"]

BATCH_BYTES = 8_388_608  # of float64 input and output that are in flight
DIGITS = {"float32": "%.9g", "float64": "%.17g"}  # enough to read the same number back


def batch_size(network: Sequential | DeviceSequential) -> int:
    """Return how many rows go through the network at once."""
    return max(1, BATCH_BYTES // (8 * max(1, network.n_in + network.n_out)))


def read(path: Path, network: Sequential, skip_rows: int) -> NDArray[Any]:
    """Return the rows of a table, memory-mapped if that can be."""
    x = _map_npy(path) if path.suffix == ".npy" else _parse_csv(path, network, skip_rows)
    if x.ndim != 2 or x.shape[1] != network.n_in:
        raise ShapeError(
            f"{path} has shape {x.shape} but the network takes rows of {network.n_in} features: (m, {network.n_in})."
        )
    return x


def _map_npy(path: Path) -> NDArray[Any]:
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except OSError:
        raise
    except Exception as error:  # NumPy lets through whatever its parsing of a damaged header comes upon
        reason = str(error).rstrip(".")
        raise NumbadenseError(f"{path} is not a whole .npy file of numbers ({reason}); save it again.") from None


def _parse_csv(path: Path, network: Sequential, skip_rows: int) -> NDArray[Any]:
    try:
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # of a file without rows: see below
            x = np.loadtxt(path, network.dtype, delimiter=",", skiprows=skip_rows, ndmin=2)
    except ValueError as error:
        reason = str(error).partition("; use `usecols`")[0].rstrip(".")
        skipped = f" after the {skip_rows} skipped" if skip_rows else ""
        header = " if its first line is a header, pass --skip-rows 1." if not skip_rows else " correct it."
        raise NumbadenseError(
            f"{path} is not a table of numbers separated by commas ({reason}{skipped});{header}"
        ) from None
    if x.size == 0:
        raise NumbadenseError(f"{path} has no rows{f' after the {skip_rows} skipped' if skip_rows else ''}.")
    return x


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """Give a temporary file beside `path`, which replaces `path` only once it is whole."""
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        yield part
        os.replace(part, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def predict(network: Sequential | DeviceSequential, x: NDArray[Any], path: Path, console: Console) -> None:
    """Write the network's output for every row of `x`, with a progress bar if the console is a terminal."""
    with _whole(path) as part:
        write = _write_npy if path.suffix == ".npy" else _write_csv
        write(part, network, x, console)


def _write_npy(path: Path, network: Sequential | DeviceSequential, x: NDArray[Any], console: Console) -> None:
    out = np.lib.format.open_memmap(path, mode="w+", dtype=network.dtype, shape=(len(x), network.n_out))
    if hasattr(os, "posix_fallocate"):  # a full disk is an error here; met by a mapped page it would end the process
        with path.open("r+b") as stream:
            os.posix_fallocate(stream.fileno(), 0, path.stat().st_size)
    network.predict(x, batch_size(network), out=out, progress=console.is_terminal)
    out.flush()


def _write_csv(path: Path, network: Sequential | DeviceSequential, x: NDArray[Any], console: Console) -> None:
    rows, digits = batch_size(network), DIGITS[network.dtype.name]
    starts: Iterable[int] = range(0, len(x), rows)
    if console.is_terminal:
        starts = track(starts, "predict", console=console, transient=True)
    with path.open("w", encoding="ascii", newline="\n") as stream:
        for begin in starts:
            np.savetxt(stream, network(x[begin : begin + rows]), digits, delimiter=",")
