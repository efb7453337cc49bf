"""Arrays of float16 and bfloat16 on the device: read exactly, written with one rounding, by every function."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import numbadense as nd
from numbadense._engine import half
from numbadense._engine.cuda import device

KINDS = ["float16", "bfloat16"]
TYPESTR = {"float16": "<f2", "bfloat16": "<V2"}
UNIT = {"float16": 2.0**-11, "bfloat16": 2.0**-8}  # half the spacing of the numbers around 1, relative to the smaller
LEAST = {"float16": 2.0**-25, "bfloat16": 2.0**-134}  # half the spacing of the numbers around 0
POISON = np.uint16(0xABCD)
LAYOUTS = ["contiguous", "unaligned", "reversed", "every other", "transposed"]


class Halves:
    """An array of some library, of 16-bit floats: an interface, and the memory that it describes a part of."""

    def __init__(self, room, kind, shape, layout="contiguous", read_only=False, begin=None):
        self.room, self.shape = room, shape
        steps, first = placed(shape, layout)
        begin = first if begin is None else begin
        self.facts = shape, [2 * step for step in steps], 2 * begin
        found = room.__array_interface__ if device.simulated() else room.__cuda_array_interface__
        where = {"data": (found["data"][0] + self.facts[2], read_only), "strides": tuple(self.facts[1])}
        self.__cuda_array_interface__ = {"shape": shape, "typestr": TYPESTR[kind], "version": 3, **where}

    @property
    def bits(self):
        """The bits of its numbers."""
        return part(self.host(), *self.facts)

    @property
    def others(self):
        """The bits of all else that there is in its memory."""
        room = self.host().copy()
        part(room, *self.facts)[...] = POISON
        return room

    def host(self):
        """Its memory."""
        return self.room if device.simulated() else self.room.copy_to_host()


def part(room, shape, strides, begin):
    """Return a part of some memory."""
    return np.lib.stride_tricks.as_strided(room[begin // 2 :], shape, strides)


def placed(shape, layout):
    """Return the steps along the axes of an array in its memory, in elements, and where it begins."""
    steps = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    if layout == "transposed":
        return [math.prod(shape[:axis]) for axis in range(len(shape))], 8
    if layout == "every other":
        return [2 * step for step in steps], 8
    if layout == "reversed" and math.prod(shape):
        return [*steps[:-1], -1], 8 + shape[-1] - 1
    return steps, 9 if layout == "unaligned" else 8


@pytest.fixture(scope="module")
def to_halves(gpu):
    """A function that puts bits on the device, as an array of a kind, with other numbers around it."""

    def make(bits, kind, layout="contiguous", **facts):
        bits = np.asarray(bits, np.uint16)
        room = np.full(2 * bits.size + 16, POISON)
        steps, begin = placed(bits.shape, layout)
        part(room, bits.shape, [2 * step for step in steps], 2 * begin)[...] = bits
        return Halves(room if device.simulated() else gpu.to_device(room), kind, bits.shape, layout, **facts)

    return make


def widened(bits, kind):
    """The numbers that bits stand for, in float32."""
    return np.asarray(half.Half(kind, np.ascontiguousarray(bits)))


def assert_same(actual, expected):
    """Fail unless two arrays are the same, bit by bit, but for what NaN carries."""
    assert actual.dtype == expected.dtype
    np.testing.assert_array_equal(actual, expected)
    number = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(actual[number]), np.signbit(expected[number]))


@pytest.mark.parametrize("kind", KINDS)
def test_every_number_of_16_bits_is_read_as_it_is(to_halves, kind):
    bits = np.arange(0, 2**16, 41 if device.simulated() else 1)  # each exponent, with some of its fractions
    y = nd.cuda.identity(to_halves(bits, kind))
    assert_same(y.copy_to_host(), widened(bits.astype(np.uint16), kind))


@pytest.mark.parametrize("layout", ["contiguous", "every other"])  # rounded by the activation; by a copy
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_result_is_rounded_once_to_nearest_and_even(gpu, to_halves, kind, dtype, layout):
    """Beside each number, halfway to the next, and just beside that: twice rounded, it would be that."""
    dtype = np.dtype(dtype)
    bits = np.arange(0, 2**16, 1021).astype(np.uint16)
    with np.errstate(invalid="ignore", over="ignore"):
        numbers, after = (widened(b, kind).astype(dtype) for b in (bits, bits + np.uint16(1)))
        middle = (numbers / 2 + after / 2).astype(dtype)
        x = np.concatenate([numbers, middle, *(np.nextafter(middle, np.array(e, dtype)) for e in (-9e9, 9e9, 0))])
    x = np.concatenate([x, np.array([65519.99, 65520, 3.39e38, 3.4e38, np.inf, -np.inf, np.nan, -0.0], dtype)])
    infinite = np.array(np.inf, dtype).view(f"u{dtype.itemsize}")
    x = np.append(x, (infinite + infinite.dtype.type(1)).view(dtype))  # NaN, by its last bit
    out = to_halves(np.zeros(x.size), kind, layout)
    assert nd.cuda.identity(gpu.to_device(x), out) is out
    with np.errstate(invalid="ignore"):
        assert_same(widened(out.bits, kind), np.asarray(half.rounded(x, kind)))


@pytest.mark.parametrize("layouts", list(itertools.product(["contiguous", "unaligned"], repeat=2)))
@pytest.mark.parametrize("size", [7, 8, 25])
def test_activations_find_the_chunks_of_both_arrays(gpu, to_halves, rng, layouts, size):
    for kinds in (("bfloat16", "bfloat16"), ("float16", None), (None, "bfloat16")):
        numbers = rng.normal(size=size).astype(np.float32)
        kind, out_kind = kinds
        bits = half.rounded(numbers, kind or "float16").bits
        x = to_halves(bits, kind, layouts[0]) if kind else gpu.to_device(numbers)
        out = to_halves(np.zeros(size), out_kind, layouts[1]) if out_kind else gpu.to_device(np.zeros(size, "f4"))
        expected = nd.cuda.relu(widened(bits, kind) if kind else numbers)
        assert nd.cuda.relu(x, out) is out
        if out_kind:
            assert_same(widened(out.bits, out_kind), np.asarray(half.rounded(expected, out_kind)))
        else:
            assert_same(out.copy_to_host(), expected)


def network(widths, rng):
    """A network of these widths in float32, whose weights have few bits."""
    shapes = list(itertools.pairwise(widths))
    names = ["relu"] * (len(shapes) - 1) + ["sigmoid"]
    return nd.Sequential(
        [
            nd.Dense(quarters(rng, shape), quarters(rng, shape[1]), name)
            for shape, name in zip(shapes, names, strict=True)
        ]
    )


def quarters(rng, shape):
    """Random multiples of a quarter: sums of their products are exact, in whatever order."""
    return (rng.integers(-8, 9, shape) / 4).astype(np.float32)


def layer(net, activation, **options):
    """The first layer of a network as a function."""
    w, b = net.layers[0].w, net.layers[0].b
    return lambda x, out=None: nd.cuda.dense(x, w, b, activation, out=out, **options)


def on_tensor_cores(net):
    """A network layer by layer on tensor cores, as one that is too wide for one launch."""
    from numbadense._engine.cuda import run, tensor_step
    from numbadense._engine.cuda.chain import Chain

    dtype, owner = np.dtype(np.float32), net.to("cuda")
    step = Chain(tensor_step.of_network(net.layers, "bf16"), dtype)
    return lambda x, out=None: run.network(step, x, out, dtype, owner, 0)


@pytest.mark.parametrize(
    ("kind", "name"), [("bfloat16", "gelu"), ("bfloat16", "softmax"), ("float16", "gelu"), ("float32", "softmax")]
)
def test_layers_on_tensor_cores_take_any_numbers_and_read_16_bytes_of_their_own(
    gpu, to_halves, launches, rng, kind, name
):
    from numbadense._engine.cuda import memory, tensor_step

    w, b = quarters(rng, (40, 8)), quarters(rng, 8)
    numbers = quarters(rng, (3, 40))
    expected = nd.cuda.dense(numbers, w, b, name, precision="bf16")
    x = to_halves(half.rounded(numbers, kind).bits, kind) if kind in KINDS else gpu.to_device(numbers)
    layer = tensor_step.prepare(gpu.to_device(w), gpu.to_device(b), name, "bf16", 0)
    own = kind == "bfloat16"
    for call in (
        lambda out: nd.cuda.dense(x, w, b, name, out=out, precision="bf16"),  # packed for x, as it is
        lambda out: forward(layer, x, out),  # packed for float32, and then turned
    ):
        out = to_halves(np.zeros((3, 8)), "bfloat16")
        assert call(out) is out
        np.testing.assert_array_equal(out.bits, half.rounded(expected, "bfloat16").bits)
        launches.clear()
        assert_same(call(None).copy_to_host(), expected)
    copies = 0 if kind in ("float32", "bfloat16") else 1
    assert len(launches) == copies + 1 + (name == "softmax")
    assert layer._laid_out.keys() == ({True, False} if own else {False})
    bits = memory.operand("x", x)
    assert layer.reads(memory.lent(bits, bits.shape)) is own


def forward(step, x, out):
    """What a step makes of x."""
    from numbadense._engine.cuda import memory, run

    return run.forward(step, memory.operand("x", x), out, np.dtype(np.float32), 0)


FUNCTIONS = {
    "dense": lambda net: layer(net, "relu"),
    "dense in bf16": lambda net: layer(net, "sigmoid", precision="bf16"),
    "dense in fp16": lambda net: layer(net, "softmax", precision="fp16"),
    "network": lambda net: net.to("cuda"),
    "network in bf16": lambda net: net.to("cuda", precision="bf16"),
    "network in fp16": lambda net: net.to("cuda", precision="fp16"),
    "layers": lambda net: net.to("cuda", split_k=2),
    "layers in bf16": on_tensor_cores,
    "population": lambda net: nd.stack([net, net]).to("cuda"),
    "population in bf16": lambda net: nd.stack([net, net]).to("cuda", precision="bf16"),
    "tanh": lambda net: nd.cuda.tanh,
    "softmax": lambda net: nd.cuda.softmax,
}


@st.composite
def cases(draw):
    """Return a function, kinds and layouts of x and out, rows and widths, and a seed."""
    name = draw(st.sampled_from(list(FUNCTIONS)))
    kinds = draw(st.tuples(st.sampled_from(KINDS), st.sampled_from([*KINDS, None])))
    m, n_in, n_out = draw(st.integers(0, 5)), draw(st.sampled_from([1, 3, 4, 8])), draw(st.sampled_from([1, 2, 4, 8]))
    shapes = (m, n_in), (m, n_in if name in ("tanh", "softmax") else n_out)
    layouts = draw(st.tuples(*[st.sampled_from(LAYOUTS)] * 2))
    if name.startswith("population"):
        shapes, layouts = (shapes[0], (2, *shapes[1])), (layouts[0], draw(st.sampled_from(LAYOUTS[:2])))
    return name, kinds, shapes, layouts, draw(st.integers(0, 2**32 - 1))


def some_bits(rng, shape, kind, name):
    """Bits of random numbers, some of which are none, or of any size where the order of sums is always the same."""
    ordered = name not in ("dense in bf16", "dense in fp16", "layers in bf16")
    numbers = rng.normal(size=shape).astype(np.float32) if ordered else quarters(rng, shape)
    strange = rng.random(shape) < 0.1
    numbers[strange] = rng.choice(np.array([np.nan, np.inf, -np.inf, -0.0], np.float32), shape)[strange]
    bits = half.rounded(numbers, kind).bits.copy()
    strange = (rng.random(shape) < 0.1) & ordered
    bits[strange] = rng.integers(0, 2**16, shape)[strange]
    return bits


@settings(max_examples=25, deadline=None)
@given(cases())
def test_any_function_takes_halves_for_the_numbers_they_are_and_rounds_to_them_once(to_halves, case):
    name, (kind, out_kind), (shape, out_shape), layouts, seed = case
    rng = np.random.default_rng(seed)
    call = FUNCTIONS[name](
        network((shape[-1], 5, out_shape[-1]) if "dense" not in name else (shape[-1], out_shape[-1]), rng)
    )
    bits = some_bits(rng, shape, kind, name)
    expected = call(widened(bits, kind))
    x = to_halves(bits, kind, layouts[0])
    if out_kind is None:
        assert_same(call(x).copy_to_host(), expected)
        return
    out = to_halves(np.zeros(out_shape), out_kind, layouts[1])
    around = out.others
    assert call(x, out) is out
    assert_same(widened(out.bits, out_kind), np.asarray(half.rounded(expected, out_kind)))
    np.testing.assert_array_equal(out.others, around)
    np.testing.assert_array_equal(x.bits, bits)


# Arrays that are ready


@pytest.fixture
def ready(gpu):
    """A function that returns an array of Numba's of 16-bit floats, whatever NumPy calls them."""
    return lambda bits, kind: gpu.to_device(np.ascontiguousarray(bits, np.uint16).view(TYPESTR[kind]))


