"""The primitives as code generators: what Python has no words for on a device.

Kernels take these names from `numbadense._engine.cuda.primitives`, which knows their NumPy twins.
"""

from numbadense._engine.cuda.ptx import matrix, memory, warp
from numbadense._engine.cuda.ptx.matrix import *
from numbadense._engine.cuda.ptx.memory import *
from numbadense._engine.cuda.ptx.warp import *

__all__ = [*matrix.__all__, *memory.__all__, *warp.__all__]
