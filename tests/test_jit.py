import gc
import itertools
import pickle
import re
import sys
import weakref

import numba
import numpy as np
import pytest
import scripts
import strategies as draw
from numba import config, njit, prange
from numba.core.errors import TypingError
from numba.typed import List

import numbadense as nd
from numbadense import activations
from numbadense._engine import handle

compiled = pytest.mark.skipif(config.DISABLE_JIT, reason="nothing is compiled at all")


def network(dtype, widths=(6, 20, 3)):
    rng = np.random.default_rng(0)
    return nd.Sequential(
        [
            nd.Dense(draw.weights(rng, k, n, dtype), draw.numbers(rng, n, dtype), "tanh")
            for k, n in itertools.pairwise(widths)
        ]
    )


@njit
def one_by_one(f, x, out):
    for i in range(x.shape[0]):
        f(x[i], out[i])


@njit
def one_by_one_with_scratch(f, x, out, scratch):
    for i in range(x.shape[0]):
        f(x[i], out[i], scratch)


@njit(nogil=True)
def together(f, x, out):
    f(x, out=out)


@njit
def together_with_scratch(f, x, out, scratch):
    f(x, out, scratch)


@njit(parallel=True)
def in_parallel(f, x, out):
    for i in prange(x.shape[0]):
        f(x[i], out[i])


@njit
def shape(f):
    return f.n_in, f.n_out


@njit
def same(f):
    return f


def frozen(array):
    copy = array.copy()
    copy.flags.writeable = False
    return copy


def ways(net):
    """Yield each way to run rows through a network, from Python too."""
    yield "Python", lambda x, out: net.jit(x, out)
    yield "Python, row by row", lambda x, out: [net.jit(a, b) for a, b in zip(x, out, strict=True)]
    yield "row by row, scratch", lambda x, out: one_by_one_with_scratch(net.jit, x, out, net.jit.scratch(1))
    for rows in (None, 1, 3):
        yield (
            f"scratch for {rows}",
            lambda x, out, rows=rows: together_with_scratch(net.jit, x, out, net.jit.scratch(rows)),
        )
    if max((layer.n_out for layer in net.layers[:-1]), default=0) <= 1024:
        yield "row by row", lambda x, out: one_by_one(net.jit, x, out)
        yield "together", lambda x, out: together(net.jit, x, out)
        if net.dtype == np.float64:  # it takes seconds to compile
            yield "in parallel", lambda x, out: in_parallel(net.jit, x, out)


@pytest.mark.parametrize("dtype", draw.DTYPES)
def test_a_network_inside_njit_gives_the_bits_of_a_call(dtype):
    for net, m in itertools.product((network(dtype), network(dtype, (6, 3))), (0, 1, 7, 50)):
        x = draw.numbers(np.random.default_rng(1), (m, 6), dtype)
        expected = net(x)
        for name, run in ways(net):
            out = np.full_like(expected, 7)
            run(x, out)
            assert np.array_equal(out, expected), (name, m)


def test_strided_and_read_only_arrays_are_taken_as_they_are():
    net = network(np.float64)
    x = draw.numbers(np.random.default_rng(1), (7, 6), np.float64)
    records = np.zeros((7, 6), np.dtype([("even", "f8"), ("odd", "f8")]))
    records["odd"] = x
    for a in (frozen(x), np.asfortranarray(x), x[::-1, ::-1].copy()[::-1, ::-1], records["odd"]):
        for run in (together, one_by_one, net.jit.__class__.__call__):
            out = np.full((7, 5), 7.0)
            run(net.jit, a, out[:, 1:4])
            assert np.array_equal(out[:, 1:4], net(x)) and (out[:, [0, 4]] == 7).all()


@compiled
def test_strides_between_elements_are_refused():
    net = network(np.float64)
    packed = np.zeros((7, 6), np.dtype([("a", "f8"), ("b", "f4")]))["a"]
    for x, out in ((packed, np.empty((7, 3))), (packed[0], np.empty(3)), (np.zeros((7, 6)), packed[:, :3])):
        with pytest.raises(ValueError, match="^" + re.escape(handle.STRIDES) + "|" + re.escape(handle.OUT_ROWS)):
            together(net.jit, x, out)


