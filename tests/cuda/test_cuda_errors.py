"""What is said when CUDA is missing, and when an argument does not fit."""

import importlib.util
import subprocess
import sys

import numpy as np
import pytest

import numbadense as nd
from numbadense._engine.cuda import device


@pytest.fixture
def unchecked(monkeypatch):
    """Forget what was found out about this machine, before and after the test; no simulator."""
    device.why_not.cache_clear()
    monkeypatch.setattr(device, "simulated", lambda: False)
    yield monkeypatch
    device.why_not.cache_clear()


@pytest.fixture
def driver(unchecked):
    """A function that makes numba-cuda find no device, and its driver say something."""

    def say(message):
        import numba.cuda

        unchecked.setattr(importlib.util, "find_spec", lambda name, package=None: object())
        unchecked.setattr(numba.cuda, "is_available", lambda: False)
        unchecked.setattr(numba.cuda, "cuda_error", lambda: message)

    return say


CALLS = {
    "dense": lambda: nd.cuda.dense([[1.0]], [[1.0]]),
    "an activation": lambda: nd.cuda.sigmoid([1.0]),
    "a device function": lambda: nd.cuda.device_function("sigmoid"),
    "a network": lambda: nd.Sequential([nd.Dense([[1.0]])]).to("cuda"),
    "a network for kernels": lambda: nd.cuda.program(nd.Sequential([nd.Dense([[1.0]])])),
    "a network's device function": lambda: nd.cuda.forward_of(),
    "the usual one": lambda: nd.cuda.forward,
    "the usual one of a warp": lambda: nd.cuda.forward_warp,
}


@pytest.mark.parametrize("call", CALLS)
def test_without_numba_cuda_every_call_says_how_to_install_it(unchecked, call):
    unchecked.setattr(importlib.util, "find_spec", lambda name, package=None: None)
    assert nd.cuda.is_available() is False
    with pytest.raises(nd.DeviceError) as caught:
        CALLS[call]()
    assert str(caught.value) == (
        "CUDA cannot be used: the package numba-cuda is not installed; "
        'pip install "numbadense[cuda13]", or "numbadense[cuda12]" for a driver older than 580.'
    )


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (
            "\nCUDA driver library cannot be found.\nEnsure that ...\n",
            "no NVIDIA driver is installed; install one, or call the CPU functions of numbadense",
        ),
        (
            "Call to cuInit results in CUDA_ERROR_NO_DEVICE",
            "the NVIDIA driver finds no GPU; call the CPU functions of numbadense",
        ),
        (
            "Call to cuInit results in\nCUDA_ERROR_SYSTEM_DRIVER_MISMATCH (803).",
            "the CUDA driver does not start (Call to cuInit results in CUDA_ERROR_SYSTEM_DRIVER_MISMATCH (803)); "
            "call the CPU functions of numbadense",
        ),
        (None, f"the CUDA toolkit's NVVM is not installed; {device.EXTRAS}"),
    ],
)
def test_what_the_driver_lacks_is_said_in_one_sentence(driver, message, said):
    driver(message)
    assert nd.cuda.is_available() is False
    with pytest.raises(nd.DeviceError) as caught:
        nd.cuda.sigmoid([1.0])
    assert str(caught.value) == f"CUDA cannot be used: {said}."


def test_a_broken_installation_is_no_exception(driver, unchecked):
    driver(None)
    import numba.cuda

    def broken():
        raise ImportError("libcudart.so.13: cannot open shared object file.")

    unchecked.setattr(numba.cuda, "is_available", broken)
    assert nd.cuda.is_available() is False
    assert device.why_not().startswith(
        "numba-cuda cannot be loaded (libcudart.so.13: cannot open shared object file); "
    )


def test_the_answer_of_this_machine_is_a_sentence_or_none():
    reason = device.why_not()
    assert nd.cuda.is_available() is (reason is None)
    assert reason is None or ("\n" not in reason and not reason.endswith("."))


def test_importing_the_module_imports_no_cuda():
    code = "import sys, numbadense.cuda; print(*(name for name in sys.modules if name.startswith('numba.cuda')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_public_names_are_there_and_others_are_not():
    assert nd.cuda.__all__ == [
        *("BoundNetwork", "DevicePopulation", "DeviceSequential", "dense"),
        *("device_function", "forward_of", "forward_warp_of", "is_available", "program"),
    ]
    assert nd.cuda.sigmoid is nd.cuda.sigmoid
    assert nd.cuda.softmax.activation is nd.softmax.activation
    assert nd.cuda.sigmoid.__doc__.startswith("Logistic function.")
    with pytest.raises(AttributeError, match=r"module 'numbadense\.cuda' has no attribute 'sigmoyd'"):
        nd.cuda.sigmoyd  # noqa: B018 - the access is the test


def test_an_unknown_device_is_an_error():
    with pytest.raises(nd.DeviceError, match="device is 'tpu' but must be 'cuda'"):
        nd.Sequential([nd.Dense([[1.0]])]).to("tpu")


