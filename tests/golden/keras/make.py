"""Write the golden files of Keras, and its outputs: run with Keras 3, and again with Keras 2.

Keras 3 with ``KERAS_BACKEND=jax JAX_ENABLE_X64=1``, and told to leave float64 as it is.  Each run writes
``keras<major>.tar.xz``, of the files as Keras wrote them, and its part of ``outputs.npz``: for each file the inputs
``x``, Keras' outputs ``y``, and for a float32 file also ``exact``, those of the same weights in float64.
"""

import importlib.metadata
import os
import pathlib
import sys
import tarfile
import tempfile

import numpy as np

try:
    import tensorflow

    keras = tensorflow.keras
    BACKEND = f"tensorflow {tensorflow.__version__}"
except ImportError:
    import jax
    import keras
    from keras.src.backend.common import dtypes

    dtypes.BIT64_TO_BIT32_DTYPE["float64"] = "float64"  # as it is with TensorFlow
    BACKEND = f"jax {jax.__version__}"

HERE = pathlib.Path(__file__).parent
VERSION = importlib.metadata.version("keras")
MAJOR = int(VERSION.split(".")[0])
L = keras.layers
FUNCTIONS = {
    "functions_bounded": ("tanh", "sigmoid", "softsign", "relu6", "softmax", "hard_sigmoid"),
    "functions_linear_unit": ("elu", "selu", "leaky_relu", "relu", "linear"),
    "functions_smooth": ("gelu", "mish", "silu", "swish", "softplus", "exponential"),
}
FUNCTIONS_3 = {
    "functions_hard": ("hard_silu", "hard_swish", "hard_tanh", "soft_shrink", "hard_shrink"),
    "functions_more": ("celu", "log_sigmoid", "log_softmax"),
}
SLOPE = {"negative_slope": 0.125} if MAJOR == 3 else {"alpha": 0.125}


def sequential(*layers, shape=(4,)):
    return keras.Sequential([L.Input(shape), *layers])


def functional(*layers, shape=(4,)):
    x = inputs = L.Input(shape)
    for layer in layers:
        x = layer(x)
    return keras.Model(inputs, x)


def mlp(make):
    return make(
        L.Normalization(),
        L.Dense(5, activation="relu"),
        L.BatchNormalization(),
        L.Dropout(0.5),
        L.Dense(4, use_bias=False),
        L.BatchNormalization(scale=False, epsilon=0.01),
        L.Activation("tanh"),
        L.BatchNormalization(center=False),
        L.Dense(3, activation="softmax"),
    )


def nested(make):
    innermost = keras.Sequential([L.Dense(4, activation="tanh"), L.BatchNormalization()], name="innermost")
    inner = make(L.Dense(3, activation="sigmoid"), innermost, L.Dense(3, name="last"))
    return sequential(L.Dense(4, activation=L.LeakyReLU(**SLOPE)), inner, L.BatchNormalization(), L.Dense(2))


def layers_of_activation():
    return sequential(
        L.Dense(4),
        L.LeakyReLU(),
        L.Dense(4),
        L.ELU(alpha=0.5),
        L.Dense(4),
        L.PReLU(shared_axes=[1]),
        L.Dense(4),
        L.Softmax(),
        L.Dense(4),
    )


def relu_layers():
    return sequential(
        L.Dense(4),
        L.ReLU(),
        L.Dense(4),
        L.ReLU(max_value=0.75),
        L.Dense(4),
        L.ReLU(negative_slope=0.25),
        L.Dense(4),
        L.ReLU(max_value=6.0, negative_slope=0.25, threshold=0.5),
        L.Dense(4),
        L.ReLU(negative_slope=0.25, threshold=0.5),
        L.Dense(4),
        L.ReLU(threshold=0.25),
    )


def dropped():
    return sequential(
        L.Dense(4),
        L.GaussianNoise(0.1),
        L.GaussianDropout(0.1),
        L.AlphaDropout(0.1),
        L.ActivityRegularization(0.1),
        L.Activation("selu"),
        L.Dense(2),
    )


