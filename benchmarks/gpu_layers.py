"""Sections of `gpu.py`: activations, dense layers, few rows, each tile, and what NaN and infinity become."""

import numpy as np
from gpu_bench import checked, in_turns, reference, tensors
from numba import cuda

import numbadense as nd
from numbadense._engine.cuda import compile as compiler
from numbadense._engine.cuda import tiles
from numbadense.activations import REGISTRY

BARRED = [(4096, 4096, 4096), (8192, 1024, 1024), (65536, 256, 256)]
SHAPES = [*BARRED, (8192, 1023, 1021), (65536, 64, 64)]
FEW = [(1, 1024, 1024), (8, 1024, 1024), (1, 4096, 4096), (64, 4096, 4096), (512, 512, 512)]
RUNNERS_UP = [  # threads, outputs, depth, stages, resident: large tiles that assemble nearly as well
    ((16, 16), (8, 8), 8, 4, 2),
    ((16, 16), (8, 8), 16, 3, 2),
    ((16, 8), (8, 8), 8, 4, 3),
]
AS_TORCH = ("sigmoid", "relu", "tanh", "gelu")
PRECISIONS = (("tf32", "bf16", "fp16", "3xtf32"), ("bf16",))  # of all layers on tensor cores; in a dry run
SPECIAL = (np.nan, np.inf, -np.inf)


def elementwise(bench):
    """Activations of an array, and of rows: against a copy, and the peers' own."""
    names = [name for name, entry in REGISTRY.items() if not entry.rowwise and name != "exp"]  # its largest hide others
    names.sort(key=lambda name: AS_TORCH.index(name) if name in AS_TORCH else len(AS_TORCH))
    size = 2**6 + 3 if bench.dry else 2**28
    x, out = bench.normal(size), bench.poisoned(size)
    host = x.copy_to_host()
    for name in names:
        many = size if name in AS_TORCH or bench.dry else size // 4
        bench.attempt(activation, name, x[:many], out[:many], host[:many])
    for m, n in [(5, 9)] if bench.dry else [(65536, 64), (8192, 1024)]:
        bench.attempt(softmax, m, n)


def activation(bench, name, x, out, host):
    """An activation of each element."""
    bench.spent()
    sample = bench.rng.integers(0, x.size, min(x.size, 10**5))
    ours = getattr(nd.cuda, name)
    bench.poison(out)
    ours(x, out)
    exact = getattr(nd, name)(host[sample].astype(np.float64))
    error = checked(out, exact, sample)
    engines = {"ours": lambda: ours(x, out), "copy": lambda: out.copy_to_device(x)}
    bars = {"copy": ("copy", 1), "elementwise": ("torch", 1)} if name == "sigmoid" else {}
    if name in AS_TORCH:
        engines |= bench.peer(peers_elementwise, name, x, out)
    facts = {"bytes": 8 * x.size, "format": "float32"}
    bench.record("elementwise", f"{name} of {x.size} float32", engines, error, bars, (exact, sample), **facts)


def peers_elementwise(bench, name, x, out):
    """Return the peers' calls, on the same memory."""
    engines = {}
    if "torch" in bench.peers:
        torch = bench.peers["torch"]
        given, result = tensors(bench, x, out)
        if name == "gelu":
            engines["torch"] = lambda: torch.nn.functional.gelu(given)
        elif name == "relu":
            engines["torch"] = lambda: torch.clamp_min(given, 0, out=result)
        else:
            engines["torch"] = lambda: getattr(torch, name)(given, out=result)
    if "cupy" in bench.peers and name == "sigmoid":
        cupy = bench.peers["cupy"]
        sigmoid = cupy.ElementwiseKernel("float32 x", "float32 y", "y = 1 / (1 + exp(-x))", "sigmoid")
        there, back = cupy.asarray(x), cupy.asarray(out)
        engines["cupy"] = lambda: sigmoid(there, back)
    return engines


def softmax(bench, m, n):
    """Softmax of rows."""
    x, out = bench.normal(m, n), bench.poisoned(m, n)
    nd.cuda.softmax(x, out)
    exact = nd.softmax(x.copy_to_host().astype(np.float64))
    error = checked(out, exact)
    engines = {"ours": lambda: nd.cuda.softmax(x, out)}
    if "torch" in bench.peers:
        (given,) = tensors(bench, x)
        engines["torch"] = lambda: bench.peers["torch"].softmax(given, 1)
    bench.record("elementwise", f"softmax of {m} x {n} float32", engines, error, format="float32")


def dense(bench):
    """Dense layers through the public face."""
    for shape in [(13, 19, 17), (1, 8, 16)] if bench.dry else SHAPES:
        bench.attempt(layer, shape, "float32")
    for shape in [(13, 19, 17)] if bench.dry else BARRED[:2]:
        bench.attempt(layer, shape, "float64")


