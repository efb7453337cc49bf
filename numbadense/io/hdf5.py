r"""HDF5 as h5py writes it by default: groups, plain arrays and text, read here, for libhdf5 does not stand bad files.

libhdf5 2.0 runs for ever on damaged texts, at one time and not at another, and follows links to other files.  What
Keras writes is a small part of the format, the same in all releases of h5py: its first version.

::

    superblock -> object header of the root
    object header:  messages, one after the other, in one block or more
        symbol table -> B-tree -> symbol nodes: names, in a local heap, and addresses of object headers
        data space, data type, layout -> the bytes of an array, in one piece
        attribute: name, data type, data space, and its bytes, or where in a global heap its text is

Every place is checked before it is read, and what is gone through is counted: no file takes longer than its size says.

References
----------
The HDF Group, *HDF5 File Format Specification*, version 1.1, sections II.A (superblock), III (B-trees, heaps, symbol
tables) and IV.A (object headers and their messages).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from numbadense.errors import ModelFormatError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["File", "Group"]

SIGNATURE = b"\x89HDF\r\n\x1a\n"
SPACE, TYPE, LINK_INFO, LINK, EXTERNAL, LAYOUT, FILTERS, ATTRIBUTE, MORE, TABLE, MANY = (
    1, 3, 2, 6, 7, 8, 11, 12, 16, 17, 21,
)  # fmt: skip
SHARED = 2  # the flag of a message that is elsewhere
COMPACT, CONTIGUOUS = 0, 1
FLOAT, STRING, OPAQUE, VARIABLE = 1, 3, 5, 9
# Of a floating-point type: bits, place and size of exponent and mantissa, and bias.
FLOATS = {
    (16, 10, 5, 0, 10, 15): "f2",
    (32, 23, 8, 0, 23, 127): "f4",
    (64, 52, 11, 0, 52, 1023): "f8",
    (16, 7, 8, 0, 7, 127): "bfloat16",
}
MOST_DIMENSIONS = 8
TIMES = 4  # how often the file is gone through at most: what it holds is, once, and texts twice
AGAIN = "save it again, by Keras"


@dataclass(frozen=True)
class Group:
    """A group: its path, the address of its header, and the addresses of what is in it, by name."""

    path: str
    address: int
    members: dict[str, int]


class File:
    """An HDF5 file.

    Parameters
    ----------
    content : ndarray, shape (n,), uint8
        Its bytes, of which arrays are views.

    Notes
    -----
    Any method raises ModelFormatError for a file that is damaged, or of a kind that Keras does not write.
    """

    def __init__(self, content: NDArray[np.uint8]) -> None:
        self._content = content
        self._view = content.data
        self._left = TIMES * content.size  # bytes that may still be gone through
        self._heaps: dict[int, dict[int, bytes]] = {}
        self._groups: dict[int, dict[str, int]] = {}
        self._lists: dict[tuple[int, str], list[str]] = {}
        if content.size < 96 or self._bytes(0, 8) != SIGNATURE:
            raise ModelFormatError("it does not begin as HDF5 does; save or copy it again.")
        version = self._int(8, 1)
        if version or self._bytes(13, 2) != b"\x08\x08" or self._int(24, 8):
            raise ModelFormatError(f"it is HDF5 of a kind that Keras does not write, {version}; {AGAIN}.")
        if self._int(40, 8) > content.size:
            raise ModelFormatError(f"it has {content.size} bytes of {self._int(40, 8)}; save or copy it again.")
        self.root = self._group("", self._int(64, 8))

    def group(self, group: Group, path: str) -> Group:
        """Return the group of that path in a group."""
        for name in path.split("/"):
            group = self._group(f"{group.path}/{name}", self._member(group, name, path))
        return group

    def array(self, group: Group, path: str) -> NDArray[Any]:
        """Return the array of floating-point numbers of that path in a group; bfloat16 as float32."""
        folder, _, name = path.rpartition("/")
        group = self.group(group, folder) if folder else group
        said = f"the array {group.path}/{name}"
        address = self._member(group, name, path)
        messages = self._messages(address, said)
        found = {kind: (at, size) for kind, at, size in messages}
        if EXTERNAL in found or FILTERS in found or not {SPACE, TYPE, LAYOUT} <= found.keys():
            raise ModelFormatError(f"{said} is compressed, in other files or none at all; {AGAIN}.")
        shape = self._shape(*found[SPACE], said)
        kind, itemsize = self._kind(*found[TYPE])
        if kind == "opaque" and itemsize == 2 and self._text(messages, "dtype", said) == "bfloat16":
            kind = "bfloat16"
        if kind not in ("bfloat16", "<f2", "<f4", "<f8", ">f2", ">f4", ">f8"):
            raise ModelFormatError(f"{said} is not of float16, float32, float64 or bfloat16; {AGAIN}.")
        at, size = self._layout(*found[LAYOUT], said)
        if size != math.prod(shape) * itemsize:
            raise ModelFormatError(f"{said} has {size} bytes but the shape {shape} of {itemsize} each; {AGAIN}.")
        self._step(size)
        self._check(at, size)
        raw = self._content[at : at + size]
        if kind == "bfloat16":
            bits = np.frombuffer(raw.tobytes(), np.uint16).astype(np.uint32) << 16
            return bits.view(np.float32).reshape(shape)
        if size and raw.__array_interface__["data"][0] % itemsize:
            raw = raw.copy()
        array = raw.view(kind).reshape(shape)
        return array.astype(array.dtype.newbyteorder("="), copy=False)

    def text(self, group: Group, name: str) -> str | None:
        """Return an attribute that is text, or None if there is no such attribute."""
        return self._text(self._messages(group.address, group.path), name, group.path)

    def texts(self, group: Group, name: str) -> list[str]:
        """Return an attribute that is a list of texts, which Keras divides into several if it is long."""
        if (group.address, name) not in self._lists:
            messages = self._messages(group.address, group.path)
            texts = self._attribute(messages, name, group.path)
            if texts is None:
                texts = []
                numbers = itertools.count()
                while part := self._attribute(messages, f"{name}{next(numbers)}", group.path):
                    texts += part
            self._lists[group.address, name] = texts
        return self._lists[group.address, name]

    def _text(self, messages: list[tuple[int, int, int]], name: str, said: str) -> str | None:
        found = self._attribute(messages, name, said)
        if found is not None and len(found) != 1:
            raise ModelFormatError(f"the attribute {name} of {said or 'the file'} is {len(found)} texts, not one.")
        return found[0] if found else None

    # What is read below is where and how long it says: every place goes through _check.

    def _check(self, at: int, size: int) -> None:
        if at + size > self._content.size:
            raise ModelFormatError(f"it ends at byte {self._content.size}, but goes on at {at}; save or copy it again.")

    def _bytes(self, at: int, size: int) -> bytes:
        self._check(at, size)
        return self._view[at : at + size].tobytes()

    def _int(self, at: int, size: int) -> int:
        self._check(at, size)
        return int.from_bytes(self._view[at : at + size], "little")

    def _step(self, size: int = 8) -> None:
        self._left -= size
        if self._left < 0:
            raise ModelFormatError("it says more than a file of its size can; save or copy it again.")

    def _expect(self, at: int, signature: bytes) -> None:
        self._step()
        if self._bytes(at, len(signature)) != signature:
            raise ModelFormatError(f"it has no {signature[:4].decode()} at byte {at}: it is damaged; {AGAIN}.")

    def _group(self, path: str, address: int) -> Group:
        if address not in self._groups:
            self._groups[address] = self._members(path, address)
        return Group(path, address, self._groups[address])

    def _members(self, path: str, address: int) -> dict[str, int]:
        """Return the addresses of what is in a group, by name."""
        messages = self._messages(address, path)
        tables = [at for kind, at, size in messages if kind == TABLE and size >= 16]
        if len(tables) != 1:
            raise ModelFormatError(f"{path or 'it'} is no group of names; {AGAIN}.")
        tree, heap = self._int(tables[0], 8), self._int(tables[0] + 8, 8)
        self._expect(heap, b"HEAP\0")
        size, names = self._int(heap + 8, 8), self._int(heap + 24, 8)
        self._check(names, size)
        members: dict[str, int] = {}
        for node in self._nodes(tree, None):
            self._expect(node, b"SNOD\1")
            for entry in range(node + 8, node + 8 + 40 * self._int(node + 6, 2), 40):
                self._step(40)
                begin = self._int(entry, 8)
                name = self._bytes(names + begin, min(256, size - begin)) if begin < size else b""
                kind = self._int(entry + 16, 4)
                if b"\0" not in name or kind > 1:
                    raise ModelFormatError(f"{path}/{name[:80]!r} is a link to elsewhere, or damaged; {AGAIN}.")
                members[name[: name.index(0)].decode()] = self._int(entry + 8, 8)
        return members

    def _nodes(self, tree: int, level: int | None) -> list[int]:
        """Return the addresses of the symbol nodes of a B-tree, or of a part of it."""
        self._expect(tree, b"TREE\0")
        found = self._int(tree + 5, 1)
        if level is not None and found != level:
            raise ModelFormatError(f"it has a B-tree at byte {tree} that goes in circles; {AGAIN}.")
        children = [self._int(tree + 32 + 16 * index, 8) for index in range(self._int(tree + 6, 2))]
        self._step(16 * len(children))
        return [node for child in children for node in self._nodes(child, found - 1)] if found else children

    def _member(self, group: Group, name: str, path: str) -> int:
        if name in ("", ".", "..") or name not in group.members:
            raise ModelFormatError(f"{group.path or 'it'} has no {name!r}, of {path!r}: it is not whole; {AGAIN}.")
        return group.members[name]

    def _messages(self, address: int, said: str) -> list[tuple[int, int, int]]:
        """Return kind, place and size of the messages in an object header."""
        self._expect(address, b"\1")
        count = self._int(address + 2, 2)
        blocks = [(address + 16, self._int(address + 8, 4))]
        messages: list[tuple[int, int, int]] = []
        for at, size in blocks:
            end = at + size
            while at + 8 <= end and count:
                self._step()
                kind, length, flags = self._int(at, 2), self._int(at + 2, 2), self._int(at + 4, 1)
                at += 8
                self._check(at, length)
                if kind == MORE and length >= 16:
                    blocks.append((self._int(at, 8), self._int(at + 8, 8)))
                if flags & SHARED or kind in (LINK_INFO, LINK, MANY):
                    raise ModelFormatError(
                        f"{said or 'it'} is of a kind that Keras does not write, whose parts may be elsewhere; {AGAIN}."
                    )
                messages.append((kind, at, length))
                at += length
                count -= 1
        return messages

    def _shape(self, at: int, size: int, said: str) -> tuple[int, ...]:
        version, rank = self._int(at, 1), self._int(at + 1, 1)
        first = at + {1: 8, 2: 4}.get(version, 0)
        null = version == 2 and self._int(at + 3, 1) == 2
        if first == at or null or rank > MOST_DIMENSIONS or first + 8 * rank > at + size:
            raise ModelFormatError(f"{said} has no shape that can be read; {AGAIN}.")
        return tuple(self._int(first + 8 * axis, 8) for axis in range(rank))

    def _kind(self, at: int, size: int) -> tuple[str, int]:
        """Return what a data type is, and the bytes of an item."""
        kind, bits, itemsize = self._int(at, 1) & 15, self._int(at + 1, 3), self._int(at + 4, 4)
        if kind == FLOAT and size >= 20:
            offset, precision = self._int(at + 8, 2), self._int(at + 10, 2)
            name = FLOATS.get((precision, *self._bytes(at + 12, 4), self._int(at + 16, 4)))
            order = {0: "<", 1: ">"}.get(bits & 65)
            if name and order and not offset and itemsize * 8 == precision:
                return (name if name == "bfloat16" else order + name), itemsize
        names = {STRING: "text", OPAQUE: "opaque", VARIABLE: "variable" if bits & 15 == 1 else "other"}
        return names.get(kind, "other"), itemsize

    def _layout(self, at: int, size: int, said: str) -> tuple[int, int]:
        """Return where an array's bytes are, and how many."""
        version, kind = self._int(at, 1), self._int(at + 1, 1)
        if version == 3 and kind == CONTIGUOUS and size >= 18:
            length = self._int(at + 10, 8)
            return (self._int(at + 2, 8) if length else 0), length
        if version == 3 and kind == COMPACT and size >= 4 + self._int(at + 2, 2):
            return at + 4, self._int(at + 2, 2)
        raise ModelFormatError(f"{said} is not in one piece, as Keras writes arrays; {AGAIN}.")

    def _attribute(self, messages: list[tuple[int, int, int]], name: str, said: str) -> list[str] | None:
        """Return the texts of an attribute, or None if there is no such attribute."""
        said = f"the attribute {name} of {said or 'the file'}"
        for message, at, size in messages:
            if message != ATTRIBUTE or size < 8:
                continue
            version, lengths = self._int(at, 1), [self._int(at + place, 2) for place in (2, 4, 6)]
            places = [at + (9 if version == 3 else 8)]
            for length in lengths:
                places.append(places[-1] + (-(-length // 8) * 8 if version == 1 else length))
            if version not in (1, 2, 3) or places[-1] > at + size:
                raise ModelFormatError(f"{said} cannot be read; {AGAIN}.")
            if self._bytes(places[0], lengths[0]).split(b"\0")[0] == name.encode():
                shape = self._shape(places[2], lengths[2], said)
                kind, itemsize = self._kind(places[1], lengths[1])
                return self._texts(places[3], at + size, math.prod(shape), kind, itemsize, said)
        return None

    def _texts(self, at: int, end: int, count: int, kind: str, itemsize: int, said: str) -> list[str]:
        if count == 0:  # of any type: h5py has no type for no names
            return []
        if kind not in ("text", "variable") or count * itemsize > end - at or (kind == "variable" and itemsize != 16):
            raise ModelFormatError(f"{said} is not text; {AGAIN}.")
        items = [at + index * itemsize for index in range(count)]
        if kind == "text":
            return [self._bytes(item, itemsize).rstrip(b"\0").decode() for item in items]
        found = []
        for item in items:
            length, heap, index = self._int(item, 4), self._int(item + 4, 8), self._int(item + 12, 4)
            if length:
                heap_objects = self._heap(heap)
                if index not in heap_objects or len(heap_objects[index]) < length:
                    raise ModelFormatError(f"{said} is not in the file: it is damaged; {AGAIN}.")
                self._step(length)
            found.append(heap_objects[index][:length].decode() if length else "")
        return found

    def _heap(self, address: int) -> dict[int, bytes]:
        """Return the objects in a global heap, by index."""
        if address not in self._heaps:
            self._expect(address, b"GCOL\1")
            size = self._int(address + 8, 8)
            self._check(address, size)
            self._step(size)
            objects, at = {}, address + 16
            while at + 16 <= address + size and (index := self._int(at, 2)):
                length = self._int(at + 8, 8)
                objects[index] = self._bytes(at + 16, length)
                at += 16 + -(-length // 8) * 8
            self._heaps[address] = objects
        return self._heaps[address]
