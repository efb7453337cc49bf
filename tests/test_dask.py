"""Dask arrays: lazy, with the bits of the network, the weights in one key, in threads and in processes; xarray."""

import functools
import json
import pickle
import warnings

import numpy as np
import pytest
import scripts
import strategies as draw
from libraries import library
from numba import config

import numbadense as nd
from numbadense._engine import plan as planner
from numbadense._engine import threads as threading

dask = library("dask")
da = library("dask.array")

RNG = np.random.default_rng(0)
NAMES = ("age", "mass", "speed", "turn", "wind", "dew")
X = draw.numbers(RNG, (20, 6), np.float32)


def network(dtype=np.float32, width=17, names=None):
    rng = np.random.default_rng(1)
    layers = [
        nd.Dense(draw.weights(rng, 6, width, dtype), draw.numbers(rng, width, dtype), "tanh"),
        nd.Dense(draw.weights(rng, width, 3, dtype), None, "softmax"),
    ]
    return nd.Sequential(layers, None if names is None else {"feature_names": json.dumps(names)})


NET = network()
EXPECTED = NET(X)


@pytest.fixture(autouse=True)
def synchronous():
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16])
@pytest.mark.parametrize("chunks", [(20, 6), (7, 6), (7, 4), (1, 1), ((0, 5, 0, 15, 0), (6,))], ids=str)
def test_a_dask_array_gives_a_lazy_one_with_the_bits_of_the_network(chunks, dtype):
    x = (X * 10).astype(dtype)
    y = NET(da.from_array(x, chunks=chunks))
    assert isinstance(y, da.Array)
    assert (
        y.shape == (20, 3) and y.dtype == np.float32 and y.chunks == (da.from_array(x, chunks=chunks).chunks[0], (3,))
    )
    assert type(y._meta) is np.ndarray and y._meta.dtype == y.dtype and y._meta.ndim == 2
    result = y.compute()
    assert result.dtype == y.dtype and np.array_equal(result, NET(x))


@pytest.mark.parametrize("shape", [(6,), (4, 5, 6), (2, 2, 5, 6), (0, 6)])
def test_features_are_on_the_last_axis(shape):
    x = np.resize(X, shape)
    y = NET(da.from_array(x, chunks=2))
    assert y.shape == (*shape[:-1], 3) and y.chunks[-1] == (3,)
    assert np.array_equal(y.compute(), NET(x))


def test_an_unknown_number_of_rows_is_no_hindrance():
    x = da.from_array(X, chunks=(7, 4))
    y = NET(x[x[:, 0] > 0])
    assert np.isnan(y.shape[0]) and y.shape[1] == 3
    assert np.array_equal(y.compute(), NET(X[X[:, 0] > 0]))
    with pytest.raises(
        nd.ShapeError, match=r"^x has an unknown number of features: .*; call x\.compute_chunk_sizes\(\)"
    ):
        NET(x.T[x.T[:, 0] > 0].T)


FUNCTIONS = {
    "dense": lambda x: nd.dense(x, NET.layers[0].w, NET.layers[0].b, "relu"),
    "layer": lambda x: NET.layers[0](x),
    "activation": lambda x: nd.sigmoid(x),
    "rowwise": lambda x: nd.log_softmax(x),
    "high": lambda x: nd.tanh(x, accuracy="high"),
    "half": lambda x: NET.astype("bfloat16")(x),
    "float64": lambda x: network(np.float64)(x),
}


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_layers_and_activations_stay_lazy_too(function):
    y = function(da.from_array(X, chunks=(7, 4)))
    expected = function(X)
    assert isinstance(y, da.Array) and y.dtype == expected.dtype and y.shape == expected.shape
    assert np.array_equal(y.compute(), expected)
    assert function(da.from_array(X, chunks=(7, 4), name="x")).name == function(da.from_array(X, (7, 4), name="x")).name


