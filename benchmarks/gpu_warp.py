"""Sections of `gpu.py`: networks inside a user's kernel, stepped by its threads, and that a warp takes rows through."""

import itertools

import numpy as np
from gpu_bench import checked
from numba import cuda, float32

import numbadense as nd


def stepping(bench):
    """A network that every thread of a user's kernel steps, its state in registers: against graphs of the peer's."""
    bench.attempt(roll_outs, *((5, 3) if bench.dry else (100_000, 1000)))


def roll_outs(bench, rows, steps):
    """So many threads, and so many steps of each."""
    layers = [(8, 32), (32, 32), (32, 2)]
    normal = bench.rng.standard_normal
    net = nd.Sequential(
        [nd.Dense(normal(s, np.float32) / s[0] ** 0.5, normal(s[1], np.float32), "tanh") for s in layers]
    )
    forward = nd.cuda.forward_of(32, ["tanh"])
    decay, gain = np.float32(0.9), np.float32(0.1)

    @cuda.jit
    def roll_out(program, begin, end, steps):
        i = cuda.grid(1)
        if i < begin.shape[0]:
            state, force = cuda.local.array(8, float32), cuda.local.array(2, float32)
            for p in range(8):
                state[p] = begin[i, p]
            for _ in range(steps):
                forward(program, state, force)
                for p in range(8):
                    state[p] = decay * state[p] + gain * force[p % 2]
            for p in range(8):
                end[i, p] = state[p]

    program, begin, end = nd.cuda.program(net, activations=["tanh"]), bench.normal(rows, 8), bench.poisoned(rows, 8)
    threads = 4 if bench.dry else 128
    launch = roll_out[-(-rows // threads), threads]
    launch(program, begin, end, steps)
    few = np.unique(np.r_[0, rows - 1, bench.rng.integers(0, rows, 30)])
    expected, in_float64 = begin.copy_to_host()[few].astype(np.float64), net.astype("float64")
    for _ in range(steps):
        expected = 0.9 * expected + 0.1 * np.tile(in_float64(expected), 4)
    error = checked(end, expected, few, features=100 * 1024)  # each step begins with the error of the last
    engines = {"ours": lambda: launch(program, begin, end, steps)}
    if "torch" in bench.peers:
        engines |= bench.peer(graph_of_steps, net, begin, steps)
    flops = 2 * rows * steps * sum(k * n for k, n in layers)
    bars = {"stepping": ("torch, a graph", 1)}
    bench.record("stepping", f"8-32-32-2, {rows} threads, {steps} steps", engines, error, bars, flops=flops)


def graph_of_steps(bench, net, begin, steps, in_graph=100):
    """Return what replays a CUDA graph of some of the peer's steps until all are done."""
    torch = bench.peers["torch"]
    weights = [(torch.tensor(layer.w, device="cuda"), torch.tensor(layer.b, device="cuda")) for layer in net.layers]
    state = torch.as_tensor(begin, device="cuda").clone()

    def step():
        a = state
        for w, b in weights:
            a = torch.tanh(torch.addmm(b, a, w))
        state.mul_(0.9).add_(a.repeat(1, 4), alpha=0.1)

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(in_graph):
            step()

    def replay():
        for _ in range(steps // in_graph):
            graph.replay()

    return {"torch, a graph": replay}


def warp_kernel(forward, rows):
    """Return the kernel whose warps take `rows` rows at once through a network."""

    @cuda.jit
    def kernel(program, x, out):
        i = cuda.grid(1) // 32 * rows
        if i < x.shape[0]:
            forward(program, x[i : i + rows], out[i : i + rows])

    return kernel


def warp(bench):
    """A wide network inside a kernel, some rows a warp, against the same network layer by layer."""
    for rows in (2,) if bench.dry else (2, 4):
        bench.attempt(by_warps, rows)


def by_warps(bench, rows):
    """So many rows a warp."""
    widths, m = ((5, 9, 3), 3) if bench.dry else ((64, 256, 256, 8), 2**16)
    layers = [
        nd.Dense(bench.rng.standard_normal((k, n), np.float32) / np.float32(k) ** 0.5, None, name)
        for (k, n), name in zip(itertools.pairwise(widths), ("relu", "relu", None), strict=False)
    ]
    net, threads = nd.Sequential(layers), 32 if bench.dry else 128
    on_device, program = net.to("cuda"), nd.cuda.program(net, activations=["relu"], warp=True)
    x, out = bench.normal(m, widths[0]), bench.poisoned(m, widths[-1])
    forward = nd.cuda.forward_warp_of(256, ["relu"], rows=rows)
    kernel, blocks = warp_kernel(forward, rows), -(-m // (rows * threads // 32))

    def ours():
        kernel[blocks, threads](program, x, out)

    ours()
    error = checked(out, net.astype("float64")(x.copy_to_host().astype(np.float64)))
    flops = 2 * m * sum(k * n for k, n in itertools.pairwise(widths))
    engines = {"ours": ours, "the network": lambda: on_device(x, out)}
    case = f"{'-'.join(map(str, widths))}, {rows} of {m} rows a warp"
    bench.record("warp", case, engines, error, flops=flops, format="float32")
