"""Networks inside a user's own kernels, a warp to a few examples."""

from collections import Counter

import device_oracle
import numpy as np
import pytest
from device_code import assemble
from device_needs import absent
from hypothesis import given, settings
from hypothesis import strategies as st

import numbadense as nd
from numbadense._engine.cuda import device
from numbadense._engine.cuda.program import pack
from numbadense.activations import REGISTRY
from numbadense.cuda.inside import KNOWN as USUAL
from numbadense.scalar_math import fma

pytestmark = [  # what numba says of tiny grids and of NumPy arrays as arguments
    pytest.mark.filterwarnings("ignore:Grid size .* low occupancy"),
    pytest.mark.filterwarnings("ignore:Host array used in CUDA kernel"),
]
cuda = None  # numba's module, which a kernel below finds among its globals
CAPABILITIES = [(8, 0), (9, 0), (12, 0)]
NAMES = ("relu", "tanh", "softmax", "log_softmax")
POISON = 7.0


@pytest.fixture(autouse=True)
def module(monkeypatch):
    """numba's module, where there is one."""
    monkeypatch.setitem(globals(), "cuda", pytest.importorskip("numba.cuda"))


@pytest.fixture
def jit(gpu):
    """numba's module in its place, and its compiler; not where threads cannot meet: on a device all is well."""
    return gpu.jit


def kernel_of(forward, rows):
    """Return the kernel that takes rows of x through a program, as many a warp as it takes at once."""
    if rows == 1:

        def kernel(program, x, out):
            i = cuda.grid(1) // 32
            if i < x.shape[0]:
                forward(program, x[i], out[i])

    else:

        def kernel(program, x, out):
            i = cuda.grid(1) // 32 * rows
            if i < x.shape[0]:
                forward(program, x[i : i + rows], out[i : i + rows])

    return kernel


def propagate(jit, net, x, rows=1, width=128, names=NAMES, columns=None):
    forward = nd.cuda.forward_warp_of(width, names, rows=rows)
    program = nd.cuda.program(net, width=width, activations=names, warp=True)
    out = np.full((len(x), columns or net.n_out), POISON, program.dtype)
    jit(kernel_of(forward, rows))[-(-len(x) // rows), 32](program, x, out)
    return out


def network(widths, dtype, names, seed=0):
    rng = np.random.default_rng(seed)
    layers = [
        nd.Dense(rng.normal(0, 0.5, (k, n)).astype(dtype), rng.normal(size=n).astype(dtype), name)
        for k, n, name in zip(widths[:-1], widths[1:], names, strict=True)
    ]
    return nd.Sequential(layers)


def in_order(x, layers):
    """The exact bits: the bias, then the products in the order of the features, each added in one rounding."""
    for layer in layers:
        y = np.empty((len(x), layer.n_out), x.dtype)
        for i, j in np.ndindex(y.shape):
            total = x.dtype.type(0) if layer.b is None else layer.b[j]
            for p in range(layer.n_in):
                total = fma(x[i, p], layer.w[p, j], total)
            y[i, j] = layer.activation(total)
        x = y
    return x


@settings(max_examples=8, deadline=None)
@given(
    widths=st.lists(st.integers(1, 9), min_size=2, max_size=4),
    m=st.integers(1, 4),
    rows=st.sampled_from([1, 2, 3]),
    dtype=st.sampled_from(["float32", "float64"]),
    relu=st.booleans(),
)
def test_every_bit_is_that_of_the_sums_in_order(gpu, widths, m, rows, dtype, relu):
    net = network(widths, dtype, ["relu" if relu else "identity"] * (len(widths) - 1))
    x = np.random.default_rng(m).normal(size=(m, net.n_in)).astype(dtype)
    np.testing.assert_array_equal(propagate(gpu.jit, net, x, rows), in_order(x, net.layers))


@pytest.mark.parametrize(
    ("widths", "width", "rows"), [((131, 3), 256, 2), ((3, 130, 2), 256, 1), ((2, 128, 1), 128, 1)]
)
def test_rows_wider_than_a_group_of_lanes_keep_their_order(jit, rng, widths, width, rows):
    net = network(widths, np.float32, ["relu"] * (len(widths) - 2) + ["identity"])
    x = rng.normal(size=(2, net.n_in)).astype(np.float32)
    np.testing.assert_array_equal(propagate(jit, net, x, rows, width), in_order(x, net.layers))


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "tanh"])
def test_an_activation_may_be_hidden_or_last(jit, name, dtype, rng):
    net = network((3, 6, 5), dtype, (name, name))
    x = rng.normal(0, 0.3, (2, 3)).astype(dtype)
    for rows in (1, 2):
        y = propagate(jit, net, x, rows)
        nd.testing.assert_forward_close(y, device_oracle.forward(x, net.layers), x, net.layers)


