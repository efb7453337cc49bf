"""ONNX, both ways: a straight line of dense layers, read without any framework and written for all of them.

===============  =======================================================================================
``reader``       the graph: which nodes are needed, what is constant, where the line goes
``operators``    what each operator is, in steps of :mod:`numbadense.io.chain`
``expressions``  activations that were taken apart, multiplied out ...
``patterns``     ... and recognised
``tensors``      weights: in the file, or beside it
``writer``       from a network to a model
``backend``      the interface of ``onnx.backend``, for its conformance tests
===============  =======================================================================================
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from numbadense._engine import half
from numbadense.errors import ModelFormatError, NumbadenseError
from numbadense.io import chain, files
from numbadense.io.onnx import reader, writer
from numbadense.io.onnx.tensors import Store
from numbadense.io.optional import need

if TYPE_CHECKING:
    from numbadense.model import Sequential

OPTIONS: tuple[str, ...] = ()
WRITE_OPTIONS: tuple[str, ...] = ()
LARGEST = 2**31 - 1  # bytes that a protocol buffer may have


def load(path: Path, dtype: str | None = None) -> Sequential:
    """Read the network in `path`; weights in other files are memory-mapped unless they have to be converted."""
    onnx = need("onnx", "onnx", str(path))
    size = path.stat().st_size  # also the OSError, for a file that is not there
    if not 0 < size <= LARGEST:
        raise ModelFormatError(f"{path} has {size} bytes but an ONNX file has 1 to {LARGEST}; save or copy it again.")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except _decode_error() as error:
        raise ModelFormatError(f"{path} is not a whole ONNX file ({error}); save or copy it again.") from None
    try:
        return _network(model, dtype, Store(path.parent))
    except ModelFormatError as error:
        raise ModelFormatError(f"{path} is not a network that can be read: {error}") from None


def recognises(source: Any) -> bool:
    """Return whether `source` is an ``onnx.ModelProto``."""
    kind = type(source)
    return kind.__name__ == "ModelProto" and kind.__module__.partition(".")[0] == "onnx"


def read(source: Any, dtype: str | None = None) -> Sequential:
    """Read the network of an ``onnx.ModelProto``."""
    return _network(source, dtype, Store(None))


def save(network: Sequential, path: Path) -> None:
    """Write `network` to `path`, under that name only once the file is whole."""
    need("onnx", "onnx", str(path))
    files.replace(path, writer.model(network).SerializeToString(deterministic=True))


def _decode_error() -> Any:
    return need("google.protobuf.message", "onnx", "reading ONNX").DecodeError


def _network(model: Any, dtype: str | None, store: Store) -> Sequential:
    versions = {each.domain if each.domain != "ai.onnx" else "": each.version for each in model.opset_import}
    for domain, version in versions.items():
        first, last = reader.OPSETS.get(domain, (version, version))
        if not first <= version <= last:
            raise ModelFormatError(
                f"the model has opset {version} of {domain or 'ai.onnx'!r} but {first} to {last} are read; convert it "
                f"with onnx.version_converter.convert_version(model, {min(last, 21)})."
            )
    if "" not in versions:
        raise ModelFormatError("the model does not say which opset it has; export it again.")
    notes = {each.key: each.value for each in model.metadata_props}
    with np.errstate(all="ignore"):  # weights that are not finite are warned of
        line = reader.Line(model.graph, versions[""], store)
        written = notes.pop(writer.KEY, None)
        kept = None if written is None else _kept(model, written, line)
        if kept is not None:
            steps, storage = kept
            dtype = dtype or storage
        else:
            reader.follow(line, model)
            steps = line.steps
            _note(model, notes)
        if dtype is None and line.element == reader.DOUBLE:
            dtype = "float64"
        return chain.build(steps, n_in=line.n_in, dtype=dtype, metadata=notes)


def _note(model: Any, notes: dict[str, str]) -> None:
    """Note what the model says of itself."""
    source = f"{model.producer_name} {model.producer_version}".strip()
    if source:
        notes.setdefault("source", source)
    if model.doc_string:
        notes.setdefault("doc", model.doc_string)


def _kept(model: Any, written: str, line: reader.Line) -> tuple[list[chain.Step], str] | None:
    """Return the steps of a file that is still as it was written, with the activations that were written.

    Else it is read like any other: what has been done to it since is not lost.
    """
    try:
        description: Any = json.loads(written)
        names = [layer["activation"] for layer in description["layers"]]
        storage = description["storage"]
        linears = [(line.constant(f"layers.{i}.w"), line.constant(f"layers.{i}.b")) for i in range(len(names))]
        if any(w is None or w.ndim != 2 or not _held(w, storage) for w, _ in linears):
            return None
        nodes, output = writer.nodes(names, [b is not None for _, b in linears], line.element)
    except (ValueError, KeyError, TypeError, RecursionError, NumbadenseError):
        return None
    ends = (line.opset, line.value, line.output)
    if model.functions or ends != (writer.OPSET, "x", output) or list(model.graph.node) != nodes:
        return None
    steps: list[chain.Step] = []
    for (w, b), name in zip(linears, names, strict=True):
        assert w is not None
        steps += [chain.Linear("a layer", w, b), chain.Activate("a layer", name)]
    return steps, storage


def _held(w: Any, storage: str) -> bool:
    """Return whether weights lose nothing when they are kept like that."""
    if storage in half.FORMS and w.dtype == np.float32:
        return np.array_equal(np.asarray(half.rounded(w, storage)), w, equal_nan=True)
    return bool(w.dtype.name == storage)
