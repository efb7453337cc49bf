"""Networks bound to device arrays, calls that borrow them, and what a call says of itself and of failures."""

import gc
import itertools
import sys
import weakref
from types import SimpleNamespace

import device_oracle
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cuda_streaming import network

import numbadense as nd
from numbadense._engine.cuda import device


@pytest.fixture(scope="module")
def on_device(gpu):
    """A network of two layers, 3-5-2, which are two launches."""
    from numbadense._engine.cuda import whole

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(whole, "fits", lambda *arguments: False)
        return network().to("cuda")


def test_a_bound_network_reads_what_is_there_now(on_device, gpu, rng):
    x = rng.normal(size=(4, 3)).astype(np.float32)
    there = gpu.to_device(x)
    step = on_device.bind(there)
    for scale in (1, -2):
        there.copy_to_device(x * np.float32(scale))
        y = step()
        assert y is step.out
        expected = device_oracle.forward(x * np.float32(scale), network().layers)
        np.testing.assert_allclose(y.copy_to_host(), expected, rtol=1e-5, atol=1e-6)
    assert repr(step) == "BoundNetwork((4, 3) -> (4, 2))" and step.x is there


def test_a_bound_network_fills_out_and_allocates_nothing(on_device, gpu, rng, monkeypatch):
    x, out = gpu.to_device(rng.normal(size=(2, 2, 3)).astype(np.float32)), gpu.device_array((2, 2, 2), np.float32)
    step = on_device.bind(x, out)
    wanted = out.copy_to_host()
    out.copy_to_device(np.full((2, 2, 2), np.nan, np.float32))
    with monkeypatch.context() as patch:
        patch.setattr(gpu, "device_array", None)
        assert step(stream=gpu.stream()) is out
    np.testing.assert_array_equal(out.copy_to_host(), wanted)


def test_a_bound_network_keeps_its_arrays_and_gives_them_back(gpu, rng):
    net = network().to("cuda")
    x = gpu.to_device(rng.normal(size=(4, 3)).astype(np.float32))
    step, there = net.bind(x), weakref.ref(x)
    expected = step().copy_to_host()
    del x, net
    gc.collect()
    np.testing.assert_array_equal(step().copy_to_host(), expected)
    assert there() is not None
    del step
    gc.collect()
    assert there() is None


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("host", nd.DeviceError, "x is a ndarray in the memory of the host but a graph is bound to device arrays"),
        ("dtype", nd.DTypeError, "x has dtype float64 but the network computes in float32"),
        ("columns", nd.ShapeError, r"x has shape \(4, 2\) but its last axis must be 3 long"),
        ("strides", nd.ShapeError, r"x is not contiguous, or empty, .* x.shape=\(4, 3\)"),
        ("empty", nd.ShapeError, r"x is not contiguous, or empty, .* x.shape=\(0, 3\)"),
        ("out", nd.OutputError, r"out has shape \(3, 2\) but the result has shape \(4, 2\)"),
    ],
)
def test_what_a_graph_cannot_be_bound_to_is_refused(on_device, gpu, name, error, said):
    x, out = np.zeros((4, 3), np.float32), None
    cases = {"dtype": x.astype(float), "columns": x[:, :2], "empty": x[:0]}
    given = x if name == "host" else gpu.to_device(np.ascontiguousarray(cases.get(name, x)))
    if name == "strides":
        given = gpu.to_device(np.zeros((4, 6), np.float32))[:, ::2]
    if name == "out":
        out = gpu.device_array((3, 2), np.float32)
    with pytest.raises(error, match=said):
        on_device.bind(given, out)


def test_a_graph_does_not_overwrite_its_input(gpu):
    net = network(widths=(3, 4, 3)).to("cuda")
    x = gpu.to_device(np.zeros((4, 3), np.float32))
    with pytest.raises(nd.OutputError, match="out shares memory with x, which every call reads anew"):
        net.bind(x, x)


# Calls


@pytest.fixture
def views(gpu, monkeypatch):
    """The arrays of which a view was made, by the long way, since the test began."""
    from numbadense._engine.cuda import memory

    seen, view = [], memory._view
    monkeypatch.setattr(memory, "_view", lambda name, value: (seen.append(name), view(name, value))[1])
    return seen


