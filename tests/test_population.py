import gc
import itertools
import os
import pickle
import re
import textwrap
import threading
import tracemalloc
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import scripts
import strategies as draw
from hypothesis import given
from hypothesis import strategies as st
from numba import config
from test_tile import GUARDED

import numbadense as nd
from numbadense import activations
from numbadense._engine import compile as compiler
from numbadense._engine import population as engine
from numbadense._engine.cpu import pack

compiled = pytest.mark.skipif(config.DISABLE_JIT, reason="about compiled kernels")
WIDTHS = (5, 19, 3)
ROWS = 9 if config.DISABLE_JIT else 230  # more than a block of rows where that is fast
counts = st.sampled_from([1, 2, 3, 7])
widths = st.lists(st.sampled_from([1, 2, 5, 16, 17, 33, 70]), min_size=2, max_size=4)
names = st.sampled_from(["identity", "relu", "tanh", "sigmoid", "softmax"])


def arrays(rng, count, sizes, dtype):
    """Weights and biases of `count` networks by layer."""
    pairs = list(itertools.pairwise(sizes))
    weights = [np.stack([draw.weights(rng, k, n, dtype) for _ in range(count)]) for k, n in pairs]
    return weights, [draw.numbers(rng, (count, n), dtype) for _, n in pairs]


def networks_of(weights, biases, names):
    return [
        nd.Sequential([nd.Dense(w[e], b[e], name) for w, b, name in zip(weights, biases, names, strict=True)])
        for e in range(len(weights[0]))
    ]


@pytest.fixture
def networks():
    return networks_of(*arrays(np.random.default_rng(0), 4, WIDTHS, np.float32), ["tanh", None])


@pytest.fixture
def population(networks):
    return nd.stack(networks)


@given(counts, widths, st.lists(names, min_size=3, max_size=3), st.sampled_from([0, 1, 2, 9]), draw.dtypes, draw.seeds)
def test_each_row_has_the_bits_of_its_own_network(count, sizes, names, m, dtype, seed):
    rng = np.random.default_rng(seed)
    weights, biases = arrays(rng, count, sizes, dtype)
    names = names[: len(weights)]
    networks = networks_of(weights, biases, names)
    population = nd.Population(weights, biases, names)
    x = draw.numbers(rng, (count, m, sizes[0]), dtype)
    own = np.stack([network(rows) for network, rows in zip(networks, x, strict=True)])
    shared = np.stack([network(x[0]) for network in networks])
    for made in (population, nd.stack(networks)):
        assert np.array_equal(made(x), own)
        assert np.array_equal(made(x, out=np.full_like(own, np.nan)), own)
        assert np.array_equal(made(x[0]), shared)
    flat = x.reshape(-1, sizes[0])
    ids = rng.integers(0, count, len(flat))
    routed = population(flat, which=ids)
    for e, row, actual in zip(ids, flat, routed, strict=True):
        assert np.array_equal(networks[e](row), actual)
    order = np.argsort(ids, kind="stable")
    assert np.array_equal(population(flat[order], which=ids[order]), routed[order])


@pytest.mark.parametrize("dtype", draw.DTYPES)
def test_company_order_and_threads_do_not_change_a_bit(dtype):
    rng = np.random.default_rng(0)
    population = nd.Population(*arrays(rng, 3, (5, 33, 18), dtype), ["sigmoid", "softmax"])
    x = draw.numbers(rng, (3, ROWS, 5), dtype)
    together = population(x)
    for e, network in enumerate(population):
        assert np.array_equal(network(x[e]), together[e])
    ids = np.repeat(np.arange(3), ROWS)
    for _ in range(3):
        order = rng.permutation(len(ids))
        flat, expected = x.reshape(-1, 5)[order], together.reshape(-1, 18)[order]
        assert np.array_equal(population(flat, which=ids[order]), expected)
        assert np.array_equal(population(flat, which=ids[order], threads=3), expected)
    assert np.array_equal(population(x, threads=3), together)
    assert np.array_equal(population(x[0])[0], together[0])


