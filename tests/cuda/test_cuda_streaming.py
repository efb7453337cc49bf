"""Rows in batches, through two lanes: what comes out, and that no buffer is touched while it is in use."""

import contextlib
import itertools

import device_oracle
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import numbadense as nd
from numbadense._engine.cuda import device

WIDTHS = (3, 5, 2)


def network(dtype="float32", widths=WIDTHS):
    rng = np.random.default_rng(7)
    layers = [
        nd.Dense(rng.normal(size=(k, n)).astype(dtype), rng.normal(size=n).astype(dtype), "tanh")
        for k, n in itertools.pairwise(widths)
    ]
    return nd.Sequential(layers)


@pytest.fixture(scope="module")
def on_device(gpu):
    """A network of two layers, which are two launches."""
    from numbadense._engine.cuda import whole

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(whole, "fits", lambda *arguments: False)
        return network().to("cuda")


def expected(x, net=None):
    return device_oracle.forward(np.asarray(x, np.float32), (net or network()).layers)


class Rows:
    """An array that is read by rows, as a file is, and remembers which were."""

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.read = array, array.shape, array.dtype, []

    def __getitem__(self, rows):
        self.read.append(rows)
        return self.array[rows]


class Late:
    """A stream that does its work when it is waited for, and no sooner."""

    waits = 0

    def __init__(self):
        self.work = []

    def synchronize(self):
        """Do the work."""
        Late.waits += 1
        while self.work:
            self.work.pop(0)()


@pytest.fixture
def late(gpu, monkeypatch):
    """Streams of the simulator that are as late as can be: copies to the host spoil their target until they arrive."""
    if not device.simulated():
        pytest.skip("a device has streams of its own")
    from numba.cuda.cudadrv.devicearray import FakeCUDAArray

    from numbadense._engine.cuda import compile as compiler
    from numbadense._engine.cuda import streaming

    to_device, to_host, launch = FakeCUDAArray.copy_to_device, FakeCUDAArray.copy_to_host, compiler.launch

    def queue(stream, job):
        if isinstance(stream, Late):
            stream.work.append(job)
        else:
            job()

    def copy_to_host(self, ary=None, stream=0):
        if isinstance(stream, Late):
            ary.fill(np.nan)
            stream.work.append(lambda: to_host(self, ary))
            return ary
        return to_host(self, ary)

    monkeypatch.setattr(
        FakeCUDAArray, "copy_to_device", lambda self, ary, stream=0: queue(stream, lambda: to_device(self, ary))
    )
    monkeypatch.setattr(FakeCUDAArray, "copy_to_host", copy_to_host)
    monkeypatch.setattr(
        compiler, "launch", lambda k, b, t, stream, *a, **o: queue(stream, lambda: launch(k, b, t, 0, *a, **o))
    )
    monkeypatch.setattr(gpu, "stream", Late)
    monkeypatch.setattr(streaming, "_idle", {})
    Late.waits = 0
    return Late


@settings(max_examples=10)
@given(m=st.integers(0, 9), batch_size=st.integers(1, 10), dtype=st.sampled_from(["float32", "float64", "int8", ">f8"]))
def test_batches_make_no_difference(on_device, m, batch_size, dtype):
    x = np.random.default_rng(m).integers(-3, 4, (m, 3)).astype(dtype)
    y = on_device.predict(x, batch_size)
    assert y.dtype == np.float32 and y.shape == (m, 2)
    np.testing.assert_array_equal(y, on_device(x))


def test_lanes_wait_for_what_they_use(on_device, late, rng):
    x = rng.normal(size=(11, 3)).astype(np.float32)
    np.testing.assert_allclose(on_device.predict(x, 2), expected(x), rtol=1e-5, atol=1e-6)
    assert late.waits == 6 + 2  # each batch once, and each lane at the end


def test_a_lane_that_does_not_wait_is_caught(on_device, late, rng, monkeypatch):
    from numbadense._engine.cuda import streaming

    monkeypatch.setattr(streaming.Lane, "finish", lambda self: setattr(self, "waited", None))
    y = on_device.predict(rng.normal(size=(11, 3)), 2, out=np.full((11, 2), np.nan, np.float32))
    assert np.isnan(y).any()


