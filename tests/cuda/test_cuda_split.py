"""Sums in parts: the bits of the parts in order, whichever kernel and tile, and what they are once assembled."""

from collections import Counter

import numpy as np
import pytest
from device_code import assemble
from hypothesis import given, settings
from hypothesis import strategies as st

import numbadense as nd
from numbadense import scalar_math
from numbadense._engine.cuda.split import FEW, MOST_PARTS, across, choose, length_of, parts_of
from numbadense._engine.cuda.tiles import TABLE, target
from numbadense.activations import REGISTRY

CAPABILITIES = [(8, 0), (9, 0), (12, 0)]
GUARD, POISON = 8, -1.0 / 3
INSTRUCTION = {"float32": "FFMA", "float64": "DFMA"}


def in_parts(x, w, b, split):
    """The bias, then the sums of the parts, each in the order of its features, one fused multiply-add at a time."""
    k = len(w)
    parts = parts_of(k, split)
    if parts == 1:
        return in_order(x, w, b)
    length = length_of(k, parts)
    none, out = np.full(1, -0.0, x.dtype), np.empty((len(x), len(b)), x.dtype)
    for i, j in np.ndindex(out.shape):
        total = b[j]
        for start in range(0, k, length):
            part = slice(start, start + length)
            total += in_order(x[i : i + 1, part], w[part, j : j + 1], none)[0, 0]
        out[i, j] = total
    return out


def in_order(x, w, b):
    """The bias, then the products in the order of the features, one fused multiply-add at a time."""
    out = np.empty((len(x), len(b)), x.dtype)
    for i, j in np.ndindex(out.shape):
        total = b[j]
        for p in range(len(w)):
            total = scalar_math.fma(x[i, p], w[p, j], total)
        out[i, j] = total
    return out


def operands(m, k, n, dtype):
    rng = np.random.default_rng([m, k, n])
    return tuple(rng.normal(size=shape).astype(dtype) for shape in ((m, k), (k, n), (n,)))


@pytest.mark.parametrize("k", [0, 1, 3, 4, 5, 100, 910, 1024, 4097])
def test_parts_cover_the_features_and_none_is_empty(k):
    for split in (1, 2, 3, 7, 10, 64, 5000):
        parts = parts_of(k, split)
        length = length_of(k, parts)
        assert 1 <= parts <= max(1, min(split, k))
        assert parts == 1 or (length % 4 == 0 and (parts - 1) * length < k <= parts * length)


@settings(max_examples=12, deadline=None)
@given(
    m=st.sampled_from([1, 2, 3, 8, 9, 13]),
    k=st.sampled_from([1, 3, 8, 12, 24, 33, 40]),
    n=st.sampled_from([1, 3, 4, 8, 17, 20]),
    split=st.sampled_from([2, 3, 5, 64]),
    dtype=st.sampled_from(["float32", "float64"]),
)
def test_any_shape_gives_the_bits_of_the_parts_in_order_and_writes_nothing_else(gpu, m, k, n, split, dtype):
    x, w, b = operands(m, k, n, dtype)
    room = np.full((m + 2 * GUARD) * n, POISON, dtype)
    on_device = gpu.to_device(room)
    out = on_device[GUARD * n : (GUARD + m) * n].reshape(m, n)
    nd.cuda.dense(x, w, b, out=out, split_k=split)
    np.testing.assert_array_equal(out.copy_to_host(), in_parts(x, w, b, split))
    found = on_device.copy_to_host()
    edge = np.r_[found[: GUARD * n], found[-GUARD * n :]]
    assert (edge == room[0]).all()


def test_a_row_is_the_same_in_every_batch_and_an_activation_is_applied_once(gpu, dtype):
    x, w, b = operands(FEW + 1, 30, 5, dtype)
    for name in ("sigmoid", "softmax"):
        together = nd.cuda.dense(x, w, b, name, split_k=3)
        np.testing.assert_array_equal(together[:2], nd.cuda.dense(x[:2], w, b, name, split_k=3))
        expected = getattr(nd, name)(in_parts(x, w, b, 3).astype(np.float64))
        np.testing.assert_allclose(together, expected, rtol=1e-5 if dtype == np.float32 else 1e-13, atol=1e-7)


