"""The section of `gpu.py` for Hopper's tensor cores: layers of 16-bit numbers beside torch's, and each tile."""

import functools
import sys

import numpy as np
from numba import cuda

import numbadense as nd
from numbadense._engine.cuda import device, hopper_step, memory
from numbadense._engine.cuda import room as rooms

SHAPES = [(8192, 8192, 8192), (65536, 1024, 1024)]
ALLOWED = {"bf16": 1e-2, "fp16": 1e-2, "tf32": 1e-3}  # relative Frobenius error against float64
CYCLES = 512  # of the tensor cores of a multiprocessor: 128 x 128 products of 64 features in 16 bits
EPILOGUE = 24  # instructions an output for gelu, counted in the assembly; a warp a scheduler issues one a cycle at best


def hopper(bench):
    """Gelu layers on wgmma: bf16 in and out, the others too, and what narrowing costs."""
    capability = None if device.simulated() else tuple(cuda.get_current_device().compute_capability)
    if not hopper_step.supported(8192, 8192, 8192, "bf16", capability):
        bench.absent["hopper"] = f"the device has compute capability {capability}"
        return
    for m, k, n in shapes(bench):
        x, w, b = operands(bench, m, k, n)
        for precision in ALLOWED:
            for tile in tiles() if precision == "bf16" else [hopper_step.choose(k)]:
                layer(bench, x, w, b, precision, tile)
        narrow = narrowed(x, "bf16")
        narrowing = {"ours": functools.partial(hopper_step.narrow, x, narrow, "bf16", 0)}
        bench.record("hopper", f"float32 to bf16, {m} x {k}", narrowing, 0.0, bytes=6 * m * k)


def clusters(bench):
    """The layers in bf16 by clusters of blocks: apart from the others, and last, for a cluster that hangs hangs all."""
    if "hopper" in bench.absent:
        return
    for m, k, n in shapes(bench):
        for tile in tiles():
            layer(bench, *operands(bench, m, k, n), "bf16", hopper_step.paired(tile))


def shapes(bench):
    """Return the shapes of the layers."""
    if bench.dry:
        sys.setswitchinterval(2e-5)  # the simulator's threads wait for each other
    return [(9, 70, 20)] if bench.dry else SHAPES


def tiles():
    """Return the tiles of shallow and of deep layers."""
    return [hopper_step.choose(0), hopper_step.choose(hopper_step.DEEP)]


def operands(bench, m, k, n):
    """Return x, w and b."""
    x, w, b = (bench.normal(*shape) for shape in ((m, k), (k, n), (n,)))
    w.copy_to_device(w.copy_to_host() / np.sqrt(np.float32(k)))
    return x, w, b


def layer(bench, x, w, b, precision, tile):
    """A gelu layer by a tile: rows narrowed before; outputs of as many bits, but for tf32."""
    (m, k), n = x.shape, w.shape[1]
    narrow, half = narrowed(x, precision), precision != "tf32"
    packed = hopper_step.pack(w, b, "gelu", precision, 0, tile=tile)
    out = cuda.to_device(np.full((m, n), 0xFFFF, np.uint16)) if half else bench.poisoned(m, n)
    call = functools.partial(packed.multiply, narrow, out, rooms.made(packed.room(narrow), 0), 0)
    call()
    error = checked(bench, out, x, w, b, precision)
    engines = {"ours": call} | (bench.peer(peers, x, w, b, precision) if half else {})
    how = "in turns" if tile.apart else "together"
    how += f", clusters of {tile.cluster}" if tile.cluster > 1 else ""
    facts = {"flops": 2 * m * k * n, "predicted": predicted(k, tile, precision), "read": read(tile)}
    bench.record("hopper", f"gelu {m}, {k}, {n} {precision}, {how}", engines, error, **facts)


def read(tile):
    """Return how many bytes of operands a cycle a multiprocessor reads while it multiplies at full rate."""
    return (tile.rows + tile.share) * 128 / (CYCLES * tile.rows * tile.columns / 128**2)


def narrowed(x, precision):
    """Return the rows of x as the kernel reads them."""
    if precision == "tf32" and memory.in_chunks(x):
        return x
    kind = hopper_step.element(precision)
    shape = x.shape[0], hopper_step.padded(x.shape[1], kind.itemsize)
    return hopper_step.narrow(x, rooms.made(rooms.bytes_of(shape, kind), 0).part(0, shape, kind), precision, 0)


def checked(bench, out, x, w, b, precision):
    """Return the relative error of some rows, of which no number may be missing; fail if it is too large."""
    host, m = out.copy_to_host(), x.shape[0]
    if precision == "bf16":
        host = (host.astype(np.uint32) << 16).view(np.float32)
    elif precision == "fp16":
        host = host.view(np.float16)
    assert not np.isnan(host).any(), "some outputs were not written"
    rows = np.unique(np.r_[0, m - 1, bench.rng.integers(0, m, 30)])
    x, w, b = (array.copy_to_host().astype(np.float64) for array in (x, w, b))
    exact = nd.gelu(x[rows] @ w + b)
    error = float(np.linalg.norm(host[rows] - exact) / np.linalg.norm(exact))
    assert error <= ALLOWED[precision], f"relative error {error}, and {ALLOWED[precision]} is allowed"
    return error


def predicted(k, tile, precision):
    """Return the share of the tensor cores' peak that the kernel could have if all else were hidden: not measured."""
    multiplying = CYCLES * -(-k // 64) * (2 if precision == "tf32" else 1)
    applying = EPILOGUE * 128
    if tile.apart:  # for each 128 x 128 outputs: one warpgroup multiplies while the other applies
        return multiplying / max(multiplying, (multiplying + applying) / 2)
    return multiplying / (multiplying + applying)  # both multiply, and both apply


def peers(bench, x, w, b, precision):
    """Return torch's calls on the same numbers, rounded to the same 16 bits."""
    if "torch" not in bench.peers:
        return {}
    torch = bench.peers["torch"]
    kind = torch.bfloat16 if precision == "bf16" else torch.float16
    tx, tw, tb = (torch.as_tensor(array, device="cuda").to(kind) for array in (x, w.copy_to_host().T.copy(), b))

    def layer(tx, tw, tb):
        return torch.nn.functional.gelu(torch.nn.functional.linear(tx, tw, tb))

    engines = {
        "torch": lambda: layer(tx, tw, tb),
        "torch, product alone": lambda: torch.matmul(tx, tw.T),
    }
    try:
        torch._dynamo.reset()
        compiled = torch.compile(layer, dynamic=False)
        compiled(tx, tw, tb)
        engines["torch.compile"] = lambda: compiled(tx, tw, tb)
    except Exception as error:  # it needs a C compiler, among other things
        bench.absent["torch.compile"] = f"{type(error).__name__}: {error}"[:200]
    return engines