@pytest.mark.skipif(config.DISABLE_JIT, reason="three seconds of plain Python")
@pytest.mark.parametrize("dtype", draw.DTYPES)
def test_wide_networks_take_scratch(dtype):
    net = network(dtype, (6, 2060, 3))
    x = draw.numbers(np.random.default_rng(1), (9, 6), dtype)
    expected = net(x)
    for name, run in ways(net):
        out = np.empty_like(expected)
        if name.startswith("Python"):
            net.jit(x, out, net.jit.scratch())
        else:
            run(x, out)
        assert np.array_equal(out, expected), name


def test_what_does_not_fit_is_one_sentence():
    net = network(np.float64)
    x, out, small = np.ones((4, 6)), np.zeros((4, 3)), net.jit.scratch(1)[:-1]
    row = "^" + re.escape(handle.ROW_SHAPE)
    block = "^" + re.escape(handle.BLOCK_SHAPE)
    for run in (together, net.jit.__class__.__call__):
        for bad in ((x[:, :5], out), (x, out[:, :2]), (x[:3], out)):
            with pytest.raises(nd.ShapeError, match=block):
                run(net.jit, *bad)
        for bad in ((x[0, :5], out[0]), (x[0], out[0, :2])):
            with pytest.raises(nd.ShapeError, match=row):
                run(net.jit, *bad)
        with pytest.raises(nd.OutputError, match="^" + re.escape(handle.OUT_ROWS)):
            run(net.jit, x, np.zeros((4, 6))[:, ::2])
        with pytest.raises(nd.OutputError, match="^" + re.escape(handle.OUT_ROWS)):
            run(net.jit, x[0], np.zeros(6)[::2])
    wide = nd.Sequential([nd.Dense(np.ones((6, 1025))), nd.Dense(np.ones((1025, 3)))])
    for run in (together, wide.jit.__class__.__call__):
        for a, b in ((x, out), (x[0], out[0])):
            with pytest.raises(nd.OptionError, match="^" + re.escape(handle.NO_ROOM)):
                run(wide.jit, a, b)
    for run in (together_with_scratch, net.jit.__class__.__call__):
        for a, b in ((x, out), (x[0], out[0])):
            with pytest.raises(nd.OptionError, match="^" + re.escape(handle.SMALL)):
                run(net.jit, a, b, small)
    for rows in (0, True, 1.5):
        with pytest.raises(nd.OptionError, match=r"^rows is .* but must be a positive integer"):
            net.jit.scratch(rows)
    for bad in ((x.astype("f4"), out), (x, out.astype("f4")), (x, out, np.zeros(small.size, "f4")), ([1.0], out)):
        with pytest.raises(nd.DTypeError, match="but must be an array of float64"):
            net.jit(*bad)


@compiled
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda x, out, scratch: (x.astype("f4"), out, scratch), "x is of float32 but the network computes"),
        (
            lambda x, out, scratch: (x, out.astype("f4"), scratch),
            "out is of float32 but the network computes",
        ),
        (lambda x, out, scratch: (x, out[0], scratch), "x has 2 axes but out has 1"),
        (lambda x, out, scratch: (x[None], out, scratch), "must be an array of 1 or 2 axes"),
        (lambda x, out, scratch: (1.0, out, scratch), "x is float64 but must be an array of 1 or 2 axes"),
        (lambda x, out, scratch: (x, frozen(out), scratch), "out is read-only"),
        (lambda x, out, scratch: (x, out, scratch[::2]), "scratch is not contiguous"),
        (lambda x, out, scratch: (x, out, x), "scratch is .* but must be an array of 1 axes"),
    ],
)
def test_arrays_of_the_wrong_type_are_typing_errors(change, sentence):
    net = network(np.float64)
    with pytest.raises(TypingError, match=sentence):
        together_with_scratch(net.jit, *change(np.ones((4, 6)), np.empty((4, 3)), net.jit.scratch()))


@compiled
def test_a_network_that_is_a_global_is_refused():
    f = network(np.float64).jit

    @njit
    def caller(x, out):
        f(x, out)

    with pytest.raises(TypingError, match=r"a network is a global or closure variable .* pass net\.jit as an argument"):
        caller(np.ones(6), np.empty(3))