@pytest.mark.parametrize("shape", [(3,), (4, 3), (2, 2, 3)])
def test_arrays_that_are_ready_are_borrowed(on_device, gpu, views, rng, shape):
    x = rng.normal(size=shape).astype(np.float32)
    wanted = on_device(x)
    views.clear()
    there, out = gpu.to_device(x), gpu.device_array((*shape[:-1], 2), np.float32)
    assert on_device(there, out) is out
    np.testing.assert_array_equal(out.copy_to_host(), wanted)
    np.testing.assert_array_equal(on_device(there).copy_to_host(), wanted)
    assert not views


def test_whatever_is_out_of_the_ordinary_goes_the_long_way(on_device, gpu, views, rng):
    x = rng.normal(size=(4, 3)).astype(np.float32)
    wanted = on_device(x)
    wide = np.zeros((4, 6), np.float32)
    wide[:, ::2] = x
    cases = [gpu.to_device(x.astype(np.float64)), gpu.to_device(wide)[:, ::2], gpu.to_device(np.asfortranarray(x))]
    for there in cases:
        views.clear()
        np.testing.assert_array_equal(on_device(there).copy_to_host(), wanted)
        assert views
    views.clear()
    out = np.empty((4, 2), np.float32)
    assert on_device(gpu.to_device(x), out) is out and views
    np.testing.assert_array_equal(out, wanted)


def test_a_borrowed_array_is_what_numba_takes_it_for(gpu, rng):
    from numbadense._engine.cuda import borrowed

    x = gpu.to_device(rng.normal(size=(4, 3)))
    a = borrowed.borrow(x)
    assert (a.ndim, a.shape, a.strides, a.size, a.nbytes) == (2, (4, 3), (24, 8), 12, 96)
    assert a.words == (0, 0, 12, 8, a.address, 4, 3, 24, 8)
    assert a.reshape(12).words == (0, 0, 12, 8, a.address, 12, 8) and a.reshape((2, 6)).shape == (2, 6)
    assert a.part(24, (2, 3), a.dtype).words == (0, 0, 6, 8, a.address + 24, 2, 3, 24, 8)
    assert a.part(8, (22,), np.dtype("float32")).nbytes == 88
    assert a.__cuda_array_interface__["data"] == (a.address, False)
    assert borrowed.borrow(np.zeros(3)) is None and borrowed.borrow([1.0]) is None


class Tensor:
    """What is asked of a tensor of PyTorch."""

    is_cuda, requires_grad, contiguous, pointer, negative, place = True, False, True, 4096, False, 0

    def __init__(self, shape=(4, 3), **facts):
        self.shape, self.dtype = shape, "torch.float32"
        vars(self).update(facts)

    def is_contiguous(self):
        return self.contiguous

    def data_ptr(self):
        return self.pointer

    def numel(self):
        return int(np.prod(self.shape))

    def is_neg(self):
        return self.negative

    def get_device(self):
        return self.place


def test_tensors_of_pytorch_are_asked_in_its_own_words(gpu):
    from numbadense._engine.cuda import borrowed

    torch = SimpleNamespace(float32="torch.float32", float64="torch.float64", uint8="torch.uint8")
    torch.cuda = SimpleNamespace(current_device=lambda: 0)
    read = borrowed._torch_reader(torch)
    a = read(Tensor())
    assert (a.address, a.shape, a.dtype, a.size) == (4096, (4, 3), np.float32, 12)
    for facts in ({"is_cuda": False}, {"requires_grad": True}, {"contiguous": False}, {"dtype": "torch.float16"}):
        assert read(Tensor(**facts)) is None
    for facts in ({"negative": True}, {"place": 1}):  # a sign that memory does not have; another device
        assert read(Tensor(**facts)) is None
    assert read(Tensor((0, 3))) is None


