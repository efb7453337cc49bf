"""What Python has no words for on a device: accesses of 16 bytes, and copies that run while the threads compute.

Arrays are contiguous, whatever their dimensions, and an index counts elements from their beginning: there is no
wraparound, so that no access pays for one.  A chunk is 16 bytes: four float32, two float64.

Kernels take these names from `numbadense._engine.cuda.primitives`, which knows their NumPy twins.
"""

from llvmlite import ir
from numba import cuda
from numba.core import types
from numba.cuda.extending import intrinsic

from numbadense._engine.cuda import words
from numbadense._engine.cuda.ptx.assembly import assemble

__all__ = [
    "CHUNK",
    "address",
    "block_number",
    "commit",
    "copy1",
    "copy16",
    "fma",
    "int32",
    "load1",
    "load16",
    "make_dynamic_shared",
    "make_shared",
    "make_wait",
    "part_number",
    "store8",
    "store16",
    "thread",
]

CHUNK = 16
I32, I64 = ir.IntType(32), ir.IntType(64)
SHARED = 3  # the address space

fma = words.fused()
int32 = types.int32  # a conversion


def pointer(context, builder, signature, arguments, at):
    """Return where the element is that the arguments `at`, an array, and ``at + 1``, an index, say."""
    data = context.make_array(signature.args[at])(context, builder, arguments[at]).data
    return builder.gep(data, [context.cast(builder, arguments[at + 1], signature.args[at + 1], types.int64)])


def elements(first, count, builder):
    """Return where the `count` elements from the one at `first` on are."""
    return [builder.gep(first, [I64(q)]) for q in range(count)]


def shared_address(context, builder, signature, arguments, at):
    """Return the address in shared memory, in 32 bits, of the element that two arguments say."""
    place = pointer(context, builder, signature, arguments, at)
    return builder.ptrtoint(builder.addrspacecast(place, place.type.pointee.as_pointer(SHARED)), I32)


def _vector(context, builder, place, size=CHUNK):
    """Return a pointer to the vector of `size` bytes at `place`, and its length."""
    number = place.type.pointee
    count = size // context.get_abi_sizeof(number)
    return builder.bitcast(place, ir.VectorType(number, count).as_pointer()), count


@intrinsic
def load1(typing_context, array, index):
    """Return ``array[index]``."""

    def generate(context, builder, signature, arguments):
        return builder.load(pointer(context, builder, signature, arguments, 0))

    return array.dtype(array, index), generate


@intrinsic
def load16(typing_context, registers, at, array, index):
    """Load a chunk: ``registers[at:at + count] = array[index:index + count]``, aligned in `array`."""

    def generate(context, builder, signature, arguments):
        source, count = _vector(context, builder, pointer(context, builder, signature, arguments, 2))
        loaded = builder.load(source, align=CHUNK)
        for q, place in enumerate(elements(pointer(context, builder, signature, arguments, 0), count, builder)):
            builder.store(builder.extract_element(loaded, I32(q)), place)

    return types.void(registers, at, array, index), generate


def _make_store(size):
    @intrinsic
    def store(typing_context, array, index, registers, at):
        def generate(context, builder, signature, arguments):
            target, count = _vector(context, builder, pointer(context, builder, signature, arguments, 0), size)
            chunk = ir.Constant(target.type.pointee, ir.Undefined)
            for q, place in enumerate(elements(pointer(context, builder, signature, arguments, 2), count, builder)):
                chunk = builder.insert_element(chunk, builder.load(place), I32(q))
            builder.store(chunk, target, align=size)

        return types.void(array, index, registers, at), generate

    return store


store16 = _make_store(CHUNK)  # a chunk: array[index:index + count] = registers[at:at + count], aligned in array
store8 = _make_store(CHUNK // 2)  # half a chunk, aligned to that


def _copy(context, builder, signature, arguments, size, cache):
    """Emit a copy of `size` bytes: of none, and zeros, where it is not wanted; where that is does not matter then."""
    target = shared_address(context, builder, signature, arguments, 0)
    source = builder.ptrtoint(pointer(context, builder, signature, arguments, 2), I64)
    wanted = builder.icmp_unsigned("!=", arguments[4], ir.Constant(arguments[4].type, 0))
    text = f"cp.async.{cache}.shared.global [$0], [$1], {size}, $2;"
    values = target, source, builder.select(wanted, I32(size), I32(0))
    assemble(builder, ir.VoidType(), text, "r,l,r,~{memory}", values)


@intrinsic
def copy16(typing_context, shared, at, array, index, wanted):
    """Begin the copy of a chunk from global to shared memory, aligned in both; of zeros where it is not `wanted`."""

    def generate(context, builder, signature, arguments):
        _copy(context, builder, signature, arguments, CHUNK, "cg")

    return types.void(shared, at, array, index, types.boolean), generate


@intrinsic
def copy1(typing_context, shared, at, array, index, wanted):
    """Begin the copy of an element from global to shared memory; of zero where it is not `wanted`."""

    def generate(context, builder, signature, arguments):
        size = context.get_abi_sizeof(context.get_value_type(signature.args[0].dtype))
        _copy(context, builder, signature, arguments, size, "ca")

    return types.void(shared, at, array, index, types.boolean), generate


def _instruction(text):
    @intrinsic
    def instruction(typing_context):
        def generate(context, builder, signature, arguments):
            assemble(builder, ir.VoidType(), text, "~{memory}")

        return types.void(), generate

    return instruction


commit = _instruction("cp.async.commit_group;")  # the copies begun since the last one are a group


def make_wait(pending):
    """Return the function that waits until at most `pending` groups of this thread's copies are under way."""
    return _instruction(f"cp.async.wait_group {pending};")


def special(register):
    """Return the function that reads a register of the hardware, each time anew: the compiler does not keep it."""

    @intrinsic
    def read(typing_context):
        def generate(context, builder, signature, arguments):
            return assemble(builder, I32, f"mov.u32 $0, %{register};", "=r")

        return types.uint32(), generate

    return read


thread = special("tid.x")
block_number = special("ctaid.x")
part_number = special("ctaid.y")


@intrinsic
def address(typing_context, array):
    """Return where an array begins."""

    def generate(context, builder, signature, arguments):
        return builder.ptrtoint(context.make_array(array)(context, builder, arguments[0]).data, I64)

    return types.int64(array), generate


def make_shared(jit, size, element):
    """Return the function that gives all threads of a block the same `size` elements of shared memory, aligned.

    One call of it in a kernel is one array.
    """

    def shared():
        return cuda.shared.array(size, element, CHUNK)

    return jit(shared)


def make_dynamic_shared(jit, element):
    """Return the function that gives all threads of a block the shared memory that the launch asked for, aligned."""

    def shared():
        return cuda.shared.array(0, element, CHUNK)

    return jit(shared)