def test_what_does_not_fit_is_refused_before_anything_is_computed():
    x = da.from_array(X, chunks=(7, 4))
    with pytest.raises(nd.ShapeError, match=r"^x has 4 features but the network expects 6: x\.shape=\(20, 4\)"):
        NET(x[:, :4])
    with pytest.raises(nd.ShapeError, match=r"^x is a single number but the network expects 6"):
        NET(x.sum())
    with pytest.raises(nd.ShapeError, match=r"^x is a single number but softmax works on the last axis"):
        nd.softmax(x.sum())
    with pytest.raises(nd.DTypeError, match=r"^x has dtype complex128"):
        NET(x.astype(complex))
    with pytest.raises(nd.DTypeError, match=r"^x is a masked array"):
        NET(da.ma.masked_less(x, 0))
    with pytest.raises(nd.OutputError, match=r"^out is a ndarray but the result of a Dask array is lazy; .*to_zarr"):
        NET(x, out=np.empty((20, 3)))
    for bad in (0, 1.5, True):
        with pytest.raises(nd.OptionError, match=r"^threads is .* but must be a positive integer"):
            NET(x, threads=bad)
    for call in (NET.predict, nd.stack([NET]), lambda x: nd.dense(X, x.T)):
        with pytest.raises(
            nd.DTypeError, match=r"^[xw] is a lazy Array, which would be loaded whole: .* net\([xw]\), and"
        ):
            call(x)


def graph_bytes(net, partitions):
    """Return the bytes of the graph, its tasks pickled one by one as for workers: as built, and as optimized."""
    graph = net(da.ones((partitions, 6), chunks=(1, 6), dtype="f4"))
    [optimized] = dask.optimize(graph)
    keys = [key for key in dict(optimized.__dask_graph__()) if str(key).startswith("numbadense-")]
    assert keys == [f"numbadense-{net._digest}"]
    tasks = [dict(each.__dask_graph__()).items() for each in (graph, optimized)]
    return [sum(len(pickle.dumps(task)) for task in each) for each in tasks]


def test_the_weights_are_in_the_graph_once_however_many_blocks_there_are():
    net = network(width=30_000)
    weights = sum(layer.nbytes for layer in net.layers)
    for few, many in zip(graph_bytes(net, 10), graph_bytes(net, 1000), strict=True):
        assert weights < few < 1.05 * weights
        assert (many - few) / 990 < weights / 100  # what a block adds


def test_dask_plans_by_the_size_of_the_weights():
    net = network(width=3000)
    weights = sum(layer.nbytes for layer in net.layers)
    assert weights <= dask.sizeof.sizeof(net) < weights + 1000


TOKENS = """
    import sys
    sys.path.insert(0, {tests!r})
    import dask
    import test_dask
    print(dask.base.tokenize(test_dask.network()), test_dask.network()._digest)
"""


def test_the_token_is_the_same_in_every_process_and_for_every_copy():
    from pathlib import Path

    there = scripts.run(TOKENS.format(tests=str(Path(__file__).parent)), PYTHONHASHSEED=1).stdout
    assert there == f"{dask.base.tokenize(NET)} {NET._digest}\n"
    assert dask.base.tokenize(pickle.loads(pickle.dumps(NET))) == dask.base.tokenize(NET)


def test_the_token_changes_with_whatever_changes_the_result():
    w, b = np.ones((2, 3), np.float32), np.zeros(3, np.float32)
    once = nd.Dense(w, b, "relu")
    networks = [
        [once],
        [once, nd.Dense(np.ones((3, 3), np.float32))],
        [nd.Dense(w, b, "tanh")],
        [nd.Dense(w, b)],
        [nd.Dense(w, None, "relu")],
        [nd.Dense(w * 2, b, "relu")],
        [nd.Dense(w, b + 1, "relu")],
        [nd.Dense(w.astype("f8"), b.astype("f8"), "relu")],
        [nd.Dense(np.ones((3, 3), np.float32), b, "relu")],
    ]
    networks = [nd.Sequential(layers) for layers in networks]
    networks += [networks[0].astype("float16"), networks[0].astype("bfloat16")]
    networks += [nd.Sequential([once], {"feature_names": '["a", "b"]'})]
    assert len({dask.base.tokenize(net) for net in networks}) == len(networks)
    assert dask.base.tokenize(nd.Sequential([once], {"by": "me"})) == dask.base.tokenize(networks[0])


