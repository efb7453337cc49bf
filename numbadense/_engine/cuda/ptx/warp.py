"""What the 32 threads of a warp do together.  All of them come, to the same place, each time."""

from llvmlite import ir
from numba.core import cgutils, types
from numba.cuda.extending import intrinsic

from numbadense._engine.cuda.ptx.memory import I32, special

__all__ = ["WARP", "lane", "shuffle", "shuffle_xor", "sync_warp"]

WARP = 32
ALL = I32(-1)  # the lanes that take part
INDEXED, BUTTERFLY = I32(0), I32(3)  # ways to shuffle
LAST_LANE = I32(WARP - 1)

lane = special("laneid")


def _shuffled(builder, mode, word, number):
    """Return the 32 bits that another lane has in `word`.

    NVVM's intrinsic, unlike assembly, is known to the compiler as what it must not move into a branch.
    """
    kind = ir.FunctionType(ir.LiteralStructType((I32, ir.IntType(1))), [I32] * 5)
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.nvvm.shfl.sync.i32")
    return builder.extract_value(builder.call(function, (ALL, mode, word, number, LAST_LANE)), 0)


def _words(builder, value, bits):
    """Return a number as its words of 32 bits, the low one first."""
    whole = builder.bitcast(value, ir.IntType(bits))
    return [builder.trunc(builder.lshr(whole, whole.type(first)), I32) for first in range(0, bits, 32)]


def _number(builder, words, kind):
    """Return the number of these words."""
    whole = ir.IntType(32 * len(words))
    total = whole(0)
    for place, word in enumerate(words):
        total = builder.or_(total, builder.shl(builder.zext(word, whole), whole(32 * place)))
    return builder.bitcast(total, kind)


def _make_shuffle(typing_context, value, number, mode):
    if value not in (types.float32, types.float64, types.int32, types.uint32) or not isinstance(number, types.Integer):
        return None

    def generate(context, builder, signature, arguments):
        other = context.cast(builder, arguments[1], signature.args[1], types.uint32)
        words = _words(builder, arguments[0], value.bitwidth)
        return _number(builder, [_shuffled(builder, mode, word, other) for word in words], arguments[0].type)

    return value(value, number), generate


@intrinsic
def shuffle(typing_context, value, from_lane):
    """Return the `value` of the lane with the number `from_lane`: a float32, float64, int32 or uint32."""
    return _make_shuffle(typing_context, value, from_lane, INDEXED)


@intrinsic
def shuffle_xor(typing_context, value, mask):
    """Return the `value` of the lane whose number differs in the bits of `mask`."""
    return _make_shuffle(typing_context, value, mask, BUTTERFLY)


@intrinsic
def sync_warp(typing_context):
    """Wait for all lanes, whose stores to shared memory are then seen by all."""

    def generate(context, builder, signature, arguments):
        kind = ir.FunctionType(ir.VoidType(), [I32])
        builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.nvvm.bar.warp.sync"), [ALL])

    return types.void(), generate
