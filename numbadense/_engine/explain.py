"""A plan in words."""

from numbadense._engine import half, machine, plan, threads
from numbadense._engine.cpu import forward as columns
from numbadense._engine.cpu.tiles import TABLE
from numbadense._engine.population import Packed
from numbadense._engine.program import Program


def forward(program: Program, m: int, limit: int | None) -> str:
    """Return how `m` rows would go through a program, one fact a line."""
    limit, layer = threads.limit(limit), threads.expected_layer()
    host = machine.host()
    tiles = TABLE[host.isa]
    itemsize = program.dtype.itemsize
    todo = plan.forward(program.shapes, program.panels, program.width, itemsize, host.row_quantum, m, limit, layer)
    lanes = tiles.lanes(itemsize)
    work = sum(k * n for k, n in program.shapes)
    parameters = program.nbytes
    twin = f"parallel ({layer}, {todo.threads} threads)" if todo.parallel else "serial twin"
    weights = "".join(f" with {kind} weights" for kind, form in half.FORMS.items() if form == program.form)
    lines = [
        f"kernel   forward {program.dtype}{weights}, {twin}: {todo.why}",
        f"cpu      {host.name}, {host.isa}, {lanes} lanes of {program.dtype}",
        f"blocks   {-(-m // todo.block)} of at most {todo.block} rows, through all {len(program.shapes)} layers",
        f"work     {2 * m * work:,} flops, {m * (program.n_in + program.n_out) * itemsize:,} bytes in and out, "
        f"{parameters:,} bytes of packed weights, {todo.scratch * itemsize:,} bytes of scratch",
    ]
    for index, (k, n) in enumerate(program.shapes):
        vectors = int(program.table[index, columns.VECTORS])
        height = tiles.rows[vectors] if m >= tiles.rows[vectors] else min(m, 2)
        lines.append(f"layer {index}  {k} -> {n}: tiles of {height} rows x {vectors * lanes} columns")
    return "\n".join(lines)


def population(packed: Packed, m: int, routed: bool, limit: int | None) -> str:
    """Return how a call of a population would run, one fact a line; `m` rows for each network, or altogether."""
    limit, layer = threads.limit(limit), threads.expected_layer()
    itemsize = packed.dtype.itemsize
    host = machine.host()
    quantum = host.row_quantum
    todo = plan.population(packed.shapes, packed.width, itemsize, quantum, packed.count, m, routed, limit, layer)
    twin = f"parallel ({layer}, {todo.threads} threads)" if todo.parallel else "serial twin"
    given = (
        "some rows for some networks" if routed else f"{m} row{'s' * (m != 1)} for each of {packed.count:,} networks"
    )
    lines = [
        f"kernel   population {packed.dtype}, {twin}: {todo.why}",
        f"cpu      {host.name}, {host.isa}, {TABLE[host.isa].lanes(itemsize)} lanes of {packed.dtype}",
        f"rows     {todo.m:,}, {given}, in {-(-todo.m // todo.block)} units of at most {todo.block}",
        f"work     {2 * plan.work(packed.shapes, todo.m):,} flops, "
        f"{todo.m * (packed.n_in + packed.n_out) * itemsize:,} bytes in and out at most, "
        f"{packed.buffer.nbytes:,} bytes of weights, {packed.stride:,} for each network, "
        f"{todo.scratch * itemsize:,} bytes of scratch",
    ]
    return "\n".join(lines)
