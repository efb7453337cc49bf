"""The native format: safetensors, with the layers described as JSON in its metadata.

Tensors ``layers.<i>.w``, shape (n_in, n_out), of the dtype in which the weights are kept, and ``layers.<i>.b``, shape
(n_out,); metadata ``numbadense``, such as
``{"version": 1, "layers": [{"activation": "relu"}, ...], "metadata": {...}}``.  One entry, for safetensors writes
several in any order, and the same network should give the same bytes.

A file without that entry holds weights by name, such as a `state_dict` of PyTorch, and needs `activations`.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from safetensors import SafetensorError

from numbadense import activations
from numbadense._engine.half import Half
from numbadense.errors import ActivationError, ModelFormatError, NumbadenseError, OptionError
from numbadense.io import trees
from numbadense.model import Dense, Sequential

OPTIONS = ("activations",)
VERSION = 1
DTYPES = {"F16": "<u2", "BF16": "<u2", "F32": "<f4", "F64": "<f8"}
HALVES = {"F16": "float16", "BF16": "bfloat16"}


def save(network: Sequential, path: Path) -> None:
    """Write `network` to `path`, under that name only once the file is whole."""
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
    description = {
        "version": VERSION,
        "layers": [{"activation": layer.activation.name} for layer in network.layers],
        "metadata": dict(network.metadata),
    }
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        content = safetensors.numpy.save(tensors, {"numbadense": json.dumps(description)})
        if bfloat16:
            content = _with_bfloat16(content, bfloat16)
        part.write_bytes(content)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


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
    except NumbadenseError as error:
        raise ModelFormatError(f"{path} does not describe a network: {error}") from None
    return network if dtype is None else network.astype(dtype)


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