@compiled
@given(st.integers(1, 5), st.integers(1, 300), st.integers(1, 4), st.booleans(), draw.dtypes, draw.seeds)
def test_the_parallel_kernel_and_its_serial_twin_give_the_same_bits(count, m, threads, routed, dtype, seed):
    rng = np.random.default_rng(seed)
    population = nd.Population(*arrays(rng, count, (5, 17, 4), dtype), ["tanh", None])
    packed = population._packed
    rows = m if routed else count * m
    x = draw.numbers(rng, (rows, 5), dtype)
    lists = engine.NONE, engine.NONE, engine.NONE
    if routed:
        lists = rng.integers(0, count, rows), np.empty(rows, np.int64), np.empty(count + 1, np.int64)
        assert compiler.sort()(lists[0], lists[2], lists[1]) == -1
    results = []
    for parallel in (False, True):
        y = np.full((rows, 4), np.nan, dtype)
        unit, width = 24, packed.width
        room = 2 * unit * width + unit * 9
        scratch = np.full(threads * room, np.nan, dtype)
        compiler.population(packed.dtype, parallel)(
            packed.address,
            packed.stride,
            x,
            y,
            0 if routed else m,
            False,
            *lists,
            scratch,
            unit,
            unit * width,
            room,
            threads,
        )
        results.append(y)
    assert np.array_equal(*results)
    assert np.array_equal(
        results[0], population(x, which=lists[0]) if routed else population(x.reshape(count, m, 5)).reshape(rows, 4)
    )


@given(st.lists(st.integers(0, 6), max_size=40))
def test_the_sort_is_stable_and_whole(ids):
    which, order, ends = np.array(ids, np.int64), np.empty(len(ids), np.int64), np.empty(8, np.int64)
    assert compiler.sort()(which, ends, order) == -1
    assert np.array_equal(order, np.argsort(which, kind="stable"))
    assert np.array_equal(ends[:7], np.cumsum(np.bincount(which, minlength=7)))


ID_LAYOUTS = (draw.backwards, draw.unaligned, draw.field, draw.big_endian, draw.read_only, draw.one_row_again_and_again)


