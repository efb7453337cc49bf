"""CUDA's vocabulary: what the words of `scalar_math` mean inside a device function.

Each is a function of libdevice, in the argument's own type: nothing here turns float32 into float64.
"""

import math

from numbadense.scalar_math import bind, exp, fma

ROOT_HALF = 0.7071067811865476
EXP_41 = 1.5628821893349888e-18  # exp(-41); of the exp(-n), n an integer, one that float32 holds almost exactly


def erfcx(x):
    """Return e**(x**2) erfc(x); `vocabulary` binds the function of libdevice."""
    return math.exp(x * x) * math.erfc(x)


def vocabulary(jit) -> dict:
    """Return the words by name; `jit` compiles those that are written in the others."""
    found = {"exp": math.exp, "expm1": math.expm1, "log1p": math.log1p, "tanh": math.tanh, "tanh_high": math.tanh}
    found |= {"ndtr": _libdevice("normcdf"), "fma": fused()}
    helpers = found | {"erfcx": _libdevice("erfcx")}
    for function in (scaled_exp, logistic, scaled_logistic, weighted_tail):
        found[function.__name__] = helpers[function.__name__] = jit(bind(function, helpers))
    return found | {"logistic_high": found["logistic"]}


def scaled_exp(a, x):
    """Hold e**41 back until the last multiplication where e**x is about to leave the normal numbers."""
    T = type(x)
    far = x < T(-41)
    return (a * T(EXP_41) if far else a) * exp(x + T(41) if far else x)


def logistic(x):
    """With ``e = exp(-|x|)``: ``1 / (1 + e)`` on the right, ``e / (1 + e)`` on the left."""
    T = type(x)
    e = exp(-abs(x))
    return (T(1) if x >= T(0) else e) / (T(1) + e)


def scaled_logistic(a, x, dx):
    """As in logistic; what the sum of x and dx rounds away enters by ``exp(d) = 1 + d``."""
    T = type(x)
    x = T(-1000) if x < T(-1000) else x
    y = x + dx
    lost = dx - (y - x)
    t, d = abs(y), lost if x < T(0) else -lost
    e = exp(-t)
    result = (scaled_exp(fma(a, d, a), -t) if x < T(0) else a) / (T(1) + fma(e, d, e))
    return a if x > T(100) else result


def weighted_tail(t):
    """``t erfcx(t / sqrt(2)) / 2 exp(-t**2 / 2)``, where what squaring t rounds away enters by ``exp(d) = 1 + d``."""
    T = type(t)
    t = T(40) if t > T(40) else t
    square = t * t
    a = T(0.5) * t * erfcx(t * T(ROOT_HALF))
    return scaled_exp(fma(a, T(-0.5) * fma(t, t, -square), a), T(-0.5) * square)


def fused():
    """Return the fused multiply-add of either type."""
    from numba.cuda.extending import intrinsic

    @intrinsic
    def fma(typing_context, a, b, c):
        return c(a, b, c), lambda context, builder, signature, arguments: builder.fma(*arguments)

    return fma


def _libdevice(name):
    """Return the function of libdevice that has this name in float64, and the same with an f in float32.

    The normal distribution function is one: through math.erfc the rounding of ``x / sqrt(2)`` would cost the left tail
    up to 200 ULP in float32.  Numba has no name for a function that picks one by type, hence the intrinsic, which the
    simulator lacks.
    """
    from llvmlite import ir
    from numba.core import cgutils, types
    from numba.cuda.extending import intrinsic

    @intrinsic
    def function(typing_context, x):
        full_name = f"__nv_{name}{'f' if x == types.float32 else ''}"

        def generate(context, builder, signature, arguments):
            number = arguments[0].type
            function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(number, [number]), full_name)
            return builder.call(function, arguments)

        return x(x), generate

    return function


def load_four():
    """Return ``load(array, index)``: four numbers from a contiguous array, 16 bytes at a time; not before its start.

    They are ordinary loads, for the array may be in shared memory that the kernel itself has filled: through the
    read-only path the compiler could move them to before that.
    """
    from llvmlite import ir
    from numba.core import cgutils, types
    from numba.cuda.extending import intrinsic

    @intrinsic
    def load(typing_context, array, index):
        if not (isinstance(array, types.Array) and array.layout == "C" and array.ndim == 1):
            return None

        def generate(context, builder, signature, arguments):
            data = context.make_array(array)(context, builder, arguments[0]).data
            number = data.type.pointee
            at_once = 16 // context.get_abi_sizeof(number)
            numbers = []
            for first in range(0, 4, at_once):
                place = builder.add(context.cast(builder, arguments[1], index, types.int64), ir.IntType(64)(first))
                pointer = builder.bitcast(builder.gep(data, [place]), ir.VectorType(number, at_once).as_pointer())
                loaded = builder.load(pointer, align=16)
                numbers += [builder.extract_element(loaded, ir.IntType(32)(j)) for j in range(at_once)]
            return cgutils.pack_array(builder, numbers)

        return types.UniTuple(array.dtype, 4)(array, index), generate

    return load
