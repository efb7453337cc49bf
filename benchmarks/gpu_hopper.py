"""The section of `gpu.py` for Hopper's tensor cores: layers of 16-bit numbers beside torch's, and each tile."""

import functools
import itertools

import gpu_bench
import gpu_halves
import numpy as np
from numba import cuda

from numbadense._engine.cuda import compile as compiler
from numbadense._engine.cuda import device, hopper_step, memory
from numbadense._engine.cuda import room as rooms
from numbadense.errors import DeviceError

SHAPES = [(8192, 8192, 8192), (65536, 1024, 1024)]
ALLOWED = {"bf16": 1e-2, "fp16": 1e-2, "tf32": 1e-3}  # relative Frobenius error against float64
CYCLES = 512  # of the tensor cores of a multiprocessor: 128 x 128 products of 64 features in 16 bits
EPILOGUE = 24  # instructions an output for gelu, counted in the assembly; a warp a scheduler issues one a cycle at best


def hopper(bench):
    """Gelu layers on wgmma: bf16 in and out, the others too, and what narrowing costs."""
    if not there(bench):
        return
    for shape, tile in itertools.product(shapes(bench), tiles()):
        bench.attempt(layer, shape, "bf16", tile)
    for shape, precision in itertools.product(shapes(bench), ("fp16", "tf32")):
        bench.attempt(layer, shape, precision, hopper_step.choose(shape[1]))
    for m, k, _ in shapes(bench):
        bench.attempt(narrowing, (m, k))


def clusters(bench):
    """The layers in bf16 by clusters of blocks: apart from the others, and last, for a cluster that hangs hangs all."""
    if there(bench):
        for shape, tile in itertools.product(shapes(bench), tiles()):
            bench.attempt(layer, shape, "bf16", hopper_step.paired(tile))


def there(bench):
    """Say whether the device and the compiler have this kernel, and note why not."""
    capability = None if device.simulated() else tuple(cuda.get_current_device().compute_capability)
    if not hopper_step.supported(8192, 8192, 8192, "bf16", capability):
        bench.absent("hopper", DeviceError(f"the device has compute capability {capability}"))
        return False
    if capability is not None and compiler.written() < hopper_step.PTX:
        bench.absent("hopper", DeviceError(f"the compiler writes PTX {compiler.written()}"))
        return False
    gpu_bench.quick_turns(2e-5)
    return True


def shapes(bench):
    """Return the shapes of the layers."""
    return [(9, 70, 20)] if bench.dry else SHAPES


def tiles():
    """Return the tiles of shallow and of deep layers."""
    return [hopper_step.choose(0), hopper_step.choose(hopper_step.DEEP)]


def layer(bench, shape, precision, tile):
    """A layer by a tile: operands narrowed before; outputs of as many bits, but for tf32."""
    m, k, n = shape
    x, w, b = (bench.normal(*size) for size in ((m, k), (k, n), (n,)))
    w.copy_to_device(w.copy_to_host() / np.sqrt(np.float32(k)))
    packed, narrow = hopper_step.pack(w, b, "gelu", precision, 0, tile=tile), narrowed(x, precision)
    half = precision != "tf32"
    out = bench.poisoned(m, n, dtype="uint16" if half else "float32")
    call = functools.partial(packed.multiply, narrow, out, rooms.made(packed.room(narrow), 0), 0)
    call()
    error = checked(bench, out, x, w, b, precision)
    how, bars = "in turns" if tile.apart else "together", {}
    how += f", clusters of {tile.cluster}" if tile.cluster > 1 else ""
    if precision == "bf16" and tile == hopper_step.choose(k):
        bars = {"wgmma": ("torch, product alone", 1)}
        bars |= {"gelu": ("torch", 1)} if bench.dry or shape == SHAPES[1] else {}
    engines = {"ours": call}
    if half and tile == hopper_step.choose(k):  # of float32: rows of x narrowed before, and more written
        result = bench.poisoned(m, n)
        engines["ours, float32 arrays"] = functools.partial(packed.run, x, result, rooms.made(packed.room(x), 0), 0)
        engines["ours, float32 arrays"]()
        error = max(error, checked(bench, result, x, w, b, precision))
    engines |= bench.peer(peers, x, w, b, precision, bool(bars)) if half else {}
    facts = {"flops": 2 * m * k * n, "predicted": predicted(k, tile, precision), "format": precision}
    facts |= {"read": read(tile), "arrays": {name: "float32" if "float32" in name else precision for name in engines}}
    bench.record("hopper", f"gelu {m}, {k}, {n} {precision}, {how}", engines, error, bars, **facts)


def read(tile):
    """Return how many bytes of operands a cycle a multiprocessor reads while it multiplies at full rate."""
    return (tile.rows + tile.share) * 128 / (CYCLES * tile.rows * tile.columns / 128**2)


def narrowing(bench, shape):
    """Rows narrowed to memory that is there: bandwidth is claimed, of more than is cached."""
    m, k = shape
    x = bench.normal(m, k)
    out, expected = narrowed(x, "bf16"), x.copy_to_host()
    bits = memory.from_interface(out.__cuda_array_interface__, out).copy_to_host()
    host = (bits.astype(np.uint32) << 16).view(np.float32)[:, :k]
    error = float(np.linalg.norm(host - expected) / np.linalg.norm(expected))
    assert error <= ALLOWED["bf16"], f"relative error {error}"
    ours = functools.partial(hopper_step.narrow, x, out, "bf16", 0)
    bench.record("hopper", f"float32 to bf16, {m} x {k}", {"ours": ours}, error, bytes=6 * m * k, format="bf16")


def narrowed(x, precision):
    """Return the rows of x as the kernel reads them."""
    if precision == "tf32" and memory.in_chunks(x):
        return x
    kind = hopper_step.element(precision)
    shape = x.shape[0], hopper_step.padded(x.shape[1], kind.itemsize)
    return hopper_step.narrow(x, rooms.made(rooms.bytes_of(shape, kind), 0).part(0, shape, kind), precision, 0)


def checked(bench, out, x, w, b, precision):
    """Return the relative error of some rows, of which no number may be missing; fail if it is too large."""
    host = gpu_halves.to_host(out, precision) if out.dtype == np.uint16 else out.copy_to_host()
    assert not np.isnan(host).any(), "some outputs were not written"
    exact, rows = gpu_bench.reference(bench, x, w, b, "gelu")
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


def peers(bench, x, w, b, precision, compiled=False):
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
    return engines | (bench.compiled(layer, tx, tw, tb) if compiled else {})
