"""The dense kernel itself: every tile and way of copying, simulated, against one fused multiply-add at a time."""

import functools

import numpy as np
import pytest
from device_needs import absent
from hypothesis import given, settings
from hypothesis import strategies as st

import numbadense as nd
from numbadense import scalar_math
from numbadense._engine.cuda import device
from numbadense._engine.cuda.tiles import TABLE
from numbadense.activations import REGISTRY

TILES = {np.dtype(name): TABLE["simulator"].dense[np.dtype(name).itemsize] for name in ("float32", "float64")}
GUARD = 4  # chunks of numbers on each side of an output
POISON = -1.0 / 3


@pytest.fixture(autouse=True)
def simulator(gpu):
    """These tests call kernels with tiles that only the simulator has."""
    if not device.simulated():
        absent("simulator", "the tiles are the simulator's")


@functools.cache
def kernel_of(name, dtype, place, in_chunks=(False, False), pipelined=True):
    from numbadense._engine.cuda import compile as compiler

    return compiler.dense(REGISTRY[name], dtype, TILES[dtype][place], in_chunks, pipelined)


def launch(kernel, tile, x, w, b, out):
    from numbadense._engine.cuda import compile as compiler

    compiler.launch(kernel, tile.blocks(*out.shape), tile.size, 0, x, w, b, out)


def placed(array, offset):
    """Return a copy that begins `offset` elements after a multiple of 16 bytes."""
    room = np.empty(array.size + 16, array.dtype)
    first = -room.ctypes.data % 16 // array.itemsize + offset
    held = room[first : first + array.size].reshape(array.shape)
    held[...] = array
    return held


def guarded(shape, dtype, offset):
    """Return an output full of poison, and the buffer that it lies in, guards at both ends."""
    chunk = 16 // dtype.itemsize
    size = int(np.prod(shape))
    room = placed(np.full(size + 2 * GUARD * chunk, POISON, dtype), offset)
    return room[GUARD * chunk : GUARD * chunk + size].reshape(shape), room


def in_order(x, w, b):
    """Bias first, then the products in the order of the features, one fused multiply-add at a time."""
    out = np.empty((len(x), len(b)), x.dtype)
    for i, j in np.ndindex(out.shape):
        total = b[j]
        for p in range(len(w)):
            total = scalar_math.fma(x[i, p], w[p, j], total)
        out[i, j] = total
    return out


def operands(m, k, n, dtype, seed=0):
    rng = np.random.default_rng([m, k, n, seed])
    return tuple(rng.normal(size=shape).astype(dtype) for shape in ((m, k), (k, n), (n,)))


def check(dtype, place, shape, in_chunks=(False, False), pipelined=True, offset=0):
    tile = TILES[dtype][place]
    x, w, b = operands(*shape, dtype)
    out, room = guarded((shape[0], shape[2]), dtype, offset)
    kernel = kernel_of("identity", dtype, place, in_chunks, pipelined)
    launch(kernel, tile, placed(x, offset), placed(w, offset), placed(b, offset), out)
    np.testing.assert_array_equal(out, in_order(x, w, b))
    edge = GUARD * 16 // dtype.itemsize
    assert (room[:edge] == dtype.type(POISON)).all() and (room[-edge:] == dtype.type(POISON)).all()


