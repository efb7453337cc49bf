"""Tensor cores: products of small matrices that a warp holds in fragments, and what brings numbers into their form.

The 32 threads of a warp call them together.  Fragments are parts of local arrays, at constant places: uint32 for the
operands, two numbers of 16 bits or one tf32 each, and float32 for the sums.  Where in the matrices the fragments of a
lane lie is drawn in the twins, `numbadense._engine.cuda.twin.matrix`, and in the PTX ISA, sections on ``mma.m16n8k16``
and ``mma.m16n8k8``.
"""

from llvmlite import ir
from numba.core import types
from numba.cuda.extending import intrinsic

from numbadense._engine.cuda.ptx.assembly import assemble
from numbadense._engine.cuda.ptx.memory import I32, elements, pointer, shared_address

__all__ = [
    "as_bits",
    "as_float32",
    "ldmatrix",
    "mma_bf16",
    "mma_fp16",
    "mma_tf32",
    "pack_bf16",
    "pack_fp16",
    "to_tf32",
]

F32 = ir.FloatType()


def _names(first, count):
    return ", ".join(f"${place}" for place in range(first, first + count))


def _make_mma(shape, kind, of_a, of_b):
    """Return the function that adds the product of two fragments, of so many uint32, to a fragment of four sums."""

    @intrinsic
    def mma(typing_context, total, total_at, a, a_at, b, b_at):
        def generate(context, builder, signature, arguments):
            places = [
                elements(pointer(context, builder, signature, arguments, at), count, builder)
                for at, count in ((0, 4), (2, of_a), (4, of_b))
            ]
            sums, *operands = ([builder.load(place) for place in part] for part in places)
            text = (
                f"mma.sync.aligned.{shape}.row.col.f32.{kind}.{kind}.f32 {{{_names(0, 4)}}}, {{{_names(4, of_a)}}}, "
                f"{{{_names(4 + of_a, of_b)}}}, {{{_names(4 + of_a + of_b, 4)}}};"
            )
            constraints = ",".join(["=f"] * 4 + ["r"] * (of_a + of_b) + ["f"] * 4)
            result = ir.LiteralStructType([F32] * 4)
            values = [*operands[0], *operands[1], *sums]
            found = assemble(builder, result, text, constraints, values, side_effect=False)
            for q, place in enumerate(places[0]):
                builder.store(builder.extract_value(found, q), place)

        return types.void(total, total_at, a, a_at, b, b_at), generate

    return mma


mma_bf16 = _make_mma("m16n8k16", "bf16", 4, 2)
mma_fp16 = _make_mma("m16n8k16", "f16", 4, 2)
mma_tf32 = _make_mma("m16n8k8", "tf32", 4, 2)


@intrinsic
def ldmatrix(typing_context, registers, at, shared, index):
    """Load four matrices of 8 by 8 numbers of 16 bits.

    Lane l says where row l % 8 of matrix l // 8 begins, in shared memory on a boundary of 16 bytes.
    """

    def generate(context, builder, signature, arguments):
        source = shared_address(context, builder, signature, arguments, 2)
        text = "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {$0, $1, $2, $3}, [$4];"
        result = ir.LiteralStructType([I32] * 4)
        found = assemble(builder, result, text, "=r,=r,=r,=r,r,~{memory}", [source])
        target = pointer(context, builder, signature, arguments, 0)
        for q, place in enumerate(elements(target, 4, builder)):
            builder.store(builder.extract_value(found, q), place)

    return types.void(registers, at, shared, index), generate


def _make_pack(instruction):
    @intrinsic
    def pack(typing_context, low, high):
        def generate(context, builder, signature, arguments):
            return assemble(builder, I32, f"{instruction} $0, $1, $2;", "=r,f,f", arguments[::-1], side_effect=False)

        return types.uint32(types.float32, types.float32), generate

    return pack


pack_bf16 = _make_pack("cvt.rn.bf16x2.f32")  # two float32, each rounded to the nearest, ties to even, in one uint32
pack_fp16 = _make_pack("cvt.rn.f16x2.f32")


@intrinsic
def to_tf32(typing_context, number):
    """Return a float32 rounded to ten bits after the point, ties away from zero, as the bits of a float32."""

    def generate(context, builder, signature, arguments):
        return assemble(builder, I32, "cvt.rna.tf32.f32 $0, $1;", "=r,f", arguments, side_effect=False)

    return types.uint32(types.float32), generate


@intrinsic
def as_float32(typing_context, bits):
    """Return the float32 of these bits."""
    return types.float32(types.uint32), lambda context, builder, signature, arguments: builder.bitcast(*arguments, F32)


@intrinsic
def as_bits(typing_context, number):
    """Return the bits of a float32."""
    return types.uint32(types.float32), lambda context, builder, signature, arguments: builder.bitcast(*arguments, I32)