def bits_of(array):
    """The bits of an array of Numba's."""
    return array.copy_to_host().view(np.uint16)


@pytest.fixture
def views(gpu, monkeypatch):
    """The arrays of which a view was made, by the long way, since the test began."""
    from numbadense._engine.cuda import memory

    seen, view = [], memory._view
    monkeypatch.setattr(memory, "_view", lambda name, value: (seen.append(name), view(name, value))[1])
    return seen


@pytest.mark.parametrize(
    ("kind", "precision", "casts"),
    [("float16", "fp16", 0), ("bfloat16", "bf16", 0), ("bfloat16", "fp16", 2), ("float16", None, 2)],
)
@pytest.mark.parametrize("shape", [(3,), (5, 3), (2, 2, 3)])
def test_a_call_on_ready_arrays_is_one_launch_where_they_have_the_precision_of_the_network(
    ready, launches, views, rng, kind, precision, casts, shape
):
    net = network((3, 5, 2), rng).to("cuda", precision=precision)
    bits = half.rounded(rng.normal(size=shape).astype(np.float32), kind).bits
    expected = net(widened(bits, kind))
    views.clear(), launches.clear()
    x, out = ready(bits, kind), ready(np.zeros((*shape[:-1], 2)), kind)
    assert net(x, out) is out and len(launches) == 1 + casts
    np.testing.assert_array_equal(bits_of(out), half.rounded(expected, kind).bits)
    assert_same(net(x).copy_to_host(), expected)
    assert len(launches) == 2 + casts + casts // 2 and not views