def operands(bench, shape, dtype="float32"):
    """Return x, w and b, on the device, whose sums are of the size of one."""
    m, k, n = shape
    x, w, b = (bench.normal(*size, dtype=dtype) for size in ((m, k), (k, n), (n,)))
    w.copy_to_device(w.copy_to_host() / np.sqrt(k).astype(dtype))
    return x, w, b


def layer(bench, shape, dtype):
    """A layer: beside the peers, and beside what the device multiplies and adds in registers alone."""
    m, k, n = shape
    x, w, b = operands(bench, shape, dtype)
    out, flops = bench.poisoned(m, n, dtype=dtype), 2 * m * k * n
    nd.cuda.dense(x, w, b, "sigmoid", out=out)
    exact = reference(bench, x, w, b, "sigmoid")
    error = checked(out, *exact, features=k)
    barred = dtype == "float32" and (bench.dry or shape in BARRED)
    engines = {"ours": lambda: nd.cuda.dense(x, w, b, "sigmoid", out=out)}
    engines |= bench.peer(peers_dense, x, w, b, barred)
    facts, bars = {"flops": flops, "tile": tile_of(m, n, dtype), "format": dtype}, {}
    if barred:
        engines["the peak alone"], operations = bench.peak
        bars = {"peak": ("the peak alone", flops / operations), "cublas": ("torch, product alone", 1)}
        bars["dense"] = ("torch", 1)
    bench.record("dense", f"{m}, {k}, {n} {dtype}", engines, error, bars, exact, **facts)


def tile_of(m, n, dtype):
    """Return the sentence about the tile that a shape gets."""
    processors = compiler.multiprocessors()
    chosen = tiles.choose(compiler.target().dense[np.dtype(dtype).itemsize], m, n, processors)
    return tiles.explain(chosen, m, n, processors)


def peers_dense(bench, x, w, b, compiled):
    """Return the peers' calls, on the same memory, in true float32."""
    engines = {}
    if "torch" in bench.peers:
        torch = bench.peers["torch"]
        tx, tw, tb = tensors(bench, x, w, b)
        product = torch.empty((x.shape[0], w.shape[1]), dtype=tx.dtype, device="cuda")
        engines["torch"] = lambda: torch.addmm(tb, tx, tw, out=product).sigmoid_()
        engines["torch, product alone"] = lambda: torch.mm(tx, tw, out=product)
        if compiled:
            engines |= bench.compiled(lambda tx, tw, tb: torch.sigmoid(torch.addmm(tb, tx, tw)), tx, tw, tb)
    if "cupy" in bench.peers:
        cupy = bench.peers["cupy"]
        cx, cw, cb = (cupy.asarray(array) for array in (x, w, b))
        sigmoid = cupy.ElementwiseKernel("T x, T b", "T y", "y = 1 / (1 + exp(-x - b))", "biased_sigmoid")
        engines["cupy"] = lambda: sigmoid(cupy.matmul(cx, cw), cb)
    return engines


def few(bench):
    """Few rows: the sums in order, as everywhere else, and split into parts."""
    for shape in [(2, 40, 9), (9, 40, 9)] if bench.dry else FEW:
        bench.attempt(few_rows, shape)


def few_rows(bench, shape):
    """A layer of few rows: bandwidth is claimed, so that operands rotate; the host is longer, so that graphs do it."""
    m, k, n = shape
    nbytes = 4 * (m * k + k * n + n + m * n)
    x, w, b = operands(bench, shape)
    sets = [(x, w, b, bench.poisoned(m, n))]
    for _ in range(bench.rotation(nbytes) - 1):
        copies = tuple(cuda.device_array(array.shape, array.dtype) for array in (x, w, b))
        for copy, array in zip(copies, (x, w, b), strict=True):
            copy.copy_to_device(array)
        sets.append((*copies, bench.poisoned(m, n)))

    def call(split_k, x, w, b, out):
        return lambda: nd.cuda.dense(x, w, b, "sigmoid", out=out, split_k=split_k)

    exact, error = reference(bench, x, w, b, "sigmoid"), 0.0
    for split_k, (*given, out) in zip((1, "auto"), (sets[-1], sets[0]), strict=True):
        call(split_k, *given, out)()
        error = max(error, checked(out, *exact, features=k))
    engines = {"ours": in_turns([call("auto", *each) for each in sets])}
    engines["ours, in order"] = in_turns([call(1, *each) for each in sets])
    engines |= bench.peer(graphs_of_few, sets, call)
    facts = {"flops": 2 * m * k * n, "bytes": nbytes, "sets": len(sets), "format": "float32"}
    bench.record("few", f"{m}, {k}, {n} float32", engines, error, expected=exact, **facts)


