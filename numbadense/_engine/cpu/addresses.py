"""What kernels reach through memory addresses: words, tables, other kernels, scratch that threads share.

Numba passes an array as seven words; an address is one.  Kernels and activation passes behind addresses are compiled
once per dtype, whoever calls them.
"""

from numba import from_dtype, types
from numba.core import cgutils
from numba.extending import intrinsic

from numbadense._engine.cpu.tile import I64, View, make_view


def _word_pointer(builder, address, index):
    return builder.gep(builder.inttoptr(address, I64.as_pointer()), [index])


@intrinsic
def word(typing_context, address, index):
    """Return the int64 that lies `index` words after an address."""

    def codegen(context, builder, signature, args):
        return builder.load(_word_pointer(builder, args[0], args[1]))

    return types.intp(types.intp, types.intp), codegen


@intrinsic
def swap(typing_context, address, index, value):
    """Put `value` where the word `index` words after an address is, and return what was there: atomically."""

    def codegen(context, builder, signature, args):
        pointer = _word_pointer(builder, args[0], args[1])
        return builder.atomic_rmw("xchg", pointer, args[2], "seq_cst")

    return types.intp(types.intp, types.intp, types.intp), codegen


@intrinsic
def rows_at(typing_context, view, offset, ld):
    """Return the memory of `view`, from `offset` elements on, in rows of `ld` elements."""

    def codegen(context, builder, signature, args):
        v = cgutils.create_struct_proxy(signature.args[0])(context, builder, args[0])
        return make_view(context, builder, signature.args[0], builder.gep(v.data, [args[1]]), args[2], I64(1))

    return view(view, types.intp, types.intp), codegen


@intrinsic
def view_of(typing_context, pointer, columns):
    """Return the `View` of one row of `columns` elements at a pointer."""
    view = View(pointer.dtype)

    def codegen(context, builder, signature, args):
        return make_view(context, builder, view, args[0], args[1], I64(1))

    return view(pointer, types.intp), codegen


@intrinsic
def copy_row(typing_context, source, target, n):
    """Copy ``target[0, :n] = source[0, :n]``, an element at a time.

    The caller's next step may be to read one of them: a masked store would keep it waiting until it is in the cache.
    """

    def codegen(context, builder, signature, args):
        s, t = (
            cgutils.create_struct_proxy(kind)(context, builder, view).data
            for kind, view in zip(signature.args[:2], args[:2], strict=True)
        )
        with cgutils.for_range(builder, args[2]) as loop:
            builder.store(builder.load(builder.gep(s, [loop.index])), builder.gep(t, [loop.index]))
        return context.get_dummy_value()

    return types.void(source, target, types.intp), codegen


@intrinsic
def copy_matrix(typing_context, source, target, m, n):
    """Copy ``target[:m, :n] = source[:m, :n]``, of any strides, the source's columns one after the other."""

    def codegen(context, builder, signature, args):
        s, t = (
            cgutils.create_struct_proxy(kind)(context, builder, view)
            for kind, view in zip(signature.args[:2], args[:2], strict=True)
        )

        def rows(inc):
            with cgutils.for_range(builder, args[2]) as row:
                origin = builder.gep(s.data, [builder.mul(row.index, s.ld)])
                goal = builder.gep(t.data, [builder.mul(row.index, t.ld)])
                with cgutils.for_range(builder, args[3]) as loop:
                    value = builder.load(builder.gep(origin, [loop.index]))
                    builder.store(value, builder.gep(goal, [builder.mul(loop.index, inc)]))

        with builder.if_else(builder.icmp_signed("==", t.inc, I64(1))) as (then, otherwise):
            with then:
                rows(I64(1))
            with otherwise:
                rows(t.inc)
        return context.get_dummy_value()

    return types.void(source, target, types.intp, types.intp), codegen


@intrinsic
def moved(typing_context, view, offset):
    """Return a view of other memory, `offset` elements further, with the strides of `view`."""

    def codegen(context, builder, signature, args):
        v = cgutils.create_struct_proxy(signature.args[0])(context, builder, args[0])
        return make_view(context, builder, signature.args[0], builder.gep(v.data, [args[1]]), v.ld, v.inc)

    return view(view, types.intp), codegen


