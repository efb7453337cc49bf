"""What Hopper has besides: multiplications by a warpgroup, copies of boxes, barriers that count bytes, clusters.

A warpgroup is four warps, whose threads call what concerns it together.  Shared memory is dynamic, and has 32-bit
addresses, which blocks of a cluster share but for their rank.  See the PTX ISA, sections wgmma, cp.async.bulk.tensor,
mbarrier, barrier.cluster, mapa and setmaxnreg.

Kernels take these names from `primitives` in `numbadense._engine.cuda.hopper`, which knows their NumPy twins.
"""

from llvmlite import ir
from numba import cuda
from numba.core import cgutils, types
from numba.cuda.extending import intrinsic

from numbadense._engine.cuda.ptx.assembly import assemble
from numbadense._engine.cuda.ptx.memory import I32, I64, SHARED, elements, pointer, special

__all__ = [
    "barrier_arrive",
    "barrier_expect",
    "barrier_init",
    "barrier_init_fence",
    "barrier_wait",
    "blocks",
    "copy_box",
    "descriptor",
    "float32",
    "larger",
    "load_four",
    "make_arrive_at",
    "make_copy_to_all",
    "make_dynamic",
    "make_local",
    "make_meet",
    "make_multiply",
    "make_multiply_commit",
    "make_multiply_end",
    "make_multiply_fence",
    "make_multiply_wait",
    "make_narrow",
    "make_rank",
    "make_registers",
    "make_sync_warp",
    "map_acquire",
    "map_release",
    "power_of_two",
    "reciprocal",
    "store_four",
    "store_halves",
    "store_two",
    "uint16",
    "uint32",
]

F32 = ir.FloatType()
ROW = 128  # bytes of a row of a tile: what the swizzle permutes
SWIZZLED_128 = 1 << 62  # bits 62 and 63: the layout of the tile
EIGHT_ROWS = 8 * ROW // 16 << 32  # bits 32 to 45: from eight rows to the next, in 16 bytes
NOT_READ = 1 << 16  # bits 16 to 29: a step that swizzled tiles whose rows are 128 bytes do not have

float32, uint32, uint16 = types.float32, types.uint32, types.uint16
blocks = special("nctaid.x")


def make_local(jit, size, element):
    """Return the function that gives a thread `size` registers."""

    def registers():
        return cuda.local.array(size, element)

    return jit(registers)


def _instruction(text):
    """Return the function that emits one instruction without operands."""

    @intrinsic
    def instruction(typing_context):
        def generate(context, builder, signature, arguments):
            assemble(builder, ir.VoidType(), text, "~{memory}")

        return types.void(), generate

    return instruction


def _operation(text, constraints, *kinds):
    """Return the function that emits one instruction of no result, with operands of these types."""

    @intrinsic
    def operation(typing_context, *operands):
        def generate(context, builder, signature, arguments):
            given = signature.args[0].types
            values = [builder.extract_value(arguments[0], q) for q in range(len(kinds))]
            cast = [context.cast(builder, v, t, kind) for v, t, kind in zip(values, given, kinds, strict=True)]
            assemble(builder, ir.VoidType(), text, ",".join((*constraints, "~{memory}")), cast)

        return types.void(types.StarArgTuple(operands)), generate

    return operation


@intrinsic
def dynamic_shared(typing_context, array):
    """Return the address in shared memory of an array there."""

    def generate(context, builder, signature, arguments):
        data = context.make_array(array)(context, builder, arguments[0]).data
        if data.type.addrspace != SHARED:
            data = builder.addrspacecast(data, data.type.pointee.as_pointer(SHARED))
        return builder.ptrtoint(data, I32)

    return types.uint32(array), generate


def make_dynamic(jit, size):
    """Return the function that says where the dynamic shared memory of the block begins; `size` bytes are used."""

    def dynamic():
        return dynamic_shared(cuda.shared.array(0, types.uint8))

    return jit(dynamic)