def graphs_of_few(bench, sets, call):
    """Return torch's calls, and graphs of many calls of either, on the same memory."""
    if "torch" not in bench.peers:
        return {}
    torch = bench.peers["torch"]
    there = [tensors(bench, *each) for each in sets]
    turns = max(1, 64 // len(sets))

    def theirs(x, w, b, out):
        return lambda: torch.addmm(b, x, w, out=out).sigmoid_()

    calls = [theirs(*each) for each in there]
    engines = bench.kernels([call("auto", *each) for each in there], turns)
    in_order = bench.kernels([call(1, *each) for each in there], turns)
    engines |= {"ours, in order, the kernel": in_order["ours, the kernel"]}
    engines |= {"torch": in_turns(calls), "torch, a graph": bench.kernels(calls, turns)["ours, the kernel"]}
    return engines


def every_tile(bench):
    """Each tile of the table and each way of copying, by itself, and the large tiles that were nearly chosen."""
    extra = [] if bench.dry else [tiles.DenseTile(*shape, share=0.0) for shape in RUNNERS_UP]
    for itemsize, dtype in ((4, np.dtype("float32")), (8, np.dtype("float64"))):
        for tile in (*(extra if itemsize == 4 else ()), *compiler.target().dense[itemsize]):
            for in_chunks in ((True, True), (False, False)):
                bench.attempt(one_tile, dtype, tile, in_chunks)


def one_tile(bench, dtype, tile, in_chunks):
    """A layer by this tile."""
    shape = (tile.rows + 2, 24, tile.columns + 4) if bench.dry else (4096, 4096, 4096)
    m, k, n = shape if all(in_chunks) else (size - 1 for size in shape)
    x, w, b = operands(bench, (m, k, n), dtype)
    out = bench.poisoned(m, n, dtype=dtype)
    kernel = compiler.dense(REGISTRY["identity"], dtype, tile, in_chunks, compiler.target().pipelined)
    work = kernel, tile.blocks(m, n), tile.size, 0, x, w, b, out
    compiler.launch(*work)
    error = checked(out, *reference(bench, x, w, b, "identity"), features=k)
    case = f"{tile.rows} x {tile.columns} of {tile.size} threads, {tile.stages} x {tile.depth} deep, {dtype}"
    how = "in chunks" if all(in_chunks) else "one by one"
    bench.record("tiles", f"{case}, {how}", {"ours": lambda: compiler.launch(*work)}, error, flops=2 * m * k * n)


def classes(bench):
    """NaN and infinity among the inputs: outputs are NaN, infinite or finite where those of the CPU are."""
    for name in ("gelu", "softmax") if bench.dry else REGISTRY:
        bench.attempt(classes_of_activation, name)
    wide = (6, 9, 8) if bench.dry else (130, 72, 80)
    for shape, options in (
        (wide, {}),
        ((2, *wide[1:]), {"split_k": "auto"}),
        *((shape, {"precision": name}) for name in PRECISIONS[bench.dry] for shape in (wide, (5, *wide[1:]))),
    ):
        bench.attempt(classes_of_layer, shape, options)
    for precision in (None, "bf16", "fp16")[: 2 if bench.dry else 3]:
        bench.attempt(classes_of_network, precision)


def specials(bench, m, n):
    """Return rows of random numbers, a special one in each of the first rows, and all in the last."""
    x = bench.rng.standard_normal((m, n), np.float32)
    for i in range(min(m, len(SPECIAL))):
        x[i, bench.rng.integers(n)] = SPECIAL[i]
    if m > len(SPECIAL):
        x[-1, bench.rng.permutation(n)[: len(SPECIAL)]] = SPECIAL
    return x


def differing(bench, case, ours, cpu):
    """Note how many outputs are of another class than on the CPU."""
    bench.spent()
    differ = sum(int((test(ours) != test(cpu)).sum()) for test in (np.isnan, np.isposinf, np.isneginf))
    bench.tell("row", {"section": "classes", "case": case, "error": 0.0, "bars": {"classes": differ}})


def classes_of_activation(bench, name):
    """An activation."""
    x = specials(bench, 5, 7)
    differing(bench, name, getattr(nd.cuda, name)(x), getattr(nd, name)(x))


def classes_of_layer(bench, shape, options):
    """A layer, of large inputs too."""
    m, k, n = shape
    x, w, b = specials(bench, m, k), *(bench.rng.standard_normal(size, np.float32) for size in ((k, n), n))
    for name in ("identity", "gelu"):
        ours = nd.cuda.dense(x, w, b, name, **options)
        differing(bench, f"{name} {m}, {k}, {n} {options}", ours, nd.dense(x, w, b, name))


def classes_of_network(bench, precision):
    """A network in one launch, and a population of two."""
    widths = (9, 16, 8) if bench.dry else (64, 64, 64)
    normal = bench.rng.standard_normal
    nets = [
        nd.Sequential(
            [nd.Dense(normal(widths[i : i + 2], np.float32), normal(widths[i + 1], np.float32), "relu") for i in (0, 1)]
        )
        for _ in range(2)
    ]
    x = specials(bench, 5 if bench.dry else 130, widths[0])
    differing(bench, f"a network, {precision}", nets[0].to("cuda", precision=precision)(x), nets[0](x))
    both = nd.stack(nets)
    differing(bench, f"a population, {precision}", both.to("cuda", precision=precision)(x), both(x))
