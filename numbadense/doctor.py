"""What ``numbadense doctor`` knows: the facts that decide how fast numbadense runs here, and whether it can."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from typing import Any

from numbadense import __version__

__all__ = ["examine"]

CORE = ("numpy", "numba", "llvmlite", "safetensors", "rich")
OPTIONAL = ("numba-cuda", "cupy", "matplotlib", "scipy", "torch")
PREFIXES = ("NUMBADENSE_", "NUMBA_", "OMP_", "KMP_", "CUDA_VISIBLE_DEVICES")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _threads() -> dict[str, Any]:
    """Launch the pool, and return which layer it is of."""
    import numba

    from numbadense._engine import threads

    facts: dict[str, Any] = {"limit": threads.limit(), "numba_threads": numba.config.NUMBA_NUM_THREADS, "layer": None}
    if facts["numba_threads"] and not numba.config.DISABLE_JIT:
        try:
            facts["layer"] = threads.layer()
        except ValueError as error:  # numba has no layer that fits the settings
            facts["problem"] = " ".join(str(error).split())
    return facts


def _cuda() -> dict[str, Any]:
    """Return whether CUDA can be had, and if not, why not."""
    from numbadense._engine.cuda import device

    reason = device.why_not()
    facts: dict[str, Any] = {"usable": reason is None, "reason": reason, "simulator": device.simulated()}
    if reason is None and not device.simulated():
        from numba import cuda

        name = cuda.get_current_device().name
        facts["device"] = name.decode() if isinstance(name, bytes) else str(name)
        facts["compute_capability"] = ".".join(str(part) for part in cuda.get_current_device().compute_capability)
        facts["memory_bytes"] = int(cuda.current_context().get_memory_info().total)
    return facts


def examine() -> dict[str, dict[str, Any]]:
    """Return the facts, by topic.

    Returns
    -------
    dict of str to dict
        Every value can be written as JSON.
    """
    from numbadense._engine import cache, machine

    host = machine.host()
    return {
        "versions": {
            "numbadense": __version__,
            "python": f"{platform.python_version()} ({platform.python_implementation()}, {platform.platform()})",
            **{name: _version(name) for name in CORE},
        },
        "cpu": {"name": host.name, "isa": host.isa, "cores": host.cores, "features": sorted(host.features)},
        "threads": _threads(),
        "cache": cache.info(),
        "cuda": _cuda(),
        "optional": {name: _version(name) for name in OPTIONAL},
        "environment": {name: value for name, value in sorted(os.environ.items()) if name.startswith(PREFIXES)},
    }