@pytest.mark.filterwarnings("ignore::numbadense.errors.NonFiniteWarning", "ignore::RuntimeWarning")
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_rows_of_infinities_and_ties_come_out_as_on_the_cpu(jit, name):
    for row in ([0.0] * 5, [np.inf, 0, 0, 0, 0], [-np.inf] * 5, [-np.inf, 1, 1, 0, -2], [200, 0, -200, 3, 200]):
        net = nd.Sequential([nd.Dense(np.zeros((1, 5)), row, name)])
        np.testing.assert_allclose(propagate(jit, net, np.ones((1, 1))), net(np.ones((1, 1))), rtol=1e-14)


def test_the_usual_function_has_room_for_256(gpu):
    assert nd.cuda.forward_warp is nd.cuda.forward_warp_of() is nd.cuda.forward_warp_of(256, ["relu", nd.tanh, "expit"])


def test_x_and_out_may_be_one_array_and_of_any_length(jit, dtype):
    net = nd.Sequential([nd.Dense(np.array([[1, 10, 100], [2, 20, 200]], dtype), np.array([5, 6, 7], dtype))])
    program, forward = nd.cuda.program(net, warp=True), nd.cuda.forward_warp_of(128, NAMES)

    @jit
    def in_place(program, state):
        forward(program, state, state)

    state = np.array([1, 2, 0], dtype)
    in_place[1, 32](program, state)
    np.testing.assert_array_equal(state, [10, 56, 507])
    longer, shorter = np.array([[1, 2, np.nan, np.inf]], dtype), np.array([[1]], dtype)
    for rows in (1, 2):
        np.testing.assert_array_equal(propagate(jit, net, longer, rows, columns=5), [[10, 56, 507, 0, 0]])
        np.testing.assert_array_equal(propagate(jit, net, longer, rows, columns=2), [[10, 56]])
        np.testing.assert_array_equal(propagate(jit, net, shorter, rows), [[6, 16, 107]])


def test_a_warp_reads_what_its_lanes_stored_and_each_may_have_a_network_of_a_population(jit, rng):
    dtype = np.dtype(np.float32)
    population = nd.Population(
        [rng.normal(size=(2, 5, 4)).astype(dtype), rng.normal(size=(2, 4, 5)).astype(dtype)], [None, None], ["relu"] * 2
    )
    programs, forward = nd.cuda.program(population, warp=True), nd.cuda.forward_warp_of(128, NAMES)
    element = dtype.type

    @jit
    def twice(programs, x, out):
        states = cuda.shared.array((2, 5), element)
        warp = cuda.threadIdx.x // 32
        lane = cuda.threadIdx.x % 32
        if lane < 5:
            states[warp, lane] = x[warp, lane]
        for _ in range(2):
            forward(programs[warp], states[warp], states[warp])
        if lane < 5:
            out[warp, 4 - lane] = states[warp, 4 - lane]

    x, out = rng.normal(size=(2, 5)).astype(dtype), np.empty((2, 5), dtype)
    twice[1, 64](programs, x, out)
    for i in range(2):
        layers = population[i].layers
        np.testing.assert_array_equal(out[i : i + 1], in_order(in_order(x[i : i + 1], layers), layers))


