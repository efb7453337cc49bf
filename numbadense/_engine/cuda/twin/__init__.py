"""NumPy twins of the primitives of `numbadense._engine.cuda.ptx`, for numba's simulator: stricter than a device."""

from numbadense._engine.cuda.twin import matrix, memory, warp
from numbadense._engine.cuda.twin.matrix import *
from numbadense._engine.cuda.twin.memory import *
from numbadense._engine.cuda.twin.warp import *

__all__ = [*matrix.__all__, *memory.__all__, *warp.__all__]
