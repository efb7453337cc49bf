"""The primitives that kernels are written in: code generators, or in the simulator their NumPy twins."""

from numbadense._engine.cuda.device import simulated

if simulated():
    from numbadense._engine.cuda import twin
    from numbadense._engine.cuda.twin import *

    __all__ = twin.__all__
else:
    from numbadense._engine.cuda import ptx
    from numbadense._engine.cuda.ptx import *

    __all__ = ptx.__all__