def test_pytorch_here_has_these_words(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    from numbadense._engine.cuda import borrowed

    read = borrowed._torch_reader(torch)
    assert read(torch.zeros(2, 3)) is None  # on the host
    with torch.no_grad():
        array = torch.arange(6.0).reshape(2, 3)
    stand_in = Tensor(tuple(array.shape), dtype=array.dtype, pointer=array.data_ptr())
    assert read(stand_in).address == array.data_ptr()
    assert (
        array.is_cuda is False
        and not array.is_neg()
        and array.is_contiguous()
        and array.numel() == 6
        and not array.requires_grad
    )


def test_arrays_of_cupy_are_asked_in_its_own_words(gpu, monkeypatch):
    from numbadense._engine.cuda import borrowed

    runtime = SimpleNamespace(getDevice=lambda: 0)
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=SimpleNamespace(runtime=runtime)))
    array = SimpleNamespace(
        flags=SimpleNamespace(c_contiguous=True),
        size=6,
        data=SimpleNamespace(ptr=4096),
        device=SimpleNamespace(id=0),
        shape=(2, 3),
        dtype=np.dtype("float32"),
    )
    assert borrowed._cupy(array).words == (0, 0, 6, 4, 4096, 2, 3, 12, 4)
    array.device.id = 1
    assert borrowed._cupy(array) is None
    array.device.id, array.flags.c_contiguous = 0, False
    assert borrowed._cupy(array) is None


@pytest.mark.parametrize("stream", ["0", 1.0, object()])
def test_what_is_no_stream_is_refused(gpu, stream):
    with pytest.raises(nd.OptionError, match="must be a stream of Numba's, or the handle of one"):
        nd.cuda.relu(np.ones(3, np.float32), stream=stream)


# Words


def test_a_network_says_how_a_call_would_run(on_device):
    said = on_device.explain(4).splitlines()
    assert said[0] == "kernels  2 steps of float32; a graph from bind() is one launch"
    assert said[1].startswith("device   ")
    assert said[2] == (
        f"work     {2 * 4 * (15 + 10)} flops, {4 * 5 * 4} bytes in and out, {4 * (15 + 5 + 10 + 2)} bytes of weights, "
        "256 bytes besides"
    )
    assert said[3].startswith("step 0   dense 3 -> 5, tanh: ") and said[4].startswith("step 1   dense 5 -> 2, tanh: ")
    assert on_device.explain((2, 2, 3)) == on_device.explain(4)
    assert "no work" in on_device.explain(0)
    with pytest.raises(nd.ShapeError, match="must end in the 3 features"):
        on_device.explain((4, 4))


def test_a_network_of_one_launch_says_so(gpu):
    fused = network().to("cuda")
    said = fused.explain(5).splitlines()
    assert said[0] == "kernels  1 step of float32; a graph from bind() is one launch"
    assert said[3].startswith("step 0   the network 3-5-2 in one launch: ") and said[3].endswith("weights in it")
    assert "no work" in fused.explain(0)


class CudaAPIError(Exception):
    """As numba-cuda's, by its name, its code and its message."""

    def __init__(self, name, call="cuMemAlloc"):
        super().__init__(name)
        self.code, self.msg = SimpleNamespace(name=name), f"Call to {call} results in {name}"


LOST = (
    "the fault is in this call or in work queued before it, and no CUDA call of this process will work again: start a "
    "new one, under compute-sanitizer to see which kernel it is."
)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("CUDA_ERROR_ILLEGAL_ADDRESS", f"a kernel read or wrote outside the arrays (...); {LOST}"),
        (
            "CUDA_ERROR_INVALID_HANDLE",
            "a stream or kernel belongs to another device, or is gone (...); pass arrays "
            "and a stream of the device that the network is on.",
        ),
        ("CUDA_ERROR_WHATEVER", "the driver reports an error (...); if it is not the arrays or the stream, report it."),
    ],
)
def test_what_cuda_raises_becomes_one_sentence(on_device, monkeypatch, name, said):
    from numbadense._engine.cuda import compile as compiler

    def broken(*_, **__):
        raise CudaAPIError(name, "cuLaunchKernel")

    monkeypatch.setattr(compiler, "launch", broken)
    said = said.replace("...", f"Call to cuLaunchKernel results in {name}")
    calls = {
        "the call of the network": lambda: on_device(np.zeros((2, 3))),
        "predict": lambda: on_device.predict(np.zeros((2, 3))),
        "numbadense.cuda.dense": lambda: nd.cuda.dense(np.zeros((2, 3)), np.zeros((3, 2))),
        "numbadense.cuda.relu": lambda: nd.cuda.relu(np.zeros(3)),
    }
    for call, function in calls.items():
        with pytest.raises(nd.DeviceError) as caught:
            function()
        if call != "numbadense.cuda.relu" or not device.simulated():
            assert str(caught.value) == f"{call} failed: {said}"
        assert isinstance(caught.value.__cause__, CudaAPIError)


