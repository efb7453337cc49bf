"""Files of Keras 2 and 3: ``.keras``, a zip archive of a description and an HDF5 file, and ``.h5``, HDF5 alone.

They are read with zipfile, json and `hdf5`.  Keras is not imported, and no object of it is made.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from numbadense.errors import ModelFormatError, NumbadenseError
from numbadense.io import chain, keras_layers
from numbadense.io.hdf5 import File
from numbadense.model import Sequential

OPTIONS: tuple[str, ...] = ()
CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
LARGEST_CONFIG = 16 << 20
TIMES = 100  # a compressed member may unpack to so many times its size
WHOLE = 'save the model whole, as in model.save("net.keras")'


def load(path: Path, dtype: str | None = None) -> Sequential:
    """Read the network in `path`; weights of an ``.h5`` file that nothing is folded into are memory-mapped."""
    size = path.stat().st_size  # also the OSError, for a file that is not there
    try:
        with np.errstate(all="ignore"):
            return (_zipped if path.suffix.lower() == ".keras" else _plain)(path, size, dtype)
    except Warning:
        raise
    except NumbadenseError as error:
        raise ModelFormatError(f"{path} cannot be read: {error}") from None
    except Exception as error:  # zipfile, json and decoding raise a dozen kinds
        said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ModelFormatError(f"{path} is not a whole Keras file ({said}); save or copy it again.") from None


def _zipped(path: Path, size: int, dtype: str | None) -> Sequential:
    with zipfile.ZipFile(path) as archive:
        _check(archive)
        config = _json(_member(archive, CONFIG, LARGEST_CONFIG))
        version = _version(_json(_member(archive, METADATA, LARGEST_CONFIG)).get("keras_version"))
        weights = _member(archive, WEIGHTS, max(TIMES * size, 1 << 20))
    return _network(config, version, _Numbered(File(np.frombuffer(weights, np.uint8))), dtype)


def _plain(path: Path, size: int, dtype: str | None) -> Sequential:
    if size == 0:
        raise ModelFormatError("it is empty; save or copy it again.")
    file = File(np.memmap(path, np.uint8, mode="r").view(np.ndarray))
    text = file.text(file.root, "model_config")
    if text is None:
        raise ModelFormatError(f"it holds weights but no description of a model; {WHOLE}.")
    version = _version(file.text(file.root, "keras_version"))
    return _network(_json(text), version, _Named(file), dtype)


def _network(config: dict[str, Any], version: str, weights: keras_layers.Weights, dtype: str | None) -> Sequential:
    steps, n_in = keras_layers.steps(config, version, weights)
    return chain.build(steps, n_in=n_in, dtype=dtype, metadata={"source": f"keras {version}".strip()})


def _json(text: str | bytes) -> dict[str, Any]:
    if len(text) > LARGEST_CONFIG:
        raise ModelFormatError(f"its description has {len(text)} characters, and at most {LARGEST_CONFIG} are read.")
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ModelFormatError(f"its description is a JSON {type(value).__name__} but must be an object.")
    return value


def _version(text: Any) -> str:
    return text if isinstance(text, str) and re.fullmatch(r"\d+(\.\w+){0,5}", text) and len(text) < 40 else ""


def _check(archive: zipfile.ZipFile) -> None:
    names = archive.namelist()
    if len(set(names)) < len(names):
        raise ModelFormatError(f"it has {len(names)} members of {len(set(names))} names; save it again.")
    for name in names:
        if name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name) or re.match("[A-Za-z]:", name):
            raise ModelFormatError(f"it has a member {name[:80]!r}, outside of itself; do not trust it.")
    if WEIGHTS not in names:
        found = ", ".join(names)[:200]
        raise ModelFormatError(f"it has no member {WEIGHTS} but {found or 'none at all'}; {WHOLE}.")


def _member(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    """Return the bytes of a member, at most so many, once its sizes are found likely."""
    info = archive.getinfo(name)
    if info.flag_bits & 1:
        raise ModelFormatError(f"its member {name} is encrypted; {WHOLE}.")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # the others know no bound
        raise ModelFormatError(f"its member {name} is compressed in a way that Keras does not use; {WHOLE}.")
    if info.file_size > min(most, info.compress_size * TIMES + 1024):
        raise ModelFormatError(f"its member {name} claims to unpack {info.compress_size} bytes to {info.file_size}.")
    return archive.read(info)


class _Numbered:
    """The weights in a ``.keras`` file: a folder for each layer, called by its kind, of arrays called by numbers."""

    def __init__(self, file: File) -> None:
        self.file = file

    def read(self, layer: keras_layers.Layer, names: Sequence[str], unread: int = 0) -> list[Any]:
        group = self.file.group(self.file.root, f"{layer.folder}/vars")
        _check_count(layer, len(group.members), names, unread)
        return [self.file.array(group, str(number)) for number in range(len(names))]


class _Named:
    """The weights in an ``.h5`` file: a folder for each layer of the model, by name, of arrays in layers, by name."""

    def __init__(self, file: File) -> None:
        self.file = file

    def read(self, layer: keras_layers.Layer, names: Sequence[str], unread: int = 0) -> list[Any]:
        group = self.file.group(self.file.root, f"model_weights/{layer.names[0]}")
        paths = self.file.texts(group, "weight_names")
        within = f"/{layer.names[-1]}/" if len(layer.names) > 1 else "/"
        arrays = []
        for name in names:
            found = [path for path in paths if f"/{path}".split(":")[0].endswith(within + name)]
            if len(found) != 1:
                raise ModelFormatError(
                    f"{layer.origin} has {len(found)} weights called {name} but should have one; {WHOLE}."
                )
            arrays.append(self.file.array(group, found[0]))
        if len(layer.names) == 1:
            _check_count(layer, len(paths), names, unread)
        return arrays


def _check_count(layer: keras_layers.Layer, count: int, names: Sequence[str], unread: int) -> None:
    if count != len(names) + unread:
        raise ModelFormatError(
            f"{layer.origin} has {count} weights but should have {len(names) + unread}, {', '.join(names)} first: "
            "the description and the weights are not of the same model; save it again."
        )
