"""Sections of `gpu.py`: few rows, their sums split into parts, and networks that a warp takes rows through."""

import itertools

import numpy as np
from numba import cuda

import numbadense as nd


def few(bench):
    """Few rows: the sums in order, as everywhere else, and split into parts."""
    import gpu  # the script, which imports this one

    for m, k, n in [(2, 40, 9), (9, 40, 9)] if bench.dry else gpu.FEW:
        x, w, b = (bench.normal(*shape) for shape in ((m, k), (k, n), (n,)))
        w.copy_to_device(w.copy_to_host() / np.sqrt(k).astype("float32"))
        out = bench.poisoned(m, n)

        def ours(split_k, x=x, w=w, b=b, out=out):
            nd.cuda.dense(x, w, b, "sigmoid", out=out, split_k=split_k)

        ours("auto")
        error = gpu.checked(out, *gpu.reference(bench, x, w, b, "sigmoid"), features=k)
        engines = {"ours": lambda ours=ours: ours("auto"), "in order": lambda ours=ours: ours(1)}
        facts = {"flops": 2 * m * k * n, "bytes": 4 * (m * k + k * n + n + m * n)}
        bench.record("few", f"{m}, {k}, {n} float32", engines | gpu.peers_dense(bench, x, w, b), error, **facts)


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
    import gpu  # the script, which imports this one

    widths, m = ((5, 9, 3), 3) if bench.dry else ((64, 256, 256, 8), 2**16)
    layers = [
        nd.Dense(bench.rng.standard_normal((k, n), np.float32) / np.float32(k) ** 0.5, None, "relu")
        for k, n in itertools.pairwise(widths)
    ]
    net, threads = nd.Sequential(layers), 32 if bench.dry else 128
    on_device, program = net.to("cuda"), nd.cuda.program(net, activations=["relu"], warp=True)
    x, out = bench.normal(m, widths[0]), bench.poisoned(m, widths[-1])
    expected = net.astype("float64")(x.copy_to_host().astype(np.float64))
    for rows in (2,) if bench.dry else (2, 4):
        forward = nd.cuda.forward_warp_of(256, ["relu"], rows=rows)

        kernel, blocks = warp_kernel(forward, rows), -(-m // (rows * threads // 32))

        def ours(kernel=kernel, blocks=blocks):
            kernel[blocks, threads](program, x, out)

        out.copy_to_device(bench.poisoned(m, widths[-1]))
        ours()
        error = gpu.checked(out, expected)
        flops = 2 * m * sum(k * n for k, n in itertools.pairwise(widths))
        engines = {"ours": ours, "layer by layer": lambda: on_device(x, out)}
        bench.record("warp", f"{'-'.join(map(str, widths))}, {rows} of {m} rows a warp", engines, error, flops=flops)
