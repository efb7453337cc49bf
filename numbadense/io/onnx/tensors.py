"""Tensors of an ONNX file: what they declare is checked against what is there before anything is made of it.

A tensor keeps its numbers as raw bytes, or in a list of its own for each type, or in another file.  Of other files only
those in the folder of the model are read, and they are memory-mapped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

import numpy as np

from numbadense.errors import ModelFormatError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["FLOATS", "KINDS", "Store"]


@dataclass(frozen=True)
class Kind:
    """A type of number: its name, how NumPy stores it, and the field of a tensor that lists such numbers."""

    name: str
    stored: str
    field: str


# By their number in TensorProto.DataType.
KINDS = {
    1: Kind("float32", "<f4", "float_data"),
    6: Kind("int32", "<i4", "int32_data"),
    7: Kind("int64", "<i8", "int64_data"),
    9: Kind("bool", "?", "int32_data"),
    10: Kind("float16", "<f2", "int32_data"),
    11: Kind("float64", "<f8", "double_data"),
    16: Kind("bfloat16", "<u2", "int32_data"),
}
FLOATS = {number: kind for number, kind in KINDS.items() if "float" in kind.name}
LISTS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")
EXTERNAL = 1  # TensorProto.DataLocation
MOST_DIMENSIONS = 8


class Store:
    """The tensors of a model, whose folder is None if it was not read from a file."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.mapped: dict[Path, NDArray[np.uint8]] = {}

    def read(self, tensor: Any, origin: str) -> NDArray[Any]:
        """Return the numbers of a TensorProto, read-only; bfloat16, which NumPy lacks, as float32."""
        kind = KINDS.get(tensor.data_type)
        if kind is None:
            known = ", ".join(each.name for each in KINDS.values())
            raise ModelFormatError(f"{origin} is a tensor of data type {tensor.data_type} but those read are {known}.")
        shape = tuple(tensor.dims)
        if len(shape) > MOST_DIMENSIONS or any(n < 1 for n in shape):
            raise ModelFormatError(f"{origin} is a tensor of shape {shape[:MOST_DIMENSIONS]}, which holds no numbers.")
        dtype, count = np.dtype(kind.stored), math.prod(shape)
        lists = [name for name in LISTS if len(getattr(tensor, name))]
        raw = tensor.HasField("raw_data")
        if tensor.HasField("segment") or len(lists) + raw + (tensor.data_location == EXTERNAL) > 1:
            raise ModelFormatError(f"{origin} is a tensor whose numbers are in several places; export it again.")
        if tensor.data_location == EXTERNAL:
            content: Any = self._external(tensor, origin, count * dtype.itemsize)
        elif raw:
            content = tensor.raw_data
        else:
            return self._listed(tensor, kind, lists, origin)
        if len(content) != count * dtype.itemsize:
            raise ModelFormatError(
                f"{origin} is a {kind.name} tensor of shape {shape}, {count * dtype.itemsize} bytes, but has "
                f"{len(content)}; export or copy it again."
            )
        return _widened(np.frombuffer(content, dtype).reshape(shape), kind)

    def _listed(self, tensor: Any, kind: Kind, lists: list[str], origin: str) -> NDArray[Any]:
        shape, values = tuple(tensor.dims), getattr(tensor, kind.field)
        if lists != [kind.field] or len(values) != math.prod(shape):
            raise ModelFormatError(
                f"{origin} is a {kind.name} tensor of shape {shape} but lists {len(values)} numbers; export it again."
            )
        if kind.field == "int32_data" and kind.name != "int32":
            bits = np.array(values, np.int64)
            if bits.min() < 0 or bits.max() > (1 if kind.name == "bool" else 0xFFFF):
                raise ModelFormatError(f"{origin} is a {kind.name} tensor of numbers that are none; export it again.")
            array = bits.astype(np.bool_) if kind.name == "bool" else bits.astype(np.uint16).view(kind.stored)
        else:
            array = np.array(values, kind.stored)
        array.flags.writeable = False
        return _widened(array.reshape(shape), kind)

    def _external(self, tensor: Any, origin: str, needed: int) -> NDArray[np.uint8]:
        """Return the bytes of a tensor that are in another file."""
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        if self.folder is None:
            raise ModelFormatError(
                f"{origin} has its numbers in another file, {location!r}; pass the path of the .onnx file instead."
            )
        numbers = [entries.get("offset") or "0", entries.get("length") or str(needed)]
        if not all(text.isascii() and text.isdecimal() and len(text) < 20 for text in numbers):
            raise ModelFormatError(f"{origin} has its numbers at {numbers}, which is no place in a file.")
        offset, length = map(int, numbers)
        file = self._file(location, origin)
        size = file.stat().st_size
        if length != needed or offset + length > size:
            raise ModelFormatError(
                f"{origin} needs {needed} bytes, said to be {length} from {offset} on in {location!r}, which has "
                f"{size}; copy both files again."
            )
        if file not in self.mapped:
            self.mapped[file] = np.memmap(file, np.uint8, mode="r").view(np.ndarray)
        return self.mapped[file][offset : offset + length]

    def _file(self, location: str, origin: str) -> Path:
        """Return a file in the folder of the model, and nowhere else."""
        assert self.folder is not None
        windows = PureWindowsPath(location)
        inside = not (windows.drive or windows.root or ".." in windows.parts or PurePosixPath(location).is_absolute())
        try:
            folder = self.folder.resolve(strict=True)
            file = (folder / location).resolve(strict=True) if inside and "\0" not in location else folder
            if file.is_relative_to(folder) and file.is_file():
                return file
        except OSError:
            pass
        raise ModelFormatError(
            f"{origin} has its numbers in {location[:200]!r}, which is not a file in the folder of the model; "
            "copy it there, and see that the model names it without a folder."
        )


def _widened(array: NDArray[Any], kind: Kind) -> NDArray[Any]:
    if kind.name != "bfloat16":
        return array
    widened = (array.astype(np.uint32) << 16).view(np.float32)
    widened.flags.writeable = False
    return widened
