"""The section of `gpu.py` for tensor cores by mma.sync: each precision beside torch's, x and out in 16 bits too."""

import functools

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
# Multiply-adds a cycle of a multiprocessor's tensor cores, 16 bits, by the data sheets; tf32 has half of them.
RATE = {8: 1024, 9: 2048}
SHARED = 128  # bytes of shared memory a cycle


def tensor_cores(bench):
    """Layers of float32 on tensor cores through the kernel, and of 16-bit numbers."""
    for precision in ("tf32", "3xtf32"):
        for m, k, n in [(9, 40, 12)] if bench.dry else FLOAT32:
            x, w, b = operands(bench, m, k, n)
            engines, error = ours(bench, x, w, b, "sigmoid", precision)
            if "torch" in bench.peers:
                engines |= torch_float32(bench, x, w, b)
            record(bench, (m, k, n), precision, "float32", "sigmoid", engines, error)
    for m, k, n in [(9, 40, 16)] if bench.dry else SIXTEEN:
        x, w, b = operands(bench, m, k, n)
        for precision in ("bf16",) if not bench.dry else tensor_tiles.HALVES:
            for form in ("16 bits", "float32"):
                call = functools.partial(ours, bench, x, w, b, "gelu", precision, halves=form == "16 bits")
                engines, error = call()
                engines |= bench.peer(gpu_hopper.peers, x, w, b, precision)
                record(bench, (m, k, n), precision, form, "gelu", engines, error)


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
    m = x.shape[0]
    assert not np.isnan(host).any(), "some outputs were not written"
    rows = np.unique(np.r_[0, m - 1, bench.rng.integers(0, m, 30)])
    x, w, b = (array.copy_to_host().astype(np.float64) for array in (x, w, b))
    exact = getattr(nd, activation)(x[rows] @ w + b)
    error = float(np.linalg.norm(host[rows] - exact) / np.linalg.norm(exact))
    assert error <= ALLOWED[precision], f"relative error {error}, and {ALLOWED[precision]} is allowed"
    return error


def record(bench, shape, precision, form, activation, engines, error):
    """Time the engines, beside what tile there is and what bounds it."""
    m, k, n = shape
    tile = tensor_step.choose(precision, m, n)
    words = tensor.x_words(tensor.HALF if form == "16 bits" else tensor.CHUNKS)
    theirs = precision if precision in tensor_tiles.HALVES else "float32"
    facts = {
        "flops": 2 * m * k * n,
        "tile": f"{tile.rows} x {tile.columns}",
        "predicted": predicted(tile, precision, words),
        "arrays": {name: theirs if name.startswith("torch") else form for name in engines},
    }
    case = f"{activation} {m}, {k}, {n} {precision}, x and out in {form}"
    bench.record("tensor cores", case, engines, error, **facts)


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

    engines = {"torch": lambda: layer(tx, tw, tb), "torch, TF32 allowed": lambda: allowing(layer)}
    try:
        torch._dynamo.reset()
        compiled = torch.compile(layer, dynamic=False)
        compiled(tx, tw, tb)
        engines["torch.compile"] = lambda: compiled(tx, tw, tb)
    except Exception as error:  # it needs a C compiler, among other things
        bench.absent["torch.compile"] = f"{type(error).__name__}: {error}"[:200]
    return engines