@pytest.mark.parametrize(("kind", "precision"), [("float16", "fp16"), ("bfloat16", "fp16"), ("bfloat16", None)])
def test_a_network_is_bound_to_halves(ready, gpu, rng, kind, precision):
    net = network((3, 5, 2), rng).to("cuda", precision=precision)
    bits = half.rounded(rng.normal(size=(2, 4, 3)).astype(np.float32), kind).bits
    x, out = ready(bits[0], kind), ready(np.zeros((4, 2)), kind)
    step = net.bind(x, out)
    for each in bits:
        x.copy_to_device(each.view(TYPESTR[kind]))
        assert step() is out
        np.testing.assert_array_equal(bits_of(out), half.rounded(net(widened(each, kind)), kind).bits)
    assert net.bind(x).out.dtype == np.float32


def test_halves_have_to_fit_what_a_graph_computes_in(ready, gpu):
    net = nd.Sequential([nd.Dense(np.ones((3, 2)))]).to("cuda")
    x, out = gpu.to_device(np.ones((4, 3))), ready(np.zeros((4, 2)), "bfloat16")
    with pytest.raises(nd.DTypeError, match="out has dtype bfloat16 but the network computes in float64; pass that"):
        net.bind(x, out)
    with pytest.raises(nd.DTypeError, match="x has dtype float16 but the network computes in float64; pass that"):
        net.bind(ready(np.zeros((4, 3)), "float16"))
    assert net(x, out) is out  # as in NumPy: rounded once
    np.testing.assert_array_equal(bits_of(out), half.rounded(np.full((4, 2), 3.0), "bfloat16").bits)


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_that_cannot_be_written_are_refused(to_halves, kind):
    x = np.ones((4, 3), np.float32)
    with pytest.raises(nd.OutputError, match=r"out is read-only but must take the result of shape \(4, 3\)"):
        nd.cuda.relu(x, to_halves(np.zeros((4, 3)), kind, read_only=True))
    with pytest.raises(nd.OutputError, match=r"out has shape \(4, 2\) but the result has shape \(4, 3\)"):
        nd.cuda.relu(x, to_halves(np.zeros((4, 2)), kind))


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize("held", [True, False])
def test_rows_of_halves_are_one_launch_where_a_warp_holds_them(to_halves, launches, rng, monkeypatch, name, held):
    from numbadense._engine.cuda import softmax

    bits = half.rounded(rng.normal(size=(3, 40)).astype(np.float32), "float16").bits
    monkeypatch.setattr(softmax, "HELD", 4096 * held)
    expected = getattr(nd.cuda, name)(widened(bits, "float16"))
    launches.clear()
    x, out = to_halves(bits, "float16"), to_halves(np.zeros((3, 40)), "bfloat16", "unaligned")
    assert getattr(nd.cuda, name)(x, out) is out and len(launches) == (1 if held else 3)
    np.testing.assert_array_equal(out.bits, half.rounded(expected, "bfloat16").bits)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["relu", "softmax"])
