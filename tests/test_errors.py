"""Every sentence that a user can be shown: what is, what was expected, what to do."""

import re

import numpy as np
import pytest

import numbadense as nd

X, W = np.ones((5, 3)), np.ones((3, 7))
NET = nd.Sequential([nd.Dense(W, np.zeros(7), "relu")])


def read_only(array):
    array.flags.writeable = False
    return array


CASES = [
    (
        lambda: nd.dense(np.ones((5, 7)), W),
        nd.ShapeError,
        "x has 7 features but w expects 3: x.shape=(5, 7), w.shape=(3, 7). "
        "w is (n_in, n_out); if it came from PyTorch, pass w.T.",
    ),
    (
        lambda: nd.dense(np.float64(1), W),
        nd.ShapeError,
        "x is a single number but w expects 3: x.shape=(), w.shape=(3, 7). "
        "w is (n_in, n_out); if it came from PyTorch, pass w.T.",
    ),
    (
        lambda: nd.dense(X, np.ones(3)),
        nd.ShapeError,
        "w has 1 dimension but must have 2, (n_in, n_out): w.shape=(3,).",
    ),
    (
        lambda: nd.Dense(np.ones((1, 2, 3))),
        nd.ShapeError,
        "w has 3 dimensions but must have 2, (n_in, n_out): w.shape=(1, 2, 3).",
    ),
    (
        lambda: nd.dense(X, W, np.ones(3)),
        nd.ShapeError,
        "b has shape (3,) but w has 7 outputs: w.shape=(3, 7); pass b as (7,) or (1, 7).",
    ),
    (
        lambda: nd.Dense(W, np.ones((7, 1))),
        nd.ShapeError,
        "b has shape (7, 1) but w has 7 outputs: w.shape=(3, 7); pass b as (7,) or (1, 7).",
    ),
    (
        lambda: NET(np.ones((2, 4))),
        nd.ShapeError,
        "x has 4 features but the network expects 3: x.shape=(2, 4), network 3 -> 7. "
        "The last axis of x holds the features.",
    ),
    (
        lambda: NET(np.ones((2, 1))),
        nd.ShapeError,
        "x has 1 feature but the network expects 3: x.shape=(2, 1), network 3 -> 7. "
        "The last axis of x holds the features.",
    ),
    (
        lambda: NET.predict(np.ones((2, 4))),
        nd.ShapeError,
        "x has 4 features but the network expects 3: x.shape=(2, 4), network 3 -> 7. "
        "The last axis of x holds the features.",
    ),
    (
        lambda: NET.predict(np.ones(3)),
        nd.ShapeError,
        "x has 1 dimension but predict takes 2, (m, n_in): x.shape=(3,); call the network itself for other shapes.",
    ),
    (
        lambda: nd.dense([[1, 2], [3]], W),
        nd.ShapeError,
        re.compile(r"x is not a rectangular array \(.*\); pass rows of equal length\."),
    ),
    (
        lambda: nd.softmax(1.0),
        nd.ShapeError,
        "x is a single number but softmax works on the last axis: x.shape=(); pass an array of rows.",
    ),
    (
        lambda: nd.Sequential([]),
        nd.ShapeError,
        "a network has 0 layers but needs 1 at least; pass [numbadense.Dense(w, b, activation), ...].",
    ),
    (
        lambda: nd.Sequential([nd.Dense(W), nd.Dense(W)]),
        nd.ShapeError,
        "layer 1 takes 3 features but layer 0 gives 7: w.shape=(3, 7) after w.shape=(3, 7); "
        "w is (n_in, n_out), so if they came from PyTorch, pass w.T.",
    ),
    (
        lambda: NET.explain((5, 4)),
        nd.ShapeError,
        "shape is (5, 4) but must end in the 3 features of the network.",
    ),
    (
        lambda: nd.Sequential([W]),
        nd.OptionError,
        "layer 0 is a ndarray but must be a numbadense.Dense; pass Dense(w, b, activation).",
    ),
    (
        lambda: nd.dense(X.astype(complex), W),
        nd.DTypeError,
        "x has dtype complex128 but dense layers compute with real numbers; "
        "convert it first, for example with x.astype('float64').",
    ),
    (
        lambda: nd.dense(X, W.astype(object)),
        nd.DTypeError,
        "w has dtype object but dense layers compute with real numbers; "
        "convert it first, for example with x.astype('float64').",
    ),
    (
        lambda: NET([["a", "b", "c"]]),
        nd.DTypeError,
        "x has dtype <U1 but dense layers compute with real numbers; "
        "convert it first, for example with x.astype('float64').",
    ),
    (
        lambda: nd.sigmoid(np.ma.masked_array([1.0, 2.0], [True, False])),
        nd.DTypeError,
        "x is a masked array, whose mask a dense layer would ignore; pass x.filled(value), "
        "or its rows without missing values.",
    ),
    (
        lambda: NET.astype("int32"),
        nd.DTypeError,
        "dtype is 'int32' but weights can be float32, float64, float16 or bfloat16; pass one of them.",
    ),
    (
        lambda: NET.astype("spam"),
        nd.DTypeError,
        "dtype is 'spam' but weights can be float32, float64, float16 or bfloat16; pass one of them.",
    ),
    (
        lambda: nd.dense(X, W, out=np.empty((5, 6))),
        nd.OutputError,
        "out has shape (5, 6) but the result has shape (5, 7); pass np.empty((5, 7), 'float64').",
    ),
    (
        lambda: NET(X, out=read_only(np.empty((5, 7)))),
        nd.OutputError,
        "out is read-only but must take the result of shape (5, 7); pass an array that owns its data.",
    ),
    (
        lambda: nd.sigmoid(X, out=np.empty((5, 3), int)),
        nd.OutputError,
        "out has dtype int64 but the result is float64, which cannot be cast to it; pass np.empty((5, 3), 'float64').",
    ),
    (
        lambda: nd.sigmoid(X, out=X.tolist()),
        nd.OutputError,
        "out is a list but must be a NumPy array of shape (5, 3) and dtype float64.",
    ),
    (
        lambda: nd.dense(X, W, activation="sigmod"),
        nd.ActivationError,
        re.compile(r"no activation is called 'sigmod': did you mean 'sigmoid'\? known are .*tanh.*\."),
    ),
    (
        lambda: nd.Dense(W, activation=3),
        nd.ActivationError,
        re.compile(r"activation is 3, of type int, and must be None, a name, or an activation: .*"),
    ),
    (
        lambda: nd.dense(X, W, threads=0),
        nd.OptionError,
        "threads is 0 but must be a positive integer, or None to let the plan choose.",
    ),
    (
        lambda: NET(X, threads=1.5),
        nd.OptionError,
        "threads is 1.5 but must be a positive integer, or None to let the plan choose.",
    ),
    (
        lambda: nd.sigmoid(X, threads="2"),
        nd.OptionError,
        "threads is '2' but must be a positive integer, or None to let the plan choose.",
    ),
    (
        lambda: NET.predict(X, 0),
        nd.OptionError,
        "batch_size is 0 but must be a positive integer, or None to choose one.",
    ),
    (
        lambda: NET.to("tpu"),
        nd.DeviceError,
        "device is 'tpu' but must be 'cuda'; the network itself runs on the CPU.",
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


@pytest.mark.parametrize(
    "kind,builtin",
    [
        (nd.ShapeError, ValueError),
        (nd.DTypeError, TypeError),
        (nd.OutputError, ValueError),
        (nd.ActivationError, ValueError),
        (nd.OptionError, ValueError),
        (nd.ModelFormatError, ValueError),
        (nd.DeviceError, RuntimeError),
        (nd.MissingDependencyError, ImportError),
    ],
)
def test_errors_are_what_a_numpy_user_would_catch(kind, builtin):
    assert issubclass(kind, nd.NumbadenseError) and issubclass(kind, builtin)


@pytest.mark.skipif(np.dtype(np.longdouble).itemsize == 8, reason="long double is double here")
def test_extended_precision_is_refused():
    with pytest.raises(nd.DTypeError, match=r"x has dtype .* but the widest that is computed is float64"):
        nd.sigmoid(np.ones(3, np.longdouble))


def test_a_short_cut_checks_threads_too():
    x = np.ones(5)
    out = nd.sigmoid(x, out=np.empty(5))
    net = nd.Sequential([nd.Dense(np.eye(2))])
    y = net(np.ones((2, 2)), out=np.empty((2, 2)), threads=1)
    for bad in (0, -1, 1.0, True):
        with pytest.raises(nd.OptionError, match="but must be a positive integer"):
            nd.sigmoid(x, out=out, threads=bad)
        with pytest.raises(nd.OptionError, match="but must be a positive integer"):
            net(np.ones((2, 2)), out=y, threads=bad)


@pytest.mark.parametrize("dtype", [object, "U32"])
def test_out_is_of_numbers(dtype):
    with pytest.raises(
        nd.OutputError, match=r"^out has dtype .* but the result is float64, which cannot be cast to it"
    ):
        nd.dense(X, W, out=np.empty((5, 7), dtype))


@pytest.mark.parametrize("metadata", [{"epochs": 20}, {1: "one"}, ["text"], "text"])
def test_metadata_is_text(metadata):
    with pytest.raises(nd.OptionError, match=r"^metadata has .* but takes text by text; pass a dict, for example"):
        nd.Sequential(NET.layers, metadata)


def test_a_refused_call_leaves_out_alone():
    out = np.full((5, 7), 3.0)
    for bad in (np.ones((5, 4)), X.astype(complex)):
        with pytest.raises(nd.NumbadenseError):
            nd.dense(bad, W, out=out)
        with pytest.raises(nd.NumbadenseError):
            NET(bad, out=out)
    with pytest.raises(nd.ActivationError):
        nd.dense(X, W, None, "nothing", out=out)
    assert (out == 3).all()


def test_an_array_on_a_device_is_sent_to_the_device_functions():
    class OnDevice:
        __cuda_array_interface__ = None

    with pytest.raises(
        nd.DTypeError, match=r"^x is on a CUDA device; call net\.to\('cuda'\) or the function of the same name in numba"
    ):
        nd.sigmoid(OnDevice())


def test_weights_that_are_not_finite_warn_once():
    w = W.copy()
    w[1, 2] = np.nan
    with pytest.warns(nd.NonFiniteWarning, match=r"the weights of a 3 -> 7 layer hold NaN or infinity") as caught:
        layer = nd.Dense(w, np.zeros(7), "relu")
        net = nd.Sequential([layer])
        net(X), net(X), layer(X)
    assert len(caught) == 1
    assert np.isnan(net(X)[:, 2]).all() and not np.isnan(net(X)[:, 3]).any()


def test_a_bad_environment_is_named(monkeypatch):
    from numbadense._engine import machine, threads

    monkeypatch.setenv("NUMBADENSE_ISA", "mmx")
    with pytest.raises(
        nd.OptionError, match=r"^NUMBADENSE_ISA is 'mmx' but must be one of avx512, avx2, neon, generic; unset it"
    ):
        machine.forced_isa()
    monkeypatch.setenv("NUMBADENSE_THREADS", "many")
    monkeypatch.setattr(threads.numba.config, "DISABLE_JIT", 0)
    with pytest.raises(nd.OptionError, match=r"^NUMBADENSE_THREADS is 'many' but must be a positive integer; unset it"):
        threads.limit()