def test_one_part_is_the_order_of_the_cpu_and_the_default(gpu, launches):
    x, w, b = operands(3, 21, 5, "float32")
    plain = nd.cuda.dense(x, w, b)
    np.testing.assert_array_equal(nd.cuda.dense(x, w, b, split_k=1), plain)
    assert launches[0] == launches[1] and len(launches) == 2


def test_wide_outputs_get_wider_blocks_and_the_same_bits(gpu, launches):
    for n, chunks in ((8, 4), (68, 8)):
        assert across(n, 4, 2) == chunks
        x, w, b = operands(1, 9, n, "float32")
        np.testing.assert_array_equal(nd.cuda.dense(x, w, b, split_k=2), in_parts(x, w, b, 2))
    assert launches == [(1, 8), (3, 16)]


def test_zeros_keep_their_sign_and_no_features_give_the_bias(gpu, dtype):
    x, w, b = np.full((2, 8), -0.0, dtype), np.ones((8, 5), dtype), np.full(5, -0.0, dtype)
    for m in (2, FEW + 1):
        y = nd.cuda.dense(np.repeat(x[:1], m, axis=0), w, b, split_k=2)
        assert (y == 0).all() and np.signbit(y).all()
    y = nd.cuda.dense(np.empty((2, 0), dtype), np.empty((0, 5), dtype), np.arange(5, dtype=dtype), split_k=4)
    np.testing.assert_array_equal(y, [range(5)] * 2)


def test_few_rows_are_one_launch_and_many_are_two(gpu, launches):
    x, w, b = operands(FEW + 1, 40, 24, "float32")
    nd.cuda.dense(x[:1], w, b, split_k=5)
    assert [threads for _, threads in launches] == [5 * across(24, 4, 2)]
    launches.clear()
    nd.cuda.dense(x, w, b, split_k=5)
    (blocks, parts), _ = launches[0]
    assert parts == 5 and blocks > 1 and len(launches) == 2


def test_a_network_may_split_its_sums(gpu, rng):
    layers = [nd.Dense(rng.normal(size=s).astype("f4"), None, "relu") for s in ((40, 24), (24, 3))]
    net = nd.Sequential(layers)
    x = rng.normal(size=(2, 40)).astype(np.float32)
    y = x
    for layer in layers:
        y = np.maximum(in_parts(y, layer.w, np.zeros(layer.n_out, "f4"), 3), 0)
    np.testing.assert_array_equal(net.to("cuda", split_k=3)(x), y)
    np.testing.assert_allclose(net.to("cuda", split_k="auto")(x), y, rtol=1e-5)


def test_sums_in_parts_are_closer_to_float64_where_there_are_many_features(gpu):
    x, w, b = operands(1, 2048, 8, "float32")
    exact = x.astype(np.float64) @ w + b
    errors = [np.linalg.norm(nd.cuda.dense(x, w, b, split_k=split) - exact) for split in (1, "auto")]
    assert errors[1] < errors[0]


@pytest.mark.parametrize("split", [0, -1, 1.5, True, "many", None])
def test_what_is_no_number_of_parts_is_refused(gpu, split):
    net = nd.Sequential([nd.Dense([[1.0]])])
    for call in (lambda: nd.cuda.dense([[1.0]], [[1.0]], split_k=split), lambda: net.to("cuda", split_k=split)):
        with pytest.raises(nd.OptionError) as caught:
            call()
        assert str(caught.value) == (
            f"split_k is {split!r} but must be a number of parts, from 1, or 'auto'; pass split_k='auto'."
        )