@compiled
def test_another_network_compiles_nothing():
    for widths in ((6, 20, 3), (6, 3), (6, 70, 40, 30, 3)):
        net = network(np.float64, widths)
        x, out = np.ones((4, 6)), np.empty((4, 3))
        together(net.jit, x, out)
        assert np.array_equal(out, net(x))
    kinds = [signature for signature in together.signatures if signature[0] == net.jit._numba_type_]
    assert len([kind for kind in kinds if kind[1:] == (numba.typeof(x), numba.typeof(out))]) == 1


def test_a_network_is_itself_in_compiled_code_and_is_not_leaked():
    net = network(np.float32)
    f, x, out = net.jit, np.ones((2, 6), np.float32), np.empty((2, 3), np.float32)
    assert shape(f) == (f.n_in, f.n_out) == (6, 3)
    before = sys.getrefcount(f)
    for _ in range(20):
        assert same(f) is f
        together(f, x, out)
    assert sys.getrefcount(f) == before
    assert repr(f) == f"{net!r}.jit"


def test_a_handle_keeps_its_network_alive_and_pickles():
    f = network(np.float64).jit
    other = pickle.loads(pickle.dumps(f))
    gc.collect()
    x, out, again = np.ones((2, 6)), np.empty((2, 3)), np.empty((2, 3))
    together(f, x, out)
    together(other, x, again)
    assert np.array_equal(out, again) and np.array_equal(out, network(np.float64)(x))
    watched = weakref.ref(f)
    del f, other
    gc.collect()
    assert watched() is None


@compiled
def test_a_typed_list_keeps_networks_alive():
    many = List()
    for seed in range(3):
        many.append(nd.Sequential([nd.Dense(np.full((2, 1), float(seed)))]).jit)
    gc.collect()

    @njit
    def total(many, x, out):
        result = 0.0
        for f in many:
            f(x, out)
            result += out[0]
        return result

    assert total(many, np.ones(2), np.empty(1)) == 6.0


CACHED = """
    import numpy as np
    from numba import njit

    @njit(cache=True)
    def caller(f, x, out):
        for i in range(x.shape[0]):
            f(x[i], out[i])
        return f.n_in

    @njit(cache=True)
    def either(f):
        return f
"""
USER = """
    import sys
    sys.path.insert(0, sys.argv[1])
    import users
    first = users.either(1.0)  # the cache is read before this process has heard of numbadense
    known = "numbadense" in sys.modules
    import numpy as np, numbadense as nd
    rng = np.random.default_rng(int(sys.argv[2]))
    net = nd.Sequential([nd.Dense(rng.standard_normal((3, 20)), None, "tanh"), nd.Dense(rng.standard_normal((20, 2)))])
    x = rng.standard_normal((5, 3))
    out = np.empty((5, 2))
    assert users.caller(net.jit, x, out) == 3 and np.array_equal(out, net(x))
    assert users.either(net.jit) is net.jit
    print(known, sum(users.caller.stats.cache_hits.values()), sum(users.either.stats.cache_hits.values()))
"""


@compiled
def test_a_users_cached_function_is_loaded_and_runs_another_network(tmp_path):
    (tmp_path / "users.py").write_text(scripts.textwrap.dedent(CACHED))
    printed = [scripts.run(USER, tmp_path, seed, NUMBA_CACHE_DIR=tmp_path / "cache").stdout.split() for seed in (0, 1)]
    assert printed == [["False", "0", "0"], ["True", "1", "2"]]


@compiled
def test_the_type_of_another_version_is_another_type():
    kind = network(np.float64).jit._numba_type_
    assert pickle.loads(pickle.dumps(kind)) == kind
    rebuild, (dtype, name) = kind.__reduce__()
    assert rebuild(dtype, name) == kind and rebuild(dtype, name.replace(")", "0)")) != kind


