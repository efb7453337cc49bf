"""Weights at half size: rounded once, kept, packed and saved in 16 bits, widened exactly where they are used."""

import dataclasses
import itertools
import json
import math
import pickle
import platform
import struct
import warnings
from fractions import Fraction

import numpy as np
import pytest
import safetensors.numpy
import scripts
import strategies as draw
from hypothesis import example, given
from hypothesis import strategies as st
from numba import config, njit

import numbadense as nd
from numbadense._engine import compile as compiler
from numbadense._engine import half
from numbadense._engine import program as build
from numbadense._engine.cpu import pack
from numbadense._engine.cpu.tiles import TABLE

KINDS = sorted(half.FORMS)
kinds = st.sampled_from(KINDS)
FORMAT = {"bfloat16": (8, -126, 127), "float16": (11, -14, 15)}  # digits, exponents of the least and largest normals


def nearest(value, kind):
    """The nearest number of a kind, ties to even, by arithmetic on fractions."""
    digits, least, largest = FORMAT[kind]
    if not math.isfinite(value):
        return value
    exponent = max(math.frexp(value)[1] - 1, least)
    quantum = Fraction(2) ** (exponent - digits + 1)
    number = round(Fraction(value) / quantum) * quantum
    return math.copysign(float(number) if abs(number) < Fraction(2) ** (largest + 1) else math.inf, value)


def value(bits, kind):
    """The number that 16 bits stand for."""
    raw = struct.pack("<H", bits)
    return struct.unpack("<e", raw)[0] if kind == "float16" else struct.unpack("<f", bytes(2) + raw)[0]


def same_bits(a, b):
    """Equal bit by bit, but for the payload of NaN."""
    a, b = np.asarray(a), np.asarray(b)
    nan = np.isnan(a)
    same = a.dtype == b.dtype and a.shape == b.shape and np.array_equal(nan, np.isnan(b))
    return same and np.array_equal(a[~nan].view(f"u{a.itemsize}"), b[~nan].view(f"u{a.itemsize}"))


def in_full(net):
    """A network with the same weights, in the dtype that they are widened to."""
    return nd.Sequential([nd.Dense(layer.w, layer.b, layer.activation) for layer in net.layers])


def network(kind, widths=(9, 33, 70, 5), activation="sigmoid", seed=0):
    rng = np.random.default_rng(seed)
    layers = [
        nd.Dense(draw.weights(rng, k, n, np.float32), draw.numbers(rng, n, np.float32), activation)
        for k, n in itertools.pairwise(widths)
    ]
    return nd.Sequential(layers, {"by": "the tests"}).astype(kind)