def test_a_function_of_a_users_own_has_the_token_of_its_code(monkeypatch):
    from numbadense import activations

    monkeypatch.setattr(activations, "REGISTRY", dict(activations.REGISTRY))
    monkeypatch.setattr(activations, "_NAMES", dict(activations._NAMES))
    helper = lambda x: x + x  # noqa: E731

    def doubled(x):
        return x + x

    def squared(x):
        return x * x

    def helped(x):
        return helper(x)

    tokens = []
    for name, function in [("a1", doubled), ("a1", doubled), ("a1", squared), ("a1", helped), ("a1", helped)]:
        activations._NAMES.pop(name, None), activations.REGISTRY.pop(name, None)
        entry = activations.activation(name)(function)
        tokens.append(nd.Sequential([nd.Dense([[1.0]], None, entry)])._digest)
    assert tokens[0] == tokens[1] and len(set(tokens)) == 4  # what calls a function of the user's may change unseen


@pytest.mark.skipif(config.DISABLE_JIT, reason="without the JIT everything is serial")
def test_blocks_run_the_serial_twin(monkeypatch):
    monkeypatch.setenv("NUMBADENSE_THREADS", "2")
    m = 4 * planner.FEWEST_PARALLEL // (6 * 17 + 17 * 3)
    x = np.resize(X, (2 * m, 6))
    launched = []
    monkeypatch.setattr(threading, "launch", lambda *args: bool(launched.append(args)))
    NET(x, threads=2)
    assert launched or threading.limit(2) == 1
    launched.clear()
    y = NET(da.from_array(x, chunks=(m, 6))).compute(scheduler="threads", num_workers=2)
    nd.sigmoid(da.from_array(x, chunks=(m, 6))).compute(scheduler="threads", num_workers=2)
    assert not launched and np.array_equal(y, NET(x, threads=1))


