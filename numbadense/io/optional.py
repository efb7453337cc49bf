"""Libraries that a format needs and numbadense does not: imported when they are asked for, or one sentence."""

from __future__ import annotations

import importlib
from typing import Any

from numbadense.errors import MissingDependencyError

__all__ = ["need"]


def need(library: str, extra: str, purpose: str) -> Any:
    """Import and return a library.

    Parameters
    ----------
    library : str
        What to import.
    extra : str
        The extra of numbadense that installs it.
    purpose : str
        What needs it, such as ``"net.onnx"``.

    Raises
    ------
    MissingDependencyError
        If it is not there.
    """
    try:
        return importlib.import_module(library)
    except ImportError as error:
        raise MissingDependencyError(
            f"{purpose} needs the library {library}, which cannot be imported ({error}); "
            f'pip install "numbadense[{extra}]".'
        ) from None