X, W = np.zeros((5, 7), np.float32), np.zeros((3, 7), np.float32)
ARGUMENTS = [
    (
        (X, W),
        {},
        nd.ShapeError,
        "x has 7 features but w expects 3: x.shape=(5, 7), w.shape=(3, 7). "
        "w is (n_in, n_out); if it came from PyTorch, pass w.T.",
    ),
    ((X, W[0]), {}, nd.ShapeError, "w has 1 dimension but must have 2, (n_in, n_out): w.shape=(7,)."),
    (
        (X, W.T.copy(), np.zeros(4)),
        {},
        nd.ShapeError,
        "b has shape (4,) but w has 3 outputs: w.shape=(7, 3); pass b as (3,) or (1, 3).",
    ),
    (
        (X.astype(complex), W.T.copy()),
        {},
        nd.DTypeError,
        "x has dtype complex128 but dense layers compute with real numbers; "
        "convert it first, for example with x.astype('float64').",
    ),
    (
        (X, W.T.copy()),
        {"out": np.zeros((5, 4), np.float32)},
        nd.OutputError,
        "out has shape (5, 4) but the result has shape (5, 3); pass np.empty((5, 3), 'float32').",
    ),
    (
        (X, W.T.copy()),
        {"out": np.zeros((5, 3), np.int32)},
        nd.OutputError,
        "out has dtype int32 but the result is float32, which cannot be cast to it; pass np.empty((5, 3), 'float32').",
    ),
]


@pytest.mark.parametrize("on_device", [False, True], ids=["numpy", "device"])
@pytest.mark.parametrize(("arguments", "options", "error", "said"), ARGUMENTS, ids=range(len(ARGUMENTS)))
def test_arguments_that_do_not_fit_are_refused_in_one_sentence(
    gpu, launches, on_device, arguments, options, error, said
):
    if on_device:
        arguments = [gpu.to_device(array) for array in arguments]
        options = {name: gpu.to_device(array) for name, array in options.items()}
    with pytest.raises(error) as caught:
        nd.cuda.dense(*arguments, **options)
    assert str(caught.value) == said
    assert not launches


def test_a_network_refuses_what_does_not_fit(gpu):
    net = nd.Sequential([nd.Dense(np.zeros((3, 2)))]).to("cuda")
    with pytest.raises(nd.ShapeError, match=r"x has 7 features but the network expects 3: .* network 3 -> 2\."):
        net(np.zeros((5, 7)))
    with pytest.raises(nd.DTypeError, match="x has dtype complex128"):
        net(np.zeros((5, 3), complex))


def test_an_unknown_activation_is_named(gpu):
    with pytest.raises(nd.ActivationError, match="no activation is called 'sigmoyd': did you mean 'sigmoid'"):
        nd.cuda.dense(X, W.T, None, "sigmoyd")
    with pytest.raises(nd.ActivationError, match="sigmoyd"):
        nd.cuda.device_function("sigmoyd")


def test_a_rowwise_activation_needs_a_row(gpu):
    with pytest.raises(nd.ShapeError, match="x is a single number but softmax works on the last axis"):
        nd.cuda.softmax(1.0)


def test_masked_arrays_are_refused(gpu):
    with pytest.raises(nd.DTypeError, match="x is a masked array"):
        nd.cuda.sigmoid(np.ma.masked_array([1.0, 2.0], [True, False]))


def test_a_strided_device_array_of_three_dimensions_is_refused(gpu):
    x = gpu.to_device(np.zeros((2, 3, 4)))[:, ::2]
    with pytest.raises(nd.ShapeError, match="x has 3 dimensions that are not contiguous on the device"):
        nd.cuda.sigmoid(x)


def test_a_read_only_device_array_cannot_be_out(gpu, foreign):
    out = foreign(np.zeros(3))
    interface = out.__cuda_array_interface__
    out.__cuda_array_interface__ = interface | {"data": (interface["data"][0], True)}
    with pytest.raises(nd.OutputError, match="out is read-only"):
        nd.cuda.sigmoid(np.zeros(3), out)


def test_an_array_that_hides_its_memory_is_refused_with_its_own_words(gpu):
    class NeedsGradient:
        @property
        def __cuda_array_interface__(self):
            raise RuntimeError("Can't get __cuda_array_interface__ on Variable that requires grad.\nUse detach().")

    with pytest.raises(nd.DTypeError) as caught:
        nd.cuda.sigmoid(NeedsGradient())
    assert str(caught.value) == (
        "x is a NeedsGradient whose device memory cannot be read: "
        "Can't get __cuda_array_interface__ on Variable that requires grad."
    )


def test_a_device_array_in_the_other_byte_order_is_refused(gpu, foreign):
    with pytest.raises(nd.DTypeError, match="x has dtype >f8 but a device computes in native byte order"):
        x = foreign(np.zeros(3))
        x.__cuda_array_interface__ = x.__cuda_array_interface__ | {"typestr": ">f8"}
        nd.cuda.sigmoid(x)
