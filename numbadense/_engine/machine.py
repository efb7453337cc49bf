"""What CPU this is: its name, its features, and the row of the tile table that fits it."""

import functools
import math
import os
from dataclasses import dataclass

from numbadense._engine.cpu.tiles import TABLE
from numbadense.errors import OptionError


@dataclass(frozen=True)
class Host:
    """The CPU that kernels are compiled for."""

    name: str
    isa: str
    features: frozenset[str]
    cores: int

    @property
    def row_quantum(self) -> int:
        """Rows that tiles of every height fill without a remainder."""
        return math.lcm(*TABLE[self.isa].rows.values())

    @property
    def widens_float16(self) -> bool:
        """Whether an instruction widens vectors of float16 to float32."""
        return not self.features.isdisjoint(("f16c", "avx512f", "neon"))


def isa_of(features: frozenset[str]) -> str:
    """Return the widest row of the tile table whose required features are all there."""
    return next(isa for isa, row in TABLE.items() if features >= row.requires)


def forced_isa() -> str | None:
    """Return the row that ``NUMBADENSE_ISA`` asks for, if it does."""
    isa = os.environ.get("NUMBADENSE_ISA")
    if isa and isa not in TABLE:
        raise OptionError(
            f"NUMBADENSE_ISA is {isa!r} but must be one of {', '.join(TABLE)}; unset it to detect the CPU."
        )
    return isa or None


@functools.cache
def host() -> Host:
    """Return the CPU as numba will target it; ``NUMBA_CPU_FEATURES`` and ``NUMBADENSE_ISA`` are honoured."""
    import llvmlite.binding as llvm
    from numba import config

    if config.CPU_FEATURES is None:
        features = frozenset(name for name, has in llvm.get_host_cpu_features().items() if has)
    else:
        features = frozenset(flag[1:] for flag in config.CPU_FEATURES.split(",") if flag.startswith("+"))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Host(config.CPU_NAME or llvm.get_host_cpu_name(), forced_isa() or isa_of(features), features, cores)