@intrinsic
def transposed(typing_context, view):
    """Return a view with rows and columns exchanged."""

    def codegen(context, builder, signature, args):
        v = cgutils.create_struct_proxy(signature.args[0])(context, builder, args[0])
        return make_view(context, builder, signature.args[0], v.data, v.inc, v.ld)

    return view(view), codegen


def call_compiled(context, builder, address, kinds, args):
    """Call the function at an address that numba compiled for arguments of `kinds` and that returns nothing.

    By numba's own convention, not C's, so that no wrapper copies the arguments.  An error, which only a check of bounds
    can give, becomes the caller's.
    """
    convention = context.call_conv
    function_type = convention.get_function_type(types.none, kinds)
    function = builder.inttoptr(address, function_type.as_pointer())
    status, _ = convention.call_function(builder, function, types.none, kinds, args)
    with builder.if_then(status.is_error, likely=False):
        convention.return_status_propagate(builder, status)
    return context.get_dummy_value()


@intrinsic
def call_kernel(typing_context, address, code, base, x, m, y, scratch, half):
    """Call the network kernel at `address`: see `numbadense._engine.cpu.forward.kernel`."""

    def codegen(context, builder, signature, args):
        return call_compiled(context, builder, args[0], signature.args[1:], args[1:])

    integer = types.intp
    return types.void(integer, integer, integer, x, integer, y, scratch, integer), codegen


@intrinsic
def call_layer(typing_context, address, x, m, k, n, w, w_row, w_panel, bias, y):
    """Call the kernel of one layer at `address`: see `numbadense._engine.cpu.forward.make_layer`."""

    def codegen(context, builder, signature, args):
        return call_compiled(context, builder, args[0], signature.args[1:], args[1:])

    return types.void(types.intp, x, *[types.intp] * 7, y), codegen


@intrinsic
def call_pass(typing_context, address, x, y, rows, columns):
    """Call the activation pass at `address` from ``x[:rows, :columns]`` to y: the same view or one apart from it."""
    pointer = types.CPointer(x.dtype)
    kinds = (pointer, pointer, *[types.int64] * 4)

    def codegen(context, builder, signature, args):
        xv, yv = (cgutils.create_struct_proxy(signature.args[i])(context, builder, args[i]) for i in (1, 2))
        apart = builder.zext(builder.icmp_unsigned("!=", xv.data, yv.data), I64)
        operands = [xv.data, yv.data, args[3], args[4], yv.ld, apart]
        return call_compiled(context, builder, args[0], kinds, operands)

    return types.void(types.intp, x, y, types.intp, types.intp), codegen


@intrinsic
def call_chain(typing_context, address, slopes, tangents, rows, each, columns):
    """Call the chain rule at `address`: see `numbadense._engine.cpu.differential.multiply`."""
    pointer = types.CPointer(slopes.dtype)
    kinds = (pointer, pointer, *[types.int64] * 5)

    def codegen(context, builder, signature, args):
        s, t = (cgutils.create_struct_proxy(signature.args[i])(context, builder, args[i]) for i in (1, 2))
        return call_compiled(context, builder, args[0], kinds, [s.data, t.data, *args[3:], s.ld, t.ld])

    return types.void(types.intp, slopes, tangents, *[types.intp] * 3), codegen


@intrinsic
def call_differential(typing_context, address, code, x, m, v, each, y, dy, step, scratch, block, group, units):
    """Call the kernel of derivatives at `address`: see `numbadense._engine.cpu.differential.make_kernel`."""

    def codegen(context, builder, signature, args):
        return call_compiled(context, builder, args[0], signature.args[1:], args[1:])

    integer = types.intp
    kinds = (integer, x, integer, v, integer, y, dy, integer, scratch, integer, integer, integer)
    return types.void(integer, *kinds), codegen


@intrinsic
def address(typing_context, operand):
    """Return the address of the object that an operand is."""
    return types.intp(operand), lambda context, builder, signature, args: args[0]


def make_borrow(dtype):
    """Return the intrinsic ``borrow(address, rows, ld)``: memory at an address, in rows of `ld` elements of a dtype."""
    element = from_dtype(dtype)
    view = View(element)

    @intrinsic
    def borrow(typing_context, address, rows, ld):
        def codegen(context, builder, signature, args):
            data = builder.inttoptr(args[0], context.get_value_type(types.CPointer(element)))
            return make_view(context, builder, view, data, args[2], I64(1))

        return view(types.intp, types.intp, types.intp), codegen

    return borrow