def test_zeros_keep_their_sign_and_layers_may_have_no_bias_and_no_width(jit, dtype):
    w = np.array([[0, 1, 0], [0, 0, 1]], dtype)
    net = nd.Sequential([nd.Dense(w, np.array([-0.0, 0, 0], dtype)), nd.Dense(np.eye(3, dtype=dtype), [-0.0] * 3)])
    x = np.array([[-1, -1]], dtype)
    y = propagate(jit, net, x)
    np.testing.assert_array_equal(np.signbit(y), np.signbit(in_order(x, net.layers)))
    layers = [nd.Dense(np.ones((3, 2))), nd.Dense(np.ones((2, 0))), nd.Dense(np.ones((0, 2)), [1.5, -2.0], "relu")]
    np.testing.assert_array_equal(propagate(jit, nd.Sequential(layers[:1]), np.ones((2, 3))), np.full((2, 2), 3.0))
    np.testing.assert_array_equal(propagate(jit, nd.Sequential(layers), np.ones((1, 3))), [[1.5, 0.0]])


def test_what_does_not_fit_the_function_is_nan(jit):
    ones = np.ones((1, 3), np.float32)
    forward = nd.cuda.forward_warp_of(128, ["relu"])
    for widths, names, options in (
        ((3, 130, 2), ("relu", "relu"), {"width": 256, "warp": True}),
        ((3, 4, 2), ("tanh", "relu"), {"warp": True}),
        ((3, 2), ("softmax",), {"activations": ["softmax"], "warp": True}),
        ((3, 2), ("relu",), {}),
    ):
        program = nd.cuda.program(network(widths, np.float32, names), **options)
        out = np.zeros((1, 2), np.float32)
        jit(kernel_of(forward, 1))[1, 32](program, ones, out)
        assert np.isnan(out).all()
    thread, out = nd.cuda.forward_of(32, ["relu"]), np.zeros((1, 2), np.float32)
    program = nd.cuda.program(network((3, 2), np.float32, ("relu",)), warp=True)

    @jit
    def kernel(program, x, out):
        thread(program, x[0], out[0])

    kernel[1, 1](program, ones, out)
    assert np.isnan(out).all()


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (
            lambda: nd.cuda.program(nd.Sequential([nd.Dense(np.zeros((3, 300)))]), warp=True),
            nd.ShapeError,
            "layer 0 is 3 -> 300 but the device function has room for 256; pass width=384 here and to forward_warp_of.",
        ),
        (
            lambda: nd.cuda.program(nd.Sequential([nd.Dense(np.zeros((600, 3)))]), warp=True),
            nd.ShapeError,
            "layer 0 is 600 -> 3 but the device function has room for 256; call network.to('cuda') instead.",
        ),
        (
            lambda: nd.cuda.program(nd.Sequential([nd.Dense(np.zeros((3, 3)), None, "gelu")]), warp=True),
            nd.ActivationError,
            "layer 0 has the activation 'gelu' but the device function knows identity, relu, tanh, sigmoid; "
            "add it to activations, here and in forward_warp_of.",
        ),
        (
            lambda: nd.cuda.forward_warp_of(32),
            nd.OptionError,
            "width is 32 but must be a multiple of 128, from 128 to 512; pass width=256.",
        ),
        (
            lambda: nd.cuda.forward_warp_of(512, rows=3),
            nd.OptionError,
            "rows is 3 but must be from 1 to 2 for a width of 512.",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(gpu, call, error, said):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == said


def test_a_call_by_fewer_than_all_lanes_fails_in_the_simulator(gpu):
    if not device.simulated():
        absent("simulator", "a device waits forever")
    net = network((3, 2), np.float32, ("relu",))
    program, forward = nd.cuda.program(net, warp=True), nd.cuda.forward_warp_of(128, ["relu"])

    def kernel(program, x, out):
        if cuda.threadIdx.x != 9:
            forward(program, x[0], out[0])

    with pytest.raises(AssertionError, match=r"lanes \[9\] do not come to sync_warp"):
        gpu.jit(kernel)[1, 32](program, np.ones((1, 3), np.float32), np.ones((1, 2), np.float32))


def test_a_program_for_a_warp_is_laid_out_by_rows():
    w = np.arange(1.0, 16).reshape(1, 3, 5)
    (program,) = pack([w], [np.full((1, 5), 0.5)], [REGISTRY["tanh"]], np.dtype(np.float32), warp=True)
    code = list(REGISTRY).index("tanh")
    np.testing.assert_array_equal(program[:8], [1, 3, 5, 1, 3, 5, code, 0])
    expected = [[0.5] * 5 + [0] * 3, [1, 2, 3, 4, 5, 0, 0, 0], [6, 7, 8, 9, 10, 0, 0, 0]]
    expected += [[11, 12, 13, 14, 15, 0, 0, 0], [0] * 8]
    np.testing.assert_array_equal(program[8:].reshape(5, 8), expected)
    assert np.signbit(program[8:][program[8:] == 0]).all()


@pytest.fixture(scope="session")
def warp_code(compile_ptx, tmp_path_factory):
    """A function that returns the PTX and the code of a kernel with a network in it; each is compiled once."""
    from numbadense._engine.cuda import run

    held = {}

    def compiled(width, rows, names=USUAL, dtype="float32", capability=(9, 0)):
        key = width, rows, names, dtype, capability
        if key not in held:
            kernel = kernel_of(run.forward_warp_of(width, names, rows), rows)
            ptx = compile_ptx(kernel, (dtype, 1), (dtype, 2), (dtype, 2), capability=capability)
            held[key] = ptx, assemble(ptx, tmp_path_factory.mktemp("warp"))
        return held[key]

    return compiled


ROOM = [(128, 8), (256, 1), (256, 4), (512, 2)]
HELD = [((9, 0), shape) for shape in ROOM] + [(capability, (256, 4)) for capability in ((8, 0), (12, 0))]


@pytest.mark.parametrize(("capability", "shape"), HELD, ids=str)
def test_a_network_stays_in_the_registers_of_its_warp(warp_code, shape, capability):
    ptx, code = warp_code(*shape, capability=capability)
    assert ".f64" not in ptx and ".local" not in ptx and "call." not in ptx
    assert code.local == 0 and code.registers <= 128
    assert ptx.count("bar.warp.sync") == 3


@pytest.mark.parametrize("capability", CAPABILITIES, ids=str)
@pytest.mark.parametrize(
    ("names", "rows", "dtype"), [(("gelu", "softmax", "log_softmax"), 4, "float32"), (("tanh",), 1, "float64")], ids=str
)
def test_so_do_rows_spread_over_the_lanes_and_float64(warp_code, capability, names, rows, dtype):
    ptx, code = warp_code(256, rows, names, dtype, capability)
    assert code.local == 0 and not any(name.startswith(("LDL", "STL")) for name in code.instructions)
    assert (".f64" in ptx) is (dtype == "float64")


@pytest.mark.parametrize("shape", ROOM, ids=str)
def test_a_load_of_16_bytes_serves_four_products_of_every_row(warp_code, shape):
    width, rows = shape
    _, code = warp_code(*shape)
    loops = [Counter(name.split(".")[0] for name in loop) for loop in code.loops]
    inner = min((loop for loop in loops if loop["FFMA"] and loop["SHFL"]), key=Counter.total)
    assert inner["SHFL"] == 4 * rows  # four features of each row, told to all
    assert inner["LDG"] == 4 * width // 128
    assert inner["FFMA"] == inner["LDG"] * 4 * rows
    assert "LDG.E.128" in code.instructions
    assert inner["FFMA"] > inner.total() / (2 if rows > 1 else 3)
