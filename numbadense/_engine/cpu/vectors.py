"""A row of memory as SIMD vectors: loads and stores of any length, sums and maxima over lanes, streaming stores.

The value is a one-row :class:`~numbadense._engine.cpu.tile.Tile`: 1 x nv vectors.  Every load and store takes the
number of elements that are there, and touches no other:

::

    load(nv=2, lanes=4, x, offset, count=6, fill)      x[offset + 0 1 2 3] | x[offset + 4 5], fill, fill

A `count` that is constant and large enough compiles to plain loads and stores.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from numbadense._engine.cpu.tile import I32, I64, Tile, _call, _splat, _suffix, _vector_pointer

LINE = 64  # bytes of a cache line, which a streaming store should fill


@intrinsic
def pointer(typing_context, array):
    """Return the pointer to an array's first element."""
    result = types.CPointer(array.dtype)

    def codegen(context, builder, signature, args):
        return context.make_array(signature.args[0])(context, builder, args[0]).data

    return result(array), codegen


def _literals(*arguments):
    if all(isinstance(argument, types.IntegerLiteral) for argument in arguments):
        return [argument.literal_value for argument in arguments]
    return None


def _masks(builder, tile, count):
    """Return a mask per vector: which of its lanes are among the first `count` elements."""
    most = I64(tile.nv * tile.lanes)
    least = builder.select(builder.icmp_signed("<", count, most), count, most)
    index = ir.VectorType(I32, tile.lanes)
    limit = _splat(builder, builder.trunc(least, I32), index)
    for v in range(tile.nv):
        lanes = ir.Constant(index, [v * tile.lanes + lane for lane in range(tile.lanes)])
        yield builder.icmp_signed("<", lanes, limit)


def _vectors(builder, tile, value):
    return [builder.extract_value(value, v) for v in range(tile.nv)]


def _pack(builder, tile, vectors):
    value = ir.Constant(ir.ArrayType(tile.vector, tile.nv), ir.Undefined)
    for v, vector in enumerate(vectors):
        value = builder.insert_value(value, vector, v)
    return value


@intrinsic(prefer_literal=True)
def full(typing_context, nv, lanes, value):
    """Return the tile whose every element is `value`."""
    shape = _literals(nv, lanes)
    if shape is None:
        return None
    tile = Tile(value, 1, *shape)

    def codegen(context, builder, signature, args):
        return _pack(builder, tile, [_splat(builder, args[2], tile.vector)] * tile.nv)

    return tile(nv, lanes, value), codegen


@intrinsic(prefer_literal=True)
def load(typing_context, nv, lanes, pointer, offset, count, fill):
    """Return ``pointer[offset:offset + count]`` and `fill` after it."""
    shape = _literals(nv, lanes)
    if shape is None:
        return None
    tile = Tile(pointer.dtype, 1, *shape)
    align = tile.dtype.bitwidth // 8

    def codegen(context, builder, signature, args):
        start = builder.gep(args[2], [args[3]])
        other = _splat(builder, args[5], tile.vector)
        name = f"llvm.masked.load.{_suffix(tile.vector)}.p0"
        loaded = []
        for v, mask in enumerate(_masks(builder, tile, args[4])):
            place = _vector_pointer(builder, start, I64(v * tile.lanes), tile.vector)
            loaded.append(_call(builder, name, tile.vector, [place, I32(align), mask, other]))
        return _pack(builder, tile, loaded)

    return tile(nv, lanes, pointer, types.intp, types.intp, tile.dtype), codegen


@intrinsic
def put(typing_context, tile, pointer, offset, count):
    """Write the first `count` elements of the tile to ``pointer[offset:]``."""

    def codegen(context, builder, signature, args):
        start = builder.gep(args[1], [args[2]])
        align = tile.dtype.bitwidth // 8
        name = f"llvm.masked.store.{_suffix(tile.vector)}.p0"
        for v, mask in enumerate(_masks(builder, tile, args[3])):
            place = _vector_pointer(builder, start, I64(v * tile.lanes), tile.vector)
            _call(builder, name, ir.VoidType(), [builder.extract_value(args[0], v), place, I32(align), mask])
        return context.get_dummy_value()

    return types.void(tile, pointer, types.intp, types.intp), codegen


@intrinsic
def stream(typing_context, tile, pointer, offset):
    """Write the tile to ``pointer[offset:]``, which begins a cache line, past the caches."""

    def codegen(context, builder, signature, args):
        start = builder.gep(args[1], [args[2]])
        for v, vector in enumerate(_vectors(builder, tile, args[0])):
            place = _vector_pointer(builder, start, I64(v * tile.lanes), tile.vector)
            written = builder.store(vector, place)
            written.align = tile.lanes * tile.dtype.bitwidth // 8
            written.set_metadata("nontemporal", builder.module.add_metadata([I32(1)]))
        return context.get_dummy_value()

    return types.void(tile, pointer, types.intp), codegen


@intrinsic
def fence(typing_context):
    """Wait until every store is seen by all threads, streaming ones included."""

    def codegen(context, builder, signature, args):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), codegen


def _larger(builder, a, b):
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


