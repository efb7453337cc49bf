import pickle
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import naive
import numpy as np
import pytest
import strategies as draw
from hypothesis import given
from hypothesis import strategies as st
from numba import config

import numbadense as nd
from numbadense._engine import program

activation = st.sampled_from(["identity", "sigmoid", "relu", "tanh", "elu", "silu", "gelu", "softplus", "mish"])


def layers_of(rng, widths, dtype, names):
    return [
        nd.Dense(draw.weights(rng, k, n, dtype), draw.numbers(rng, n, dtype), name)
        for k, n, name in zip(widths, widths[1:], names, strict=False)
    ]


@given(
    st.lists(st.sampled_from([1, 2, 5, 8, 16, 17, 31, 40]), min_size=2, max_size=5),
    st.lists(activation, min_size=4, max_size=4),
    st.sampled_from([1, 2, 7, 9, 25]),
    draw.dtypes,
    draw.seeds,
)
def test_a_network_is_within_its_error_bound_of_the_loops(widths, names, m, dtype, seed):
    rng = np.random.default_rng(seed)
    net = nd.Sequential(layers_of(rng, widths, dtype, names))
    x = draw.numbers(rng, (m, widths[0]), dtype)
    expected = naive.forward(x, [(layer.w, layer.b, layer.activation.name) for layer in net.layers])
    assert net.dtype == dtype and (net.n_in, net.n_out) == (widths[0], widths[-1])
    nd.testing.assert_forward_close(net(x), expected, x, net.layers)


def test_the_error_bound_notices_an_error():
    rng = np.random.default_rng(0)
    net = nd.Sequential(layers_of(rng, (5, 9, 3), np.float32, ("tanh", "sigmoid")))
    x = draw.numbers(rng, (4, 5), np.float32)
    expected = naive.forward(x, [(layer.w, layer.b, layer.activation.name) for layer in net.layers])
    wrong = net(x)
    wrong[2, 1] *= np.float32(1.00001)
    with pytest.raises(AssertionError, match=r"1 of 12 outputs are outside their bounds; at \(2, 1\)"):
        nd.testing.assert_forward_close(wrong, expected, x, net.layers)


@pytest.mark.parametrize("dtype", draw.DTYPES)
@pytest.mark.parametrize("position", [0, 1])
def test_softmax_sees_whole_rows_and_nothing_else(dtype, position):
    rng = np.random.default_rng(0)
    names = ["tanh", "tanh"]
    names[position] = "softmax"
    net = nd.Sequential(layers_of(rng, (6, 21, 10), dtype, names))
    x = draw.numbers(rng, (50, 6), dtype)
    a = x.astype(float)
    for layer in net.layers:
        z = a @ layer.w.astype(float) + layer.b
        if layer.activation.name == "tanh":
            a = np.tanh(z)
        else:
            a = np.exp(z - z.max(axis=1, keepdims=True))
            a /= a.sum(axis=1, keepdims=True)
    nd.testing.assert_forward_close(net(x), a, x, net.layers)


@pytest.fixture
def net():
    return nd.Sequential(
        layers_of(np.random.default_rng(0), (8, 33, 3), np.float32, ("relu", "sigmoid")), metadata={"by": "the tests"}
    )


def test_predict_reads_and_writes_memory_maps(net, tmp_path):
    m = 50 if config.DISABLE_JIT else 5000
    x = draw.numbers(np.random.default_rng(1), (m, 8), np.float32)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    out = np.lib.format.open_memmap(tmp_path / "y.npy", "w+", np.float32, (m, 3))
    assert net.predict(mapped, 7, out=out, progress=True) is out
    out.flush()
    assert np.array_equal(np.load(tmp_path / "y.npy"), net(x))


@pytest.mark.skipif(config.DISABLE_JIT, reason="slow without the JIT, and about memory")
def test_predict_takes_no_memory_beyond_a_batch(net, tmp_path):
    m = 400_000
    x = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float64, (m, 8))
    out = np.lib.format.open_memmap(tmp_path / "y.npy", "w+", np.float32, (m, 3))
    net.predict(x[:100], out=out[:100])
    tracemalloc.start()
    net.predict(x, 1000, out=out)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 200_000


def test_predict_may_write_over_its_input():
    net = nd.Sequential(layers_of(np.random.default_rng(0), (5, 5), np.float64, ("tanh",)))
    x = np.random.default_rng(1).standard_normal((40, 5))
    expected = net(x)
    assert np.array_equal(net.predict(x, 3, out=x), expected)
    assert net.predict(x[:0]).shape == (0, 5)


def test_a_network_is_immutable(net):
    w = np.ones((2, 2))
    layer = nd.Dense(w, np.zeros(2))
    w[:] = 7
    assert (layer.w == 1).all() and layer([1.0, 1.0]).tolist() == [2.0, 2.0]
    for frozen in (net.layers[0].w, net.layers[0].b):
        with pytest.raises(ValueError, match="read-only"):
            frozen[0] = 1
    with pytest.raises(AttributeError, match="cannot assign"):
        net.layers = ()
    with pytest.raises(AttributeError, match="cannot assign"):
        layer.w = w
    with pytest.raises(TypeError, match="does not support item assignment"):
        net.metadata["by"] = "somebody"


def test_read_only_weights_are_not_copied():
    w = np.ones((3, 4))
    w.flags.writeable = False
    assert nd.Dense(w).w is w


def test_read_only_views_of_what_others_may_write_are_copied():
    owner = np.ones((3, 4))
    view = owner.view()
    view.flags.writeable = False
    layer = nd.Dense(view)
    owner[:] = 7
    assert (layer.w == 1).all() and (layer(np.ones(3)) == 3).all()


