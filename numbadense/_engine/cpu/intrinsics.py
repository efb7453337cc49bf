"""The instructions that Python cannot spell: a fused multiply-add, exponent bits, a polynomial in one breath.

Each works on float32 and float64 scalars, in LLVM instructions that the loop vectoriser can widen.

A *shifted* number carries an integer n in the low bits of a float: ``shifted = n + SHIFT``.  Adding SHIFT to a float
also rounds it to the nearest integer, and subtracting SHIFT gives n back as a float.  Because SHIFT ends in the
exponent bias, the low bits moved up are the float ``2**n``:

::

    n + SHIFT, float32:    sign 0   exponent 150   mantissa 100...0[n + 127]        SHIFT = 1.5 * 2**23 + 127
    moved up by 23 bits:   sign 0   exponent n + 127   mantissa 000...000           = 2**n
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

INT32 = ir.IntType(32)


class Layout:
    """How a float type keeps its bits."""

    def __init__(self, bits, mantissa):
        self.integer = ir.IntType(bits)
        self.mantissa = mantissa
        self.suffix = f"f{bits}"
        self.bias = 2 ** (bits - mantissa - 2) - 1
        self.shift = 1.5 * 2**mantissa + self.bias
        self.shift_bits = (self.bias + mantissa << mantissa) + 2 ** (mantissa - 1) + self.bias
        self.root_half_bits = (self.bias - 1 << mantissa) + int((2**0.5 - 1) * 2**mantissa)

    def constant(self, value):
        """Return an integer constant as wide as the float."""
        return ir.Constant(self.integer, value)


LAYOUTS = {types.float32: Layout(32, 23), types.float64: Layout(64, 52)}
SHIFT = LAYOUTS[types.float32].shift, LAYOUTS[types.float64].shift


def _call(builder, name, values):
    kinds = [value.type for value in values]
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kinds[0], kinds), name)
    return builder.call(function, values)


@intrinsic
def fma(typing_context, a, b, c):
    """Return ``a * b + c``, rounded once where there is hardware for it.

    ``llvm.fmuladd``, not ``llvm.fma``: without FMA hardware the latter calls libm for every element.
    """
    if a not in LAYOUTS or not a == b == c:
        return None
    name = f"llvm.fmuladd.{LAYOUTS[a].suffix}"
    return a(a, b, c), lambda context, builder, signature, values: _call(builder, name, values)


@intrinsic
def copysign(typing_context, magnitude, sign):
    """Return ``|magnitude|`` with the sign of `sign`."""
    if magnitude not in LAYOUTS or magnitude != sign:
        return None
    name = f"llvm.copysign.{LAYOUTS[sign].suffix}"
    return sign(magnitude, sign), lambda context, builder, signature, values: _call(builder, name, values)


@intrinsic
def pick(typing_context, x, single, double):
    """Choose the constant of x's type: `single` if x is a float32, `double` if it is a float64."""
    if x not in LAYOUTS:
        return None

    def generate(context, builder, signature, values):
        chosen = 1 if x == types.float32 else 2
        return context.cast(builder, values[chosen], signature.args[chosen], x)

    return x(x, single, double), generate


@intrinsic
def stand_alone(typing_context):
    """Keep the function that calls this from being inlined."""

    def generate(context, builder, signature, values):
        builder.function.attributes.add("noinline")
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def narrow_vectors(typing_context):
    """Keep the loops of the function that calls this to vectors of 256 bits."""

    def generate(context, builder, signature, values):
        set.add(builder.function.attributes, '"prefer-vector-width"="256"')  # llvmlite knows no attributes with values
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def power(typing_context, shifted):
    """Return ``2**n`` of a shifted n, for a normal result."""
    if shifted not in LAYOUTS:
        return None
    layout = LAYOUTS[shifted]

    def generate(context, builder, signature, values):
        bits = builder.shl(builder.bitcast(values[0], layout.integer), layout.constant(layout.mantissa))
        return builder.bitcast(bits, values[0].type)

    return shifted(shifted), generate


@intrinsic
def exponent(typing_context, u):
    """Return the shifted n for which ``u / 2**n`` lies between sqrt(1/2) and sqrt(2), for a positive normal u."""
    if u not in LAYOUTS:
        return None
    layout = LAYOUTS[u]

    def generate(context, builder, signature, values):
        above = builder.sub(builder.bitcast(values[0], layout.integer), layout.constant(layout.root_half_bits))
        n = builder.ashr(above, layout.constant(layout.mantissa))
        return builder.bitcast(builder.add(n, layout.constant(layout.shift_bits)), values[0].type)

    return u(u), generate


def _integer(builder, layout, shifted):
    return builder.sub(builder.bitcast(shifted, layout.integer), layout.constant(layout.shift_bits))


@intrinsic
def scale_native(typing_context, x, shifted):
    """Return ``x * 2**n`` of a shifted n, rounded once: one instruction on AVX-512 (``vscalef``), slow elsewhere."""
    if x not in LAYOUTS or x != shifted:
        return None
    layout = LAYOUTS[x]

    def generate(context, builder, signature, values):
        n = _integer(builder, layout, values[1])
        if layout.integer != INT32:
            n = builder.trunc(n, INT32)
        name = f"llvm.ldexp.{layout.suffix}.i32"
        function_type = ir.FunctionType(values[0].type, [values[0].type, INT32])
        return builder.call(cgutils.get_or_insert_function(builder.module, function_type, name), [values[0], n])

    return x(x, shifted), generate


@intrinsic
def scale_by_bits(typing_context, x, shifted):
    """Return ``x * 2**n`` of a shifted n, by two factors made of exponent bits.

    Only a subnormal result is rounded.  It holds for n from twice the smallest normal exponent to twice the largest.
    """
    if x not in LAYOUTS or x != shifted:
        return None
    layout = LAYOUTS[x]

    def generate(context, builder, signature, values):
        n = _integer(builder, layout, values[1])
        half = builder.ashr(n, layout.constant(1))
        product = values[0]
        for part in (half, builder.sub(n, half)):
            bits = builder.shl(builder.add(part, layout.constant(layout.bias)), layout.constant(layout.mantissa))
            product = builder.fmul(product, builder.bitcast(bits, product.type))
        return product

    return x(x, shifted), generate


def polynomial(single, double):
    """Return the intrinsic ``c[0] + c[1] x + c[2] x**2 + ...`` with coefficients per dtype.

    Horner's scheme, a fused multiply-add each.  Estrin's has a shorter chain but needs the powers of x, and in a loop
    over vectors the instructions count, not their latency: the processor works on several vectors at a time.
    """

    @intrinsic
    def evaluate(typing_context, x):
        if x not in LAYOUTS:
            return None
        coefficients = single if x == types.float32 else double
        fused = f"llvm.fmuladd.{LAYOUTS[x].suffix}"

        def generate(context, builder, signature, values):
            base = values[0]
            *lower, total = [ir.Constant(base.type, c) for c in coefficients]
            for term in reversed(lower):
                total = _call(builder, fused, [total, base, term])
            return total

        return x(x), generate

    return evaluate
