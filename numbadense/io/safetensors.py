"""The native format: safetensors, with the layers described as JSON in its metadata.

Tensors ``layers.<i>.w``, shape (n_in, n_out), of the dtype in which the weights are kept, and ``layers.<i>.b``, shape
(n_out,); metadata ``numbadense``, such as
``{"version": 1, "layers": [{"activation": "relu"}, ...], "metadata": {...}}``.  One entry, for safetensors writes
several in any order, and the same network should give the same bytes.  Tensors ``examples.x``, shape (m, n_in), and
``examples.y``, shape (m, n_out), are optional: what the network gave for some rows when it was saved.

A file without that entry holds weights by name, such as a `state_dict` of PyTorch, and needs `activations`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors
import safetensors.numpy
from safetensors import SafetensorError

from numbadense import activations, testing
from numbadense._engine.half import Half
from numbadense.errors import ActivationError, ModelFormatError, NumbadenseError, OptionError
from numbadense.io import files, trees
from numbadense.model import Dense, Sequential

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

OPTIONS = ("activations",)
WRITE_OPTIONS = ("examples",)
VERSION = 1
DTYPES = {"F16": "<u2", "BF16": "<u2", "F32": "<f4", "F64": "<f8"}
HALVES = {"F16": "float16", "BF16": "bfloat16"}


def save(network: Sequential, path: Path, examples: ArrayLike | None = None) -> None:
    """Write `network` to `path`, under that name only once the file is whole; `examples` are rows to try it with."""
    tensors, bfloat16 = {}, []
    for index, layer in enumerate(network.layers):
        name = f"layers.{index}.w"
        weights = layer._kept
        if isinstance(weights, Half):
            if weights.kind == "bfloat16":
                bfloat16.append(name)
            weights = weights.bits.view(np.float16)
        tensors[name] = np.ascontiguousarray(weights)
        if layer.b is not None:
            tensors[f"layers.{index}.b"] = layer.b
    if examples is not None:
        x = np.array(examples, network.dtype, order="C", ndmin=2)
        tensors |= {"examples.x": x, "examples.y": network(x)}
    description = {
        "version": VERSION,
        "layers": [{"activation": layer.activation.name} for layer in network.layers],
        "metadata": dict(network.metadata),
    }
    content = safetensors.numpy.save(tensors, {"numbadense": json.dumps(description)})
    files.replace(path, _with_bfloat16(content, bfloat16) if bfloat16 else content)


def _with_bfloat16(content: bytes, names: list[str]) -> bytes:
    """Return a file whose header says that tensors, written as float16, are bfloat16: a dtype that NumPy lacks."""
    begin = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:begin])
    for name in names:
        header[name]["dtype"] = "BF16"
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join((len(text).to_bytes(8, "little"), text, content[begin:]))


def load(path: Path, dtype: str | None = None, activations: Sequence[Any] | None = None) -> Sequential:
    """Read the network in `path`, its weights memory-mapped unless they have to be converted."""
    if path.stat().st_size == 0:  # also the OSError, for a file that is not there
        raise ModelFormatError(f"{path} is empty; save or copy the network again.")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            names = list(file.keys())
    except SafetensorError as error:
        raise ModelFormatError(f"{path} is not a whole safetensors file ({error}); save or copy it again.") from None
    if "numbadense" not in metadata:
        return _of_names(path, names, dtype, activations, metadata)
    if activations is not None:
        raise OptionError(f"activations is given for {path}, which says that itself; leave activations out.")
    layers, notes = _description(path, metadata)
    tensors = _mapped(path)
    examples = [tensors.pop(name, None) for name in ("examples.x", "examples.y")]
    expected = {f"layers.{index}.w" for index in range(len(layers))}
    optional = {f"layers.{index}.b" for index in range(len(layers))}
    if missing := expected - tensors.keys():
        raise ModelFormatError(
            f"{path} has no tensor {min(missing)} but describes {len(layers)} layers; save it again."
        )
    if surplus := tensors.keys() - expected - optional:
        raise ModelFormatError(f"{path} has a tensor {min(surplus)} but describes {len(layers)} layers; save it again.")
    try:
        built = [
            Dense(tensors[f"layers.{index}.w"], tensors.get(f"layers.{index}.b"), layer)
            for index, layer in enumerate(layers)
        ]
        network = Sequential(built, notes)
        _try(path, network, *examples)
    except NumbadenseError as error:
        raise ModelFormatError(f"{path} does not describe a network: {error}") from None
    return network if dtype is None else network.astype(dtype)


def _try(path: Path, network: Sequential, x: Any, y: Any) -> None:
    """Run the network over the examples in its file: the results may differ from the file's by their error bounds."""
    if x is None and y is None:
        return
    if x is None or y is None or (*x.shape[:1], network.n_out) != y.shape:
        raise ModelFormatError(f"{path} has examples without their results, or not as many; save it again.")
    x, y = np.asarray(x), np.asarray(y)
    found = network(x)
    if np.array_equal(found, y, equal_nan=True):
        return
    with np.errstate(all="ignore"):
        outside = ~(abs(found.astype(np.longdouble) - y) <= 2 * testing.error_bound(x, network.layers, network.dtype))
    outside &= ~((found == y) | (np.isnan(found) & np.isnan(y)))
    if outside.any():
        row, column = (int(index) for index in np.argwhere(outside)[0])
        raise ModelFormatError(
            f"{path} has examples that come out otherwise: output {column} of row {row} is {found[row, column]} but "
            f"was {y[row, column]} when it was saved, so the weights, an activation or the machine are not what they "
            "were; save it again, or run numbadense doctor."
        )


