"""Files of Keras 2 and 3: what Keras itself gave for them, and what is refused."""

import functools
import io
import json
import os
import random
import tarfile
import zipfile
from pathlib import Path

import mutations
import numpy as np
import pytest

import numbadense as nd
from numbadense.testing import error_bound

h5py = pytest.importorskip("h5py")
HERE = Path(__file__).parent / "golden" / "keras"
MLP = ("Normalization", "Dense", "relu", "BatchNormalization", "Dropout", "tanh", "softmax")
NESTED = ("Sequential", "Functional", "Dense", "LeakyReLU", "BatchNormalization", "sigmoid", "tanh")
LAYERS = ("LeakyReLU", "ELU", "PReLU", "Softmax")
CASES_OF_BOTH = [
    ("mlp_float32.keras", MLP),
    ("mlp_float64.keras", MLP),
    ("mlp_float32.h5", MLP),
    ("mlp_float64.h5", MLP),
    ("functional.keras", MLP),
    ("functional.h5", MLP),
    ("nested.keras", NESTED),
    ("nested.h5", NESTED),
    ("nested_functional.keras", NESTED),
    ("nested_functional.h5", NESTED),
    ("activation_layers.keras", LAYERS),
    ("activation_layers.h5", LAYERS),
    ("relu_layers.keras", ("ReLU",)),
    ("dropped.keras", ("GaussianNoise", "GaussianDropout", "AlphaDropout", "ActivityRegularization", "Activation")),
    ("image.keras", ("Rescaling", "Reshape", "Flatten")),
    ("normalizations.h5", ("Normalization",)),
    ("mixed_float16.h5", ("Dense", "mixed_float16")),
    ("float16.keras", ("Dense", "float16")),
    ("functions_bounded.keras", ("tanh", "sigmoid", "softsign", "relu6", "softmax", "hard_sigmoid")),
    ("functions_linear_unit.keras", ("elu", "selu", "leaky_relu", "relu", "linear")),
    ("functions_smooth.keras", ("gelu", "mish", "silu", "swish", "softplus", "exponential")),
]
CASES = [
    *((f"2/{name}", kinds) for name, kinds in CASES_OF_BOTH),
    ("2/thresholded.keras", ("ThresholdedReLU",)),
    *((f"3/{name}", kinds) for name, kinds in CASES_OF_BOTH),
    ("3/bfloat16.keras", ("Dense", "bfloat16")),
    ("3/functions_hard.keras", ("hard_silu", "hard_swish", "hard_tanh", "soft_shrink", "hard_shrink")),
    ("3/functions_more.keras", ("celu", "log_sigmoid", "log_softmax")),
    ("3/operations.keras", ("gelu approximate", "operations", "threshold")),
]
# TensorFlow rounds the slope of leaky_relu and the root of 2 in gelu to float32, in float64 too.
ROUGH = ("2/functions_linear_unit.keras", "2/functions_smooth.keras")


@functools.cache
def files():
    """The files as Keras wrote them, by major version and name."""
    found = {}
    for major in "23":
        with tarfile.open(HERE / f"keras{major}.tar.xz") as archive:
            found |= {f"{major}/{member.name}": archive.extractfile(member).read() for member in archive}
    return found


@functools.cache
def outputs():
    with np.load(HERE / "outputs.npz") as arrays:
        return dict(arrays)


@pytest.fixture
def load(tmp_path):
    """Load a golden file, or one of other content under its suffix."""

    def load(name, content=None, **options):
        path = tmp_path / ("net" + Path(name).suffix)
        path.write_bytes(files()[name] if content is None else content)
        return nd.load(path, **options)

    return load


@pytest.fixture
def refused(load):
    def refused(name, text, content=None):
        with pytest.raises(nd.ModelFormatError) as caught:
            load(name, content)
        assert text in str(caught.value)
        assert "\n" not in str(caught.value) and "net." in str(caught.value)

    return refused


def assert_within(actual, expected, bound):
    distance = abs(actual.astype(np.longdouble) - expected)
    assert (distance <= bound).all(), f"{distance.max():.3g} where {bound.flat[distance.argmax()]:.3g} is allowed"


@pytest.mark.parametrize(("name", "kinds"), CASES, ids=[name for name, _ in CASES])
def test_golden(name, kinds, load):
    net, x, y = load(name), outputs()[f"{name}/x"], outputs()[f"{name}/y"]
    assert net.metadata["source"].startswith(f"keras {name[0]}.")
    assert net.dtype == y.dtype and net.n_in == x.shape[1]
    bound = error_bound(x, net.layers, y.dtype)
    if y.dtype == np.float64:  # Keras' own roundings are bounded alike, with one more each for what is folded here
        assert_within(net(x.astype(np.float64)), y, 4 * bound)
        return
    exact = outputs()[f"{name}/exact"]
    assert_within(net(x), exact, bound)
    wide = load(name, dtype="float64")
    known = np.float32 if name in ROUGH else np.float64
    assert_within(wide(x.astype(np.float64)), exact, 4 * error_bound(x, wide.layers, known))
    if "float16" not in name:
        assert_within(net(x), y, 4 * bound)


def test_the_cases_are_all_the_files():
    assert {name for name, _ in CASES} == {name for name in files() if "refused" not in name}