@pytest.fixture(scope="module")
def client():
    distributed = library("distributed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        settings = {"distributed.worker.memory.terminate": False}
        with (
            dask.config.set(settings),
            distributed.LocalCluster(
                n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, worker_dashboard_address=None
            ) as cluster,
            distributed.Client(cluster) as client,
        ):
            yield client


def test_workers_get_the_weights_once_and_give_the_same_bits(client):
    def count_unpickled():
        import numbadense as nd

        made = nd.Sequential.__init__

        @functools.wraps(made)
        def counted(self, *args, **kwargs):
            nd.unpickled = getattr(nd, "unpickled", 0) + 1
            made(self, *args, **kwargs)

        nd.Sequential.__init__ = counted

    def unpickled():
        import numbadense as nd

        return getattr(nd, "unpickled", 0)

    client.run(count_unpickled)
    rows = 400 if config.DISABLE_JIT else 40_000
    x = np.resize(X, (rows, 6))
    y = NET(da.from_array(x, chunks=(rows // 50, 6)))
    with dask.config.set(scheduler=None):
        assert np.array_equal(client.compute(y).result(), NET(x))
    counts = client.run(unpickled)
    assert sum(counts.values()) and max(counts.values()) <= 2  # of 50 blocks; two where the graph came to the worker


def test_a_task_of_a_worker_leaves_the_cores_to_the_others(client):
    def limits(net, x):
        from numbadense._engine import threads

        return threads.in_dask_task(), threads.limit(), net(x)

    within, most, result = client.submit(limits, NET, X).result()
    assert within and most == 1 and np.array_equal(result, EXPECTED)
    assert not threading.in_dask_task()


def test_xarray_keeps_names_and_coordinates(client):
    xarray = library("xarray")
    x = xarray.DataArray(
        X.reshape(4, 6, 5), dims=("time", "feature", "place"), coords={"time": [3, 4, 5, 6]}, name="weather"
    )
    rows = np.moveaxis(x.values, 1, -1)
    for chunked in (x, x.chunk({"time": 1, "feature": 2})):
        y = xarray.apply_ufunc(
            NET, chunked, input_core_dims=[["feature"]], output_core_dims=[["output"]], dask="allowed"
        )
        assert y.dims == ("time", "place", "output") and y.time.values.tolist() == [3, 4, 5, 6] and y.name == "weather"
        assert (y.chunks is None) == (chunked is x) and y.dtype == np.float32
        assert np.array_equal(y.values, NET(rows))
    y = xarray.apply_ufunc(
        NET,
        x.chunk({"time": 1}),
        input_core_dims=[["feature"]],
        output_core_dims=[["output"]],
        dask="parallelized",
        output_dtypes=[NET.dtype],
        dask_gufunc_kwargs={"output_sizes": {"output": NET.n_out}},
        kwargs={"threads": 1},
    )
    assert np.array_equal(y.values, NET(rows))
    assert np.array_equal(NET(x.transpose("time", "place", "feature")), NET(rows))
    with pytest.raises(
        nd.DTypeError, match=r"^x is a lazy DataArray, .*: xarray\.apply_ufunc\(net, x, .*; or pass x\.com"
    ):
        NET(x.chunk({"time": 1}).transpose("time", "place", "feature"))


def test_a_dask_frame_is_mapped_partition_by_partition(client):
    pandas, dd = library("pandas"), library("dask.dataframe")
    net = network(names=NAMES)
    frame = pandas.DataFrame(X, columns=NAMES)
    partitioned = dd.from_pandas(frame, npartitions=3)

    def predict(part, net):
        return pandas.DataFrame(net(part, threads=1), part.index, columns=["a", "b", "c"])

    y = partitioned.map_partitions(predict, dask.delayed(net), meta=dict.fromkeys("abc", net.dtype))
    assert np.array_equal(y.compute().to_numpy(), EXPECTED)
    assert np.array_equal(net(partitioned.to_dask_array()).compute(), EXPECTED)
    with pytest.raises(nd.DTypeError, match=r"^x is a lazy DataFrame, .* a Dask DataFrame has map_partitions; or"):
        net(partitioned)


MORE_THAN_FITS = """
    import resource
    import sys

    import dask
    import dask.array as da
    import numpy as np
    import numbadense as nd
    import zarr

    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform == "darwin" else 1) / 1024

    folder = sys.argv[1]
    net = nd.Sequential([nd.Dense(np.ones((256, 64), "f4") / 256, None, "tanh"), nd.Dense(np.ones((64, 1), "f4"))])

    def through(rows, chunk, name):
        source = zarr.create_array(f"{folder}/x-{name}", shape=(rows, 256), chunks=(chunk, 256), dtype="f4",
                                   compressors=None)
        part = np.arange(chunk * 256, dtype="f4").reshape(chunk, 256) / 1e6
        for begin in range(0, rows, chunk):
            source[begin : begin + chunk] = part
        y = net(da.from_zarr(source))
        y.to_zarr(f"{folder}/y-{name}")
        return np.array_equal(zarr.open_array(f"{folder}/y-{name}")[-chunk:], net(part))

    with dask.config.set(scheduler="threads", num_workers=2):
        assert through(2 * 4096, 4096, "small")
        before = peak()
        assert through(40 * 4096, 4096, "large")
    print(peak() - before)
"""


@pytest.mark.skipif(config.DISABLE_JIT, reason="slow without the JIT, and about memory")
def test_an_array_on_disk_goes_through_in_the_memory_of_a_few_chunks(tmp_path):
    library("zarr"), pytest.importorskip("resource")
    grown = float(scripts.run(MORE_THAN_FITS, tmp_path).stdout)
    assert grown < 80  # MB, for 168 MB of input in chunks of 4 MB
