"""The numba type of a network: an argument of the user's own compiled functions, which call it.

One type for all networks of a dtype, so that another network compiles nothing.  Its value is the address of the
network's code and a reference to the Python object, as an array's is to its base:

::

    meminfo | parent | code         code: see `numbadense._engine.program`

A further method is an `overload_method` of `NetworkType` at the end of this module, over `code_of`.

numba finds this module by its name in the caches of users' functions: it has to stay importable under it.
"""

import ctypes

import numpy as np
from numba import from_dtype, types
from numba.core import cgutils, errors
from numba.core.typing.typeof import Purpose
from numba.extending import (
    NativeValue,
    box,
    intrinsic,
    lower_builtin,
    models,
    overload_attribute,
    overload_method,
    register_model,
    typeof_impl,
    unbox,
)

from numbadense._engine import cache, slopes
from numbadense._engine import compile as compiler
from numbadense._engine.cpu import differential
from numbadense._engine.cpu.forward import BLOCK, FEATURES, JACOBIAN, OUTPUTS, ROW_KERNEL, TANGENTS, WIDTH, WORD
from numbadense._engine.cpu.inside import STACK
from numbadense._engine.cpu.primitives import call_kernel, matrix, transposed, word
from numbadense._engine.cpu.tile import I64, View, make_view
from numbadense._engine.cpu.vectors import on_stack
from numbadense.errors import OptionError, OutputError, ShapeError

# Compiled code raises fixed sentences alone.
ROW_SHAPE = "x must be (n_in,) and out (n_out,) of the network: f.n_in and f.n_out say how many."
BLOCK_SHAPE = "x must be (m, n_in) and out (m, n_out) of the network: f.n_in and f.n_out say how many."
STRIDES = "x or out has strides that are no multiple of an element's size: pass a copy."
OUT_ROWS = "out must have contiguous rows."
NO_ROOM = f"hidden layers need more than {STACK} bytes of the stack: pass scratch, from f.scratch() in Python."
SMALL = "scratch is too small for this network: take it from f.scratch() in Python."
DERIVATIVES = "the network's derivatives are not built: pass f.differentiable(), which builds them."
NO_DERIVED_ROOM = (
    f"derivatives of this network need more than {STACK} bytes of scratch: pass scratch, from "
    "f.scratch(derivatives=True) in Python."
)
TANGENT_SHAPE = "v must have the shape of x, and dout that of out."
JACOBIAN_SHAPE = "jac must be (n_out, n_in) for a row x, and (m, n_out, n_in) for a block of rows."
GLOBAL = (
    "a network is a global or closure variable of a compiled function, which would keep addresses of this process: "
    "pass net.jit as an argument instead."
)


class NetworkType(types.Type):
    """A network that computes in a dtype.

    Its name has a digest of the package, because what a user's function compiles of it is in the user's own cache.
    """

    def __init__(self, dtype):
        self.dtype = dtype
        super().__init__(f"numbadense.Network({dtype}, {cache.stamp().hex()[:16]})")

    def __reduce__(self):
        # By its name too, so that what another version of the package has cached is found to be of another type.
        return _rebuilt, (str(self.dtype), self.name)


def _rebuilt(dtype, name):
    found = NetworkType(getattr(types, dtype))
    return found if found.name == name else types.Opaque(name)


def type_of(dtype: np.dtype) -> NetworkType:
    """Return the numba type of the networks of a dtype."""
    return NetworkType(from_dtype(dtype))


def block_rows(address: int) -> int:
    """Return how many rows at once the code at an address takes at most."""
    return ctypes.c_int64.from_address(address + BLOCK * WORD).value


def register(python_class) -> None:
    """Let numba take objects of a class: each has its type as `_numba_type_` and the address of its code as `_address`.

    numba's dispatch finds the first by itself, and so fast; here is what it asks about constants.
    """

    @typeof_impl.register(python_class)
    def typeof(value, context):
        if context.purpose is Purpose.constant:
            raise errors.NumbaTypeError(GLOBAL)
        return value._numba_type_