def test_an_activation_may_be_in_place(to_halves, rng, kind, name):
    bits = half.rounded(rng.normal(size=(4, 8)).astype(np.float32), kind).bits
    x = to_halves(bits, kind)
    assert getattr(nd.cuda, name)(x, x) is x
    np.testing.assert_array_equal(x.bits, half.rounded(getattr(nd.cuda, name)(widened(bits, kind)), kind).bits)


@pytest.mark.parametrize("name", ["tanh", "softmax"])
def test_memory_that_numbers_of_two_sizes_share_is_read_before_it_is_written(gpu, rng, name):
    from numbadense._engine.cuda import memory

    numbers = rng.normal(size=(8, 2)).astype(np.float32)
    expected = getattr(nd.cuda, name)(numbers)
    room = numbers.copy() if device.simulated() else gpu.to_device(numbers)
    x = memory.from_interface(room.__array_interface__, room) if device.simulated() else room
    out = Halves(room.view(np.uint16), "bfloat16", (8, 2), begin=0)  # the first half of what x has
    assert getattr(nd.cuda, name)(x, out) is out
    np.testing.assert_array_equal(out.bits, half.rounded(expected, "bfloat16").bits)


# Libraries


class Strange:
    """An array whose library has no word for bfloat16, or none for what it holds."""

    def __init__(self, bits, error, dtype="bfloat16", **facts):
        self.bits, self.error, self.dtype = bits, error, dtype
        vars(self).update(facts)

    @property
    def __cuda_array_interface__(self):
        raise self.error

    def view(self, dtype):
        assert dtype == "int16"
        return Halves(self.bits, "float16", self.bits.shape, begin=0)


