"""The words of :mod:`numbadense.scalar_math` as LLVM can vectorise them: no branch, table or call, strict IEEE flags.

All rest on one reduction, ``x = n log(2) + r`` with n an integer and ``|r| <= log(2) / 2``, and on polynomials whose
coefficients, float32 first, ``benchmarks/fit_polynomials.py`` fits and prints.

The functions here are plain Python over the names of :mod:`.intrinsics`; :func:`words` compiles them.  A host without
FMA hardware gets the same accuracy but for ndtr, whose tail then loses up to nine bits.
"""

import llvmlite.binding as llvm

from numbadense._engine.cpu.intrinsics import (
    SHIFT,
    copysign,
    exponent,
    fma,
    pick,
    polynomial,
    power,
    scale_by_bits,
    scale_native,
)
from numbadense.scalar_math import bind

__all__ = ["words"]

SHIFT_32, SHIFT_64 = SHIFT
LOG2_E = 1.4426950408889634
LN2 = 0.6931471805599453
# log(2) in two parts (Cody and Waite): the first has so few digits that n times it is exact, even without FMA hardware.
LN2_HIGH_32, LN2_LOW_32 = 0.693359375, -2.12194440e-4
LN2_HIGH_64, LN2_LOW_64 = 6.93147180369123816490e-01, 1.90821492927058770002e-10
# Arguments beyond which exp is 0 or infinity in any rounding.
LEAST_32, MOST_32 = -104.0, 88.8
LEAST_64, MOST_64 = -746.0, 709.8
INFINITY, NAN = float("inf"), float("nan")

scale = scale_by_bits  # `words` binds the native one where there is one

# exp(r) = 1 + r + r**2 q(r)
exp_quotient = polynomial(
    (0.4999999403953552, 0.1666652113199234, 0.04166838899254799, 0.00836874544620514, 0.0013814544072374701),
    (
        *(0.500000000000001, 0.16666666666666674, 0.041666666666521524, 0.008333333333322172, 0.0013888888947962543),
        *(0.00019841269886699926, 2.4801487165838708e-05, 2.755724221351069e-06, 2.7632716110097873e-07),
        *(2.511009630403349e-08,),
    ),
)
# expm1(r) = r + r**2 q(r), relative to expm1
expm1_quotient = polynomial(
    (
        *(0.5, 0.1666666716337204, 0.04166632518172264, 0.008333220146596432, 0.001394325285218656),
        *(0.00019962193618994206,),
    ),
    (
        *(0.5000000000000007, 0.16666666666666696, 0.04166666666656208, 0.008333333333293148, 0.001388888893629377),
        *(0.0001984126998711424, 2.4801499611689576e-05, 2.755711674942854e-06, 2.76282876040854e-07),
        *(2.5161385482128463e-08,),
    ),
)
# atanh(s) = s + s z q(z), z = s**2
atanh_quotient = polynomial(
    (0.33333390951156616, 0.19987918436527252, 0.1496623009443283),
    (
        *(0.33333333333333554, 0.19999999999752874, 0.14285714366569854, 0.11111099316515054, 0.09091798972415394),
        *(0.07656217816761705, 0.07409118108008104),
    ),
)
# ndtr(-t) = exp(-t**2 / 2) w q(1 - 2 POLE w), w = 1 / (t + POLE), for t up to END, where it underflows
POLE_32, POLE_64 = 3.5, 5.0
END_32, END_64 = 14.5, 39.0
normal_tail = polynomial(
    (
        *(0.7444160580635071, -0.5655617713928223, 0.3154250383377075, -0.1160530373454094),
        *(0.01740637794137001, 0.006493115797638893, -0.003175308695062995, -0.0004949428839609027),
        *(0.0004218955000396818, 0.00011068782623624429),
    ),
    (
        *(0.769193049750063, -0.6653825028900566, 0.495305615969977, -0.31353315667131576),
        *(0.1650203661703616, -0.06911863870595199, 0.020795066800241967, -0.00299337677569564),
        *(-0.0007978694014767806, 0.0005448991058657705, -5.9375711297656016e-05, -4.9763010227126333e-05),
        *(1.6681144884862905e-05, 3.981491216129648e-06, -2.769055303606826e-06, -3.3774311441642773e-07),
        *(4.3268654477053513e-07, 4.3612354606404546e-08, -6.531990278334666e-08, -1.0210919740524659e-08),
        *(7.181988486924486e-09, 2.013925497430428e-09),
    ),
)


def reduce(x):
    """Return (shifted n, r) with ``x = n log(2) + r``; expects x between LEAST and MOST."""
    shift = pick(x, SHIFT_32, SHIFT_64)
    shifted = fma(x, pick(x, LOG2_E, LOG2_E), shift)
    n = shifted - shift
    r = fma(n, -pick(x, LN2_HIGH_32, LN2_HIGH_64), x)
    return shifted, fma(n, -pick(x, LN2_LOW_32, LN2_LOW_64), r)