barrier_init = _operation("mbarrier.init.shared::cta.b64 [$0], $1;", "rr", types.uint32, types.uint32)
barrier_init_fence = _instruction("fence.mbarrier_init.release.cluster;")
barrier_arrive = _operation("mbarrier.arrive.shared::cta.b64 _, [$0];", "r", types.uint32)
barrier_expect = _operation("mbarrier.arrive.expect_tx.shared::cta.b64 _, [$0], $1;", "rr", types.uint32, types.uint32)
barrier_wait = _operation(
    "{\n.reg .pred done;\nagain:\nmbarrier.try_wait.parity.shared::cta.b64 done, [$0], $1;\n@!done bra again;\n}",
    "rr",
    types.uint32,
    types.uint32,
)
# Who writes a map lets go of it, and who copies by it takes it: then the unit that copies boxes sees what was written.
map_release = _instruction("fence.proxy.tensormap::generic.release.gpu;")
map_acquire = _operation("fence.proxy.tensormap::generic.acquire.gpu [$0], 128;", "l", types.int64)
BOX = types.uint32, types.int64, types.int32, types.int32, types.uint32
copy_box = _operation(
    "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [$0], [$1, {$2, $3}], [$4];",
    "rlrrr",
    *BOX,
)


def make_arrive_at(cluster):
    """Return ``arrive_at(address, rank)``: arrive at the barrier at this address in the block of that rank.

    What is given back was read by multiplications that are over, and is written by copies: nothing else has to be
    released or acquired at the scope of the cluster, which would wait for all stores and empty the cache.
    """
    text = "mbarrier.arrive.shared::cta.b64 _, [$0];"
    if cluster > 1:
        text = (
            "{\n.reg .b32 there;\nmapa.shared::cluster.u32 there, $0, $1;\n"
            "mbarrier.arrive.shared::cluster.b64 _, [there];\n}"
        )
    return _operation(text, "rr", types.uint32, types.uint32)


def make_copy_to_all(cluster):
    """Return `copy_box` to the same address in each block of the cluster, where the same barrier counts the bytes."""
    if cluster == 1:
        return copy_box
    text = (
        f"{{\n.reg .b16 all;\nmov.b16 all, {(1 << cluster) - 1};\n"
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
        "[$0], [$1, {$2, $3}], [$4], all;\n}"
    )
    return _operation(text, "rlrrr", *BOX)


def make_rank(cluster):
    """Return the function that says which block of its cluster this is, in a kernel whose blocks run in clusters.

    That is a property of the kernel (``.reqnctapercluster``): every launch obeys, and needs a multiple of blocks.
    """

    @intrinsic
    def rank(typing_context):
        def generate(context, builder, signature, arguments):
            if cluster == 1:
                return I32(0)
            module = builder.module
            facts = builder.function, ir.MetaDataString(module, "cluster_dim_x"), I32(cluster)
            cgutils.get_or_insert_named_metadata(module, "nvvm.annotations").add(module.add_metadata(facts))
            return assemble(builder, I32, "mov.u32 $0, %cluster_ctarank;", "=r", side_effect=False)

        return types.int32(), generate

    return rank


def make_meet(cluster):
    """Return the function that waits for all threads of the block, or of the cluster: then they see shown barriers."""
    if cluster == 1:
        return syncthreads
    return _instruction("barrier.cluster.arrive.relaxed;\nbarrier.cluster.wait.acquire;")


@intrinsic
def syncthreads(typing_context):
    """Wait for all threads of the block."""

    def generate(context, builder, signature, arguments):
        kind = ir.FunctionType(ir.VoidType(), [])
        builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.nvvm.barrier0"), [])

    return types.void(), generate


def make_multiply_fence(lanes):
    """Return the function that orders what was done to sums before multiplications that change them."""
    return _instruction("wgmma.fence.sync.aligned;")


