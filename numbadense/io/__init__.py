"""Networks on disk: one file of this folder per format, chosen by the suffix."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from numbadense.errors import ModelFormatError

if TYPE_CHECKING:
    from numbadense.model import Sequential

__all__ = ["load", "save"]

SUFFIXES = (".safetensors",)


def _checked(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ModelFormatError(
            f"{path} has the suffix {path.suffix!r} but networks are kept as {', '.join(SUFFIXES)}; convert it."
        )
    return path


def load(path: str | os.PathLike[str]) -> Sequential:
    """Read a network from a file.

    The weights are memory-mapped and nothing is ever unpickled.

    Parameters
    ----------
    path : path_like
        A ``.safetensors`` file written by :meth:`numbadense.Sequential.save`.

    Returns
    -------
    Sequential

    Raises
    ------
    ModelFormatError
        If the file is not a network, or not a whole one.
    OSError
        If the file cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> import numbadense as nd
    >>> net = nd.Sequential([nd.Dense([[2.0], [3.0]], [1.0], "relu")])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     net.save(f"{folder}/net.safetensors")
    ...     nd.load(f"{folder}/net.safetensors")([[1.0, 1.0]])
    array([[6.]])
    """
    from numbadense.io import safetensors

    return safetensors.load(_checked(path))


def save(network: Sequential, path: str | os.PathLike[str]) -> None:
    """Write a network to a file; an existing file is replaced only by a whole one.

    Parameters
    ----------
    network : Sequential
        The network.
    path : path_like
        The file, with the suffix ``.safetensors``.

    Raises
    ------
    ModelFormatError
        If the suffix names no format that can be written.
    OSError
        If the file cannot be written.
    """
    from numbadense.io import safetensors

    safetensors.save(network, _checked(path))