@given(
    draw.layouts, draw.layouts, st.sampled_from(ID_LAYOUTS), draw.out_layouts, draw.dtypes, st.booleans(), draw.seeds
)
def test_layouts_do_not_change_a_bit(x_layout, w_layout, ids_layout, out_layout, dtype, shared, seed):
    rng = np.random.default_rng(seed)
    weights, biases = arrays(rng, 3, (6, 18), dtype)
    x = draw.numbers(rng, (4, 6) if shared else (3, 4, 6), dtype)
    plain = nd.Population([np.array(w_layout(weights[0]), dtype)], biases, ["tanh"])
    expected = plain(np.array(x_layout(x), dtype, order="C", subok=False))
    population = nd.Population([w_layout(weights[0])], biases, ["tanh"])
    assert np.array_equal(population(x_layout(x)), expected)
    out = out_layout(np.full(expected.shape, np.nan, dtype))
    assert population(x_layout(x), out=out) is out
    assert np.array_equal(out, expected)
    rows, ids = x.reshape(-1, 6), rng.integers(0, 3, x.size // 6)
    given_ids = ids_layout(ids)
    assert np.array_equal(population(rows, which=given_ids), population(rows, which=np.array(given_ids, np.int64)))
    out = out_layout(np.full((len(rows), 18), np.nan, dtype))
    assert population(x_layout(rows), which=ids, out=out) is out
    assert np.array_equal(out, population(np.array(x_layout(rows), dtype, subok=False), which=ids))


def test_other_dtypes_are_cast(population):
    x = np.arange(40).reshape(4, 2, 5)
    expected = population(x.astype(np.float32))
    for given_ in (x, x.tolist(), x.astype(float), x.astype(np.float16), x.astype(">f8")):
        assert np.array_equal(population(given_), expected)
    out = np.empty(expected.shape)
    assert np.array_equal(population(x, out=out), expected)
    rows = x[:, 0].astype(np.float32)
    for ids in (
        [3, 0, 0, 1],
        np.array([3, 0, 0, 1], np.uint8),
        np.array([3, 0, 0, 1], ">i2"),
        np.array([3, 0, 0, 1], "u8"),
    ):
        assert np.array_equal(population(rows, which=ids), population(rows, which=np.array([3, 0, 0, 1])))
    many = nd.Population([np.ones((300, 5, 3), np.float32)])
    assert np.array_equal(many(rows, which=np.array([3, 0, 0, 1], np.uint8)), many(rows)[0])


def test_out_may_overlap_x():
    rng = np.random.default_rng(0)
    population = nd.Population(*arrays(rng, 3, (5, 9, 5), np.float64), ["relu", "tanh"])
    x = draw.numbers(rng, (3, 4, 5), np.float64)
    for given_ in (lambda a: a, lambda a: a[::-1], lambda a: a[:, ::-1]):
        same = x.copy()
        expected = population(given_(x))
        assert population(given_(same), out=same) is same and np.array_equal(same, expected)
    rows, ids = x.reshape(12, 5), rng.integers(0, 3, 12)
    expected, same = population(rows, which=ids), rows.copy()
    assert population(same, which=ids, out=same) is same and np.array_equal(same, expected)


@pytest.mark.parametrize(
    "count,m,sizes", [(0, 3, WIDTHS), (3, 0, WIDTHS), (2, 3, (0, 4)), (2, 3, (4, 0)), (2, 3, (4, 0, 5))]
)
@pytest.mark.parametrize("dtype", draw.DTYPES)
def test_empty_axes(count, m, sizes, dtype):
    pairs = list(itertools.pairwise(sizes))
    weights, biases = (
        [np.ones((count, k, n), dtype) for k, n in pairs],
        [np.full((count, n), 2, dtype) for _, n in pairs],
    )
    population = nd.Population(weights, biases, ["relu"] * len(pairs))
    x = np.ones((count, m, sizes[0]), dtype)
    y = population(x)
    assert len(population) == count and y.shape == (count, m, sizes[-1])
    assert np.array_equal(population(np.ones((m, sizes[0]), dtype)), y)
    assert np.array_equal(population(x, out=np.empty_like(y)), y)
    for e in range(count):
        assert np.array_equal(population[e](x[e]), y[e])
    if count:
        routed = population(x[0], which=np.zeros(m, int))
        assert np.array_equal(routed, y[0])
    assert population(np.ones((0, sizes[0])), which=[]).shape == (0, sizes[-1])


def test_a_network_of_it_is_views(population, networks):
    for e in (0, 3, -1, np.int64(2)):
        network = population[e]
        assert isinstance(network, nd.Sequential) and network.dtype == population.dtype
        for index, layer in enumerate(network.layers):
            assert np.shares_memory(layer.w, population.weights[index]) and not layer.w.flags.writeable
            assert np.shares_memory(layer.b, population.biases[index]) and not layer.b.flags.writeable
            assert np.array_equal(layer.w, networks[e].layers[index].w)
            assert np.array_equal(layer.b, networks[e].layers[index].b)
    assert len(list(population)) == len(population) == 4
    assert (population.n_in, population.n_out, population.dtype) == (5, 3, np.float32)
    copy = pickle.loads(pickle.dumps(population[1]))
    assert np.array_equal(copy(np.ones((2, 5))), networks[1](np.ones((2, 5))))


def test_a_population_is_immutable():
    weights, biases = arrays(np.random.default_rng(0), 2, WIDTHS, np.float64)
    population = nd.Population(weights, biases)
    x = np.ones((1, 5))
    before = population(x)
    weights[0][:], biases[1][:] = 7, 7
    assert np.array_equal(population(x), before)
    with pytest.raises(ValueError, match="read-only"):
        population.weights[0][0] = 1
    with pytest.raises(ValueError, match="WRITEABLE"):
        population.weights[0].flags.writeable = True
    with pytest.raises(AttributeError, match="cannot assign"):
        population.weights = ()


def test_a_population_survives_pickle_and_its_makers(population):
    x = draw.numbers(np.random.default_rng(1), (4, 3, 5), np.float32)
    expected = population(x)
    copy = pickle.loads(pickle.dumps(population))
    assert np.array_equal(copy(x), expected) and copy.activations == population.activations
    network = copy[2]
    del copy
    gc.collect()
    assert np.array_equal(network(x[2]), expected[2])


def test_biases_are_optional():
    (w, v), (b, _) = arrays(np.random.default_rng(0), 3, WIDTHS, np.float32)
    x = np.ones((2, 5), np.float32)
    zeros = np.zeros((3, 3), np.float32)
    expected = nd.Population([w, v], [b, zeros])(x)
    some = nd.Population([w, v], [b, None])
    assert np.array_equal(some(x), expected) and some.biases[1] is None and some[0].layers[1].b is None
    assert np.array_equal(nd.Population([w, v])(x), nd.Population([w, v], [b * 0, zeros])(x))
    layers = [[nd.Dense(w[e], b[e]), nd.Dense(v[e], zeros[e] if e == 1 else None)] for e in range(3)]
    assert np.array_equal(nd.stack([nd.Sequential(of) for of in layers])(x), expected)


def test_dtypes_of_weights_promote_as_in_numpy():
    w, b = np.ones((2, 3, 4), np.float32), np.ones((2, 4))
    assert nd.Population([w]).dtype == np.float32 and nd.Population([w], [b]).dtype == np.float64
    assert (
        nd.Population([w.astype(int)]).dtype == np.float64 and nd.Population([w.astype(np.float16)]).dtype == np.float32
    )
    assert nd.Population([w.astype(">f4").tolist()]).dtype == np.float64


@pytest.mark.parametrize("name", sorted(activations.REGISTRY))
def test_every_activation_goes_through_a_hidden_layer_unharmed_by_its_neighbours(name):
    weights, biases = arrays(np.random.default_rng(0), 3, (4, 18, 3), np.float32)
    huge = [w * np.float32(1e20) if i == 1 else w for i, w in enumerate(weights)]  # what tiles read past a layer's end
    population = nd.Population(huge, biases, [name, None])
    x = np.ones((3, 2, 4), np.float32)
    expected = [network(rows) for network, rows in zip(networks_of(huge, biases, [name, None]), x, strict=True)]
    assert np.array_equal(population(x), expected)


def test_packing_takes_little_more_than_the_weights():
    population = nd.Population(*arrays(np.random.default_rng(0), 50, (8, 32, 32, 2), np.float32))
    packed = population._packed
    parameters = 8 * 32 + 32 + 32 * 32 + 32 + 32 * 2 + 2
    lines = 2 * len(packed.shapes) * pack.ALIGNMENT
    assert packed.stride <= parameters * 4 + lines
    assert packed.buffer.nbytes <= 50 * packed.stride + 4 * 16 * 4
    assert packed.buffer.ctypes.data % pack.ALIGNMENT == packed.stride % pack.ALIGNMENT == 0


@compiled
def test_a_call_with_out_allocates_nothing():
    rng = np.random.default_rng(0)
    population = nd.Population(*arrays(rng, 300, (8, 32, 2), np.float32), ["tanh", None])
    x, y = np.ones((300, 1, 8), np.float32), np.empty((300, 1, 2), np.float32)
    rows, flat, ids = x[:, 0], y[:, 0], rng.integers(0, 300, 300)
    for call, most in ((lambda: population(x, out=y), 4000), (lambda: population(rows, which=ids, out=flat), 12_000)):
        call()
        tracemalloc.start()
        for _ in range(50):
            call()
        current, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert current < 1000 and peak < most  # one more copy of the weights is 410 kB, of the input 9.6 kB


def test_weights_that_are_not_finite_warn_once():
    weights, biases = arrays(np.random.default_rng(0), 5, WIDTHS, np.float32)
    weights[1][3, 0, 0], biases[1][4, 1] = np.nan, np.inf
    text = (
        "the weights of layer 1 hold NaN or infinity in 2 of 5 networks, first in network 3, and so will their outputs"
    )
    with pytest.warns(nd.NonFiniteWarning, match=text) as caught:
        population = nd.Population(weights, biases)
        population(np.ones((1, 5))), population[3], list(population)
    assert len(caught) == 1 and caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = nd.stack([population[e] for e in range(5)])
    assert np.array_equal(again(np.ones((1, 5))), population(np.ones((1, 5))), equal_nan=True)


def test_many_threads_may_call_one_population(population):
    x = draw.numbers(np.random.default_rng(1), (8, 4, 5, 5), np.float32)
    expected = [population(part) for part in x]
    start = threading.Barrier(8)

    def work(index):
        start.wait()
        out = np.empty_like(expected[index])
        for _ in range(2 if config.DISABLE_JIT else 200):
            population(x[index], out=out)
            assert np.array_equal(out, expected[index])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))