def image():
    return sequential(
        L.Rescaling(1 / 255, offset=-0.5),
        L.Reshape((3, 2)),
        L.ReLU(),
        L.Flatten(),
        L.Dense(3, activation="relu"),
        L.Reshape((-1,)),
        L.Flatten(),
        L.Rescaling(np.array([0.5, 2.0, 3.0]), offset=np.array([0.0, 1.0, -1.0])),
        shape=(2, 3),
    )


def normalizations():
    return sequential(
        L.Normalization(mean=[1.0, 0.5, 2.0, -1.0], variance=[1.0, 4.0, 0.25, 0.0625]),
        L.Dense(3, activation="tanh"),
        L.Normalization(axis=None, mean=0.25, variance=0.5),
        L.Dense(3, activation="relu"),
        L.Normalization(mean=[1.0, 0.5, 2.0], variance=[1.0, 4.0, 0.25], invert=True),
    )


def operations():
    x = inputs = L.Input((4,))
    ops, acts = keras.ops, keras.activations
    for function in (
        ops.gelu, lambda x: ops.gelu(x, approximate=False), ops.silu, ops.tanh, ops.sigmoid, ops.softplus,
        ops.log_sigmoid, ops.hard_sigmoid, ops.hard_silu, ops.relu6, ops.selu, ops.softsign, ops.hard_tanh,
        lambda x: ops.leaky_relu(x, 0.3), lambda x: ops.elu(x, 0.7), lambda x: ops.celu(x, 0.7),
        lambda x: ops.soft_shrink(x, 0.1), lambda x: ops.threshold(x, -0.2, -0.1),
        lambda x: acts.relu(x, negative_slope=0.1),
    ):  # fmt: skip
        x = function(L.Dense(4)(x))
    return keras.Model(inputs, ops.softmax(L.Dense(2)(x)))


def thresholded():
    return sequential(L.Dense(4), L.ThresholdedReLU(theta=0.3), L.Dense(2))


def policy(name):
    return lambda: sequential(L.Dense(4, activation="relu", dtype=name), L.Dense(2, dtype=name))


def refused():
    """Return models that cannot be read, by name."""
    x = L.Input((4,))
    shared = L.Dense(4)
    models = {
        "prelu": sequential(L.Dense(4), L.PReLU()),
        "lambda": sequential(L.Lambda(lambda x: x + 1)),
        "axis": sequential(L.Dense(3), shape=(2, 4)),
        "layer_norm": sequential(L.Dense(3), L.LayerNormalization()),
        "branch": keras.Model(x, [L.Dense(2, name="left")(x), L.Dense(3, name="right")(x)]),
        "merge": keras.Model(x, L.Add()([x, L.Dense(4)(x)])),
        "shared": keras.Model(x, shared(shared(x))),
        "training": keras.Model(x, L.Dropout(0.5)(x, training=True)),
    }

    @keras.utils.register_keras_serializable(package="mine")
    class Dense(L.Dense):
        pass

    @keras.utils.register_keras_serializable(package="mine")
    def doubled(x):
        return x * 2

    models["prelu"].layers[-1].set_weights([np.arange(4.0)])
    models["custom"] = sequential(Dense(3))
    models["custom_function"] = sequential(L.Dense(3, activation=doubled))
    if MAJOR == 3:
        models["int8"] = sequential(L.Dense(4))
        models["int8"].quantize("int8")
        models["lora"] = sequential(L.Dense(4, name="dense"))
        models["lora"].layers[0].enable_lora(2)
        models["multiply"] = keras.Model(x, L.Dense(2)(x) * 2)
    return models


