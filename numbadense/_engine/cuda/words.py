"""CUDA's vocabulary: what the words of `scalar_math` mean inside a device function.

Each is a function of libdevice, in the argument's own type: nothing here turns float32 into float64.
"""

import math


def vocabulary() -> dict:
    """Return the words by name."""
    return {"exp": math.exp, "expm1": math.expm1, "log1p": math.log1p, "tanh": math.tanh, "ndtr": _ndtr()}


def _ndtr():
    """Return the normal distribution function.

    Through math.erfc the rounding of ``x / sqrt(2)`` would cost the left tail up to 200 ULP in float32; libdevice
    compensates for it.  Numba has no name for its function that picks one by type, hence the intrinsic, which the
    simulator lacks.
    """
    from llvmlite import ir
    from numba.core import cgutils, types
    from numba.cuda.extending import intrinsic

    @intrinsic
    def ndtr(typing_context, x):
        name = "__nv_normcdff" if x == types.float32 else "__nv_normcdf"

        def generate(context, builder, signature, arguments):
            number = arguments[0].type
            function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(number, [number]), name)
            return builder.call(function, arguments)

        return x(x), generate

    return ndtr
