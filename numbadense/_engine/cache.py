"""A disk cache of compiled kernels that never raises and never returns a stale kernel.

numba's own cache keys on one function's source file, so an edit elsewhere in the package goes unseen, and a truncated
file makes it raise for ever.  Here one checksummed file holds one kernel; its name is a digest of all that the
machine code depends on: every source file of the package, the versions, the CPU and the numba options.  Whatever
cannot be read is a miss; whatever cannot be written is left unwritten.
"""

import contextlib
import functools
import hashlib
import os
import pickle
import sys
import uuid
from pathlib import Path

import llvmlite
import numba
import numpy as np
from numba.core.caching import _Cache
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps

MAGIC = b"numbadense kernel 1\n"
DIGEST = 16
SUFFIX = ".kernel"

misses = 0  # kernels that this process has looked for and not found


def folder() -> Path:
    """Return where kernels are kept: ``NUMBADENSE_CACHE_DIR``, ``NUMBA_CACHE_DIR`` or the user's cache folder."""
    if own := os.environ.get("NUMBADENSE_CACHE_DIR"):
        return Path(own)
    if shared := numba.config.CACHE_DIR:
        return Path(shared) / "numbadense"
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "numbadense"


def writable(path: Path) -> bool:
    """Say whether kernels can be written to `path`, making the folder if it is not there."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = path / f"probe-{uuid.uuid4().hex}"
        probe.touch()
        probe.unlink()
    except OSError:
        return False
    return True


def info() -> dict:
    """Return the cache's place, whether it can be written, how many kernels it holds and their bytes."""
    path = folder()
    sizes = []
    with contextlib.suppress(OSError):
        sizes = [entry.stat().st_size for entry in path.glob(f"*{SUFFIX}")]
    return {"path": str(path), "writable": writable(path), "files": len(sizes), "bytes": sum(sizes)}


@functools.cache
def stamp() -> bytes:
    """Return the digest of every source file of the package and of the versions underneath it."""
    digest = hashlib.blake2b(digest_size=DIGEST)
    root = Path(__file__).parents[1]
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode())
        digest.update(path.read_bytes())
    versions = (numba.__version__, llvmlite.__version__, np.__version__, sys.version, sys.platform)
    options = (numba.config.BOUNDSCHECK, numba.config.OPT, numba.config.DEBUGINFO_DEFAULT, numba.config.THREADING_LAYER)
    digest.update(repr((versions, options)).encode())
    return digest.digest()


class KernelCache(_Cache):
    """The cache of one kernel, in numba's cache protocol.

    `key` names what the sources do not say: which kernel, for which dtype and instruction set.
    """

    def __init__(self, key: tuple):
        self._key = key

    @property
    def cache_path(self) -> str:
        """The folder of the cache."""
        return str(folder())

    def enable(self) -> None:
        """Do nothing: the cache is always on."""

    def disable(self) -> None:
        """Do nothing: the cache is always on."""

    def flush(self) -> None:
        """Do nothing: a file is written whole."""

    def _file(self, signature, codegen) -> Path:
        identity = repr((self._key, str(signature), codegen.magic_tuple())).encode()
        name = hashlib.blake2b(stamp() + identity, digest_size=DIGEST).hexdigest()
        return folder() / f"{name}{SUFFIX}"

    def load_overload(self, sig, target_context):
        """Return the compiled kernel for `sig`, or None."""
        target_context.refresh()
        try:
            content = self._file(sig, target_context.codegen()).read_bytes()
            checksum, payload = content[len(MAGIC) :][:DIGEST], content[len(MAGIC) + DIGEST :]
            if not content.startswith(MAGIC) or hashlib.blake2b(payload, digest_size=DIGEST).digest() != checksum:
                raise ValueError("not a kernel, or not a whole one")
            result = CompileResult._rebuild(target_context, *pickle.loads(payload))
        except Exception:  # anything at all that is wrong with a cached file is a miss
            global misses
            misses += 1
            return None
        return result

    def save_overload(self, sig, data) -> None:
        """Keep the compile result `data`, under its final name only once it is whole."""
        with contextlib.suppress(Exception):  # a full disk must not break the call that compiled
            payload = dumps(data._reduce())
            path = self._file(sig, data.codegen)
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            part = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
            try:
                with part.open("wb") as stream:
                    stream.write(MAGIC + hashlib.blake2b(payload, digest_size=DIGEST).digest() + payload)
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)