def cases():
    """Return (file, maker of the model, dtype) for each."""
    for suffix in ("keras", "h5"):
        for dtype in ("float32", "float64"):
            yield f"mlp_{dtype}.{suffix}", lambda: mlp(sequential), dtype
        yield f"functional.{suffix}", lambda: mlp(functional), "float32"
        yield f"nested.{suffix}", lambda: nested(sequential), "float32"
        yield f"nested_functional.{suffix}", lambda: nested(functional), "float64"
        yield f"activation_layers.{suffix}", layers_of_activation, "float32"
    yield "relu_layers.keras", relu_layers, "float64"
    yield "dropped.keras", dropped, "float32"
    yield "image.keras", image, "float32"
    yield "normalizations.h5", normalizations, "float32"
    yield "mixed_float16.h5", policy("mixed_float16"), "half"
    for name, functions in {**FUNCTIONS, **(FUNCTIONS_3 if MAJOR == 3 else {})}.items():
        yield f"{name}.keras", lambda: sequential(*(L.Dense(4, activation=each) for each in functions)), "float32"
    yield "float16.keras", policy("float16"), "half"
    if MAJOR == 3:
        yield "bfloat16.keras", policy("bfloat16"), "half"
        yield "operations.keras", operations, "float64"
    else:
        yield "thresholded.keras", thresholded, "float32"


def randomised(model, rng):
    """Give a model weights as training leaves them."""
    values = []
    for variable in model.weights:
        name = variable.name.split("/")[-1].split(":")[0]
        shape = tuple(variable.shape)
        if name == "count":
            values.append(np.array(9))
        elif name in ("gamma", "moving_variance", "variance"):
            values.append(rng.uniform(0.5, 1.5, shape))
        else:
            values.append(rng.uniform(-1, 1, shape))
    given(model, values)


def given(model, values):
    """Set the weights of a model, and what its normalisation makes of them."""
    model.set_weights(values)
    for layer in model.layers:
        if hasattr(layer, "finalize_state"):
            layer.finalize_state()


def predicted(model, x):
    return np.asarray(keras.ops.convert_to_numpy(model(x)) if MAJOR == 3 else model(x), np.float64)


def main():
    rng = np.random.default_rng(0)
    outputs = HERE / "outputs.npz"
    arrays = dict(np.load(outputs)) if outputs.exists() else {}
    arrays = {key: value for key, value in arrays.items() if not key.startswith(f"{MAJOR}/")}
    arrays[f"{MAJOR}/versions"] = np.array(f"keras {VERSION}, {BACKEND}, python {sys.version.split()[0]}")
    with (
        tempfile.TemporaryDirectory() as folder,
        tarfile.open(HERE / f"keras{MAJOR}.tar.xz", "w:xz", preset=9) as archive,
    ):

        def write(model, name):
            path = os.path.join(folder, name)
            model.save(path)
            entry = tarfile.TarInfo(name)
            entry.size = os.path.getsize(path)
            with open(path, "rb") as file:
                archive.addfile(entry, file)

        for name, make, dtype in cases():
            keras.backend.clear_session()
            keras.backend.set_floatx("float64" if dtype == "float64" else "float32")
            model = make()
            shape = model.input_shape[1:]
            x = rng.uniform(-2, 2, (6, *shape)).astype(np.float32)
            randomised(model, rng)
            write(model, name)
            arrays[f"{MAJOR}/{name}/x"] = x.reshape(6, -1)
            y = predicted(model, x.astype("float64" if dtype == "float64" else "float32"))
            arrays[f"{MAJOR}/{name}/y"] = y if dtype == "float64" else y.astype(np.float32)
            if dtype != "float64":
                keras.backend.clear_session()
                keras.backend.set_floatx("float64")
                again = policy("float64")() if dtype == "half" else make()
                weights = [np.asarray(weight, np.float64) for weight in model.get_weights()]
                given(again, weights)
                arrays[f"{MAJOR}/{name}/exact"] = predicted(again, x.astype(np.float64))
        keras.backend.set_floatx("float32")
        keras.backend.clear_session()
        for name, model in refused().items():
            write(model, f"refused_{name}.keras")
            if MAJOR == 3 and name in ("custom", "merge", "branch"):
                write(model, f"refused_{name}.h5")
    np.savez_compressed(outputs, **arrays)


main()