@compiled
@pytest.mark.skipif(not hasattr(os, "fork"), reason="mprotect is for POSIX systems")
def test_nothing_beyond_an_array_is_touched():
    code = """
        from numbadense._engine.cpu import pack

        def behind_guards(size, dtype):
            return guarded(np.zeros(size, dtype), buffer_side)

        pack.aligned_empty = behind_guards
        rng = np.random.default_rng(0)
        for dtype in (np.float32, np.float64):
            for side in ("end", "begin"):
                buffer_side = side
                for widths in ((3, 1), (5, 2, 3), (2, 33, 18), (1, 70, 1), (4, 15, 64), (3, 100), (3, 50)):
                    pairs = list(zip(widths, widths[1:]))
                    weights = [rng.standard_normal((3, k, n)).astype(dtype) for k, n in pairs]
                    population = nd.Population(weights, None, ["tanh"] * len(pairs))
                    for m in (1, 2, 7, 9, 17):
                        x = rng.standard_normal((3, m, widths[0])).astype(dtype)
                        expected = [network(rows) for network, rows in zip(population, x)]
                        out = guarded(np.zeros((3, m, widths[-1]), dtype), side)
                        assert np.array_equal(population(guarded(x, side), out=out), expected)
                        ids = guarded(rng.integers(0, 3, m), side)
                        out = guarded(np.zeros((m, widths[-1]), dtype), side)
                        rows = guarded(x[0], side)
                        population(rows, which=ids, out=out)
                        assert np.array_equal(out, [population[e](row) for e, row in zip(ids, rows)])
    """
    scripts.run(textwrap.dedent(GUARDED).split("rng =")[0] + textwrap.dedent(code))