@pytest.mark.parametrize("kind", KINDS)
@given(st.lists(st.floats(width=32) | st.floats(), min_size=1, max_size=9), draw.dtypes)
@example([1 + 2**-8 + 2**-40, -(1 + 2**-8 + 2**-40), 1 + 3 * 2**-8 - 2**-50], np.float64)  # twice rounded: wrong
@example([65519.9, 65520.0, -65520.0, 3.4e38, 1e300, 6e-8, 2.9e-8, 1e-45, -0.0, math.nan, math.inf], np.float64)
def test_weights_are_rounded_to_nearest_once(kind, values, dtype):
    with np.errstate(over="ignore"):
        w = np.array(values).astype(dtype)
    expected = np.array([nearest(float(number), kind) for number in w]).astype(np.float32)
    assert same_bits(np.asarray(half.rounded(w, kind)), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_nan_whose_payload_is_cut_off_stays_nan(kind):
    w = np.array([0x7F800001, 0xFF800001, 0x7FFFFFFF], np.uint32).view(np.float32)
    assert np.isnan(np.asarray(half.rounded(w, kind))).all()


EVERY = """
    import struct
    import numpy as np
    import numbadense as nd
    from numbadense._engine import machine
    from numbadense._engine.half import Half

    for kind in ("bfloat16", "float16"):
        bits = np.arange(2**16, dtype=np.uint16)
        raw = [struct.pack("<H", n) for n in range(2**16)]
        values = [struct.unpack("<e", r)[0] if kind == "float16" else struct.unpack("<f", bytes(2) + r)[0] for r in raw]
        expected = np.array(values, np.float32)
        w = bits[None, :]
        import warnings
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            layer = nd.Dense(Half(kind, w), np.full(2**16, -0.0, np.float32))
        nan = np.isnan(expected)
        for m in (1, 2, 8, 9):
            y = layer(np.ones((m, 1), np.float32))
            assert np.isnan(y[:, nan]).all()
            assert (y[:, ~nan].view(np.uint32) == expected[~nan].view(np.uint32)).all(), (kind, m)
    print(machine.host().isa, machine.host().widens_float16)
"""


@pytest.mark.codegen
@pytest.mark.parametrize("isa", sorted(TABLE))
def test_kernels_widen_every_bit_pattern_exactly(isa):
    assert scripts.run(EVERY, NUMBADENSE_ISA=isa).stdout.split()[0] == isa


@pytest.mark.codegen
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names x86 features")
@pytest.mark.skipif(config.DISABLE_JIT, reason="about instructions")
@pytest.mark.parametrize(
    "cpu,features,expected",
    [
        ("x86-64", "+sse2", "generic False"),
        ("haswell", "+avx2,+fma,+f16c", "avx2 True"),
        ("haswell", "+avx2,+fma", "avx2 False"),
    ],
)
def test_cpus_without_a_widening_instruction_widen_exactly(cpu, features, expected):
    done = scripts.run(EVERY, NUMBA_CPU_NAME=cpu, NUMBA_CPU_FEATURES=features)
    assert done.stdout.strip() == expected


@given(kinds, draw.rows, draw.inputs, draw.outputs, draw.outputs, draw.grains, st.booleans(), draw.seeds)
@example("bfloat16", 1, 31, 128, 64, [], True, 0)
@example("float16", 9, 5, 127, 129, [("x", 3, 0), ("w", 7, 1)], True, 0)
def test_the_bits_are_those_of_the_rounded_weights_in_float32(kind, m, k, n, n_out, grains, with_bias, seed):
    rng = np.random.default_rng(seed)
    x, w, b = (
        draw.numbers(rng, (m, k), np.float32),
        draw.weights(rng, k, n, np.float32),
        draw.numbers(rng, n, np.float32),
    )
    draw.salted(grains, x=x, w=w, b=b)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", nd.NonFiniteWarning)
        last = nd.Dense(draw.weights(rng, n, n_out, np.float32), None, "tanh")
        net = nd.Sequential([nd.Dense(w, b if with_bias else None, "relu"), last]).astype(kind)
        full = in_full(net)
    assert net.dtype == np.float32 and net.storage == kind and full.storage == "float32"
    y = net(x)
    assert y.dtype == np.float32 and same_bits(y, full(x))
    out = np.full_like(y, np.nan)
    assert net(x, out=out) is out and same_bits(out, y)
    for i in range(0, m, 3):
        assert same_bits(net(x[i]), y[i])


@given(kinds, draw.seeds, st.sampled_from(["sigmoid", "softmax"]), st.data())
def test_any_split_of_the_batch_gives_the_same_bits(kind, seed, activation, data):
    net = network(kind, activation=activation)
    m = 12 if config.DISABLE_JIT else 250
    x = draw.numbers(np.random.default_rng(seed), (m, 9), np.float32)
    cuts = sorted(data.draw(st.lists(st.integers(0, m), max_size=4)))
    assert same_bits(np.concatenate([net(part) for part in np.split(x, cuts)]), in_full(net)(x))


@given(kinds, draw.seeds, st.integers(1, 20), st.integers(1, 5))
def test_threads_share_rows_and_columns_of_half_size_weights(kind, seed, m, threads):
    net = network(kind, (9, 300, 70, 5))
    program = net._program
    x = draw.numbers(np.random.default_rng(seed), (m, 9), np.float32)
    expected, dtype = in_full(net)(x), np.dtype(np.float32)
    pieces = build.pieces(program, threads)
    for parallel in (False, True)[: 1 if config.DISABLE_JIT else 2]:
        y, scratch = np.full((m, 5), np.nan, dtype), np.full(2 * m * program.width * threads, np.nan, dtype)
        compiler.forward(dtype, parallel)(program.address, x, y, scratch, m, m * program.width, threads)
        assert same_bits(y, expected)
        y[:] = np.nan
        kernel = compiler.columns(dtype, parallel)
        kernel(program.address, pieces.ctypes.data, x, y, scratch, m * program.width, threads)
        assert same_bits(y, expected)


@given(st.integers(0, 9), st.integers(1, 300), st.sampled_from([1, 2, 3, 4]), st.sampled_from([4, 8, 16]))
def test_pairing_loses_nothing(k, n, vectors, lanes):
    nr = vectors * lanes
    w = np.arange(k * n, dtype=np.uint16).reshape(k, n)
    body = pack.pack_weights(np.empty(k * pack.panels(n, nr) * nr, np.uint16), w, nr)
    before = body.copy()
    pack.pair(body, lanes)
    for paired, panel in zip(body, before, strict=True):
        assert np.array_equal(pack.unpaired(paired, lanes), panel)
        if vectors > 1:
            words = paired.view(np.uint32)[:, :lanes]
            assert np.array_equal(words & 0xFFFF, panel[:, :lanes])
            assert np.array_equal(words >> 16, panel[:, lanes : 2 * lanes])


GUARDED = """
    import ctypes, mmap, sys
    import numpy as np
    import numbadense as nd
    from numbadense._engine.cpu import pack

    libc = ctypes.CDLL(None, use_errno=True)
    PAGE = mmap.PAGESIZE
    ends = []

    def guarded(size, dtype):
        # Uninitialised memory whose last byte is next to a page that nobody may touch.
        nbytes = size * dtype.itemsize
        pages = max(1, -(-nbytes // PAGE))
        memory = mmap.mmap(-1, (pages + 1) * PAGE)
        base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        assert libc.mprotect(ctypes.c_void_p(base + pages * PAGE), PAGE, 0) == 0
        array = np.frombuffer(memory, dtype, size, pages * PAGE - nbytes)
        ends.append(array)
        return array

    pack.aligned_empty = guarded
    rng = np.random.default_rng(0)
    for kind in ("bfloat16", "float16"):
        for k, n in ((1, 1), (3, 15), (5, 16), (4, 17), (2, 33), (3, 65), (9, 300), (1, 256), (40, 8)):
            layer = nd.Dense(rng.standard_normal((k, n)).astype("f4"), rng.standard_normal(n).astype("f4"), "relu")
            net = nd.Sequential([layer]).astype(kind)
            full = net.astype("float32")
            for m in (1, 2, 3, 7, 8, 9, 17):
                x = rng.standard_normal((m, k)).astype("f4")
                assert np.array_equal(net(x), full(x))
    assert ends
"""


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="mprotect is for POSIX systems")
def test_nothing_beyond_the_packed_weights_is_read():
    scripts.run(GUARDED)