@pytest.mark.parametrize("error", [KeyError("torch.bfloat16"), RuntimeError("not supported for BF16 buffers")])
def test_libraries_without_a_word_for_bfloat16_are_asked_for_its_bits(gpu, error):
    numbers = np.array([1.5, -2.0, 3.0, 0.0], np.float32)
    bits = half.rounded(numbers, "bfloat16").bits
    bits = bits if device.simulated() else gpu.to_device(bits)
    y = nd.cuda.relu(Strange(bits, error, "torch.bfloat16"))
    np.testing.assert_array_equal(y.copy_to_host(), np.maximum(numbers, 0))


def test_views_of_bits_are_read_only_for_they_may_be_copies(gpu):
    bits = np.zeros(4, np.uint16)
    bits = bits if device.simulated() else gpu.to_device(bits)
    with pytest.raises(nd.OutputError, match=r"out is read-only but must take the result of shape \(4,\)"):
        nd.cuda.relu(np.ones(4, np.float32), Strange(bits, RuntimeError("not supported for BF16 buffers")))


def test_pytorch_here_has_these_words_for_halves():
    torch = pytest.importorskip("torch")
    from numbadense._engine.cuda import halves

    bits = half.rounded(np.array([1.5, -2.0, 1e30], np.float32), "bfloat16").bits.copy()
    tensor = torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16)
    assert str(tensor.dtype).endswith("bfloat16") and tensor.tolist()[:2] == [1.5, -2.0]
    assert tensor.view(torch.int16).data_ptr() == tensor.data_ptr() and not tensor.requires_grad
    names = getattr(torch._tensor, "_dtype_to_typestr", None)
    if names is not None:  # later versions
        assert halves.known(np.dtype(names(torch.bfloat16))) is halves.BFLOAT16
        assert halves.known(np.dtype(names(torch.float16))) is halves.FLOAT16