def exp(x):
    """``2**n exp(r)``.  The clamps let NaN pass, and end in 0 and infinity."""
    T = type(x)
    least, most = pick(x, LEAST_32, LEAST_64), pick(x, MOST_32, MOST_64)
    x = least if x < least else x
    x = most if x > most else x
    shifted, r = reduce(x)
    return scale(fma(r * r, exp_quotient(r), r) + T(1), shifted)


def expm1(x):
    """``2**n expm1(r) + (2**n - 1)``, where the bracket is exact, with the sign of x so that -0 stays -0.

    Beyond 64 the -1 is below the last place, and 2**n may leave the range before the result does: there the two parts
    are added first.
    """
    T = type(x)
    most = pick(x, MOST_32, MOST_64)
    y = T(-40) if x < T(-40) else x
    y = most if y > most else y
    shifted, r = reduce(y)
    near = fma(r * r, expm1_quotient(r), r)
    small = fma(power(shifted), near, power(shifted) - T(1))
    return copysign(small if y < T(64) else scale(near + T(1), shifted), x)


def tanh(x):
    """``-m / (2 + m)`` with m = expm1(-2 |x|), which is -1 to the last place from -40 on."""
    T = type(x)
    y = T(-2) * abs(x)
    y = T(-40) if y < T(-40) else y
    shifted, r = reduce(y)
    m = fma(power(shifted), fma(r * r, expm1_quotient(r), r), power(shifted) - T(1))
    return copysign(m / (T(2) + m), x)


def log1p(x):
    """``n log(2) + 2 atanh(s)`` with ``1 + x = 2**n (1 + f)`` and ``s = f / (2 + f)``.

    ``f = x / 2**n + (1 / 2**n - 1)`` is rounded once, and is x itself when n is 0: no digit of a small x is lost.  For
    the same reason 2 atanh(s) is taken as ``f - s (f - 2 z q(z))``, z = s**2, which begins with f and not with s.
    """
    T = type(x)
    shift = pick(x, SHIFT_32, SHIFT_64)
    n = exponent(T(1) + x) - shift
    most = pick(x, 126.0, 1022.0)
    f = scale(x, shift - n) + (power(shift - (most if n > most else n)) - T(1))
    s = f / (T(2) + f)
    z = s * s
    log = fma(-s, fma(T(-2) * z, atanh_quotient(z), f), f)
    log = fma(n, pick(x, LN2_LOW_32, LN2_LOW_64), log)
    log = fma(n, pick(x, LN2_HIGH_32, LN2_HIGH_64), log)
    log = log if x < T(INFINITY) else x
    return log if x > T(-1) else (T(-INFINITY) if x == T(-1) else T(NAN))


def ndtr(x):
    """``exp(-t**2 / 2) w q(y)`` with t = |x| on the left, one minus that on the right.

    What squaring t rounds away enters by ``exp(d) = 1 + d``: at the end of the range it would cost hundreds of ULP.
    What adding POLE to t rounds away enters by a Newton step on ``y (t + POLE) = t - POLE``: near 0 it would cost four.
    """
    T = type(x)
    t, end, pole = abs(x), pick(x, END_32, END_64), pick(x, POLE_32, POLE_64)
    t = end if t > end else t
    square = t * t
    lost = fma(t, t, -square)
    bell = exp(T(-0.5) * square)
    bell = fma(bell, T(-0.5) * lost, bell)
    s = t + pole
    w = T(1) / s
    y = fma(T(-2) * pole, w, T(1))
    kept = s - pole
    y = fma(fma(t - kept, T(1) - y, fma(-y, s, -pole) + kept), w, y)
    tail = bell * (w * normal_tail(y))
    return tail if x < T(0) else T(1) - tail


def words(jit, ldexp_native):
    """Compile the words.

    Parameters
    ----------
    jit : callable
        The decorator that compiles a helper, such as ``numba.njit(error_model="numpy")``; no fast-math flags.
    ldexp_native : bool
        Whether the host scales vectors by powers of two in one instruction (AVX-512).

    Returns
    -------
    dict of str to callable
        The compiled words, by the names of :mod:`numbadense.scalar_math`.
    """
    native = ldexp_native and llvm.llvm_version_info >= (17,)  # llvm.ldexp is as old as that
    helpers = {"reduce": jit(reduce), "scale": scale_native if native else scale_by_bits}
    helpers["exp"] = jit(bind(exp, helpers))
    return {word.__name__: jit(bind(word, helpers)) for word in (expm1, log1p, tanh, ndtr)} | {"exp": helpers["exp"]}