def test_two_lanes_are_under_way_at_once(on_device, late, rng, monkeypatch):
    from numbadense._engine.cuda import streaming

    busy, most, start = set(), [], streaming.Lane.start

    def watched(self, *arguments):
        start(self, *arguments)
        busy.update({self.stream})
        most.append(sum(bool(stream.work) for stream in busy))

    monkeypatch.setattr(streaming.Lane, "start", watched)
    on_device.predict(rng.normal(size=(9, 3)), 2)
    assert most == [1, 2, 2, 2, 2]


def test_rows_are_read_as_they_are_needed(on_device, rng):
    x = Rows(rng.normal(size=(7, 3)))
    np.testing.assert_allclose(on_device.predict(x, 3), expected(x.array), rtol=1e-5, atol=1e-6)
    assert x.read == [slice(0, 3), slice(3, 6), slice(6, 9)]


def test_memory_mapped_files_on_either_side(on_device, tmp_path, rng):
    np.save(tmp_path / "x.npy", rng.normal(size=(8, 3)))
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    out = np.lib.format.open_memmap(tmp_path / "y.npy", mode="w+", dtype=np.float64, shape=(8, 2))
    assert on_device.predict(x, 3, out=out) is out
    out.flush()
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), on_device(x).astype(np.float64))


def test_out_may_share_memory_with_x(gpu):
    net = network(widths=(3, 4, 3)).to("cuda")
    room = np.arange(33, dtype=np.float32).reshape(11, 3)
    wanted = net(room[:10])
    np.testing.assert_array_equal(net.predict(room[:10], 2, out=room[1:]), wanted)


def test_large_calls_from_the_host_go_by_batches(on_device, rng, monkeypatch):
    from numbadense._engine.cuda import streaming

    x = rng.normal(size=(2, 6, 3)).astype(np.float32)
    wanted, sizes, start = on_device(x), [], streaming.Lane.start
    monkeypatch.setattr(streaming, "LARGE_BYTES", 1)
    monkeypatch.setattr(streaming, "batch_size", lambda *_: 5)
    monkeypatch.setattr(
        streaming.Lane, "start", lambda self, rows, to: (sizes.append(len(rows)), start(self, rows, to))
    )
    np.testing.assert_array_equal(on_device(x), wanted)
    assert sizes == [5, 5, 2]
    out = np.empty((2, 6, 4), np.float64)[..., ::2]  # not contiguous, and of another dtype
    assert on_device(x, out) is out
    np.testing.assert_array_equal(out, wanted)
    w, room = np.eye(3, dtype=np.float32) * 2, rng.normal(size=(23, 3)).astype(np.float32)
    twice = 2 * room[:12]
    nd.cuda.dense(room[:12], w, out=room[11:])
    np.testing.assert_array_equal(room[11:], twice)
    assert sizes[6:] == [5, 5, 2]


def test_buffers_are_kept_for_the_next_time_and_no_more_than_two(on_device, rng, monkeypatch):
    from numbadense._engine.cuda import streaming

    monkeypatch.setattr(streaming, "_idle", {})
    x = rng.normal(size=(6, 3))
    on_device.predict(x, 2)
    kept = [pinned.ctypes.data for _, pinned in streaming._idle[0]]
    on_device.predict(x, 2)
    assert len(kept) == 2 and sorted(kept) == sorted(pinned.ctypes.data for _, pinned in streaming._idle[0])


def test_batches_larger_than_the_buffers_have_their_own(on_device, rng, monkeypatch):
    from numbadense._engine.cuda import streaming

    monkeypatch.setattr(streaming, "BATCH_BYTES", 300)
    monkeypatch.setattr(streaming, "_idle", {})
    x = rng.normal(size=(60, 3)).astype(np.float32)
    np.testing.assert_array_equal(on_device.predict(x, 31), on_device(x))
    assert not streaming._idle.get(0)