@pytest.mark.parametrize("kind", KINDS)
def test_astype_there_and_back(kind):
    full = network("float32")
    net = full.astype(kind)
    assert net.astype(kind) is net and net.metadata == full.metadata
    back = net.astype("float32")
    assert back.storage == "float32" and back.astype("float32") is back
    for layer, again, original in zip(net.layers, back.layers, full.layers, strict=True):
        assert layer.w.dtype == np.float32 and not layer.w.flags.writeable
        assert same_bits(layer.w, again.w) and same_bits(layer.b, original.b)
        assert not np.array_equal(layer.w, original.w)
        assert np.abs(layer.w - original.w).max() <= np.abs(original.w).max() * 2.0 ** -FORMAT[kind][0]
    assert net.astype("float64").storage == "float64"
    assert same_bits(net.astype("float64").astype(kind).layers[0].w, net.layers[0].w)


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_network_says_of_its_weights(kind):
    net = network(kind, (8, 33, 3))
    assert repr(net) == f"Sequential(8-33-3, sigmoid, sigmoid, float32 with {kind} weights)"
    assert repr(net.layers[0]) == f"Dense(8 -> 33, sigmoid, float32 with {kind} weights)"
    nbytes = 2 * (8 * 33 + 33 * 3) + 4 * (33 + 3)
    assert net.summary().splitlines()[-1] == f"total  399 parameters, {nbytes} bytes in float32 with {kind} weights"
    assert sum(layer.nbytes for layer in net.layers) == nbytes
    assert net.explain().startswith(f"kernel   forward float32 with {kind} weights, ")
    assert net._program.nbytes < 0.7 * net.astype("float32")._program.nbytes