def test_a_network_survives_pickle(net):
    x = np.ones((2, 8), np.float32)
    net(x)
    copy = pickle.loads(pickle.dumps(net))
    assert np.array_equal(copy(x), net(x)) and copy.metadata == net.metadata
    assert np.array_equal(pickle.loads(pickle.dumps(net.layers[0]))(x), net.layers[0](x))


def test_astype_converts_the_weights_once(net):
    double = net.astype("float64")
    assert double.dtype == np.float64 and net.astype(np.float32) is net
    assert double.metadata == net.metadata
    x = np.ones((2, 8))
    assert np.allclose(double(x), net(x), rtol=1e-5) and net(x).dtype == np.float32


def test_a_network_casts_its_input(net):
    x = np.arange(16).reshape(2, 8)
    expected = net(x.astype(np.float32))
    for given_ in (x, x.tolist(), x.astype(float), x.astype(np.float16), x.astype(">f8")):
        assert np.array_equal(net(given_), expected)
    out = np.empty((2, 3))
    assert np.array_equal(net(x, out=out), expected)


def test_out_may_overlap_x():
    net = nd.Sequential(layers_of(np.random.default_rng(0), (5, 9, 5), np.float32, ("relu", "tanh")))
    x = draw.numbers(np.random.default_rng(1), (30, 5), np.float32)
    expected = net(x)
    assert net(x[::-1], out=x) is x
    assert np.array_equal(x, expected[::-1])


def test_many_threads_may_call_one_network(net):
    x = draw.numbers(np.random.default_rng(1), (8, 40 if config.DISABLE_JIT else 700, 8), np.float32)
    expected = [net(part) for part in x]
    fresh = nd.Sequential(net.layers)
    start = threading.Barrier(8)

    def work(index):
        start.wait()
        out = np.empty_like(expected[index])
        for _ in range(2 if config.DISABLE_JIT else 200):
            fresh(x[index], out=out)
            assert np.array_equal(out, expected[index])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))


def test_a_network_is_built_once_even_if_many_threads_ask_at_once(net, monkeypatch):
    built, build, start = [], program.build, threading.Barrier(8)

    def slow(*arguments):
        time.sleep(0.05)
        built.append(build(*arguments))
        return built[-1]

    fresh, x = nd.Sequential(net.layers), np.ones((3, net.n_in), np.float32)
    expected = net(x)
    monkeypatch.setattr(program, "build", slow)

    def work(_):
        start.wait()
        return fresh._address, fresh(x)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(work, range(8)))
    assert len(built) == 1 and {address for address, _ in found} == {built[0].address}
    assert all(np.array_equal(y, expected) for _, y in found)


def test_summary_has_every_layer(net):
    lines = net.summary().splitlines()
    assert len(lines) == 4
    assert lines[1].split() == ["0", "8", "->", "33", "relu", "297"]
    assert lines[3] == "total  399 parameters, 1,596 bytes in float32"


def test_explain_says_what_runs(net):
    one, many = net.explain(), net.explain((100_000, 8))
    assert "serial twin" in one and "blocks   1 of at most 1 rows" in one
    assert "72,600,000 flops" in many
    assert "layer 1  33 -> 3" in many
    assert "serial twin: one thread allowed" in net.explain(100_000, threads=1)
    assert net.explain(100_000) == many


def test_reprs(net):
    assert repr(net) == "Sequential(8-33-3, relu, sigmoid, float32)"
    assert repr(net.layers[1]) == "Dense(33 -> 3, sigmoid, float32)"


@pytest.mark.skipif(config.DISABLE_JIT, reason="the twins allocate")
def test_a_call_with_out_allocates_nothing(net):
    x, y = np.ones((5, 8), np.float32), np.empty((5, 3), np.float32)
    net(x, out=y)
    tracemalloc.start()
    for _ in range(100):
        net(x, out=y)
    current, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert current < 500 and peak < 2000  # interpreter objects in flight; a row of scratch alone is 264 bytes


def test_user_activations_are_equals():
    @nd.activation(limits=(0.0, np.inf), lipschitz=np.inf)
    def squared_relu(x):
        T = type(x)
        positive = T(0) if x < T(0) else x
        return positive * positive

    x = np.linspace(-2, 2, 9, dtype=np.float32).reshape(3, 3)
    expected = np.maximum(x, 0) ** 2
    assert np.array_equal(nd.squared_relu(x), expected)
    assert np.array_equal(nd.dense(x, np.eye(3, dtype=np.float32), None, "squared_relu"), expected)
    assert np.array_equal(nd.Dense(np.eye(3, dtype=np.float32), None, squared_relu)(x), expected)
    assert np.array_equal(nd.dense(x, np.eye(3, dtype=np.float32), None, nd.squared_relu), expected)


@pytest.mark.skipif(config.DISABLE_JIT, reason="the twins allocate")
@pytest.mark.parametrize("arrange", [draw.fortran, draw.every_second, draw.backwards, draw.upside_down, draw.a_slice])
def test_strided_rows_are_read_where_they_lie(net, arrange):
    x = arrange(draw.numbers(np.random.default_rng(1), (3000, 8), np.float32))
    expected = net(np.ascontiguousarray(x))
    out = np.empty_like(expected)
    net(x, out=out)
    tracemalloc.start()
    net(x, out=out)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert np.array_equal(out, expected) and peak < x.nbytes / 10


def test_transposed_weights_need_no_copy_of_their_own():
    w = np.random.default_rng(0).standard_normal((70, 9))
    w.flags.writeable = False
    layer = nd.Dense(w.T)
    assert np.shares_memory(layer.w, w)
    x = np.random.default_rng(1).standard_normal((5, 9))
    assert np.array_equal(layer(x), nd.Dense(np.ascontiguousarray(w.T))(x))
