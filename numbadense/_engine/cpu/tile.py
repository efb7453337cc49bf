"""The register tile: two numba types and the primitives on which every CPU kernel is built.

``Tile(dtype, mr, nv, lanes)`` is an ``mr x nv`` block of SIMD vectors held by value, which LLVM keeps in registers:

::

              nv vectors of `lanes` columns
            +---------+---------+---------+
      mr    | v v v v | v v v v | v v v v |   start: every row is the bias
     rows   | v v v v | v v v v | v v v v |   rank1: += x[:, p] outer w[p, :]
            | v v v v | v v v v | v v v v |   store: the columns inside the matrix only
            +---------+---------+---------+

``View(dtype)`` is a matrix in memory: a pointer, a row stride and a column stride, in elements.  A view of weights
knows the form in which they are kept; `rank1` widens what it loads, exactly, and goes on as if they were in full.

Kernels take these names from `numbadense._engine.cpu.primitives`, which knows their NumPy twins.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model
from numba.np.arrayobj import populate_array

from numbadense._engine.half import BFLOAT16, FLOAT16, FULL

I1, I16, I32, I64 = ir.IntType(1), ir.IntType(16), ir.IntType(32), ir.IntType(64)


class View(types.Type):
    """A matrix in memory: ``data[i * ld + j * inc]``, of `dtype`, or 16 bits for each in a form other than `FULL`."""

    def __init__(self, dtype, form=FULL):
        self.dtype, self.form = dtype, form
        super().__init__(f"numbadense.View({dtype}, {form})")

    @property
    def element(self):
        """The numba type of what lies in memory."""
        return self.dtype if self.form == FULL else types.uint16


class Tile(types.Type):
    """An ``mr x nv`` block of SIMD vectors, held in registers."""

    def __init__(self, dtype, mr, nv, lanes):
        self.dtype, self.mr, self.nv, self.lanes = dtype, mr, nv, lanes
        super().__init__(f"numbadense.Tile({dtype}, {mr}x{nv}x{lanes})")

    @property
    def vector(self):
        """The LLVM type of one vector."""
        return ir.VectorType(ir.FloatType() if self.dtype == types.float32 else ir.DoubleType(), self.lanes)


@register_model(View)
class _ViewModel(models.StructModel):
    def __init__(self, manager, view):
        members = [("data", types.CPointer(view.element)), ("ld", types.intp), ("inc", types.intp)]
        super().__init__(manager, view, members)


@register_model(Tile)
class _TileModel(models.PrimitiveModel):
    def __init__(self, manager, tile):
        super().__init__(manager, tile, ir.ArrayType(tile.vector, tile.mr * tile.nv))


def _call(builder, name, result, args):
    function_type = ir.FunctionType(result, [a.type for a in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, function_type, name), args)


def _suffix(vector):
    return f"v{vector.count}f{32 if isinstance(vector.element, ir.FloatType) else 64}"


def _splat(builder, scalar, vector):
    empty = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(empty, scalar, I32(0))
    return builder.shuffle_vector(first, empty, ir.Constant(ir.VectorType(I32, vector.count), [0] * vector.count))


def _vector_pointer(builder, pointer, offset, vector):
    return builder.bitcast(builder.gep(pointer, [offset]), vector.as_pointer())


def _first(builder, count, lanes):
    """Return the mask of the first `count` lanes: made of bits, for constants to compare with would take registers."""
    for limit, beyond in ((0, "<"), (lanes, ">")):
        count = builder.select(builder.icmp_signed(beyond, count, I64(limit)), I64(limit), count)
    bits = builder.xor(builder.shl(I64(-1), count), I64(-1))
    return builder.bitcast(builder.trunc(bits, ir.IntType(lanes)), ir.VectorType(I1, lanes))


def _load(builder, pointer, offset, tile):
    value = builder.load(_vector_pointer(builder, pointer, offset, tile.vector))
    value.align = tile.dtype.bitwidth // 8
    return value


def _load_weights(builder, pointer, offset, tile, form):
    """Load one row of weights: a list of vectors of the tile's dtype, whatever their form."""
    offsets = [builder.add(offset, I64(v * tile.lanes)) for v in range(tile.nv)]
    if form == FULL:
        return [_load(builder, pointer, at, tile) for at in offsets]
    if form != BFLOAT16:
        widen = _widen_float16 if form == FLOAT16 else _widen_float16_by_bits
        return [widen(builder, _load_bits(builder, pointer, at, I16, tile), tile) for at in offsets]
    weights = []  # bfloat16, in pairs: see `numbadense._engine.cpu.pack`
    for at in offsets[: tile.nv // 2 * 2 : 2]:
        pair = _load_bits(builder, pointer, at, I32, tile)
        weights.append(builder.bitcast(builder.shl(pair, _constant(16, tile)), tile.vector))
        weights.append(builder.bitcast(builder.and_(pair, _constant(0xFFFF_0000, tile)), tile.vector))
    if tile.nv % 2:
        single = builder.zext(_load_bits(builder, pointer, offsets[-1], I16, tile), ir.VectorType(I32, tile.lanes))
        weights.append(builder.bitcast(builder.shl(single, _constant(16, tile)), tile.vector))
    return weights


def _constant(number, tile):
    return ir.Constant(ir.VectorType(I32, tile.lanes), [number] * tile.lanes)


def _load_bits(builder, pointer, offset, integer, tile):
    value = builder.load(_vector_pointer(builder, pointer, offset, ir.VectorType(integer, tile.lanes)))
    value.align = 2
    return value


def _widen_float16(builder, value, tile):
    """Return the float32 values of a vector of float16 bits: by an instruction, where the CPU has one.

    Elsewhere LLVM would call a C function for each element, which a JIT may not even find.
    """
    return builder.fpext(builder.bitcast(value, ir.VectorType(ir.HalfType(), tile.lanes)), tile.vector)


def _widen_float16_by_bits(builder, value, tile):
    """Return the float32 values of a vector of float16 bits, by integer arithmetic."""
    wide = ir.VectorType(I32, tile.lanes)
    bits = builder.zext(value, wide)
    # The bits of a float16 moved to where float32 has them are the number times 2**-112, subnormal numbers included;
    # infinity and NaN then still lack some bits of their exponent.
    magnitude = builder.shl(builder.and_(bits, _constant(0x7FFF, tile)), _constant(13, tile))
    scale = ir.Constant(tile.vector, [2.0**112] * tile.lanes)
    scaled = builder.bitcast(builder.fmul(builder.bitcast(magnitude, tile.vector), scale), wide)
    special = builder.icmp_signed(">=", magnitude, _constant(0x7C00 << 13, tile))
    sign = builder.shl(builder.and_(bits, _constant(0x8000, tile)), _constant(16, tile))
    rest = builder.or_(sign, builder.select(special, _constant(0x7F80_0000, tile), _constant(0, tile)))
    return builder.bitcast(builder.or_(scaled, rest), tile.vector)


def make_view(context, builder, view, data, ld, inc):
    struct = cgutils.create_struct_proxy(view)(context, builder)
    struct.data, struct.ld, struct.inc = data, ld, inc
    return struct._getvalue()


@intrinsic
def matrix(typing_context, array):
    """Return the `View` of a 2-D array of any strides."""
    view = View(array.dtype)

    def codegen(context, builder, signature, args):
        a = context.make_array(signature.args[0])(context, builder, args[0])
        item = I64(array.dtype.bitwidth // 8)
        ld, inc = (builder.sdiv(stride, item) for stride in cgutils.unpack_tuple(builder, a.strides, 2))
        return make_view(context, builder, view, a.data, ld, inc)

    return view(array), codegen


@intrinsic
def rows_of(typing_context, buffer, offset, ld):
    """Return the `View` of a flat buffer, from element `offset` on, in rows of `ld` elements."""
    view = View(buffer.dtype)

    def codegen(context, builder, signature, args):
        a = context.make_array(signature.args[0])(context, builder, args[0])
        return make_view(context, builder, view, builder.gep(a.data, [args[1]]), args[2], I64(1))

    return view(buffer, types.intp, types.intp), codegen


@intrinsic
def matrix_at(typing_context, like, address, rows, columns, ld):
    """Return the `View`, of the dtype of `like`, of a `rows x columns` matrix at a memory address."""
    view = View(like.dtype)

    def codegen(context, builder, signature, args):
        pointer = context.get_value_type(types.CPointer(view.dtype))
        return make_view(context, builder, view, builder.inttoptr(args[1], pointer), args[4], I64(1))

    return view(like, types.intp, types.intp, types.intp, types.intp), codegen


@intrinsic(prefer_literal=True)
def weights_at(typing_context, like, address, rows, vectors, lanes, ld, form):
    """Return `matrix_at` for packed weights of as many columns, that are kept in a `form`, a literal."""
    if not isinstance(form, types.IntegerLiteral):
        return None
    view = View(like.dtype, form.literal_value)

    def codegen(context, builder, signature, args):
        pointer = context.get_value_type(types.CPointer(view.element))
        return make_view(context, builder, view, builder.inttoptr(args[1], pointer), args[5], I64(1))

    return view(like, *[types.intp] * 5, form), codegen


@intrinsic
def address_of(typing_context, array):
    """Return the memory address of an array's first element."""

    def codegen(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.ptrtoint(data, context.get_value_type(types.intp))

    return types.intp(array), codegen


@intrinsic
def part(typing_context, view, i, j):
    """Return ``view[i:, j:]``."""

    def codegen(context, builder, signature, args):
        v = cgutils.create_struct_proxy(signature.args[0])(context, builder, args[0])
        offset = builder.add(builder.mul(args[1], v.ld), builder.mul(args[2], v.inc))
        return make_view(context, builder, signature.args[0], builder.gep(v.data, [offset]), v.ld, v.inc)

    return view(view, types.intp, types.intp), codegen


@intrinsic(prefer_literal=True)
def start(typing_context, mr, nv, lanes, bias):
    """Return the tile whose every row is ``bias[0, :nv * lanes]``."""
    if not all(isinstance(a, types.IntegerLiteral) for a in (mr, nv, lanes)):
        return None
    tile = Tile(bias.dtype, mr.literal_value, nv.literal_value, lanes.literal_value)

    def codegen(context, builder, signature, args):
        b = cgutils.create_struct_proxy(signature.args[3])(context, builder, args[3])
        row = [_load(builder, b.data, I64(v * tile.lanes), tile) for v in range(tile.nv)]
        value = ir.Constant(ir.ArrayType(tile.vector, tile.mr * tile.nv), ir.Undefined)
        for index in range(tile.mr * tile.nv):
            value = builder.insert_value(value, row[index % tile.nv], index)
        return value

    return tile(mr, nv, lanes, bias), codegen


@intrinsic
def rank1(typing_context, tile, x, w, p):
    """Return ``tile[r, c] + x[r, p] * w[p, c]``, each a single fused multiply-add where the CPU has one.

    ``llvm.fmuladd``, not ``llvm.fma``: without FMA hardware the latter calls libm for every element.
    """

    def codegen(context, builder, signature, args):
        value = args[0]
        xv = cgutils.create_struct_proxy(signature.args[1])(context, builder, args[1])
        wv = cgutils.create_struct_proxy(signature.args[2])(context, builder, args[2])
        w_row = builder.mul(args[3], wv.ld)
        weights = _load_weights(builder, wv.data, w_row, tile, w.form)
        x_column = builder.gep(xv.data, [builder.mul(args[3], xv.inc)])
        for r in range(tile.mr):
            scalar = builder.load(builder.gep(x_column, [builder.mul(xv.ld, I64(r))]))
            a = _splat(builder, scalar, tile.vector)
            for v in range(tile.nv):
                index = r * tile.nv + v
                fma_args = [a, weights[v], builder.extract_value(value, index)]
                total = _call(builder, "llvm.fmuladd." + _suffix(tile.vector), tile.vector, fma_args)
                value = builder.insert_value(value, total, index)
        return value

    return tile(tile, x, w, types.intp), codegen


@intrinsic(prefer_literal=True)
def resume(typing_context, mr, nv, lanes, y):
    """Return the tile ``y[:mr, :nv * lanes]``."""
    if not all(isinstance(a, types.IntegerLiteral) for a in (mr, nv, lanes)):
        return None
    tile = Tile(y.dtype, mr.literal_value, nv.literal_value, lanes.literal_value)

    def codegen(context, builder, signature, args):
        yv = cgutils.create_struct_proxy(signature.args[3])(context, builder, args[3])
        value = ir.Constant(ir.ArrayType(tile.vector, tile.mr * tile.nv), ir.Undefined)
        for r in range(tile.mr):
            row = builder.gep(yv.data, [builder.mul(yv.ld, I64(r))])
            for v in range(tile.nv):
                value = builder.insert_value(value, _load(builder, row, I64(v * tile.lanes), tile), r * tile.nv + v)
        return value

    return tile(mr, nv, lanes, y), codegen


@intrinsic
def store(typing_context, tile, y, columns):
    """Write ``y[r, c] = tile[r, c]`` for every row and for c < `columns`; nothing beyond is touched."""

    def codegen(context, builder, signature, args):
        yv = cgutils.create_struct_proxy(signature.args[1])(context, builder, args[1])
        align = tile.dtype.bitwidth // 8
        row = [builder.gep(yv.data, [builder.mul(yv.ld, I64(r))]) for r in range(tile.mr)]
        whole = builder.icmp_signed(">=", args[2], I64(tile.nv * tile.lanes))
        with builder.if_else(whole) as (then, otherwise):
            with then:
                for r in range(tile.mr):
                    for v in range(tile.nv):
                        pointer = _vector_pointer(builder, row[r], I64(v * tile.lanes), tile.vector)
                        builder.store(builder.extract_value(args[0], r * tile.nv + v), pointer).align = align
            with otherwise:
                name = f"llvm.masked.store.{_suffix(tile.vector)}.p0"
                for v in range(tile.nv):
                    mask = _first(builder, builder.sub(args[2], I64(v * tile.lanes)), tile.lanes)
                    for r in range(tile.mr):
                        pointer = _vector_pointer(builder, row[r], I64(v * tile.lanes), tile.vector)
                        value = builder.extract_value(args[0], r * tile.nv + v)
                        _call(builder, name, ir.VoidType(), [value, pointer, I32(align), mask])
        return context.get_dummy_value()

    return types.void(tile, y, types.intp), codegen


@intrinsic
def row_at(typing_context, pointer, offset, size):
    """Return the contiguous 1-D array of `size` elements that begins `offset` elements after `pointer`."""
    array = types.Array(pointer.dtype, 1, "C")

    def codegen(context, builder, signature, args):
        itemsize = context.get_constant(types.intp, array.dtype.bitwidth // 8)
        result = context.make_array(array)(context, builder)
        data = builder.gep(args[0], [args[1]])
        populate_array(result, data, [args[2]], [itemsize], itemsize, None)
        return result._getvalue()

    return array(pointer, types.intp, types.intp), codegen
