"""A whole network in the registers of one thread."""

import numpy as np

from numbadense._engine.cuda.program import FOUR


def make_forward(width, cuda, load, fma, elementwise, rowwise):
    r"""Return the device function ``forward(program, x, out)``: x through all layers of the network in `program`.

    Expects a `program` on a boundary of 16 bytes, of a network no wider than `width`, a multiple of four, and 1-D x and
    out, which may be one array.  All threads of a warp should run networks of one shape.  What does not fit comes out
    as NaN; nothing else is checked.

    ::

        row      0 1 2 3 | 4 5 6 7 | ... | width     the inputs of a layer: registers, which have no dynamic index
                   \ | /
        sums     4 outputs: the bias, then the products in the order of the features, one fused multiply-add at a time
                    |
        new      ... | 8 9 10 11 | 12 13 14 15       outputs move in from the right, four by four, as many times as
                                                     width has fours, so that they end where they belong

    Every loop over registers is of constant length, and unrolled by the compiler; the loops over layers and groups of
    outputs are not, so that neither the products nor the activations are there more than once.  Inputs beyond those of
    the layer are skipped by fours, and are +0 within the last four.
    """
    groups, rest = width // FOUR, width - FOUR

    def forward(program, x, out):
        row = cuda.local.array(width, program.dtype)
        new = cuda.local.array(width, program.dtype)
        sums = cuda.local.array(FOUR, program.dtype)
        header = load(program, 0)
        T = type(header[0])
        zero = T(0)
        fits = header[2] <= T(width) and header[3] == zero
        layers, n_in = np.int32(header[0]) if fits else np.int32(0), np.int32(header[1]) if fits else np.int32(0)
        absent = zero if fits else T(np.nan)
        for p in range(width):
            new[p] = zero
            row[p] = x[p] if p < n_in and p < x.size else absent
        at = np.int64(FOUR)
        for _ in range(layers):
            facts = load(program, at)
            at += FOUR
            k, n, each = np.int32(facts[0]), np.int32(facts[1]), np.int32(facts[2])
            for group in range(groups):
                if FOUR * group < n:
                    bias = load(program, at)
                    at += FOUR
                    for j in range(FOUR):
                        sums[j] = bias[j]
                    for p in range(0, width, FOUR):
                        if p < k:
                            for q in range(FOUR):
                                w = load(program, at + FOUR * q)
                                for j in range(FOUR):
                                    sums[j] = fma(row[p + q], w[j], sums[j])
                            at += FOUR * FOUR
                    elementwise(each, sums)
                for j in range(rest):
                    new[j] = new[j + FOUR]
                for j in range(FOUR):
                    new[rest + j] = sums[j] if FOUR * group + j < n else zero
            if facts[3] != zero:
                for j in range(width):
                    new[j] = new[j] if j < n else T(-np.inf)
                rowwise(np.int32(facts[3]), new)
                for j in range(width):
                    new[j] = new[j] if j < n else zero
            for j in range(width):
                row[j] = new[j]
        for j in range(width):
            if j < out.size:
                out[j] = row[j]

    return forward


def make_each(scalar):
    """Return ``each(values)``: an element-wise activation over registers, in place."""

    def each(values):
        for j in range(values.size):
            values[j] = scalar(values[j])

    return each


def make_choice(device, functions, known=False):
    """Return ``choose(code, values)``: the one of `functions`, (code, function) by ascending codes, over `values`.

    A code that is not among them makes all values NaN, unless it is `known` that there is none: the compiler would have
    the NaN in registers before it looks at the code.  The codes are halved until one is left: a switch in branches that
    all threads of a warp take together.
    """
    (code, function), middle = functions[0], len(functions) // 2
    if middle:
        low, high = (make_choice(device, part, known) for part in (functions[:middle], functions[middle:]))
        edge = functions[middle][0]

        def choose(code, values):
            if code < edge:
                low(code, values)
            else:
                high(code, values)

        return device(choose)

    def only(given, values):
        if known or given == code:
            function(values)
        else:
            for j in range(values.size):
                values[j] = type(values[j])(np.nan)

    return device(only)