@pytest.mark.parametrize("kind", KINDS)
def test_weights_stay_at_half_size_through_pickle(kind):
    net = network(kind)
    content = pickle.dumps(net)
    assert len(content) < 0.7 * len(pickle.dumps(net.astype("float32")))
    x = np.ones((3, 9), np.float32)
    copy = pickle.loads(content)
    assert copy.storage == kind and same_bits(copy(x), net(x))
    layer = pickle.loads(pickle.dumps(net.layers[0]))
    assert layer.storage == kind and same_bits(layer(x), net.layers[0](x))


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_of_half_size_is_immutable_and_can_be_replaced(kind):
    layer = network(kind).layers[0]
    with pytest.raises(ValueError, match="read-only"):
        layer.w[0] = 1
    with pytest.raises(AttributeError, match="cannot assign"):
        layer.w = np.ones((9, 33))
    with pytest.raises(AttributeError, match="'Dense' object has no attribute 'v'"):
        layer.v  # noqa: B018
    other = dataclasses.replace(layer, activation="relu")
    assert same_bits(other.w, layer.w) and other.storage == "float32"


@pytest.mark.parametrize("kind", KINDS)
def test_files_have_half_the_size(kind, tmp_path):
    net = network(kind, (90, 330, 70))
    net.save(tmp_path / "half.safetensors")
    net.astype("float32").save(tmp_path / "full.safetensors")
    content = (tmp_path / "half.safetensors").read_bytes()
    assert len(content) < 0.53 * (tmp_path / "full.safetensors").stat().st_size
    header = json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])
    expected = {"bfloat16": "BF16", "float16": "F16"}[kind]
    assert {name: entry["dtype"] for name, entry in header.items() if name != "__metadata__"} == {
        "layers.0.w": expected,
        "layers.1.w": expected,
        "layers.0.b": "F32",
        "layers.1.b": "F32",
    }
    back = nd.load(tmp_path / "half.safetensors")
    assert back.storage == kind and back.metadata == net.metadata
    base = back.layers[0]._kept.bits
    while base.base is not None and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap) and not back.layers[0]._kept.bits.flags.owndata
    x = draw.numbers(np.random.default_rng(1), (6, 90), np.float32)
    assert same_bits(back(x), net(x))
    back.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == content


def test_a_file_whose_biases_are_float16_too_is_read(tmp_path):
    w, b = np.eye(3, dtype=np.float16), np.array([0.5, 1, 2], np.float16)
    description = {"version": 1, "layers": [{"activation": "relu"}], "metadata": {}}
    tensors = {"layers.0.w": w, "layers.0.b": b}
    (tmp_path / "net.safetensors").write_bytes(safetensors.numpy.save(tensors, {"numbadense": json.dumps(description)}))
    net = nd.load(tmp_path / "net.safetensors")
    assert net.storage == "float16" and net.layers[0].b.dtype == np.float32
    assert net([1, -2, 3]).tolist() == [1.5, 0, 5]