def _sum(builder, a, b):
    return builder.fadd(a, b)


def _pairwise(operation, doc):
    @intrinsic
    def combine(typing_context, a, b):
        if not isinstance(a, Tile) or a != b:
            return None

        def codegen(context, builder, signature, args):
            pairs = zip(*(_vectors(builder, a, value) for value in args), strict=True)
            return _pack(builder, a, [operation(builder, *pair) for pair in pairs])

        return a(a, b), codegen

    combine.__doc__ = doc
    return combine


def _with_number(operation, doc):
    @intrinsic
    def combine(typing_context, tile, number):
        if not isinstance(tile, Tile):
            return None

        def codegen(context, builder, signature, args):
            every = _splat(builder, args[1], tile.vector)
            return _pack(builder, tile, [operation(builder, v, every) for v in _vectors(builder, tile, args[0])])

        return tile(tile, tile.dtype), codegen

    combine.__doc__ = doc
    return combine


def _over_vectors(operation, doc):
    @intrinsic
    def fold(typing_context, tile):
        one = Tile(tile.dtype, 1, 1, tile.lanes)

        def codegen(context, builder, signature, args):
            vectors = _vectors(builder, tile, args[0])
            while len(vectors) > 1:
                half = len(vectors) // 2
                vectors = [operation(builder, vectors[v], vectors[v + half]) for v in range(half)]
            return _pack(builder, one, vectors)

        return one(tile), codegen

    fold.__doc__ = doc
    return fold


def _over_lanes(operation, doc):
    @intrinsic
    def fold(typing_context, tile):
        if tile.nv != 1:
            return None

        def codegen(context, builder, signature, args):
            vector = builder.extract_value(args[0], 0)
            width = tile.lanes
            while width > 1:
                width //= 2
                upper = ir.Constant(ir.VectorType(I32, width), list(range(width, 2 * width)))
                lower = ir.Constant(ir.VectorType(I32, width), list(range(width)))
                nothing = ir.Constant(vector.type, ir.Undefined)
                halves = [builder.shuffle_vector(vector, nothing, half) for half in (lower, upper)]
                vector = operation(builder, *halves)
            return builder.extract_element(vector, I32(0))

        return tile.dtype(tile), codegen

    fold.__doc__ = doc
    return fold


def _nought(builder, a, b):
    """Return b where a is 0, and 0 elsewhere."""
    zero = ir.Constant(a.type, None)
    return builder.select(builder.fcmp_ordered("==", a, zero), b, zero)


larger = _pairwise(_larger, "Return the larger of each two elements; the second, where one is NaN.")
plus = _pairwise(_sum, "Return the sum of each two elements.")
minus = _with_number(lambda builder, a, b: builder.fsub(a, b), "Return each element minus a number.")
times = _with_number(lambda builder, a, b: builder.fmul(a, b), "Return each element times a number.")
noughts = _with_number(_nought, "Return a number where an element is 0, and 0 elsewhere.")
fold_larger = _over_vectors(_larger, "Return the largest over the vectors, lane by lane; their number is a power of 2.")
fold_sum = _over_vectors(_sum, "Return the sum over the vectors, lane by lane; their number is a power of 2.")
largest = _over_lanes(_larger, "Return the largest of one vector's lanes.")
total = _over_lanes(_sum, "Return the sum of one vector's lanes, by halves.")


def on_stack(context, builder, dtype, size):
    """Return the LLVM pointer to `size` elements on the stack, at the beginning of a line."""
    with builder.goto_entry_block():  # numba's own helper would fill it with zeros at each call
        place = builder.alloca(ir.ArrayType(context.get_data_type(dtype), size))
    place.align = LINE
    return builder.bitcast(place, context.get_value_type(types.CPointer(dtype)))


@intrinsic(prefer_literal=True)
def stack(typing_context, like, size):
    """Return a pointer to `size` elements of the dtype of `like` on the stack, not set, at the beginning of a line."""
    sizes = _literals(size)
    if sizes is None:
        return None
    pointer = types.CPointer(like.dtype)

    def codegen(context, builder, signature, args):
        return on_stack(context, builder, like.dtype, sizes[0])

    return pointer(like, size), codegen


@intrinsic
def allocate(typing_context, like, size):
    """Return a pointer to `size` elements of the dtype of `like` that `release` has to give back, or a null pointer."""
    pointer = types.CPointer(like.dtype)

    def codegen(context, builder, signature, args):
        size = builder.mul(args[1], I64(like.dtype.bitwidth // 8))
        return builder.bitcast(context.nrt.allocate_unchecked(builder, size), context.get_value_type(pointer))

    return pointer(like, types.intp), codegen


@intrinsic
def is_null(typing_context, pointer):
    """Say whether there is nothing where a pointer points."""

    def codegen(context, builder, signature, args):
        return cgutils.is_null(builder, args[0])

    return types.boolean(pointer), codegen


@intrinsic
def release(typing_context, pointer):
    """Give back what `allocate` returned."""

    def codegen(context, builder, signature, args):
        context.nrt.free(builder, builder.bitcast(args[0], cgutils.voidptr_t))
        return context.get_dummy_value()

    return types.void(pointer), codegen