@register_model(NetworkType)
class _Model(models.StructModel):
    def __init__(self, manager, kind):
        members = [
            ("meminfo", types.MemInfoPointer(types.voidptr)),
            ("parent", types.pyobject),
            ("code", types.intp),
        ]
        super().__init__(manager, kind, members)


@unbox(NetworkType)
def _unbox(kind, obj, c):
    address = c.pyapi.object_getattr_string(obj, "_address")
    value = cgutils.create_struct_proxy(kind)(c.context, c.builder)
    value.code = c.pyapi.long_as_longlong(address)
    c.pyapi.decref(address)
    nothing = cgutils.get_null_value(cgutils.voidptr_t)
    value.meminfo = c.pyapi.nrt_meminfo_new_from_pyobject(nothing, obj)
    value.parent = obj
    return NativeValue(value._getvalue(), is_error=cgutils.is_not_null(c.builder, c.pyapi.err_occurred()))


@box(NetworkType)
def _box(kind, value, c):
    parent = cgutils.create_struct_proxy(kind)(c.context, c.builder, value).parent
    c.pyapi.incref(parent)
    if c.context.enable_nrt:
        c.context.nrt.decref(c.builder, kind, value)
    return parent


@intrinsic
def code_of(typing_context, network):
    """Return the address of a network's code."""

    def codegen(context, builder, signature, args):
        return cgutils.create_struct_proxy(network)(context, builder, args[0]).code

    return types.intp(network), codegen


