"""The words of :mod:`numbadense.scalar_math` as LLVM can vectorise them: no branch, table or call, strict IEEE flags.

All rest on one reduction, ``x = n log(2) + r`` with n an integer and ``|r| <= log(2) / 2``, and on polynomials whose
coefficients, float32 first, ``benchmarks/fit_polynomials.py`` fits and prints.

The functions here are plain Python over the names of :mod:`.intrinsics`; :func:`words` compiles them.  A host without
FMA hardware loses what they recover of products: some ULP, and up to eleven bits in the tails of the normal law.
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
# What is held back from a power of two that may leave the normal numbers: 2**UP.
UP_32, UP_64 = 64, 512
RAISED_32, RAISED_64 = 2.0**UP_32, 2.0**UP_64
WIDE_32, WIDE_64 = 170.0, 1400.0  # any number times exp(-WIDE) is 0, any but 0 times exp(WIDE) infinite
FAR_32, FAR_64 = 120.0, 780.0  # x exp(x) is below the subnormal numbers
INFINITY, NAN = float("inf"), float("nan")

scale = scale_by_bits  # `words` binds the native one where there is one

# exp(r) = 1 + r + r**2 q(r)
EXP_32 = (0.4999999403953552, 0.1666652113199234, 0.04166838899254799, 0.00836874544620514, 0.0013814544072374701)
EXP_64 = (
    *(0.500000000000001, 0.16666666666666674, 0.041666666666521524, 0.008333333333322172, 0.0013888888947962543),
    *(0.00019841269886699926, 2.4801487165838708e-05, 2.755724221351069e-06, 2.7632716110097873e-07),
    *(2.511009630403349e-08,),
)
exp_quotient = polynomial(EXP_32, EXP_64)
# exp(-s / 2) = 1 - s / 2 + s**2 q(-s / 2) / 4
half_quotient = polynomial(
    *([c / (-2.0) ** (i + 2) for i, c in enumerate(coefficients)] for coefficients in (EXP_32, EXP_64))
)
# r coth(r / 2) = 2 + z q(z), z = r**2: then exp(r) = (d + r) / (d - r) with d = r coth(r / 2)
COTH_32 = (0.1666661947965622, -0.00276589160785079)
COTH_64 = (
    0.16666666666666616,
    -0.0027777777777051,
    6.613756317788561e-05,
    -1.6533889306623268e-06,
    4.137450262521129e-08,
)
coth_quotient = polynomial(COTH_32, COTH_64)
# h coth(h) = 1 + z q(z), z = h**2
half_coth_quotient = polynomial(
    *([2.0 * 4.0**i * c for i, c in enumerate(coefficients)] for coefficients in (COTH_32, COTH_64))
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
# t ndtr(-t) = exp(-t**2 / 2) v (FIRST + y q(y)), y = v - CENTRE, v = t / (t + GATE_POLE), for t up to END
GATE_POLE_32, GATE_POLE_64 = 2.5, 3.5
CENTRE_32, CENTRE_64 = 0.25, 0.4375
FIRST_32, FIRST_64 = 0.9544039964675903, 0.8202705199625061
gate_tail = polynomial(
    (
        *(-1.1028876304626465, 0.38952112197875977, 0.26826584339141846, -0.10653732717037201, -0.1486460566520691),
        *(-0.024849088862538338, 0.06620219349861145, 0.09845508635044098, -0.07805836200714111),
    ),
    (
        *(-1.2999709373579478, 1.4417528789480294, -0.9889836251756418, 0.2024160316704579),
        *(0.2775198971372323, -0.16676796012805942, -0.11110428459106485, 0.09096035185760243),
        *(0.07242436146307131, -0.042185414144162256, -0.05897099279541476, 0.007659855112882025),
        *(0.04553142046528998, 0.017159069343093473, -0.02550518535457959, -0.02982120151243693),
        *(0.0011445400981754496, 0.02741361082540816, 0.018379891878715256, -0.013834229876376848),
        *(-0.022521729420162204, 0.0013122940203740415, 0.011109070511429384, 0.0014713744249281358),
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


def reduce_raised(t):
    """Return (shifted n + UP, r) with ``-t = n log(2) + r``; expects t between 0 and -LEAST."""
    shift = pick(t, SHIFT_32 + UP_32, SHIFT_64 + UP_64)
    shifted = fma(t, -pick(t, LOG2_E, LOG2_E), shift)
    n = shifted - shift
    r = fma(n, -pick(t, LN2_HIGH_32, LN2_HIGH_64), -t)
    return shifted, fma(n, -pick(t, LN2_LOW_32, LN2_LOW_64), r)


def exp(x):
    """``2**n exp(r)``.  The clamps let NaN pass, and end in 0 and infinity."""
    T = type(x)
    least, most = pick(x, LEAST_32, LEAST_64), pick(x, MOST_32, MOST_64)
    x = least if x < least else x
    x = most if x > most else x
    shifted, r = reduce(x)
    return scale(fma(r, fma(r, exp_quotient(r), T(1)), T(1)), shifted)


def scaled_exp(a, x):
    """``2**n (a + a r (1 + r q(r)))``: the product with a is rounded with the last sum, and scaled last."""
    T = type(x)
    most = pick(x, WIDE_32, WIDE_64)
    x = -most if x < -most else x
    x = most if x > most else x
    shifted, r = reduce(x)
    return scale(fma(a * r, fma(r, exp_quotient(r), T(1)), a), shifted)


def logistic(x):
    """``p (d + r) / (s (d - r) + p (d + r))`` on the left, ``s (d - r)`` over the same on the right.

    ``exp(-|x|) = 2**n exp(r)``, and ``exp(r) = (d + r) / (d - r)`` shares its division with that of the logistic
    function.  ``p = 2**n s`` with so large an s that p never leaves the normal numbers: the quotient alone does.
    """
    T = type(x)
    left = x < T(0)
    t, end, s = abs(x), -pick(x, LEAST_32, LEAST_64), pick(x, RAISED_32, RAISED_64)
    shifted, r = reduce_raised(end if t > end else t)
    p = power(shifted)
    d = fma(r * r, coth_quotient(r * r), T(2))
    total = fma(d, s + p, r * (p - s))
    return (p if left else s) * (d + (r if left else -r)) / total


def scaled_logistic(a, x, dx):
    """As in logistic, with a in the dividend and dx in the reduced argument.

    What rounding takes from the divisor is taken from the dividend too, through the smaller of its two terms.  Beyond
    100, where the scaling could overflow, the result is a.
    """
    T = type(x)
    left = x < T(0)
    t, end, s = abs(x), pick(x, FAR_32, FAR_64), pick(x, RAISED_32, RAISED_64)
    shifted, r = reduce_raised(end if t > end else t)
    r = r + (dx if left else -dx)
    p = power(shifted)
    d = fma(r * r, coth_quotient(r * r), T(2))
    rest = fma(p, d + r, -s * r)
    total = fma(s, d, rest)
    lost = fma(s, d, -total) + rest
    b = a * (p if left else s)
    r = fma(lost, pick(x, -1 / RAISED_32, -1 / RAISED_64), r if left else -r)
    return a if x > T(100) else copysign(fma(b, d, b * r) / total, a)  # the sum of two zeros is +0


def weighted_tail(t):
    """``exp(-t**2 / 2) v (FIRST + y q(y))`` with ``v = t / (t + GATE_POLE)``, ``y = v - CENTRE``.

    What squaring t rounds away joins the reduced argument of the exponential, where it is not lost; at the end of the
    range it would cost hundreds of ULP.  What the sum and its product with v round away joins the last sum but one,
    and in float64 what the division does, times the slope of the result.
    """
    T = type(t)
    end, first = pick(t, END_32, END_64), pick(t, FIRST_32, FIRST_64)
    t = end if t > end else t
    s = t + pick(t, GATE_POLE_32, GATE_POLE_64)
    v = t / s
    y = v - pick(t, CENTRE_32, CENTRE_64)
    q = gate_tail(y)
    factor = fma(q, y, first)
    a = v * factor
    lost = fma(v, fma(q, y, first - factor), fma(v, factor, -a))
    if pick(t, 0.0, 1.0) > T(0):  # float64 has less to spare, and the time
        rest = (T(1) - v) * (T(1) - v)
        lost = fma(fma(-v, s, t), T(0.5) * rest * rest, lost)
    square = t * t
    shift = pick(t, SHIFT_32 + UP_32, SHIFT_64 + UP_64)
    shifted = fma(square, pick(t, -LOG2_E / 2, -LOG2_E / 2), shift)
    n = shifted - shift
    r = fma(n, pick(t, 2 * LN2_HIGH_32, 2 * LN2_HIGH_64), square)
    r = r + fma(n, pick(t, 2 * LN2_LOW_32, 2 * LN2_LOW_64), fma(t, t, -square))
    scaled = (a + fma(a * r, fma(r, half_quotient(r), T(-0.5)), lost)) * power(shifted)
    return scaled * pick(t, 1 / RAISED_32, 1 / RAISED_64)


def two_words(x, n):
    """Return d + r and d - r of ``r = x - n log(2)``, where x has lost ``n LN2_HIGH`` already, each in two words."""
    T = type(x)
    low = pick(x, LN2_LOW_32, LN2_LOW_64)
    r = fma(n, -low, x)
    r_low = fma(n, -low, x - r)
    z = r * r
    w = z * coth_quotient(z)
    d = T(2) + w
    d_low = w - (d - T(2))
    plus, minus = d + r, d - r
    return plus, (r - (plus - d)) + (d_low + r_low), minus, (d_low - r_low) - (r - (d - minus))


def two_word_quotient(a, a_low, b, b_low):
    """Return ``(a + a_low) / (b + b_low)``, rounded nearly once."""
    T = type(a)
    q = a / b
    return fma(fma(-q, b, a) + fma(-q, b_low, a_low), T(1) / b, q)


def logistic_high(x):
    """As in logistic, in two words where one would show."""
    T = type(x)
    left = x < T(0)
    t, end, s = abs(x), -pick(x, LEAST_32, LEAST_64), pick(x, RAISED_32, RAISED_64)
    t = end if t > end else t
    shift = pick(x, SHIFT_32 + UP_32, SHIFT_64 + UP_64)
    shifted = fma(t, -pick(x, LOG2_E, LOG2_E), shift)
    n = shifted - shift
    plus, plus_low, minus, minus_low = two_words(fma(n, -pick(x, LN2_HIGH_32, LN2_HIGH_64), -t), n)
    p = power(shifted)
    small, small_low, large, large_low = p * plus, p * plus_low, s * minus, s * minus_low
    total = large + small
    total_low = (small - (total - large)) + (large_low + small_low)
    return two_word_quotient(small if left else large, small_low if left else large_low, total, total_low)


def tanh_high(x):
    """``(m - k) / (m + k)`` with ``exp(-2 |x|) = k / m``, in two words where one would show."""
    T = type(x)
    t = abs(x)
    t = T(20) if t > T(20) else t
    shift = pick(x, SHIFT_32, SHIFT_64)
    shifted = fma(t, pick(x, -2 * LOG2_E, -2 * LOG2_E), shift)
    n = shifted - shift
    plus, plus_low, m, m_low = two_words(fma(n, -pick(x, LN2_HIGH_32, LN2_HIGH_64), T(-2) * t), n)
    p = power(shifted)
    k, k_low = p * plus, p * plus_low
    above, below = m - k, m + k
    above_low = ((m - above) - k) + (m_low - k_low)
    below_low = (k - (below - m)) + (m_low + k_low)
    a = above + above_low
    return copysign(two_word_quotient(a, above_low - (a - above), below, below_low), x)


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
    """``(d (1 - p) + h (1 + p)) / (d (1 + p) + h (1 - p))`` with the sign of x.

    ``exp(-2 |x|) = p exp(-2 h)`` with ``p = 2**n``, and ``exp(-2 h) = (d - h) / (d + h)`` for ``d = h coth(h)``.  Near
    0, p is 1 and this is ``h / d``: no digit is lost.
    """
    T = type(x)
    t = abs(x)
    t = T(20) if t > T(20) else t
    shift = pick(x, SHIFT_32, SHIFT_64)
    shifted = fma(t, pick(x, -2 * LOG2_E, -2 * LOG2_E), shift)
    h = fma(shifted - shift, pick(x, LN2 / 2, LN2 / 2), t)
    p = power(shifted)
    d = fma(h * h, half_coth_quotient(h * h), T(1))
    plus, minus = T(1) + p, T(1) - p
    return copysign(fma(d, minus, h * plus) / fma(d, plus, h * minus), x)


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
    helpers = {function.__name__: jit(function) for function in (reduce, reduce_raised, two_words, two_word_quotient)}
    helpers |= {"scale": scale_native if native else scale_by_bits, "fma": fma}
    helpers["exp"] = jit(bind(exp, helpers))
    spoken = (expm1, log1p, tanh, tanh_high, ndtr, scaled_exp, logistic, logistic_high, scaled_logistic, weighted_tail)
    return {word.__name__: jit(bind(word, helpers)) for word in spoken} | {"exp": helpers["exp"], "fma": fma}
