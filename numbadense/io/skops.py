"""Files of skops: a zip archive of arrays and of ``schema.json``, which says what objects they make.

skops makes only objects of types that it trusts, or that the caller does.  What it is given is an archive of the same
members written anew, once their sizes are known: a small file could unpack to a large one, an array claim more bytes
than there are, and references between objects, which skops follows each time it meets them, take for ever.
"""

from __future__ import annotations

import io
import json
import math
import warnings
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from numbadense.errors import MissingDependencyError, ModelFormatError, NumbadenseError, OptionError
from numbadense.io import optional, sklearn
from numbadense.model import Sequential

OPTIONS = ("trusted",)
SCHEMA = "schema.json"
LARGEST_SCHEMA = 8 << 20
MOST_PARTS = 40_000  # lists and dicts of the schema, of which skops makes 10 000 a second or more
UNPACKED, TIMES = 32 << 20, 20  # a file may unpack to so many bytes, or to so many times its own
PIECE = 1 << 20
COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # the others know no bound to what a piece unpacks to
NULL = {"__class__": "str", "__module__": "builtins", "__loader__": "JsonNode", "content": "null"}
UNREAD = ("_optimizer", "loss_curve_", "validation_scores_")  # of training; skops does not trust the first's type


def load(path: Path, dtype: str | None = None, trusted: Sequence[str | type] = ()) -> Sequential:
    """Read the network in `path`, made of types that skops trusts or whose names are in `trusted`."""
    names = _names(trusted)
    content = path.read_bytes()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other versions of scikit-learn, whose attributes are the same
            archive, version = _checked(path, content)
            skops = optional.need("skops.io", "sklearn", str(path))
            _check_types(path, skops.get_untrusted_types(data=archive), names)
            estimator = skops.loads(archive, trusted=names)
        return sklearn.network(estimator, dtype, version)
    except (MissingDependencyError, Warning):
        raise
    except NumbadenseError as error:
        said = str(error)
        raise ModelFormatError(said if said.startswith(str(path)) else f"{path} cannot be read: {said}") from None
    except Exception as error:  # zipfile, json, skops and the classes of wrong attributes raise two dozen kinds
        said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ModelFormatError(f"{path} is not a whole skops file ({said}); save or copy it again.") from None


def _names(trusted: Any) -> list[str]:
    """Return the names of the types that the caller trusts."""
    if isinstance(trusted, (str, bytes)) or not isinstance(trusted, Iterable):
        raise OptionError(
            f"trusted is {trusted!r} but must be a sequence of names of types; pass those that you have reviewed of "
            "skops.io.get_untrusted_types(file=...)."
        )
    names = [f"{kind.__module__}.{kind.__name__}" if isinstance(kind, type) else kind for kind in trusted]
    for name in names:
        if not isinstance(name, str):
            raise OptionError(f"trusted holds {name!r} but must hold names of types, such as 'package.module.Class'.")
    return names


def _check_types(path: Path, untrusted: list[str], trusted: list[str]) -> None:
    refused = sorted(set(untrusted) - set(trusted))
    if refused:
        raise ModelFormatError(
            f"{path} holds objects of types that skops does not trust; if you do, and have reviewed them, pass "
            f"trusted={refused!r}."
        )


def _checked(path: Path, content: bytes) -> tuple[bytes, str | None]:
    """Return the archive written anew, and the version of scikit-learn that it names."""
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(written, "w") as anew:
        if archive.getinfo(SCHEMA).file_size > LARGEST_SCHEMA:
            raise ModelFormatError(
                f"{path} has a {SCHEMA} of {archive.getinfo(SCHEMA).file_size} bytes but at most {LARGEST_SCHEMA} are "
                "read; save the estimator alone."
            )
        schema = json.loads(_member(path, archive, SCHEMA))
        files, version = _cleaned(path, schema)
        unpacked, most = sum(archive.getinfo(file).file_size for file in files), max(UNPACKED, TIMES * len(content))
        if unpacked > most:
            raise ModelFormatError(
                f"{path} has {len(content)} bytes but its arrays have {unpacked}: at most {most} are unpacked; save it "
                "without compression."
            )
        for file in dict.fromkeys(files):
            member = _member(path, archive, file)
            _check_array(path, file, member)
            anew.writestr(file, member)
        anew.writestr(SCHEMA, json.dumps(schema))
    return written.getvalue(), version


def _member(path: Path, archive: zipfile.ZipFile, name: str) -> bytes:
    """Return the content of a member, and never more than it declares."""
    info = archive.getinfo(name)
    if info.compress_type not in COMPRESSIONS:
        raise ModelFormatError(
            f"{path} is compressed by method {info.compress_type} but what is read is deflated or not compressed; save "
            "it so."
        )
    with archive.open(info) as member:
        return b"".join(iter(lambda: member.read(PIECE), b""))


def _cleaned(path: Path, schema: Any) -> tuple[list[str], str | None]:
    """Take from a schema what is not to be made, and return the members it refers to and a version of scikit-learn.

    Without their identities two references to one object make two of it, from its description, which skops writes out
    each time.
    """
    files: list[str] = []
    version = None
    rest, parts = [schema], 0
    while rest:
        node = rest.pop()
        parts += isinstance(node, (dict, list))
        if parts > MOST_PARTS:
            raise ModelFormatError(f"{path} describes more than {MOST_PARTS} parts of objects; save the network alone.")
        if isinstance(node, dict):
            if "__loader__" in node:
                node.pop("__id__", None)
                if isinstance(node.get("file"), str):
                    files.append(node["file"])
                if node.get("__class__") == "void":
                    raise ModelFormatError(f"{path} holds a numpy.void, of as many bytes as a number says; remove it.")
            for name in UNREAD:
                if name in node:
                    node[name] = NULL
            if isinstance(noted := node.get("_sklearn_version"), dict):
                version = str(json.loads(noted["content"]))
            rest.extend(node.values())
        elif isinstance(node, list):
            rest.extend(node)
    return files, version


def _check_array(path: Path, name: str, member: bytes) -> None:
    """Refuse an array that is not as large as it says, for that much memory would be taken."""
    if member.startswith(b"PK"):
        raise ModelFormatError(f"{path} holds an archive within it, {name!r}, such as a sparse matrix; remove it.")
    if not member.startswith(np.lib.format.MAGIC_PREFIX):
        return
    file = io.BytesIO(member)
    headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    shape, _, dtype = headers[np.lib.format.read_magic(file)](file)
    left = len(member) - file.tell()
    if math.prod(shape) * dtype.itemsize != left or max(shape, default=0) > left:
        raise ModelFormatError(
            f"{path} holds an array {name!r} of {left} bytes that says it is {shape} of {dtype}; save or copy it again."
        )
