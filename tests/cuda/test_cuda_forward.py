"""Networks inside a user's own kernels, a thread to an example."""

import device_oracle
import numpy as np
import pytest

import numbadense as nd
from numbadense import activations
from numbadense._engine.cuda import device
from numbadense._engine.cuda.program import pack
from numbadense.activations import REGISTRY
from numbadense.scalar_math import fma

pytestmark = [  # what numba says of tiny grids and of NumPy arrays as arguments
    pytest.mark.filterwarnings("ignore:Grid size .* low occupancy"),
    pytest.mark.filterwarnings("ignore:Host array used in CUDA kernel"),
]
cuda = None  # numba's module where a kernel below is run: the simulator looks for it among the globals of a kernel
THREADS = 4
WIDTH = 8
ROWWISE = [name for name, entry in REGISTRY.items() if entry.rowwise]
ELEMENTWISE = [name for name in REGISTRY if name not in ROWWISE]
NAMES = ("relu", "tanh", "sigmoid", "softmax", "log_softmax")


@pytest.fixture
def propagate(gpu, monkeypatch):
    """A function that takes rows through a program in a kernel: as rows of global memory, or through local arrays."""
    monkeypatch.setitem(globals(), "cuda", gpu)
    kernels = {}

    def kernel_of(forward, local, dtype):
        if local is None:

            @gpu.jit
            def kernel(program, x, out):
                i = cuda.grid(1)
                if i < x.shape[0]:
                    forward(program, x[i], out[i])

            return kernel
        n_in, n_out = local

        @gpu.jit
        def kernel(program, x, out):
            i = cuda.grid(1)
            if i < x.shape[0]:
                inputs = cuda.local.array(n_in, dtype)
                outputs = cuda.local.array(n_out, dtype)
                for p in range(n_in):
                    inputs[p] = x[i, p]
                forward(program, inputs, outputs)
                for j in range(n_out):
                    out[i, j] = outputs[j]

        return kernel

    def run(forward, program, x, n_out, local=False):
        key = forward, local and (x.shape[1], n_out), program.dtype
        if key not in kernels:
            kernels[key] = kernel_of(forward, key[1] or None, program.dtype)
        out = np.full((len(x), n_out), 7.0, program.dtype)
        kernels[key][-(-len(x) // THREADS), THREADS](program, x, out)
        return out

    run.kernels = kernels
    return run


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


@pytest.mark.parametrize("local", [False, True], ids=["rows", "local arrays"])
@pytest.mark.parametrize("widths", [(1, 1), (3, 8, 2), (8, 5, 8, 1), (4, 4), (7, 1, 6)], ids=str)
def test_a_network_agrees_with_the_loops(gpu, propagate, widths, local, dtype, rng):
    net = network(widths, dtype, [("tanh", "sigmoid", "relu")[index] for index in range(len(widths) - 1)])
    forward, program = nd.cuda.forward_of(WIDTH, NAMES), nd.cuda.program(net, width=WIDTH, activations=NAMES)
    assert program.ndim == 1 and program.dtype == dtype
    x = rng.normal(size=(5, net.n_in)).astype(dtype)
    y = propagate(forward, program, x, net.n_out, local)
    nd.testing.assert_forward_close(y, device_oracle.forward(x, net.layers), x, net.layers)


@pytest.mark.parametrize("widths", [(3, 8, 2), (5, 7, 8), (4, 1, 6, 3)], ids=str)
def test_every_bit_is_that_of_the_sums_in_order(gpu, propagate, widths, dtype, rng):
    net = network(widths, dtype, ["relu"] * (len(widths) - 2) + ["identity"])
    x = rng.normal(size=(6, net.n_in)).astype(dtype)
    y = propagate(nd.cuda.forward_of(WIDTH, NAMES), nd.cuda.program(net), x, net.n_out)
    np.testing.assert_array_equal(y, in_order(x, net.layers))


def test_one_kernel_runs_every_network_that_fits(gpu, propagate, rng):
    forward = nd.cuda.forward_of(WIDTH, NAMES)
    for widths, names in (((3, 5, 2), ("tanh", "identity")), ((3, 8, 8, 4), ("relu", "sigmoid", "softmax"))):
        net = network(widths, np.float32, names)
        x = rng.normal(size=(3, 3)).astype(np.float32)
        y = propagate(forward, nd.cuda.program(net, width=WIDTH, activations=NAMES), x, net.n_out)
        nd.testing.assert_forward_close(y, device_oracle.forward(x, net.layers), x, net.layers)
    (kernel,) = propagate.kernels.values()
    assert device.simulated() or len(kernel.overloads) == 1
    assert nd.cuda.forward_of(WIDTH, NAMES) is forward


def test_the_usual_function_has_room_for_32(gpu, propagate, rng):
    assert nd.cuda.forward is nd.cuda.forward_of() is nd.cuda.forward_of(32, ["relu", nd.tanh, "logistic"])
    net = network((17, 32, 30, 3), np.float32, ("tanh", "relu", "sigmoid"))
    x = rng.normal(size=(2, 17)).astype(np.float32)
    y = propagate(nd.cuda.forward, nd.cuda.program(net), x, 3)
    nd.testing.assert_forward_close(y, device_oracle.forward(x, net.layers), x, net.layers)


@pytest.mark.parametrize("names", [ELEMENTWISE, ROWWISE], ids=["element-wise", "row-wise"])
def test_every_activation_is_an_epilogue_and_may_be_hidden(gpu, propagate, names, dtype, rng):
    forward = nd.cuda.forward_of(WIDTH, names)
    for name in names:
        net = network((3, 6, 5), dtype, (name, name))
        x = rng.normal(0, 0.3, (2, 3)).astype(dtype)
        y = propagate(forward, nd.cuda.program(net, width=WIDTH, activations=names), x, 5)
        nd.testing.assert_forward_close(y, device_oracle.forward(x, net.layers), x, net.layers)


def test_x_and_out_may_be_one_array_and_of_any_length(gpu, propagate, dtype):
    net = nd.Sequential([nd.Dense(np.array([[1, 10, 100], [2, 20, 200]], dtype), np.array([5, 6, 7], dtype))])
    program, forward = nd.cuda.program(net), nd.cuda.forward_of(WIDTH, NAMES)

    @gpu.jit
    def in_place(program, state):
        forward(program, state, state)

    state = np.array([1, 2, 0], dtype)
    in_place[1, 1](program, state)
    np.testing.assert_array_equal(state, [10, 56, 507])
    longer, shorter = np.array([[1, 2, np.nan, np.inf]], dtype), np.array([[1]], dtype)
    np.testing.assert_array_equal(propagate(forward, program, longer, 2), [[10, 56]])
    np.testing.assert_array_equal(propagate(forward, program, longer, 5), [[10, 56, 507, 0, 0]])
    np.testing.assert_array_equal(propagate(forward, program, shorter, 3), [[6, 16, 107]])


def test_each_thread_may_have_a_network_of_a_population(gpu, monkeypatch, dtype, rng):
    monkeypatch.setitem(globals(), "cuda", gpu)
    forward = nd.cuda.forward_of(WIDTH, NAMES)

    @gpu.jit
    def kernel(programs, x, out):
        i = cuda.grid(1)
        if i < x.shape[0]:
            forward(programs[i], x[i], out[i])

    population = nd.Population(
        [rng.normal(size=(6, 3, 5)).astype(dtype), rng.normal(size=(6, 5, 2)).astype(dtype)],
        [rng.normal(size=(6, 5)).astype(dtype), None],
        ["relu", None],
    )
    programs = nd.cuda.program(population)
    assert programs.shape == (6, nd.cuda.program(population[0]).shape[0])
    x, out = rng.normal(size=(6, 3)).astype(dtype), np.empty((6, 2), dtype)
    kernel[2, 4](programs, x, out)
    for i in range(6):
        np.testing.assert_array_equal(out[i : i + 1], in_order(x[i : i + 1], population[i].layers))


def test_a_program_may_be_copied_to_shared_memory(gpu, monkeypatch, rng):
    monkeypatch.setitem(globals(), "cuda", gpu)
    net = network((3, 5, 2), np.float32, ("relu", "identity"))
    program, forward, element = nd.cuda.program(net), nd.cuda.forward_of(WIDTH, NAMES), np.float32
    size = program.size

    def run_from(shared, program, x, out):
        i = cuda.threadIdx.x
        for q in range(i, size, cuda.blockDim.x):
            shared[q] = program[q]
        cuda.syncthreads()
        forward(shared, x[i], out[i])

    if device.simulated():  # which knows no alignment

        @gpu.jit
        def kernel(program, x, out):
            run_from(cuda.shared.array(size, element), program, x, out)

    else:
        run_from = gpu.jit(device=True)(run_from)

        @gpu.jit
        def kernel(program, x, out):
            run_from(cuda.shared.array(size, element, alignment=16), program, x, out)

    x, out = rng.normal(size=(4, 3)).astype(np.float32), np.empty((4, 2), np.float32)
    kernel[1, 4](program, x, out)
    np.testing.assert_array_equal(out, in_order(x, net.layers))


def test_zeros_keep_their_sign_and_what_is_not_finite_stays_in_its_output(gpu, propagate, dtype):
    w = np.array([[0, 1, 0], [0, 0, 1]], dtype)
    net = nd.Sequential([nd.Dense(w, np.array([-0.0, 0, 0], dtype)), nd.Dense(np.eye(3, dtype=dtype), [-0.0] * 3)])
    forward, program = nd.cuda.forward_of(WIDTH, NAMES), nd.cuda.program(net)
    y = propagate(forward, program, np.array([[-1, -1]], dtype), 3)
    np.testing.assert_array_equal(y, [[-0.0, -1, -1]])
    np.testing.assert_array_equal(np.signbit(y), np.signbit(in_order(np.array([[-1, -1]], dtype), net.layers)))
    narrow = nd.Sequential([nd.Dense(np.array([[1, 1, 1]], dtype))])
    np.testing.assert_array_equal(propagate(forward, nd.cuda.program(narrow), np.array([[np.inf]], dtype), 3), np.inf)
    assert np.isnan(propagate(forward, nd.cuda.program(narrow), np.array([[np.nan]], dtype), 3)).all()


def test_what_does_not_fit_the_function_is_nan(gpu, propagate):
    forward = nd.cuda.forward_of(WIDTH, ["relu"])
    ones = np.ones((2, 3), np.float32)
    for widths, names, options in (
        ((3, 9, 2), ("relu", "relu"), {}),
        ((3, 4, 2), ("tanh", "relu"), {}),
        ((3, 2), ("softmax",), {"activations": ["softmax"]}),
    ):
        program = nd.cuda.program(network(widths, np.float32, names), **options)
        assert np.isnan(propagate(forward, program, ones, 2)).all()


def test_layers_without_bias_and_of_no_width(gpu, propagate):
    layers = [nd.Dense(np.ones((3, 2))), nd.Dense(np.ones((2, 0))), nd.Dense(np.ones((0, 2)), [1.5, -2.0], "relu")]
    forward = nd.cuda.forward_of(WIDTH, NAMES)
    np.testing.assert_array_equal(
        propagate(forward, nd.cuda.program(nd.Sequential(layers[:1])), np.ones((2, 3)), 2), np.full((2, 2), 3.0)
    )
    np.testing.assert_array_equal(
        propagate(forward, nd.cuda.program(nd.Sequential(layers)), np.ones((2, 3)), 2), [[1.5, 0.0], [1.5, 0.0]]
    )


def test_weights_at_half_size_are_widened(gpu, propagate, rng):
    net = network((3, 4, 2), np.float32, ("relu", "identity")).astype("float16")
    x = rng.normal(size=(2, 3)).astype(np.float32)
    program = nd.cuda.program(net)
    assert program.dtype == np.float32
    np.testing.assert_array_equal(propagate(nd.cuda.forward_of(WIDTH, NAMES), program, x, 2), in_order(x, net.layers))


def test_an_activation_of_the_users_is_an_equal_if_it_is_element_wise(gpu, propagate):
    registry, names = dict(activations.REGISTRY), dict(activations._NAMES)
    try:

        @nd.activation
        def squared_in_registers(x):
            return x * x

        @nd.activation(rowwise=True)
        def centred_in_registers(row):
            total = row[0]
            for j in range(1, row.size):
                total += row[j]
            for j in range(row.size):
                row[j] -= total / row.size

        net = nd.Sequential([nd.Dense(np.eye(3), None, "squared_in_registers")])
        known = ["squared_in_registers"]
        y = propagate(nd.cuda.forward_of(4, known), nd.cuda.program(net, width=4, activations=known), np.eye(3) * 3, 3)
        np.testing.assert_array_equal(y, np.eye(3) * 9)
        said = (
            "activation 'centred_in_registers' takes a row of any length, which registers are not; leave it out, and "
            "apply numbadense.cuda.device_function('centred_in_registers') to out in your kernel."
        )
        net = nd.Sequential([nd.Dense(np.eye(3), None, "centred_in_registers")])
        for call in (lambda: nd.cuda.forward_of(4, ["centred_in_registers"]), lambda: nd.cuda.program(net)):
            with pytest.raises(nd.ActivationError) as caught:
                call()
            assert str(caught.value) == said
    finally:
        for held, kept in ((activations.REGISTRY, registry), (activations._NAMES, names)):
            held.clear()
            held.update(kept)


@pytest.mark.parametrize(
    ("widths", "name", "options", "error", "said"),
    [
        (
            (3, 40),
            "relu",
            {},
            nd.ShapeError,
            "layer 1 is 3 -> 40 but the device function has room for 32; pass width=40 here and to forward_of.",
        ),
        (
            (70, 3),
            "relu",
            {},
            nd.ShapeError,
            "layer 0 is 70 -> 3 but the device function has room for 32; call network.to('cuda') instead.",
        ),
        (
            (3, 3),
            "gelu",
            {"activations": ["tanh"]},
            nd.ActivationError,
            "layer 1 has the activation 'gelu' but the device function knows identity, tanh; "
            "add it to activations, here and in forward_of.",
        ),
        (
            (3, 3),
            "relu",
            {"width": 30},
            nd.OptionError,
            "width is 30 but must be a multiple of 4, from 4 to 64; pass width=32.",
        ),
        (
            (3, 3),
            "relu",
            {"activations": "relu"},
            nd.OptionError,
            "activations is 'relu' but must be a list of them; pass ['relu'], for example.",
        ),
        ((3, 3), "relu", {"activations": ["sigmoyd"]}, nd.ActivationError, "no activation is called 'sigmoyd'"),
    ],
)
def test_a_network_that_does_not_fit_is_refused_in_one_sentence(gpu, widths, name, options, error, said):
    layers = [nd.Dense(np.zeros(widths), None, name)]
    if widths[0] == 3:
        layers.insert(0, nd.Dense(np.zeros((3, 3))))
    with pytest.raises(error) as caught:
        nd.cuda.program(nd.Sequential(layers), **options)
    assert str(caught.value).startswith(said)
    if error is nd.OptionError:
        with pytest.raises(error):
            nd.cuda.forward_of(**options)


def test_a_program_is_laid_out_as_it_is_drawn():
    w = np.arange(1.0, 16).reshape(1, 3, 5)
    (program,) = pack([w], [np.full((1, 5), 0.5)], [REGISTRY["tanh"]], np.dtype(np.float32))
    code = list(REGISTRY).index("tanh")
    expected = [[1, 3, 5, 0], [3, 5, code, 0]]
    expected += [[0.5] * 4, [1, 2, 3, 4], [6, 7, 8, 9], [11, 12, 13, 14], [0] * 4]
    expected += [[0.5, 0, 0, 0], [5, 0, 0, 0], [10, 0, 0, 0], [15, 0, 0, 0], [0] * 4]
    np.testing.assert_array_equal(program.reshape(-1, 4), expected)
    assert np.signbit(program[8:][program[8:] == 0]).all() and program.dtype == np.float32