def test_a_batch_fits_what_the_device_has_free(on_device, monkeypatch):
    from numba import cuda

    from numbadense._engine.cuda import streaming

    step = on_device._step
    assert streaming.row_bytes(step, on_device.dtype) == (4 * (3 + 2), 4 * (3 + 2 + 5))
    context = type("Context", (), {"get_memory_info": lambda self: (40 * 100, 10**9)})()
    monkeypatch.setattr(cuda, "current_context", lambda: context)
    assert streaming.batch_size(step, on_device.dtype) == 100 // streaming.SHARE


def test_what_fails_in_a_lane_is_raised_and_leaves_nothing_behind(on_device, late, rng):
    class Broken(Rows):
        def __getitem__(self, rows):
            if rows.start >= 4:
                raise OSError("the disk is gone")
            return super().__getitem__(rows)

    with pytest.raises(OSError, match="the disk is gone"):
        on_device.predict(Broken(rng.normal(size=(9, 3))), 2)
    from numbadense._engine.cuda import streaming

    assert len(streaming._idle[0]) == 2 and not any(stream.work for stream, _ in streaming._idle[0])


def test_progress_is_drawn_on_stderr(on_device, capsys):
    on_device.predict(np.zeros((4, 3)), 2, progress=True)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("x", "options", "error", "said"),
    [
        (np.zeros(3), {}, nd.ShapeError, r"x has 1 dimension but predict takes 2, \(m, n_in\): x.shape=\(3,\)"),
        (np.zeros((2, 4)), {}, nd.ShapeError, "x has 4 features but the network expects 3"),
        (Rows(np.zeros((2, 4))), {}, nd.ShapeError, "x has 4 features but the network expects 3"),
        (Rows(np.zeros((2, 3), complex)), {}, nd.DTypeError, "x has dtype complex128"),
        (np.zeros((2, 3)), {"batch_size": 0}, nd.OptionError, "batch_size is 0 but must be a positive integer"),
        (np.zeros((2, 3)), {"out": np.zeros((3, 2))}, nd.OutputError, r"out has shape \(3, 2\)"),
    ],
)
def test_what_does_not_fit_is_refused(on_device, x, options, error, said):
    with pytest.raises(error, match=said):
        on_device.predict(x, **options)


def test_arrays_on_the_device_are_for_the_network_itself(on_device, gpu):
    with pytest.raises(nd.OptionError, match=r"x is on the device already, .*; call the network itself"):
        on_device.predict(gpu.to_device(np.zeros((2, 3))))


def test_the_command_line_predicts_on_a_device(gpu, tmp_path, rng):
    from numbadense import cli

    net, x = network(), rng.normal(size=(6, 3))
    net.save(tmp_path / "net.safetensors")
    np.save(tmp_path / "x.npy", x)
    for name in ("y.npy", "y.csv"):
        arguments = ["predict", str(tmp_path / "net.safetensors"), str(tmp_path / "x.npy"), "--device", "cuda"]
        assert cli.main([*arguments, "--out", str(tmp_path / name)]) == 0
    y = np.load(tmp_path / "y.npy")
    np.testing.assert_allclose(y, expected(x), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(np.loadtxt(tmp_path / "y.csv", np.float32, delimiter=","), y)


def test_the_command_line_says_why_there_is_no_device(monkeypatch, tmp_path, capsys):
    from numbadense import cli

    network().save(tmp_path / "net.safetensors")
    np.save(tmp_path / "x.npy", np.zeros((2, 3)))
    monkeypatch.setattr(device, "why_not", lambda: "the NVIDIA driver finds no GPU")
    arguments = ["predict", str(tmp_path / "net.safetensors"), str(tmp_path / "x.npy"), "--device", "cuda"]
    with contextlib.suppress(SystemExit):
        assert cli.main([*arguments, "--out", str(tmp_path / "y.npy")]) == 1
    assert capsys.readouterr().err == "numbadense: error: CUDA cannot be used: the NVIDIA driver finds no GPU.\n"
