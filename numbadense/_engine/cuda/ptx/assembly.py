"""Inline assembly: what threads do together is called as that."""

import re

from llvmlite import ir

TOGETHER = re.compile(r"\.(sync|aligned)\b|\bm?bar(rier)?\.")  # in the text of an instruction


def assemble(builder, result, text, constraints, values=(), side_effect=True):
    """Call inline assembly, of no other effect than its result where there is no `side_effect`.

    What all threads of a warp have to come to is `convergent`: the compiler must not move it into a branch that some of
    them take, nor have it on both sides of one.  Of NVVM's intrinsics it knows that by itself.
    """
    kind = ir.FunctionType(result, [value.type for value in values])
    code = ir.InlineAsm(kind, text, constraints, side_effect=side_effect)
    return builder.call(code, values, attrs=("convergent",) if TOGETHER.search(text) else ())
