"""Whole networks in one launch, and populations, beside PyTorch's: a section of ``benchmarks/gpu.py``.

``predicted`` is a lower bound of the seconds a call takes, from what the kernel has to do: bytes from and to memory,
multiply-adds at the share of the inner loop, and, on tensor cores, three operations of the special-function units for
two sigmoids or tanh.  The rates are those of `gpu_bench`: measured, or by the clock of the device.

``arrays`` says what each engine reads and writes: PyTorch numbers of its own precision, ours float32, and beside that
the same 16 bits.
"""

import itertools

import gpu_halves
import numpy as np

import numbadense as nd

ALLOWED = {None: 1e-6, "bf16": 1e-2, "fp16": 1e-2}  # relative Frobenius error against float64


def fused(bench):
    """Deep networks over many rows, small ones over few, many at once."""
    deep = [16] * 4 if bench.dry else [64] * 6
    for m in (40,) if bench.dry else (2**20,):
        for precision in (None, "bf16", "fp16"):
            bench.attempt(network, deep, m, precision, "sigmoid", barred=precision != "fp16")
    small = [8, 8, 8, 2] if bench.dry else [8, 32, 32, 2]
    for precision in (None, "bf16"):
        bench.attempt(population, *((3, 5) if bench.dry else (10_000, 64)), small, precision)
    bench.attempt(network, deep, 40 if bench.dry else 2**20, "bf16", "relu")
    if not bench.dry:
        bench.attempt(network, [32] * 6, 2**20, None, "sigmoid")
        bench.attempt(network, [128] * 6, 2**18, None, "sigmoid")
        bench.attempt(network, [128] * 6, 2**18, "bf16", "sigmoid")


def random_network(bench, widths, name):
    """Return a network of fresh random weights, the last layer without an activation."""
    normal = bench.rng.standard_normal
    shapes = list(itertools.pairwise(widths))
    names = [name] * (len(shapes) - 1) + [None]
    return nd.Sequential(
        [
            nd.Dense(normal(s, np.float32) / np.float32(s[0] ** 0.5), normal(s[1], np.float32), each)
            for s, each in zip(shapes, names, strict=True)
        ]
    )


def checked(host, expected, rows, precision):
    """Return the relative Frobenius error of some rows of an output, of which no element may be missing."""
    assert not np.isnan(host).any(), "some outputs were not written"
    error = float(np.linalg.norm(host[rows] - expected) / np.linalg.norm(expected))
    assert error <= ALLOWED[precision], f"relative error {error}, and {ALLOWED[precision]} is allowed"
    return error


def keeps_apart(bench, net, on_device, precision):
    """Fail unless NaN makes a row NaN, infinity what it should, and neither changes another row."""
    x = bench.rng.standard_normal((8, net.layers[0].n_in), np.float32)
    before = on_device(x)
    x[3, 0], x[5, 0] = np.nan, np.inf
    after = on_device(x)
    others = np.delete(np.arange(8), [3, 5])
    assert np.isnan(after[3]).all() and (after[others] == before[others]).all(), "rows are not kept apart"
    expected = net.astype("float64")(x[5:6].astype(np.float64))
    assert np.linalg.norm(after[5:6] - expected) <= ALLOWED[precision] * np.linalg.norm(net.layers[-1].w)


def predicted(rates, rows, widths, precision, special, weights=0, itemsize=4):
    """Return the least seconds for so many rows and bytes of weights; `special`: activations need those units."""
    products = rows * sum(k * n for k, n in itertools.pairwise(widths))
    seconds = [(itemsize * rows * (widths[0] + widths[-1]) + weights) / rates["memory"]]
    if precision is None:
        seconds.append(2 * products / (0.94 * rates["float32"]))
    else:
        seconds += [2 * products / rates["tensor"], 1.5 * special * rows * sum(widths[1:-1]) / rates["special"]]
    return max(seconds)


def network(bench, widths, m, precision, name, barred=False):
    """One network: its rows in one launch, against the peer's layers."""
    net = random_network(bench, widths, name)
    on_device = net.to("cuda", precision=precision)
    x, out = bench.normal(m, widths[0]), bench.poisoned(m, widths[-1])
    on_device(x, out)
    rows = np.unique(np.r_[0, m - 1, bench.rng.integers(0, m, 30)])
    exact = net.astype("float64")(x.copy_to_host()[rows].astype(np.float64))
    error = checked(out.copy_to_host(), exact, rows, precision)
    if name == "sigmoid":
        keeps_apart(bench, net, on_device, precision)
    least, form = predicted(bench.rates, m, widths, precision, name == "sigmoid"), precision or "float32"
    facts = {"predicted": least, "kernel": str(on_device), "format": form}
    engines, bars = {"ours": lambda: on_device(x, out)}, {}
    if precision is not None:
        engine, its_error = halves(on_device, x, out.shape, exact, rows, precision)
        engines[gpu_halves.ENGINE], error = engine, max(error, its_error)
        its_least = predicted(bench.rates, m, widths, precision, name == "sigmoid", itemsize=2)
        facts[f"predicted, {gpu_halves.ENGINE}"] = its_least
    if "torch" in bench.peers:
        engines |= bench.peer(peers, net, x, precision, name, barred)
    facts["arrays"] = arrays(engines, precision)
    if barred:
        bars = {"deep": ("torch", 1), "deep, compiled": ("torch.compile", 1)}
        bars |= {"deep, bf16": (None, least)} if precision else {}
    case = f"{'-'.join(map(str, widths))} {name}, {m} rows, {form}"
    bench.record("fused", case, engines, error, bars, (exact, rows), **facts)