@intrinsic
def row(typing_context, array):
    """Return the `View` of a 1-D array of any stride, as one row."""
    view = View(array.dtype)

    def codegen(context, builder, signature, args):
        a = context.make_array(array)(context, builder, args[0])
        (stride,) = cgutils.unpack_tuple(builder, a.strides, 1)
        inc = builder.sdiv(stride, I64(array.dtype.bitwidth // 8))
        return make_view(context, builder, view, a.data, I64(0), inc)

    return view(array), codegen


@overload_attribute(NetworkType, "n_in")
def _n_in(network):
    return lambda network: word(code_of(network), FEATURES)


@overload_attribute(NetworkType, "n_out")
def _n_out(network):
    return lambda network: word(code_of(network), OUTPUTS)


def absent(kind) -> bool:
    """Say whether an optional argument is left out."""
    return kind is None or isinstance(kind, (types.NoneType, types.Omitted))


def check(network, x, out, scratch, *others) -> None:
    """Raise numba's error for arguments of the wrong type: one sentence.

    `others` are more arrays: the name of each, itself, and how many axes more than x it has.
    """
    arrays = [("x", x, (1, 2)), ("out", out, (1, 2))] + ([] if absent(scratch) else [("scratch", scratch, (1,))])
    arrays += [(name, array, (1 + more, 2 + more)) for name, array, more in others]
    for name, array, axes in arrays:
        if not isinstance(array, types.Array) or array.ndim not in axes:
            raise errors.TypingError(f"{name} is {array} but must be an array of {' or '.join(map(str, axes))} axes.")
        if array.dtype != network.dtype:
            raise errors.TypingError(f"{name} is of {array.dtype} but the network computes in {network.dtype}.")
        if not array.aligned:
            raise errors.TypingError(f"{name} is not aligned in memory; pass a copy.")
        if name not in ("x", "v") and not array.mutable:
            raise errors.TypingError(f"{name} is read-only.")
        if name == "scratch" and array.layout != "C":
            raise errors.TypingError("scratch is not contiguous.")
    for name, array, more in others:
        if array.ndim != x.ndim + more:
            raise errors.TypingError(f"x has {x.ndim} axes and {name} {array.ndim}, but {x.ndim + more} are needed.")
    if x.ndim != out.ndim:
        raise errors.TypingError(f"x has {x.ndim} axes but out has {out.ndim}.")


@intrinsic(prefer_literal=True)
def hidden(typing_context, x, scratch, elements):
    """Return the `View` of scratch, flat, or if there is none of so many elements of the caller's stack."""
    view = View(x.dtype)

    def codegen(context, builder, signature, args):
        if absent(scratch):
            data = on_stack(context, builder, x.dtype, elements.literal_value)
        else:
            data = context.make_array(scratch)(context, builder, args[1]).data
        return make_view(context, builder, view, data, I64(1), I64(1))

    return view(x, scratch, elements), codegen


@intrinsic(prefer_literal=True)
def room(typing_context, scratch, elements):
    """Return how many elements `hidden` has."""

    def codegen(context, builder, signature, args):
        if absent(scratch):
            return I64(elements.literal_value)
        return builder.extract_value(context.make_array(scratch)(context, builder, args[0]).shape, 0)

    return types.intp(scratch, elements), codegen


@overload_method(NetworkType, "__call__")
def _call(network, x, out, scratch=None):
    check(network, x, out, scratch)
    itemsize = network.dtype.bitwidth // 8
    elements = STACK // itemsize
    no_room = NO_ROOM if absent(scratch) else SMALL
    through = compiler.propagate()

    def one_row(network, x, out, scratch=None):
        code = code_of(network)
        if x.size != word(code, FEATURES) or out.size != word(code, OUTPUTS):
            raise ShapeError(ROW_SHAPE)
        if out.strides[0] != itemsize and out.size > 1:
            raise OutputError(OUT_ROWS)
        if x.strides[0] & (itemsize - 1) != 0:
            raise ShapeError(STRIDES)
        width = word(code, WIDTH)
        if 2 * width > room(scratch, elements):
            raise OptionError(no_room)
        call_kernel(word(code, ROW_KERNEL), code, 0, row(x), 1, row(out), hidden(x, scratch, elements), width)

    def block(network, x, out, scratch=None):
        code, m = code_of(network), x.shape[0]
        if x.shape[1] != word(code, FEATURES) or out.shape[1] != word(code, OUTPUTS) or out.shape[0] != m:
            raise ShapeError(BLOCK_SHAPE)
        if out.strides[1] != itemsize and out.shape[1] > 1 and m > 0:
            raise OutputError(OUT_ROWS)
        if (x.strides[0] | x.strides[1] | out.strides[0]) & (itemsize - 1) != 0:
            raise ShapeError(STRIDES)
        size = room(scratch, elements)
        if 2 * word(code, WIDTH) > size:
            raise OptionError(no_room)
        through(code, matrix(x), m, matrix(out), hidden(x, scratch, elements), size)

    return one_row if x.ndim == 1 else block


@overload_method(NetworkType, "jvp")
def _jvp(network, x, v, out, dout, scratch=None):
    check(network, x, out, scratch, ("v", v, 0), ("dout", dout, 0))
    itemsize = network.dtype.bitwidth // 8
    elements = STACK // itemsize
    inside = slopes.inside()

    def one_row(network, x, v, out, dout, scratch=None):
        code, of = code_of(network), word(code_of(network), TANGENTS)
        if x.size != word(code, FEATURES) or out.size != word(code, OUTPUTS):
            raise ShapeError(ROW_SHAPE)
        if v.size != x.size or dout.size != out.size:
            raise ShapeError(TANGENT_SHAPE)
        if (x.strides[0] | v.strides[0] | out.strides[0] | dout.strides[0]) & (itemsize - 1) != 0:
            raise ShapeError(STRIDES)
        if of == 0:
            raise OptionError(DERIVATIVES)
        own, size = hidden(x, scratch, elements), room(scratch, elements)
        if not inside(of, row(x), 1, row(v), 1, row(out), row(dout), 0, own, size, 0):
            raise OptionError(NO_DERIVED_ROOM)

    def block(network, x, v, out, dout, scratch=None):
        code, of, m = code_of(network), word(code_of(network), TANGENTS), x.shape[0]
        if x.shape[1] != word(code, FEATURES) or out.shape[1] != word(code, OUTPUTS) or out.shape[0] != m:
            raise ShapeError(BLOCK_SHAPE)
        if v.shape != x.shape or dout.shape != out.shape:
            raise ShapeError(TANGENT_SHAPE)
        strides = x.strides[0] | x.strides[1] | v.strides[0] | v.strides[1] | out.strides[0] | out.strides[1]
        if (strides | dout.strides[0] | dout.strides[1]) & (itemsize - 1) != 0:
            raise ShapeError(STRIDES)
        if of == 0:
            raise OptionError(DERIVATIVES)
        own, size, step = hidden(x, scratch, elements), room(scratch, elements), dout.strides[0] // itemsize
        if not inside(of, matrix(x), m, matrix(v), 1, matrix(out), matrix(dout), step, own, size, 0):
            raise OptionError(NO_DERIVED_ROOM)

    return one_row if x.ndim == 1 else block


@overload_method(NetworkType, "jacobian")
def _jacobian(network, x, out, jac, scratch=None):
    check(network, x, out, scratch, ("jac", jac, 1))
    itemsize = network.dtype.bitwidth // 8
    elements = STACK // itemsize
    inside = slopes.inside()

    def one_row(network, x, out, jac, scratch=None):
        code, of = code_of(network), word(code_of(network), JACOBIAN)
        if x.size != word(code, FEATURES) or out.size != word(code, OUTPUTS):
            raise ShapeError(ROW_SHAPE)
        if jac.shape != (out.size, x.size):
            raise ShapeError(JACOBIAN_SHAPE)
        if (x.strides[0] | out.strides[0] | jac.strides[0] | jac.strides[1]) & (itemsize - 1) != 0:
            raise ShapeError(STRIDES)
        if of == 0:
            raise OptionError(DERIVATIVES)
        own, size, each, goal = hidden(x, scratch, elements), room(scratch, elements), out.size, matrix(jac)
        if word(of, differential.BACKWARD) == 0:
            each, goal = x.size, transposed(goal)
        if not inside(of, row(x), 1, row(x), each, row(out), goal, 0, own, size, 1):
            raise OptionError(NO_DERIVED_ROOM)

    def block(network, x, out, jac, scratch=None):
        code, of, m = code_of(network), word(code_of(network), JACOBIAN), x.shape[0]
        if x.shape[1] != word(code, FEATURES) or out.shape[1] != word(code, OUTPUTS) or out.shape[0] != m:
            raise ShapeError(BLOCK_SHAPE)
        if jac.shape != (m, out.shape[1], x.shape[1]):
            raise ShapeError(JACOBIAN_SHAPE)
        strides = x.strides[0] | x.strides[1] | out.strides[0] | out.strides[1]
        if (strides | jac.strides[0] | jac.strides[1] | jac.strides[2]) & (itemsize - 1) != 0:
            raise ShapeError(STRIDES)
        if of == 0:
            raise OptionError(DERIVATIVES)
        if m == 0:
            return
        own, size, each, goal = hidden(x, scratch, elements), room(scratch, elements), out.shape[1], matrix(jac[0])
        if word(of, differential.BACKWARD) == 0:
            each, goal = x.shape[1], transposed(goal)
        step = jac.strides[0] // itemsize
        if not inside(of, matrix(x), m, matrix(x), each, matrix(out), goal, step, own, size, 1):
            raise OptionError(NO_DERIVED_ROOM)

    return one_row if x.ndim == 1 else block


@lower_builtin(NetworkType, NetworkType, types.VarArg(types.Any))
def _lower_call(context, builder, signature, args):
    typing = context.typing_context
    bound = typing.resolve_getattr(signature.args[0], "__call__")
    call = typing.resolve_function_type(bound, signature.args[1:], {})
    return context.get_function(bound, call)(builder, args)
