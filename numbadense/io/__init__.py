"""Networks from elsewhere, and back: one file of this folder per format.

A file is known by its suffix, an object of another library by what it looks like; none of those libraries is imported.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numbadense.errors import ModelFormatError, OptionError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike

    from numbadense.model import Sequential

__all__ = ["load", "save"]

# Modules of this folder.  A reader is ``load(path, dtype, **options)`` for a file, and for an object that its
# ``recognises(object)`` knows ``read(object, dtype, **options)``; `dtype` is a name or None; OPTIONS it takes.
READERS = {
    ".h5": "keras",
    ".hdf5": "keras",
    ".keras": "keras",
    ".onnx": "onnx",
    ".safetensors": "safetensors",
    ".skops": "skops",
}
WRITERS = {
    ".onnx": "onnx",
    ".safetensors": "safetensors",
}
OBJECTS = (
    "equinox",
    "onnx",
    "sklearn",
    "torch",
    "trees",
)

# Files that are programs: to read one is to run it.
PICKLES = {
    **dict.fromkeys(
        (".pt", ".pth", ".ckpt", ".bin"),
        "in Python with PyTorch: from safetensors.torch import save_file; "
        'save_file(model.state_dict(), "net.safetensors"), and load that with '
        "activations=[...], or pass an nn.Sequential itself to numbadense.load",
    ),
    **dict.fromkeys(
        (".pkl", ".pickle", ".joblib"),
        'in Python with scikit-learn: import skops.io; skops.io.dump(estimator, "net.skops"), and load that, '
        "or pass the estimator itself to numbadense.load",
    ),
}


def load(
    source: Any,
    *,
    activations: Sequence[Any] | None = None,
    dtype: DTypeLike | None = None,
    trusted: Sequence[str | type] | None = None,
) -> Sequential:
    """Read a network: from a file, or from an object of the library that trained it.

    Nothing is ever unpickled, and no training framework is needed.

    Parameters
    ----------
    source : path_like or object
        A ``.safetensors`` file written by :meth:`numbadense.Sequential.save`, whose weights are memory-mapped; or one
        of a `state_dict` of PyTorch, or other weights by name, with `activations`.
        A ``.onnx`` file or an ``onnx.ModelProto``: a straight line of dense layers.
        A ``.keras``, ``.h5`` or ``.hdf5`` file of Keras 2 or 3: a Sequential model, or a Functional one that is a line.
        A ``.skops`` file, or a fitted estimator of scikit-learn: `MLPClassifier`, `MLPRegressor`, or a pipeline of
        linear scalers and one of them.
        An ``nn.Sequential`` of PyTorch, read as after ``eval()``; a module of Equinox; a mapping of weights by name, of
        Flax, Haiku or PyTorch, with `activations`.
    activations : sequence of str, Activation or function, optional
        One for each dense layer, for sources that hold weights alone.
    dtype : dtype_like, optional
        float32 or float64, to convert the weights to; by default as the source has them.
    trusted : sequence of str or type, optional
        For a ``.skops`` file: the types in it that you have reviewed, beyond those that skops trusts.

    Returns
    -------
    Sequential

    Raises
    ------
    ModelFormatError
        If the source is not a network, or not a whole one, or has something in it that is not supported.
    MissingDependencyError
        If the format needs a library that is not installed.
    OptionError
        If an option does not suit the source.
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
    from numbadense._engine import validate

    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        reader = _module(_format(path))
        read, given = reader.load, path
    else:
        reader = _module(_recogniser(source))
        read, given = reader.read, source
    options = {"activations": activations, "trusted": trusted}
    options = {name: value for name, value in options.items() if value is not None}
    for name in options:
        if name not in reader.OPTIONS:
            said = given if isinstance(given, Path) else f"a {type(given).__name__}"
            why = "says that itself" if name == "activations" else "has no use for it"
            raise OptionError(f"{name} is given for {said}, which {why}; leave {name} out.")
    wanted = None if dtype is None else validate.network_dtype(dtype)
    return read(given, wanted, **options)


def _format(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix in PICKLES:
        raise ModelFormatError(f"{path} is a pickle, which runs code when it is read; convert it {PICKLES[suffix]}.")
    if suffix not in READERS:
        raise ModelFormatError(
            f"{path} has the suffix {path.suffix!r} but networks are kept as {', '.join(READERS)}; convert it."
        )
    return READERS[suffix]


def _recogniser(source: Any) -> str:
    for name in OBJECTS:
        if _module(name).recognises(source):
            return name
    raise ModelFormatError(
        f"a {type(source).__module__}.{type(source).__name__} is not a network that can be read: pass a file "
        f"({', '.join(READERS)}), an nn.Sequential, or weights by name such as a state_dict or nnx.state(model)."
    )


def _module(name: str) -> Any:
    return importlib.import_module(f"{__name__}.{name}")


def save(
    network: Sequential,
    path: str | os.PathLike[str],
    *,
    examples: ArrayLike | None = None,
    suffix: str | None = None,
) -> None:
    """Write a network to a file; an existing file is replaced only by a whole one.

    Parameters
    ----------
    network : Sequential
        The network.
    path : path_like
        The file, with the suffix ``.safetensors`` or ``.onnx``.
    examples : array_like, shape (m, n_in), optional
        Rows that the file keeps, with what the network gives for them; :func:`load` tries it with them.
    suffix : str, optional
        The only one to accept.

    Raises
    ------
    ModelFormatError
        If the suffix names no format that can be written.
    OptionError
        If the format has no place for examples.
    OSError
        If the file cannot be written.
    """
    path = Path(path)
    given = path.suffix.lower()
    formats = WRITERS if suffix is None else {suffix: WRITERS[suffix]}
    if given not in formats:
        raise ModelFormatError(
            f"{path} has the suffix {path.suffix!r} but networks are written as {', '.join(formats)}; name it so."
        )
    writer = _module(formats[given])
    if examples is None:
        writer.save(network, path)
    elif "examples" in writer.WRITE_OPTIONS:
        writer.save(network, path, examples)
    else:
        raise OptionError(f"examples are given for {path}, which has no place for them; leave them out.")