@st.composite
def cases(draw):
    """Return a dtype, the place of its tile, a shape around the tile's edges, and how it is copied."""
    dtype = np.dtype(draw(st.sampled_from(["float32", "float64"])))
    place = draw(st.sampled_from([0, 1]))
    tile, chunk = TILES[dtype][place], 16 // dtype.itemsize
    x_in_chunks, w_in_chunks = draw(st.booleans()), draw(st.booleans())

    def around(size, multiple):
        near = st.sampled_from([1, size - 1, size, size + 1, 2 * size + 1])
        return max(1, draw(near) // multiple) * multiple

    m = around(tile.rows, 1)
    n = around(tile.columns, chunk if w_in_chunks else 1)
    k = draw(st.sampled_from([0, 1, 3, tile.depth - 1, tile.depth, tile.depth + 1, tile.depth * tile.stages + 3]))
    if x_in_chunks:
        k = -(-k // chunk) * chunk
    offset = 0 if x_in_chunks or w_in_chunks else draw(st.integers(0, chunk - 1))
    return dtype, place, (m, k, n), (x_in_chunks, w_in_chunks), draw(st.booleans()), offset


@settings(max_examples=25, deadline=None)
@given(cases())
def test_any_shape_gives_the_bits_of_the_sum_in_order_and_writes_nothing_else(case):
    check(*case)


@pytest.mark.parametrize("place", [0, 1])
def test_copies_of_chunks_and_of_elements_and_through_registers_give_the_same(place, dtype):
    tile = TILES[dtype][place]
    shape = tile.rows + 1, tile.depth + 16 // dtype.itemsize, tile.columns + 16 // dtype.itemsize
    for in_chunks in ((True, True), (True, False), (False, True), (False, False)):
        check(dtype, place, shape, in_chunks)
    check(dtype, place, shape, (True, True), pipelined=False)


def test_bits_are_those_of_the_cpu(gpu):
    from numbadense._engine.machine import host

    if host().isa == "generic":
        pytest.skip("this CPU has no fused multiply-add")
    for m, k, n in ((1, 21, 5), (7, 33, 17)):
        x, w, b = operands(m, k, n, np.dtype("float32"))
        for name in ("identity", "relu"):
            np.testing.assert_array_equal(nd.cuda.dense(x, w, b, name), nd.dense(x, w, b, name))


@pytest.mark.parametrize("place", [0, 1])
def test_features_beyond_the_last_add_nothing_not_even_a_zero(place, dtype):
    tile = TILES[dtype][place]
    x, w, b = np.full((2, 3), -0.0, dtype), np.ones((3, 5), dtype), np.full(5, -0.0, dtype)
    out = np.full((2, 5), np.nan, dtype)
    launch(kernel_of("identity", dtype, place), tile, x, w, b, out)
    assert (out == 0).all() and np.signbit(out).all()


@pytest.mark.parametrize("name", ["sigmoid", "gelu"])
def test_an_epilogue_is_applied_to_every_output_once(name, dtype):
    for place, tile in enumerate(TILES[dtype]):
        x, w, b = operands(tile.rows + 1, 5, tile.columns + 2, dtype)
        out = np.full((len(x), len(b)), np.nan, dtype)
        launch(kernel_of(name, dtype, place), tile, x, w, b, out)
        expected = [REGISTRY[name].function(z) for z in in_order(x, w, b).flat]
        np.testing.assert_array_equal(out.ravel(), expected)


def test_the_kernel_is_chosen_by_how_rows_are_aligned(gpu, monkeypatch):
    from numbadense._engine.cuda import compile as compiler

    seen, dense = [], compiler.dense
    monkeypatch.setattr(compiler, "dense", lambda *arguments: seen.append(arguments[3]) or dense(*arguments))
    for k, n, expected in ((8, 4, (True, True)), (8, 5, (True, False)), (7, 4, (False, True)), (3, 1, (False, False))):
        x, w, b = (placed(array, 0) for array in operands(3, k, n, np.dtype("float32")))
        on_device = [memory_of(gpu, array) for array in (x, w, b, placed(np.empty((3, n), np.float32), 0))]
        nd.cuda.dense(*on_device[:3], out=on_device[3])
        assert seen.pop() == expected
    shifted = memory_of(gpu, placed(x[:, :2].repeat(4, axis=1), 1))
    nd.cuda.dense(shifted, memory_of(gpu, placed(np.ones((8, 4), np.float32), 0)))
    assert seen.pop()[0] is False


def memory_of(gpu, array):
    """Return a device array of the memory of `array`: in the simulator it is where that is."""
    from numbadense._engine.cuda import memory

    return memory.from_interface(array.__array_interface__, array)


def test_outputs_beyond_two_to_the_31_elements_are_written_where_they_belong(gpu, monkeypatch):
    from numbadense._engine.cuda import compile as compiler
    from numbadense._engine.cuda import simt

    dtype = np.dtype("float32")
    tile = TILES[dtype][0]
    m, k, n = 2**29 + 5, 4, 4
    try:
        x, out = np.empty((m, k), dtype), np.empty((m, n), dtype)  # 8 GB each, of which a page is touched
    except MemoryError:
        pytest.skip("no address space for a large array")
    last = tile.blocks(m, n) - 1
    monkeypatch.setattr(simt, "block_number", lambda: last)
    small, w, b = operands(5, k, n, dtype)
    x[-5:] = small
    on_device = (memory_of(gpu, array) for array in (x, w, b, out))
    compiler.launch(kernel_of("identity", dtype, 0, (True, True)), 1, tile.size, 0, *on_device)
    top = last * tile.rows
    np.testing.assert_array_equal(out[top:][-5:], in_order(small, w, b)[-(m - top) :])