@pytest.mark.parametrize("name", sorted(set(activations.REGISTRY) - {"softmax", "log_softmax"}))
def test_an_activation_inside_njit_gives_the_bits_of_a_call(name):
    scalar = getattr(nd.jit, name)

    @njit
    def caller(x, out):
        for i in range(x.size):
            out[i] = scalar(x[i])

    for dtype in draw.DTYPES:
        x = np.linspace(-6, 6, 101).astype(dtype)
        out = np.empty_like(x)
        caller(x, out)
        assert np.array_equal(out, getattr(nd, name)(x))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"module 'numbadense\.jit' has no attribute 'sigmod'"):
        nd.jit.sigmod  # noqa: B018


@pytest.mark.parametrize("dtype", draw.DTYPES)
def test_the_short_way_is_taken_by_plain_arrays_alone(dtype):
    net = network(dtype)
    x = draw.numbers(np.random.default_rng(1), (5, 6), dtype)
    expected = net(x)
    for m, rows in ((5, slice(None)), (1, slice(2, 3)), (None, 2), (0, slice(0))):
        out = np.full(expected[rows].shape, np.nan, dtype)
        assert net._direct(net._address, x[rows].copy(), out) == 1, m
        assert np.array_equal(out, expected[rows])

    other = np.float32 if dtype is np.float64 else np.float64
    out = np.full((5, 3), 7, dtype)
    wide = np.full((5, 30), 7, dtype)
    frozen = np.full((5, 3), 7, dtype)
    frozen.flags.writeable = False
    memory = np.zeros(60, dtype)
    overlapping = memory[:30].reshape(5, 6), memory[29:44].reshape(5, 3)
    refused = [
        ([[1.0] * 6] * 5, out), (x, None), (x, 7), (None, out), (x, [out]), (x.astype(other), out),
        (x, np.full((5, 3), 7, other)), (x.astype(x.dtype.newbyteorder()), out), (x[:, :5].copy(), out),
        (x, np.full((4, 3), 7, dtype)), (x, np.full((5, 4), 7, dtype)), (np.asfortranarray(x), out), (x[::2], out[::2]),
        (x, wide[:, :3]), (x, frozen), (x[None], out[None]), (x[0, 0], out), (np.asmatrix(x), out), overlapping,
        (np.ma.masked_array(x), out), (draw.unaligned(x), out), (x, draw.unaligned(out)), (draw.annotated(x), out),
    ]  # fmt: skip
    for a, y in refused:
        assert net._direct(net._address, a, y) == 0, (type(a), type(y))
    assert (out == 7).all() and (wide == 7).all() and (frozen == 7).all() and not memory.any()


def test_the_short_way_of_an_activation_is_taken_by_plain_arrays_alone():
    from numbadense._engine import run

    direct, code, call = run.bind_activation(activations.get("softplus"))
    row_direct, row_code, row_call = run.bind_activation(activations.get("softmax"))
    for dtype in draw.DTYPES:
        x = draw.numbers(np.random.default_rng(1), (4, 3, 5), dtype)
        assert direct(code, x, np.empty_like(x)) == 0  # not compiled yet
        expected, row_expected = call(x, None, None), row_call(x, None, None)
        for part in (slice(None), 2, (1, 1)):
            y = np.full(x[part].shape, np.nan, dtype)
            assert direct(code, x[part].copy(), y) == 1 and np.array_equal(y, expected[part])
            assert row_direct(row_code, x[part].copy(), y) == 1 and np.array_equal(y, row_expected[part])
        same = x.copy()
        assert direct(code, same, same) == 1 and np.array_equal(same, expected)
        y = np.full_like(x, 7)
        memory = np.zeros(30, dtype)
        frozen = np.full_like(x, 7)
        frozen.flags.writeable = False
        empty = np.empty((3, 0), dtype)
        refused = [
            (x, None), (list(x), y), (x, y[:3]), (x, y.astype(np.float16)), (x[::2], y[::2]), (x, frozen),
            (x[0, 0, 0], y), (memory[:20], memory[10:]), (x.reshape(12, 5), y), (x.reshape(4, 5, 3), y), (empty, empty),
            (np.array(1, dtype), np.array(1, dtype)), (np.zeros(200_000, dtype), np.empty(200_000, dtype)),
            (x.astype(x.dtype.newbyteorder()), y), (x.astype(int), y.astype(int)),
        ]  # fmt: skip
        for a, target in refused:
            assert direct(code, a, target) == 0
        assert (y == 7).all() and (frozen == 7).all() and not memory.any()
