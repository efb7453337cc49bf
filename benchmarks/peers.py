"""Dense layers and networks in every engine, each set up as its own users would for speed.

A factory takes ``(x, layers, threads)``, with ``layers`` a list of ``(w, b)`` followed by sigmoids, and returns a
function of no arguments that computes the network and returns its output.
"""

import numpy as np


def numpy_scipy(x, layers, threads):
    """`np.matmul` and `scipy.special.expit`, with ``out=`` everywhere."""
    from scipy.special import expit

    buffers = [np.empty((x.shape[0], w.shape[1]), x.dtype) for w, _ in layers]

    def run():
        a = x
        for (w, b), out in zip(layers, buffers, strict=True):
            np.matmul(a, w, out=out)
            np.add(out, b, out=out)
            a = expit(out, out=out)
        return a

    return run


def torch(x, layers, threads):
    """Eager, in inference mode, weights as (out, in), the sigmoid in place."""
    import torch

    torch.set_num_threads(threads)
    tensor = torch.from_numpy(x)
    weights = [(torch.from_numpy(np.ascontiguousarray(w.T)), torch.from_numpy(b)) for w, b in layers]

    def run():
        with torch.inference_mode():
            a = tensor
            for w, b in weights:
                a = torch.sigmoid_(torch.nn.functional.linear(a, w, b))
        return a

    return run


def onnxruntime(x, layers, threads):
    """Gemm and Sigmoid nodes, through an IO binding to ready arrays."""
    import onnx
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    kind = TensorProto.FLOAT if x.dtype == np.float32 else TensorProto.DOUBLE
    nodes, weights, name = [], [], "x"
    for i, (w, b) in enumerate(layers):
        weights += [numpy_helper.from_array(w, f"w{i}"), numpy_helper.from_array(b, f"b{i}")]
        nodes += [
            helper.make_node("Gemm", [name, f"w{i}", f"b{i}"], [f"z{i}"]),
            helper.make_node("Sigmoid", [f"z{i}"], [f"a{i}"]),
        ]
        name = f"a{i}"
    y = np.empty((x.shape[0], layers[-1][0].shape[1]), x.dtype)
    inputs = [helper.make_tensor_value_info("x", kind, list(x.shape))]
    outputs = [helper.make_tensor_value_info(name, kind, list(y.shape))]
    graph = helper.make_graph(nodes, "network", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    source, target = ort.OrtValue.ortvalue_from_numpy(x), ort.OrtValue.ortvalue_from_numpy(y)
    binding.bind_ortvalue_input("x", source)
    binding.bind_ortvalue_output(name, target)

    def run():
        session.run_with_iobinding(binding)
        return target

    return run


def jax(x, layers, threads):
    """Jitted, the weights constants of the program."""
    import jax
    import jax.numpy as jnp

    if x.dtype == np.float64:
        jax.config.update("jax_enable_x64", True)
    constants = [(jnp.asarray(w), jnp.asarray(b)) for w, b in layers]

    @jax.jit
    def network(a):
        for w, b in constants:
            a = jax.nn.sigmoid(a @ w + b)
        return a

    ready = jnp.asarray(x)

    def run():
        return network(ready).block_until_ready()

    return run


PEERS = {"numpy+scipy": numpy_scipy, "torch": torch, "onnxruntime": onnxruntime, "jax": jax}


def as_numpy(result):
    """Return what a peer returned as a NumPy array."""
    return result.numpy() if hasattr(result, "numpy") and not isinstance(result, np.ndarray) else np.asarray(result)