def make_multiply_commit(lanes):
    """Return the function after which the multiplications begun since the last one are a group."""
    return _instruction("wgmma.commit_group.sync.aligned;")


def make_sync_warp(lanes):
    """Return the function that waits for the threads of the warp."""
    return _instruction("bar.warp.sync 0xffffffff;")


def make_multiply_wait(pending, lanes):
    """Return the function that waits until at most `pending` groups of multiplications are under way."""
    return _instruction(f"wgmma.wait_group.sync.aligned {pending};")


def make_registers(count, more, lanes):
    """Return the function by which a warpgroup takes `more` registers, or gives some back, to have `count` a thread."""
    return _instruction(f"setmaxnreg.{'inc' if more else 'dec'}.sync.aligned.u32 {count};")


@intrinsic
def descriptor(typing_context, address):
    """Return what tells a multiplication where a tile is: at `address`, rows of 128 bytes, swizzled."""

    def generate(context, builder, signature, arguments):
        at = builder.lshr(builder.and_(arguments[0], I32(0x3FFFF)), I32(4))
        return builder.or_(builder.zext(at, I64), I64(SWIZZLED_128 | EIGHT_ROWS | NOT_READ))

    return types.uint64(types.uint32), generate


def _tied(count):
    """Return the constraints of registers that are read and written: as outputs, and as inputs."""
    return ["=f"] * count, [str(q) for q in range(count)]


def make_multiply(columns, kind, depth, lanes):
    """Return ``multiply(total, at, x, w, more)``: products of tiles that descriptors tell of, by a warpgroup.

    64 rows and `columns` of float32 sums, of which each thread has ``columns / 2`` in `total` from `at` on; `more` says
    whether they are added to what is there.
    """
    count = columns // 2
    places = ", ".join(f"${q}" for q in range(count))
    major = "" if kind == "tf32" else ", 0, 0"
    text = (
        f"{{\n.reg .pred more;\nsetp.ne.b32 more, ${count + 2}, 0;\n"
        f"wgmma.mma_async.sync.aligned.m64n{columns}k{depth}.f32.{kind}.{kind} "
        f"{{{places}}}, ${count}, ${count + 1}, more, 1, 1{major};\n}}"
    )
    outputs, inputs = _tied(count)
    constraints = ",".join([*outputs, "l", "l", "r", *inputs, "~{memory}"])

    @intrinsic
    def multiply(typing_context, total, at, x, w, more):
        def generate(context, builder, signature, arguments):
            held = elements(pointer(context, builder, signature, arguments, 0), count, builder)
            values = [*arguments[2:], *(builder.load(place) for place in held)]
            _through(builder, text, constraints, values, held)

        return types.void(total, at, types.uint64, types.uint64, types.int32), generate

    return multiply


def _through(builder, text, constraints, values, held):
    found = assemble(builder, ir.LiteralStructType([F32] * len(held)), text, constraints, values)
    for q, place in enumerate(held):
        builder.store(builder.extract_value(found, q), place)


def make_multiply_end(count, lanes):
    """Return ``end(total)``: wait for all multiplications; only then are the `count` sums in registers there."""
    outputs, inputs = _tied(count)
    constraints = ",".join([*outputs, *inputs, "~{memory}"])

    @intrinsic
    def end(typing_context, total):
        def generate(context, builder, signature, arguments):
            held = elements(context.make_array(total)(context, builder, arguments[0]).data, count, builder)
            values = [builder.load(place) for place in held]
            _through(builder, "wgmma.wait_group.sync.aligned 0;", constraints, values, held)

        return types.void(total), generate

    return end


@intrinsic
def store_two(typing_context, address, registers, at):
    """Store two float32 to shared memory at `address`, a multiple of 8 bytes."""

    def generate(context, builder, signature, arguments):
        first = pointer(context, builder, signature, arguments, 1)
        values = [arguments[0], *(builder.load(place) for place in elements(first, 2, builder))]
        assemble(builder, ir.VoidType(), "st.shared.v2.f32 [$0], {$1, $2};", "r,f,f,~{memory}", values)

    return types.void(types.uint32, registers, at), generate


