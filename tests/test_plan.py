import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import numbadense as nd
from numbadense._engine import compile as compiler
from numbadense._engine import machine, plan, program
from numbadense._engine.cpu import forward, pack
from numbadense._engine.cpu.tiles import TABLE, panel_width

layers = st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 5000)), min_size=1, max_size=4).map(tuple)


@given(
    layers,
    st.integers(0, 4096),
    st.sampled_from([4, 8]),
    st.sampled_from([8, 12, 24]),
    st.integers(0, 300_000),
    st.integers(1, 64),
)
def test_a_plan_covers_its_rows(shapes, width, itemsize, quantum, m, limit):
    panels = tuple(-(-n // 48) for _, n in shapes)
    todo = plan.forward(shapes, panels, width, itemsize, quantum, m, limit, "omp")
    assert 1 <= todo.threads <= limit and todo.parallel == (todo.threads > 1)
    assert 1 <= todo.block <= plan.BLOCK_ROWS and todo.half == todo.block * width
    if todo.by_columns:
        assert todo.block == m and todo.scratch == 2 * todo.half
        return
    assert todo.scratch == 2 * todo.half * todo.threads
    blocks = -(-m // todo.block)
    if blocks > 1:
        assert todo.block % quantum == 0
    shares = [(t + 1) * blocks // todo.threads - t * blocks // todo.threads for t in range(todo.threads)]
    assert sum(shares) == blocks and max(shares) - min(shares) <= 1


def planned(n, m, limit, layer="omp"):
    return plan.forward(((n, n),), (-(-n // 48),), 0, 4, 8, m, limit, layer)


def test_threads_need_work_and_leave():
    assert planned(1000, 500, 1).why == "one thread allowed"
    assert planned(2, 500, 8).why == "2e+03 units of work, under the crossover of 1e+06"
    assert planned(2, 1_000_000, 8).threads == 8
    assert planned(1000, 500, 8).threads == 8
    assert planned(1000, 30, 8, "workqueue").threads == 1
    assert plan.forward(((10**7, 2),), (1,), 0, 4, 8, 1, 8, "omp").why == "too few rows and columns to share"
    assert plan.elementwise(10**6, 2, "omp") == 2 and plan.elementwise(1000, 2, "omp") == 1


def test_few_rows_share_columns_and_many_share_rows():
    assert planned(4096, 1, 2).by_columns and planned(4096, 1, 2).threads == 2
    assert planned(4096, 9, 8).by_columns
    assert not planned(1000, 32, 2).by_columns and planned(1000, 32, 2).block == 16
    assert not planned(1024, 1024, 2).by_columns and planned(1024, 1024, 2).block == 176
    small = plan.forward(((500, 500),) * 9, (11,) * 9, 500, 4, 8, 1, 8, "omp")
    assert not small.by_columns and small.threads == 1  # one launch a layer would not pay


@given(st.integers(1, 3000), st.sampled_from([4, 8]), st.sampled_from(sorted(TABLE)))
def test_panels_hold_all_columns_with_little_padding(n, itemsize, isa):
    row = TABLE[isa]
    nr = panel_width(n, itemsize, row) * row.lanes(itemsize)
    padded = pack.panels(n, nr) * nr
    assert n <= padded < n + nr
    best = min(-(-n // (v * row.lanes(itemsize))) * v * row.lanes(itemsize) for v in row.rows)
    assert padded <= best * 1.15


def test_the_widest_instruction_set_that_a_cpu_has():
    assert machine.isa_of(frozenset({"avx512f", "avx2", "fma"})) == "avx512"
    assert machine.isa_of(frozenset({"avx2", "fma", "sse2"})) == "avx2"
    assert machine.isa_of(frozenset({"neon"})) == "neon"
    assert machine.isa_of(frozenset({"avx"})) == "generic"


@given(st.integers(0, 9), st.integers(1, 40), st.sampled_from([4, 8, 12]), st.booleans(), st.sampled_from(["f4", "f8"]))
def test_packing_keeps_every_weight_and_pads_with_zeros(k, n, nr, transposed, dtype):
    w = np.arange(1.0, k * n + 1).reshape((n, k) if transposed else (k, n)).astype(dtype)
    w = w.T if transposed else w
    b = -np.arange(1.0, n + 1)
    count, itemsize = pack.panels(n, nr), np.dtype(dtype).itemsize
    sizes = pack.packed_bytes(k, n, nr, itemsize, itemsize)
    assert all(size % pack.ALIGNMENT == 0 for size in sizes)
    packed, bias = (pack.aligned_empty(size // itemsize, np.dtype(dtype)) for size in sizes)
    packed[:] = bias[:] = np.nan
    assert bias.ctypes.data % pack.ALIGNMENT == 0
    body = pack.pack_weights(packed, w, nr)
    assert body.shape == (count, k, nr) and (body.base is not None or k == 0)
    flat = body.transpose(1, 0, 2).reshape(k, count * nr)
    assert np.array_equal(flat[:, :n], w) and (flat[:, n:] == 0).all()
    pack.pack_bias(bias, b, n)
    assert np.array_equal(bias, np.pad(b, (0, len(bias) - n)))
    pack.pack_bias(bias, None, n)
    assert (bias == 0).all()


@pytest.mark.parametrize("dtype", [np.dtype("f4"), np.dtype("f8")])
def test_a_programs_addresses_lie_in_its_buffer(dtype):
    net = nd.Sequential([nd.Dense(np.ones((5, 40)), None, "relu"), nd.Dense(np.ones((40, 3)), np.ones(3), "softmax")])
    built = program.build(net.layers, dtype)
    buffer = built.kept[0]
    first, last = buffer.ctypes.data, buffer.ctypes.data + built.nbytes
    for row in built.table:
        assert first <= row[forward.WEIGHTS] < row[forward.BIAS] < last
        assert row[forward.WEIGHTS] % pack.ALIGNMENT == 0
        assert row[forward.OUT_ROW] >= row[forward.N_OUT]
    assert built.table[0, forward.PASS_COLUMNS] == built.table[0, forward.OUT_ROW]  # whole vectors, padding and all
    assert built.table[1, forward.PASS_COLUMNS] == 3
    assert built.width == built.table[0, forward.OUT_ROW]
    assert (built.table[:, forward.BIAS] % pack.ALIGNMENT == 0).all()
    assert (built.n_in, built.n_out, built.shapes) == (5, 3, ((5, 40), (40, 3)))


def test_warm_reports_every_kernel():
    seen = []
    done = compiler.warm(lambda *row: seen.append(row))
    assert done == seen
    names = [name for name, _, _ in done]
    assert "forward parallel float32" in names and "sigmoid float64" in names and len(set(names)) == len(names)