def halves(on_device, x, shape, expected, rows, precision):
    """Return the call of ours on arrays of 16 bits, and its error, checked."""
    given, out = gpu_halves.of(x, precision), gpu_halves.poisoned(shape, precision)
    on_device(given, out)
    error = checked(gpu_halves.to_host(out, precision), expected, rows, precision)
    return lambda: on_device(given, out), error


def arrays(engines, precision):
    """Return what each engine reads and writes."""
    return {name: "float32" if name == "ours" else precision or "float32" for name in engines}


def peers(bench, net, x, precision, name, compiled):
    """Return the peer's calls: eager, compiled if that is asked for, and eager in a CUDA graph."""
    torch = bench.peers["torch"]
    dtype = {None: torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    layers = [tuple(torch.tensor(part, device="cuda").to(dtype) for part in (layer.w, layer.b)) for layer in net.layers]
    given = torch.as_tensor(x, device="cuda").to(dtype)  # in its own dtype: the peer is not charged for the cast
    activation = getattr(torch, name)

    def forward(a):
        for w, b in layers[:-1]:
            a = activation(torch.addmm(b, a, w))
        return torch.addmm(layers[-1][1], a, layers[-1][0])

    engines = {"torch": lambda: forward(given)}
    if compiled:
        engines |= bench.compiled(forward, given)
    engines["torch, a graph"] = graph_of(torch, lambda: forward(given))
    return engines


def graph_of(torch, call):
    """Return the call that replays a CUDA graph of another."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def population(bench, count, m, widths, precision):
    """Many networks, each with rows of its own, in one launch."""
    networks = nd.stack([random_network(bench, widths, "tanh") for _ in range(count)])
    on_device = networks.to("cuda", precision=precision)
    x, out = bench.normal(count, m, widths[0]), bench.poisoned(count, m, widths[-1])
    on_device(x, out)
    some = np.unique(np.r_[0, count - 1, bench.rng.integers(0, count, 10)])
    given = x.copy_to_host()[some].astype(np.float64)
    expected = np.stack([networks[i].astype("float64")(rows) for i, rows in zip(some, given, strict=True)])
    error = checked(out.copy_to_host(), expected, some, precision)
    size = 4 * count * sum((k + 1) * n for k, n in itertools.pairwise(widths))
    least, form = predicted(bench.rates, count * m, widths, precision, True, size), precision or "float32"
    facts = {"predicted": least, "kernel": str(on_device), "format": form}
    bars = {} if precision else {"vmap": ("torch.func.vmap", 1), "bmm": ("torch.bmm", 1)}
    engines = {"ours": lambda: on_device(x, out)}
    if precision is not None:
        engine, its_error = halves(on_device, x, out.shape, expected, some, precision)
        engines[gpu_halves.ENGINE], error = engine, max(error, its_error)
    if "torch" in bench.peers:
        engines |= bench.peer(peers_of_population, networks, x, precision)
    facts["arrays"] = arrays(engines, precision)
    case = f"{count} x {'-'.join(map(str, widths))} tanh, {m} rows, {form}"
    bench.record("fused", case, engines, error, bars, (expected, some), **facts)


def peers_of_population(bench, networks, x, precision):
    """Return the peer's calls: batched products, the same in a CUDA graph, and a function mapped over networks."""
    torch = bench.peers["torch"]
    dtype = {None: torch.float32, "bf16": torch.bfloat16}[precision]
    parts = zip(networks.weights, networks.biases, strict=True)
    layers = [tuple(torch.tensor(part, device="cuda").to(dtype) for part in pair) for pair in parts]
    given = torch.as_tensor(x, device="cuda").to(dtype)

    def batched():
        a = given
        for index, (w, b) in enumerate(layers):
            a = torch.baddbmm(b[:, None], a, w)
            a = torch.tanh(a) if index < len(layers) - 1 else a
        return a

    def one(weights, a):
        for index, (w, b) in enumerate(weights):
            a = a @ w + b
            a = torch.tanh(a) if index < len(weights) - 1 else a
        return a

    mapped = torch.func.vmap(one)
    return {
        "torch.bmm": batched,
        "torch.bmm, a graph": graph_of(torch, batched),
        "torch.func.vmap": lambda: mapped(layers, given),
    }
