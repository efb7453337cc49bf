"""Files that are there whole, or not at all."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

__all__ = ["replace"]


def replace(path: Path, content: bytes) -> None:
    """Write a file under another name, and give it its own once it is whole; one that is there is replaced.

    Parameters
    ----------
    path : Path
        The file.
    content : bytes
        What it holds.

    Raises
    ------
    OSError
        If it cannot be written; then nothing is left behind.
    """
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        part.write_bytes(content)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
