"""HDF5 files that are not trusted: plain arrays and text, and never more bytes than the file has.

Links are followed one by one, and hard ones only; an array has to lie whole in the file, in one piece and as it is: no
external file, virtual data set, chunk, filter or fill value, by which a small file could claim a large array or read
another file.  What is read is counted, for many names may lead to one array.
"""

from __future__ import annotations

import math
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from numbadense.errors import ModelFormatError
from numbadense.io import optional

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["File"]

FLOATS = ("float16", "float32", "float64")
LONGEST_TEXT = 16 << 20


class File:
    """An HDF5 file, open for reading.

    Parameters
    ----------
    content : binary file
        Its bytes.
    size : int
        How many there are.
    purpose : str
        What needs the library h5py.

    Notes
    -----
    Any method may also raise what h5py does: OSError, KeyError, RuntimeError, TypeError, ValueError.
    """

    def __init__(self, content: BinaryIO, size: int, purpose: str) -> None:
        self._h5py = optional.need("h5py", "keras", purpose)
        self._file = self._h5py.File(content, "r")
        self._left = size

    def __enter__(self) -> File:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def group(self, *path: str) -> Any:
        """Return the group of that path; a part of it may hold several names, with slashes."""
        return self._find(self._file, "/".join(path), self._h5py.Group, "a group") if path else self._file

    def array(self, group: Any, path: str) -> NDArray[Any]:
        """Return the array of numbers, native and in float16, float32 or float64, of that path in a group."""
        data = self._find(group, path, self._h5py.Dataset, "an array")
        if data.external or data.is_virtual:
            raise ModelFormatError(f"the array {data.name} has its numbers in other files, which are not read.")
        if data.chunks is not None or data.shape is None:
            raise ModelFormatError(f"the array {data.name} is in chunks or empty: Keras writes whole ones; save again.")
        bfloat16 = data.dtype.itemsize == 2 and data.dtype.kind in "Vu" and self.text(data, "dtype") == "bfloat16"
        if not bfloat16 and data.dtype.newbyteorder("=").name not in FLOATS:
            raise ModelFormatError(
                f"the array {data.name} is of dtype {data.dtype} but weights are {', '.join(FLOATS)} or bfloat16."
            )
        size = math.prod(data.shape) * data.dtype.itemsize
        if size != data.id.get_storage_size():
            raise ModelFormatError(f"the array {data.name} claims {size} bytes but has {data.id.get_storage_size()}.")
        self._count(data, size)
        array = np.asarray(data[()])
        if bfloat16:
            return (array.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        return array.astype(array.dtype.newbyteorder("="), copy=False)

    def text(self, holder: Any, name: str) -> str | None:
        """Return an attribute that is text, or None if there is no such attribute."""
        found = self._attribute(holder, name)
        if isinstance(found, bytes):
            found = found.decode()
        if found is not None and not isinstance(found, str):
            raise ModelFormatError(f"the attribute {name} of {holder.name} is not text.")
        return found

    def texts(self, holder: Any, name: str) -> list[str]:
        """Return an attribute that is a list of texts, which Keras divides into several if it is long."""
        found = self._attribute(holder, name)
        parts = [found]
        if found is None:
            parts = []
            while (part := self._attribute(holder, f"{name}{len(parts)}")) is not None:
                parts.append(part)
        if not all(isinstance(part, np.ndarray) and part.ndim == 1 for part in parts):
            raise ModelFormatError(f"the attribute {name} of {holder.name} is not a list of texts.")
        values = [value.decode() if isinstance(value, bytes) else value for part in parts for value in part]
        if not all(isinstance(value, str) for value in values):
            raise ModelFormatError(f"the attribute {name} of {holder.name} is not a list of texts.")
        return values

    def _attribute(self, holder: Any, name: str) -> Any:
        if name not in holder.attrs:
            return None
        attribute = holder.attrs.get_id(name)
        size = math.prod(attribute.shape or ()) * attribute.dtype.itemsize
        if size > LONGEST_TEXT or attribute.get_storage_size() > LONGEST_TEXT:
            raise ModelFormatError(f"the attribute {name} of {holder.name} has {size} bytes, which is too many.")
        self._count(holder, size)
        return holder.attrs[name]

    def _find(self, group: Any, path: str, kind: type, said: str) -> Any:
        for name in path.split("/"):
            if name in ("", ".", ".."):
                raise ModelFormatError(f"{path!r} cannot be the path of {said}.")
            link = group.get(name, getlink=True) if isinstance(group, self._h5py.Group) else None
            if link is None:
                raise ModelFormatError(f"{group.name} has no {name!r}, of {path!r}: the file is not whole; save again.")
            if not isinstance(link, self._h5py.HardLink):
                raise ModelFormatError(f"{name!r} in {group.name} is a link to elsewhere, which is not followed.")
            group = group[name]
        if not isinstance(group, kind):
            raise ModelFormatError(f"{path!r} is not {said}.")
        return group

    def _count(self, holder: Any, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise ModelFormatError(f"{holder.name} is more than the file can hold: it claims {size} bytes.")
