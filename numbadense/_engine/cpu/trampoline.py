"""A C function of one network: four instructions that put the address of its code in front of the arguments.

``int64 f(const T *x, T *out, int64 m)`` calls ``int64 rows(int64 code, const T *x, T *out, int64 m)``, which all
networks of a dtype share.
"""

import llvmlite.binding as llvm
from llvmlite import ir

I64 = ir.IntType(64)


def bind(function: int, code: int):
    """Return the address of the C function that calls `function` with `code` first, and what keeps it there."""
    module = ir.Module("numbadense trampoline")
    module.triple = llvm.get_process_triple()
    rows = ir.Function(module, ir.FunctionType(I64, [I64] * 3), "rows")
    builder = ir.IRBuilder(rows.append_basic_block())
    shared = builder.inttoptr(I64(function), ir.FunctionType(I64, [I64] * 4).as_pointer())
    builder.ret(builder.call(shared, [I64(code), *rows.args], tail=True))
    # An engine of its own, and not numba's, so that the code goes when the network does.
    machine = llvm.Target.from_triple(module.triple).create_target_machine(opt=1, jit=True)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(str(module)), machine)
    engine.finalize_object()
    return engine.get_function_address("rows"), engine