@pytest.mark.parametrize("kind", KINDS)
def test_layers_that_are_kept_in_different_ways_make_a_network(kind):
    full, reduced = network("float32"), network(kind)
    mixed = nd.Sequential([reduced.layers[0], full.layers[1], network("float16").layers[2]])
    assert mixed.storage == "float32" and mixed.layers[0].storage == kind
    x = draw.numbers(np.random.default_rng(1), (6, 9), np.float32)
    assert same_bits(mixed(x), in_full(mixed)(x))
    assert {layer.storage for layer in mixed.astype("float32").layers} == {"float32"}
    assert same_bits(nd.stack([reduced, full])[0](x), reduced(x))
    double = nd.Sequential([reduced.layers[0], full.astype("float64").layers[1]])
    assert double.dtype == np.float64 and double.storage == "float64"
    assert same_bits(double(x), in_full(double)(x))


def test_weights_too_large_for_float16_are_warned_of():
    net = nd.Sequential([nd.Dense([[1e5, 1.0]])])
    with pytest.warns(nd.NonFiniteWarning, match="the weights of a 1 -> 2 layer hold NaN or infinity"):
        overflowed = net.astype("float16")
    assert overflowed([1.0]).tolist() == [math.inf, 1.0]
    assert net.astype("bfloat16")([1.0]).tolist() == [nearest(1e5, "bfloat16"), 1.0]


def test_half_size_weights_run_inside_compiled_code():
    net = network("bfloat16")
    x = draw.numbers(np.random.default_rng(1), (7, 9), np.float32)
    out = np.empty((7, 5), np.float32)
    njit(lambda f, x, out: f(x, out))(net.jit, x, out)
    assert same_bits(out, net(x))


def arrays_of(kind):
    if kind == "float16":
        return np.dtype(np.float16)
    return np.dtype(pytest.importorskip("ml_dtypes").bfloat16)


@pytest.mark.parametrize("kind", KINDS)
def test_operands_of_half_precision_count_as_float32(kind):
    dtype = arrays_of(kind)
    rng = np.random.default_rng(0)
    x, w, b = (rng.standard_normal(shape).astype(dtype) for shape in ((5, 4), (4, 7), 7))
    x32, w32, b32 = (a.astype(np.float32) for a in (x, w, b))
    expected = nd.dense(x32, w32, b32, "tanh")
    assert same_bits(nd.dense(x, w, b, "tanh"), expected)
    assert same_bits(nd.dense(x32, w, b, "tanh"), expected)
    assert same_bits(nd.dense(x[:, ::-1], w[::-1], b, "tanh"), nd.dense(x32[:, ::-1], w32[::-1], b32, "tanh"))
    assert nd.dense(x.astype(np.float64), w, b).dtype == nd.dense(x, w32.astype(int), b).dtype == np.float64
    layer = nd.Dense(w, b, "tanh")
    assert layer.storage == "float32" and same_bits(layer(x), expected) and same_bits(layer(x32), expected)
    assert same_bits(nd.Sequential([layer]).predict(x, 2), expected)
    assert same_bits(nd.tanh(x), nd.tanh(x32)) and same_bits(nd.softmax(x), nd.softmax(x32))
    for function in (lambda out: nd.dense(x, w, b, "tanh", out=out), lambda out: layer(x, out=out)):
        out = np.empty((5, 7), dtype)
        assert function(out) is out and np.array_equal(out, expected.astype(dtype))
    out = np.empty((5, 4), dtype)
    assert nd.tanh(x, out=out) is out and np.array_equal(out, nd.tanh(x32).astype(dtype))
    assert nd.Sequential([layer]).predict(x, 2, out=np.empty((5, 7), dtype)).dtype == dtype


@pytest.mark.parametrize("kind", KINDS)
def test_dtypes_of_half_precision_are_names_of_storage(kind):
    net = network("float32")
    assert net.astype(arrays_of(kind)).storage == net.astype(arrays_of(kind).type).storage == kind


def test_results_too_large_for_out_become_infinite_without_a_warning():
    out = np.empty((1, 1), np.float16)
    nd.dense([[1e5]], [[1.0]], out=out)
    assert out == math.inf