@intrinsic
def store_four(typing_context, array, index, registers, at):
    """Store four elements at once: ``array[index:index + 4] = registers[at:at + 4]``, aligned."""

    def generate(context, builder, signature, arguments):
        target = pointer(context, builder, signature, arguments, 0)
        number = target.type.pointee
        four = ir.Constant(ir.VectorType(number, 4), ir.Undefined)
        held = elements(pointer(context, builder, signature, arguments, 2), 4, builder)
        for q, place in enumerate(held):
            four = builder.insert_element(four, builder.load(place), I32(q))
        builder.store(four, builder.bitcast(target, four.type.as_pointer()), align=4 * context.get_abi_sizeof(number))

    return types.void(array, index, registers, at), generate


@intrinsic
def store_halves(typing_context, array, index, registers):
    """Store eight elements of 16 bits at once: ``array[index:index + 8] = registers``, aligned."""

    def generate(context, builder, signature, arguments):
        target = pointer(context, builder, signature, arguments, 0)
        held = context.make_array(registers)(context, builder, arguments[2]).data
        halves = [builder.zext(builder.load(place), I32) for place in elements(held, 8, builder)]
        words = ir.Constant(ir.VectorType(I32, 4), ir.Undefined)  # a vector of eight would be stored one by one
        for q in range(4):
            word = builder.or_(halves[2 * q], builder.shl(halves[2 * q + 1], I32(16)))
            words = builder.insert_element(words, word, I32(q))
        builder.store(words, builder.bitcast(target, words.type.as_pointer()), align=16)

    return types.void(array, index, registers), generate


@intrinsic
def load_four(typing_context, registers, at, address):
    """Load four float32 from shared memory at `address`, a multiple of 16 bytes."""

    def generate(context, builder, signature, arguments):
        text, constraints = "ld.shared.v4.f32 {$0, $1, $2, $3}, [$4];", "=f,=f,=f,=f,r,~{memory}"
        found = assemble(builder, ir.LiteralStructType([F32] * 4), text, constraints, (arguments[2],))
        for q, place in enumerate(elements(pointer(context, builder, signature, arguments, 0), 4, builder)):
            builder.store(builder.extract_value(found, q), place)

    return types.void(registers, at, types.uint32), generate


def make_narrow(kind):
    """Return ``narrow(x)``: the bits of float32 `x` rounded to nearest, ties to even, as bf16 or fp16."""
    name = {"bf16": "bf16", "fp16": "f16"}[kind]

    @intrinsic
    def narrow(typing_context, x):
        def generate(context, builder, signature, arguments):
            number = context.cast(builder, arguments[0], signature.args[0], types.float32)
            return assemble(builder, ir.IntType(16), f"cvt.rn.{name}.f32 $0, $1;", "=h,f", (number,), side_effect=False)

        return types.uint16(x), generate

    return narrow


def _approximate(name):
    @intrinsic
    def approximate(typing_context, x):
        def generate(context, builder, signature, arguments):
            number = context.cast(builder, arguments[0], signature.args[0], types.float32)
            return assemble(builder, F32, f"{name}.approx.ftz.f32 $0, $1;", "=f,f", (number,), side_effect=False)

        return types.float32(x), generate

    return approximate


power_of_two = _approximate("ex2")  # 2**x
reciprocal = _approximate("rcp")  # 1/x


@intrinsic
def larger(typing_context, x, y):
    """Return the larger of two float32, or NaN if one is."""

    def generate(context, builder, signature, arguments):
        return assemble(builder, F32, "max.NaN.f32 $0, $1, $2;", "=f,f,f", arguments, side_effect=False)

    return types.float32(types.float32, types.float32), generate