def test_auto_fills_the_device_and_leaves_alone_what_fills_it():
    shapes, processors = TABLE[8, 0].dense[4], 132
    assert choose(shapes, (1, 1024, 1024), "auto", processors) == (64, None)
    assert choose(shapes, (FEW, 128, 4096), "auto", processors) == (8, None)
    assert choose(shapes, (1, 8, 8), "auto", processors).parts == 1
    split = choose(shapes, (64, 16384, 256), "auto", processors)
    assert split.parts > 1 and split.tile.blocks(64, 256) * split.parts > processors / 2
    assert choose(shapes, (8192, 1024, 1024), "auto", processors).parts == 1
    assert choose(shapes, (1, 4000, 8), 100, processors).tile is not None


@pytest.fixture(scope="session")
def few_code(compile_ptx, tmp_path_factory):
    """A function that returns the PTX and the code of the kernel for few rows; each is compiled once."""
    from numbadense._engine.cuda import compile as compiler
    from numbadense._engine.cuda.few import resident

    held = {}

    def compiled(rows, dtype="float32", in_chunks=(True, True), name="sigmoid", capability=(9, 0)):
        key = rows, dtype, in_chunks, name, capability
        if key not in held:
            kernel = compiler.few(REGISTRY[name], np.dtype(dtype), rows, 8, in_chunks).py_func
            arrays = ((dtype, ndim) for ndim in (2, 2, 1, 2))
            ptx = compile_ptx(kernel, *arrays, capability=capability, launch_bounds=(8 * MOST_PARTS, resident(rows)))
            held[key] = ptx, assemble(ptx, tmp_path_factory.mktemp("few"))
        return held[key]

    return compiled


@pytest.mark.parametrize("capability", CAPABILITIES, ids=str)
@pytest.mark.parametrize("rows", [1, 4, 8])
def test_few_rows_read_16_bytes_at_a_time_without_local_memory(few_code, rows, capability):
    from numbadense._engine.cuda.few import resident

    ptx, code = few_code(rows, capability=capability)
    assert ".f64" not in ptx and ".local" not in ptx
    assert code.local == 0 and code.registers * 8 * MOST_PARTS * resident(rows) <= 64 * 1024
    assert code.shared == MOST_PARTS * 8 * 16
    assert {"LDG.E.128", "STS.128"} <= set(code.instructions)


@pytest.mark.parametrize(("rows", "dtype"), [(1, "float32"), (4, "float32"), (1, "float64")])
def test_eight_rows_of_weights_are_on_their_way_at_once(few_code, rows, dtype):
    _, code = few_code(rows, dtype)
    chunk = 16 // np.dtype(dtype).itemsize
    loops = [[name.split(".")[0] for name in loop] for loop in code.loops]
    loops = [loop for loop in loops if loop.count(INSTRUCTION[dtype]) == 2 * rows * chunk**2]
    inner = Counter(min(loops, key=len))
    assert inner["LDG"] == 2 * chunk + 2 * rows
    assert inner["LDS"] == inner["BAR"] == 0


@pytest.mark.parametrize("capability", CAPABILITIES, ids=str)
def test_the_kernel_for_parts_of_a_tile_is_as_large_as_that_for_the_whole(compile_ptx, tmp_path, capability):
    from numbadense._engine.cuda import compile as compiler

    row, dtype = target(capability), np.dtype("float32")
    for tile in row.dense[4][1:]:
        kernel = compiler.dense(REGISTRY["identity"], dtype, tile, (True, True), row.pipelined, True).py_func
        arrays = ((dtype, ndim) for ndim in (2, 2, 1, 2))
        ptx = compile_ptx(kernel, *arrays, capability=capability, launch_bounds=(tile.size, tile.resident))
        assert "%ctaid.y" in ptx and ".f64" not in ptx
        assert assemble(ptx, tmp_path).local == 0


def test_a_float64_kernel_and_one_of_elements_compile_too(few_code):
    for dtype, in_chunks in (("float64", (True, True)), ("float32", (False, False))):
        _, code = few_code(8, dtype, in_chunks)
        assert code.local == 0