def _of_names(
    path: Path, names: list[str], dtype: str | None, activations: Sequence[Any] | None, metadata: dict[str, str]
) -> Sequential:
    """Read weights that have nothing but names."""
    if not names:
        raise ModelFormatError(f"{path} holds no tensors; save the network again.")
    layers = trees.groups(str(path), names)
    arrays = {
        name: np.asarray(tensor) if isinstance(tensor, Half) else tensor for name, tensor in _mapped(path).items()
    }
    notes = {"source": "torch"} if metadata.get("format") == "pt" else None
    try:
        return trees.build(str(path), layers, arrays, activations, dtype, kept=False, metadata=notes)
    except ModelFormatError as error:
        raise error if str(path) in str(error) else ModelFormatError(f"{path} does not fit: {error}") from None


def _description(path: Path, metadata: dict[str, str]) -> tuple[list[activations.Activation], dict[str, str]]:
    """Return the layers' activations and the notes."""
    try:
        description: Any = json.loads(metadata["numbadense"])
        version = description["version"]
        if version == VERSION:
            names = [layer["activation"] for layer in description["layers"]]
            notes = description["metadata"]
            if not all(isinstance(text, str) for text in (*names, *notes, *notes.values())):
                raise TypeError("a name or a note is not text")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelFormatError(f"{path} has a description that cannot be read ({error!r}); save it again.") from None
    if version != VERSION:
        raise ModelFormatError(
            f"{path} has format version {version!r} but this release reads {VERSION}; upgrade numbadense."
        )
    try:
        return [activations.get(name) for name in names], notes
    except ActivationError as error:
        raise ModelFormatError(
            f"{path} uses an activation that is not registered: {error} "
            "If it is your own, register it with @numbadense.activation before loading."
        ) from None


def _mapped(path: Path) -> dict[str, np.ndarray[Any, Any] | Half]:
    """Return the tensors of a file that safetensors has found sound, as read-only views of its memory map."""
    content = np.memmap(path, np.uint8, mode="r").view(np.ndarray)
    begin = 8 + int.from_bytes(content[:8].tobytes(), "little")
    header = json.loads(content[8:begin].tobytes())
    header.pop("__metadata__", None)
    tensors: dict[str, np.ndarray[Any, Any] | Half] = {}
    for name, entry in header.items():
        if entry["dtype"] not in DTYPES:
            raise ModelFormatError(
                f"{path} has tensor {name} of dtype {entry['dtype']} but networks are kept as {', '.join(DTYPES)}; "
                "convert it."
            )
        lo, hi = (begin + offset for offset in entry["data_offsets"])
        tensor = content[lo:hi].view(DTYPES[entry["dtype"]]).reshape(entry["shape"])
        kind = HALVES.get(entry["dtype"])
        tensors[name] = tensor if kind is None else Half(kind, tensor.astype(np.uint16, copy=False))
    return tensors