def test_out_of_memory_says_how_much_was_asked_for_and_is_free(on_device, gpu, monkeypatch):
    def full(*_, **__):
        raise CudaAPIError("CUDA_ERROR_OUT_OF_MEMORY")

    monkeypatch.setattr(gpu, "to_device", full)
    monkeypatch.setattr(gpu, "current_context", lambda: SimpleNamespace(get_memory_info=lambda: (3 << 20, 80 << 30)))
    with pytest.raises(nd.DeviceError) as caught:
        on_device(np.zeros((1 << 20, 3), np.float32))
    assert str(caught.value) == (
        "the call of the network failed: the device has no memory left: asked for 12 MiB, 3 MiB of 80 GiB are free; "
        "pass fewer rows, or call a network's predict, with batch_size= if need be."
    )


def test_errors_of_others_are_left_alone(on_device, monkeypatch):
    from numbadense._engine.cuda import compile as compiler
    from numbadense._engine.cuda import failures

    def broken(*_, **__):
        raise ZeroDivisionError("elsewhere")

    monkeypatch.setattr(compiler, "launch", broken)
    with pytest.raises(ZeroDivisionError, match="elsewhere"):
        on_device(np.zeros((2, 3)))
    foreign = type("CUDAError", (Exception,), {"__module__": "cuda.core._utils"})
    assert failures.name_of(foreign("CUDA_ERROR_INVALID_VALUE: one of the parameters")) == "CUDA_ERROR_INVALID_VALUE"
    assert failures.name_of(type("CUDAError", (Exception,), {})("CUDA_ERROR_INVALID_VALUE")) is None
    assert [failures.size(n) for n in (12, 2048, 3 << 20, 5 << 30)] == ["12 bytes", "2 KiB", "3 MiB", "5 GiB"]


@pytest.mark.parametrize("widths", [(3, 3), (3, 4, 3), (3, 5, 4, 6, 3)])
def test_out_may_be_x_or_a_part_of_it(gpu, rng, widths):
    net = network(widths=widths)
    there = net.to("cuda")
    room = rng.normal(size=(52, 3)).astype(np.float32)
    expected = device_oracle.forward(room[:40], net.layers)
    for part in (slice(0, 40), slice(12, 52)):  # so that a block of rows would spoil what the next one reads
        x = gpu.to_device(room)
        there(x[:40], x[part])
        np.testing.assert_allclose(x[part].copy_to_host(), expected, rtol=1e-5, atol=1e-6)


@settings(max_examples=50)
@given(widths=st.lists(st.integers(0, 70), min_size=3, max_size=7), m=st.integers(1, 9), besides=st.integers(0, 600))
def test_a_chain_never_writes_where_it_reads(gpu, widths, m, besides):
    from numbadense._engine.cuda import borrowed, direct
    from numbadense._engine.cuda import room as rooms
    from numbadense._engine.cuda.chain import Chain

    seen, kind = [], np.dtype("float32")

    class Step(SimpleNamespace):
        arrays = ()

        def room(self, x):
            return besides

        def run(self, x, out, room, stream):
            seen.append((x, out, room))

    def ends(array):
        return array.address, array.address + array.nbytes

    chain = Chain(tuple(Step(n_in=k, n_out=n) for k, n in itertools.pairwise(widths)), kind)
    x, out = (borrowed.Borrowed(address, (m, n), kind, None, m * n) for address, n in ((1, widths[0]), (2, widths[-1])))
    nbytes = chain.room(x)
    room = borrowed.Borrowed(1 << 20, (nbytes,), rooms.BYTE, None, nbytes)
    chain.run(x, out, room, 0)
    assert seen[0][0] is x and seen[-1][1] is out
    for (read, written, beside), step in zip(seen, chain.steps, strict=True):
        assert read.shape == (m, step.n_in) and written.shape == (m, step.n_out)
        assert not direct.overlap(read, written) and beside.nbytes >= besides and beside.address % 256 == 0
        for array in (read, written):
            assert not direct.overlap(array, beside)
            if array is not x and array is not out:
                assert ends(room)[0] <= array.address and ends(array)[1] <= ends(room)[1] and array.address % 256 == 0
        assert ends(beside)[1] <= ends(room)[1]
    for (_, written, _), (read, _, _) in itertools.pairwise(seen):
        assert read is written