@pytest.mark.parametrize("kind", KINDS)
def test_single_numbers_and_nothing_at_all(to_halves, kind):
    for shape in ((), (0, 3), (3, 0)):
        x, out = (to_halves(np.full(shape, 0x3C00), kind) for _ in range(2))
        y = nd.cuda.relu(x)
        assert y.shape == shape and y.dtype == np.float32
        assert nd.cuda.relu(x, out) is out
        assert_same(np.asarray(y.copy_to_host()), np.asarray(widened(x.bits.reshape(shape), kind)).reshape(shape))
        np.testing.assert_array_equal(out.bits, x.bits)


def test_other_errors_of_libraries_are_passed_on(gpu):
    bits = np.zeros(4, np.uint16)
    with pytest.raises(nd.DTypeError, match="x is a Strange whose device memory cannot be read: requires grad"):
        nd.cuda.relu(Strange(bits, RuntimeError("requires grad"), requires_grad=True))
    with pytest.raises(nd.DTypeError, match="x is a Strange whose device memory cannot be read: 'complex32'"):
        nd.cuda.relu(Strange(bits, KeyError("complex32"), "complex32"))


def test_arrays_of_ml_dtypes_are_taken_on_either_side(gpu, rng):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    numbers = rng.normal(size=(4, 3)).astype(ml_dtypes.bfloat16)
    expected = nd.cuda.tanh(numbers.astype(np.float32))
    assert_same(nd.cuda.tanh(numbers), expected)
    there = gpu.to_device(numbers)
    assert_same(nd.cuda.tanh(there).copy_to_host(), expected)
    for out in (np.zeros_like(numbers), gpu.to_device(np.zeros_like(numbers))):
        assert nd.cuda.tanh(there, out) is out
        host = out if isinstance(out, np.ndarray) else out.copy_to_host()
        np.testing.assert_array_equal(host.view(np.uint16), half.rounded(expected, "bfloat16").bits)
