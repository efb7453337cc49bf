"""The section of `gpu.py` for tensor cores by mma.sync: each precision beside torch's, x and out in 16 bits too."""

import gpu_bench
import gpu_halves
import gpu_hopper
import numpy as np
from numba import cuda

import numbadense as nd
from numbadense._engine.cuda import compile as compiler
from numbadense._engine.cuda import tensor, tensor_pack, tensor_step, tensor_tiles
from numbadense._engine.cuda.borrowed import borrow

FLOAT32 = [(4096, 4096, 4096), (8192, 1024, 1024), (65536, 256, 256)]  # of float32's bars: with sigmoid
SIXTEEN = [(8192, 8192, 8192), (65536, 1024, 1024)]  # of bf16's: with gelu
ALLOWED = {"bf16": 1e-2, "fp16": 1e-2, "tf32": 1e-3, "3xtf32": 1e-6}  # relative Frobenius error against float64
# Multiply-adds a cycle of a multiprocessor's tensor cores, 16 bits; tf32 has half of them.
RATE = gpu_bench.TENSOR
SHARED = 128  # bytes of shared memory a cycle


def tensor_cores(bench):
    """Layers of float32 on tensor cores through the kernel, and of 16-bit numbers."""
    for precision in ("tf32", "3xtf32"):
        for m, k, n in [(9, 40, 12)] if bench.dry else FLOAT32:
            bench.attempt(of_float32, (m, k, n), precision)
    for shape in [(9, 40, 16)] if bench.dry else SIXTEEN:
        for precision in ("bf16",) if not bench.dry else tensor_tiles.HALVES:
            for form in ("16 bits", "float32"):
                bench.attempt(of_sixteen, shape, precision, form)


def of_float32(bench, shape, precision):
    """A layer of float32: beside torch's, and the error of 3xtf32 beside that of our own float32."""
    x, w, b = operands(bench, *shape)
    engines, error = ours(bench, x, w, b, "sigmoid", precision)
    bars = {}
    if precision == "3xtf32":
        out = bench.poisoned(shape[0], shape[2])
        nd.cuda.dense(x, w, b, "sigmoid", out=out)
        bars = {"3xtf32": ("torch", 1), "3xtf32 error": error / relative(bench, out.copy_to_host(), x, w, b, "sigmoid")}
    if "torch" in bench.peers:
        engines |= bench.peer(torch_float32, x, w, b)
    record(bench, shape, precision, "float32", "sigmoid", engines, error, bars)


def of_sixteen(bench, shape, precision, form):
    """A layer of 16-bit numbers; torch's are of 16 bits in either form."""
    x, w, b = operands(bench, *shape)
    engines, error = ours(bench, x, w, b, "gelu", precision, halves=form == "16 bits")
    engines |= bench.peer(gpu_hopper.peers, x, w, b, precision)
    bars = {"mma.sync": ("torch, product alone", 1)} if (precision, form) == ("bf16", "16 bits") else {}
    record(bench, shape, precision, form, "gelu", engines, error, bars)


def operands(bench, m, k, n):
    """Return x, w and b, on the device, whose sums are of the size of one."""
    x, w, b = (bench.normal(*shape) for shape in ((m, k), (k, n), (n,)))
    w.copy_to_device(w.copy_to_host() / np.sqrt(np.float32(k)))
    return x, w, b


def ours(bench, x, w, b, activation, precision, halves=False):
    """Return our call of the kernel itself, whatever other kernel the device has, and its error, checked."""
    (m, k), n = x.shape, w.shape[1]
    packed = cuda.to_device(np.full(tensor_pack.shape(k, n, precision), 0xFFFFFFFF, np.uint32))
    kernel = compiler.tensor_weights(precision, halves)
    compiler.launch_one_dimensional(kernel, packed.size // 4, 0, w, packed)
    layer = tensor_step.TensorLayer(packed, b, nd.activations.get(activation), k, precision, halves)
    given, out = x, bench.poisoned(m, n)
    if halves:
        given, out = map(borrow, (gpu_halves.of(x, precision), gpu_halves.poisoned((m, n), precision)))
    layer.run(given, out, None, 0)
    host = gpu_halves.to_host(out.owner, precision) if halves else out.copy_to_host()
    error = checked(bench, host, x, w, b, activation, precision)
    return {"ours": lambda: layer.run(given, out, None, 0)}, error


def checked(bench, host, x, w, b, activation, precision):
    """Return the relative error of some rows, of which no number may be missing; fail if it is too large."""
    assert not np.isnan(host).any(), "some outputs were not written"
    error = relative(bench, host, x, w, b, activation)
    assert error <= ALLOWED[precision], f"relative error {error}, and {ALLOWED[precision]} is allowed"
    return error


def relative(bench, host, x, w, b, activation):
    """Return the relative Frobenius error of some rows."""
    exact, rows = gpu_bench.reference(bench, x, w, b, activation)
    return float(np.linalg.norm(host[rows] - exact) / np.linalg.norm(exact))


def record(bench, shape, precision, form, activation, engines, error, bars):
    """Time the engines, beside what tile there is and what bounds it."""
    m, k, n = shape
    tile = tensor_step.choose(precision, m, n)
    words = tensor.x_words(tensor.HALF if form == "16 bits" else tensor.CHUNKS)
    theirs = precision if precision in tensor_tiles.HALVES else "float32"
    facts = {
        "flops": 2 * m * k * n,
        "tile": f"{tile.rows} x {tile.columns}",
        "predicted": predicted(tile, precision, words),
        "format": precision,
        "arrays": {name: theirs if name.startswith("torch") else form for name in engines},
    }
    case = f"{activation} {m}, {k}, {n} {precision}, x and out in {form}"
    bench.record("tensor cores", case, engines, error, bars, **facts)


def predicted(tile, precision, words):
    """Return the share of the tensor cores' peak that shared memory leaves a tile, if the rest is hidden."""
    capability = compiler.capability() or (8, 0)
    rate = RATE.get(capability[0], 1024) / (1 if precision in tensor_tiles.HALVES else 2)
    products = tile.rows * tile.columns * tensor_tiles.DEPTH * (3 if precision == "3xtf32" else 1)
    column = tensor_tiles.PARTS[precision] * tensor_tiles.COLUMN
    read = tile.rows * words * tile.warps[1] + tile.columns * column * tile.warps[0]
    moved = 4 * (read + tile.stage(precision, words))
    return min(1.0, products / rate / (moved / SHARED))


def torch_float32(bench, x, w, b):
    """Return torch's calls on the same memory: in float32, and with TF32 allowed."""
    torch = bench.peers["torch"]
    tx, tw, tb = (torch.as_tensor(array, device="cuda") for array in (x, w, b))

    def layer(tx, tw, tb):
        return torch.sigmoid(torch.addmm(tb, tx, tw))

    def allowing(call):
        torch.backends.cuda.matmul.allow_tf32 = True
        try:
            return call(tx, tw, tb)
        finally:
            torch.backends.cuda.matmul.allow_tf32 = False

    return {"torch": lambda: layer(tx, tw, tb), "torch, TF32 allowed": lambda: allowing(layer)}