def test_summary_explain_and_repr(population):
    lines = population.summary().splitlines()
    assert lines[1].split() == ["0", "5", "->", "19", "tanh", "114", "456"]
    assert lines[3] == "total  4 networks of 174 parameters, 2,784 bytes in float32"
    assert repr(population) == "Population(4 x 5-19-3, tanh, identity, float32)"
    assert "rows     8, 2 rows for each of 4 networks" in population.explain(2)
    assert "1 row for each of 4 networks" in population.explain()
    assert "some rows for some networks" in population.explain(100, which=True)
    assert "serial twin: one thread allowed" in population.explain(10**6, threads=1)


SINGLE = nd.Population([np.ones((5, 3, 7))], activations=["relu"])
NETWORK = nd.Sequential([nd.Dense(np.ones((3, 7)), None, "relu"), nd.Dense(np.ones((7, 2)))])


def other(*layers):
    return lambda: nd.stack([NETWORK, NETWORK, nd.Sequential(layers)])


CASES = [
    (
        lambda: nd.stack([]),
        nd.ShapeError,
        "there are 0 networks to stack but a population needs 1 at least; pass [network, ...].",
    ),
    (lambda: nd.stack(3), nd.OptionError, "networks is a int but must be a sequence of networks; pass [network, ...]."),
    (
        lambda: nd.stack([NETWORK, NETWORK.layers]),
        nd.OptionError,
        "network 1 is a tuple but must be a numbadense.Sequential; pass Sequential([layer, ...]).",
    ),
    (
        other(NETWORK.layers[0]),
        nd.ShapeError,
        "network 2 has 1 layer but network 0 has 2; stack networks of one shape only.",
    ),
    (
        other(NETWORK.layers[0], nd.Dense(np.ones((7, 4)))),
        nd.ShapeError,
        "layer 1 of network 2 is 7 -> 4 but that of network 0 is 7 -> 2; stack networks of one shape only.",
    ),
    (
        other(nd.Dense(np.ones((3, 7)), None, "tanh"), NETWORK.layers[1]),
        nd.OptionError,
        "layer 0 of network 2 has the activation tanh but that of network 0 has relu; "
        "stack networks of the same activations only.",
    ),
    (
        lambda: nd.stack([NETWORK, NETWORK.astype("float32")]),
        nd.DTypeError,
        "layer 0 of network 1 is float32 but that of network 0 is float64; pass network.astype('float64').",
    ),
    (
        lambda: nd.Population([]),
        nd.ShapeError,
        "a population has 0 layers but needs 1 at least; pass weights=[w, ...], one for each layer.",
    ),
    (
        lambda: nd.Population(np.ones((2, 3, 4))),
        nd.OptionError,
        "weights is a ndarray but must be a list with an array for each layer; "
        "pass weights=[array, ...], each of shape (networks, n_in, n_out).",
    ),
    (
        lambda: nd.Population([np.ones((2, 3, 4))], np.ones((2, 4))),
        nd.OptionError,
        "biases is a ndarray but must be a list with an array for each layer; "
        "pass biases=[array, ...], each of shape (networks, n_out).",
    ),
    (
        lambda: nd.Population([np.ones((2, 3, 4))], []),
        nd.ShapeError,
        "there are 0 biases but 1 weights; pass one for each layer, None where there is none.",
    ),
    (
        lambda: nd.Population([np.ones((3, 4))]),
        nd.ShapeError,
        "weights[0] has 2 dimensions but must have 3, (networks, n_in, n_out): weights[0].shape=(3, 4).",
    ),
    (
        lambda: nd.Population([np.ones((2, 3, 4)), np.ones((5, 4, 1))]),
        nd.ShapeError,
        "weights[1] has 5 networks but weights[0] has 2: weights[1].shape=(5, 4, 1), weights[0].shape=(2, 3, 4); "
        "the first axis counts the networks.",
    ),
    (
        lambda: nd.Population([np.ones((2, 3, 4)), np.ones((2, 1, 4))]),
        nd.ShapeError,
        "layer 1 takes 1 features but layer 0 gives 4: weights[1].shape=(2, 1, 4), weights[0].shape=(2, 3, 4); "
        "weights are (networks, n_in, n_out), so if they came from PyTorch, pass w.transpose(0, 2, 1).",
    ),
    (
        lambda: nd.Population([np.ones((2, 3, 4))], [np.ones((2, 3))]),
        nd.ShapeError,
        "biases[0] has shape (2, 3) but weights[0] has 2 networks of 4 outputs: weights[0].shape=(2, 3, 4); "
        "pass biases[0] as (2, 4).",
    ),
    (
        lambda: nd.Population([np.ones((2, 3, 4), complex)]),
        nd.DTypeError,
        "weights[0] has dtype complex128 but dense layers compute with real numbers; "
        "convert it first, for example with x.astype('float64').",
    ),
    (
        lambda: nd.Population([np.ma.masked_array(np.ones((2, 3, 4)))]),
        nd.DTypeError,
        re.compile(r"weights\[0\] is a masked array, whose mask a dense layer would ignore; .*"),
    ),
    (
        lambda: nd.Population([np.ones((2, 3, 4))], activations="relu"),
        nd.OptionError,
        "activations is 'relu' but must be a list with one for each of 1 layers; pass [None], for example.",
    ),
    (
        lambda: nd.Population([np.ones((2, 3, 4))], activations=["sigmod"]),
        nd.ActivationError,
        re.compile(r"no activation is called 'sigmod': did you mean 'sigmoid'\? .*"),
    ),
    (
        lambda: SINGLE(np.ones(3)),
        nd.ShapeError,
        "x has 1 dimension but a population takes 2, (m, n_in), rows for every network, or 3, (5, m, n_in), "
        "rows for each: x.shape=(3,); one row for every network is x[None, :].",
    ),
    (
        lambda: SINGLE(np.ones((4, 1, 3))),
        nd.ShapeError,
        "x has rows for 4 networks but the population has 5: x.shape=(4, 1, 3); "
        "pass x as (5, m, 3), or as (m, 3) for every network.",
    ),
    (
        lambda: SINGLE(np.ones((5, 1, 4))),
        nd.ShapeError,
        "x has 4 features but the network expects 3: x.shape=(5, 1, 4), network 3 -> 7. "
        "The last axis of x holds the features.",
    ),
    (
        lambda: SINGLE(np.ma.masked_array(np.ones((5, 3)))),
        nd.DTypeError,
        re.compile(r"x is a masked array, whose mask a dense layer would ignore; pass x\.filled\(value\), .*"),
    ),
    (
        lambda: SINGLE(np.ones((5, 1, 3), complex)),
        nd.DTypeError,
        "x has dtype complex128 but dense layers compute with real numbers; "
        "convert it first, for example with x.astype('float64').",
    ),
    (
        lambda: SINGLE(np.ones((5, 2, 3)), out=np.empty((5, 2, 6))),
        nd.OutputError,
        "out has shape (5, 2, 6) but the result has shape (5, 2, 7); pass np.empty((5, 2, 7), 'float64').",
    ),
    (
        lambda: SINGLE(np.ones((5, 2, 3)), out=SINGLE.weights[0][:, :2]),
        nd.OutputError,
        "out is read-only but must take the result of shape (5, 2, 7); pass an array that owns its data.",
    ),
    (
        lambda: SINGLE(np.ones((5, 2, 3)), out=np.ma.masked_array(np.empty((5, 2, 7)))),
        nd.OutputError,
        "out is a MaskedArray but must be a NumPy array of shape (5, 2, 7) and dtype float64.",
    ),
    (
        lambda: SINGLE(np.ones((5, 2, 3)), threads=0),
        nd.OptionError,
        "threads is 0 but must be a positive integer, or None to let the plan choose.",
    ),
    (
        lambda: SINGLE(np.ones((5, 2, 3)), out=np.empty((5, 2, 7)), threads=True),
        nd.OptionError,
        "threads is True but must be a positive integer, or None to let the plan choose.",
    ),
    (
        lambda: SINGLE(np.ones((5, 2, 3)), which=[0, 1]),
        nd.ShapeError,
        "x has 3 dimensions but takes 2, (m, n_in), when which says the network of each row: "
        "x.shape=(5, 2, 3), which.shape=(2,).",
    ),
    (
        lambda: SINGLE(np.ones((2, 3)), which=[0]),
        nd.ShapeError,
        "which has shape (1,) but x has 2 rows: x.shape=(2, 3); "
        "pass which as (2,), the number of a network for each row.",
    ),
    (
        lambda: SINGLE(np.ones((2, 3)), which=[0.0, 1.0]),
        nd.DTypeError,
        "which has dtype float64 but holds the numbers of networks, 0 to 4; "
        "pass integers, for example which.astype(int).",
    ),
    (
        lambda: SINGLE(np.ones((2, 3)), which=[4, 5]),
        nd.NetworkIndexError,
        "which[1] is 5 but the population has 5 networks, 0 to 4; pass one of these numbers.",
    ),
    (
        lambda: SINGLE(np.ones((2, 3)), which=[-1, 0]),
        nd.NetworkIndexError,
        "which[0] is -1 but the population has 5 networks, 0 to 4; pass one of these numbers.",
    ),
    (
        lambda: SINGLE(np.ones((1, 3)), which=np.array([2**63], np.uint64)),
        nd.NetworkIndexError,
        "which[0] is 9223372036854775808 but the population has 5 networks, 0 to 4; pass one of these numbers.",
    ),
    (
        lambda: SINGLE[5],
        nd.NetworkIndexError,
        "index is 5 but the population has 5 networks, 0 to 4; pass one of these numbers.",
    ),
    (
        lambda: nd.Population([np.ones((1, 3, 7))])[1],
        nd.NetworkIndexError,
        "index is 1 but the population has 1 network, 0; pass one of these numbers.",
    ),
    (
        lambda: SINGLE[1:3],
        nd.OptionError,
        "index is slice(1, 3, None) but must be the number of a network; for several of them, pass their arrays, "
        "such as weights[0][3:7], to numbadense.Population.",
    ),
    (
        lambda: SINGLE.explain(-1),
        nd.OptionError,
        "m is -1 but must be a number of rows; pass a non-negative integer.",
    ),
]


@pytest.mark.parametrize("call,kind,text", CASES)
def test_bad_input_gives_one_sentence(call, kind, text):
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    if isinstance(text, str):
        assert message == text
    else:
        assert text.fullmatch(message)
