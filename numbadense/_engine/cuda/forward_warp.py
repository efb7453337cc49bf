"""A whole network in the registers of a warp: a few examples, each spread over the lanes."""

import numpy as np

from numbadense._engine.cuda.primitives import WARP, lane, shuffle, shuffle_xor, sync_warp
from numbadense._engine.cuda.program import FOUR

MOST = 8  # rows that a warp takes at once


def make_forward(width, rows, module, load, fma, elementwise, rowwise, read, write, lanes=WARP):
    """Return the device function ``forward(program, x, out)``: rows of x through all layers of a network.

    Expects to be called by all lanes of a warp, with the same arguments; `program`, made for a warp, on a boundary of
    16 bytes; `width`, a multiple of what the lanes sum together, four outputs each.  What does not fit comes out as
    NaN; nothing else is checked.

    ::

        lane          0       |   1       | ... |  31           numbers j of a row that a lane has, in registers
        group 0    0  1  2  3 |  4  5 ..  |     | .. 127
        group 1  128 129 ..   |           |     |               as many groups as `width` takes

        for the features p in order, four to a lane: every lane is told number p of each row by the lane that has it,
        reads its four of row p of the weights, 16 bytes, for each group, and adds four products a row and group

    A weight that is read once serves all rows.  Groups beyond the layer's are skipped by a branch that the warp takes
    together; lanes beyond it within a group read its last weights, and their sums are dropped.

    Registers have no dynamic index: the features of one group after the other move to the front of `held`, and four
    sums after the other to the front of `sums`, so that products and activations are there once.
    """
    group = FOUR * lanes
    groups = width // group
    part = rows * FOUR  # numbers of a group that a lane has
    size = groups * part

    def forward(program, x, out):
        held = module.local.array(size, program.dtype)
        sums = module.local.array(size, program.dtype)
        four = module.local.array(part, program.dtype)
        w = module.local.array(FOUR, program.dtype)
        place = module.local.array(groups, np.int32)
        mine = np.int32(lane()) * np.int32(FOUR)
        header = load(program, 0)
        T = type(header[0])
        zero = T(0)
        fits = header[2] <= T(width) and header[3] == T(1)
        layers, n_in = np.int32(header[0]) if fits else np.int32(0), np.int32(header[1]) if fits else np.int32(0)
        absent = zero if fits else T(np.nan)
        sync_warp()  # what other lanes have stored to x is seen
        for g in range(groups):
            for r in range(rows):
                for q in range(FOUR):
                    j = g * group + mine + q
                    held[g * part + r * FOUR + q] = read(x, r, j, absent) if j < n_in else absent
        sync_warp()  # x has been read, and may be out
        at = np.int64(FOUR)
        for _ in range(layers):
            facts = load(program, at)
            at += FOUR
            k, n = np.int32(facts[0]), np.int32(facts[1])
            wide = (n + np.int32(FOUR - 1)) // np.int32(FOUR) * np.int32(FOUR)
            for g in range(groups):
                place[g] = min(np.int32(g * group) + mine, wide - np.int32(FOUR))
                if g * group < n:
                    w[0], w[1], w[2], w[3] = load(program, at + place[g])
                    for e in range(part):
                        sums[g * part + e] = w[e % FOUR]
            at += wide
            left = k
            while left > 0:
                for source in range((min(left, np.int32(group)) + np.int32(FOUR - 1)) // np.int32(FOUR)):
                    for e in range(part):
                        four[e] = shuffle(held[e], source)
                    for g in range(groups):
                        if g * group < n:
                            for q in range(FOUR):
                                w[0], w[1], w[2], w[3] = load(program, at + q * wide + place[g])
                                for e in range(part):
                                    sums[g * part + e] = fma(
                                        four[e // FOUR * FOUR + q], w[e % FOUR], sums[g * part + e]
                                    )
                    at += FOUR * wide
                left -= group
                for e in range(size - part):
                    held[e] = held[e + part]
            for piece in range(groups * rows):
                first = piece // rows * group
                for q in range(FOUR):
                    w[q] = sums[q]
                if first < n:
                    elementwise(np.int32(facts[2]), w)
                for e in range(size - FOUR):
                    sums[e] = sums[e + FOUR]
                for q in range(FOUR):
                    sums[size - FOUR + q] = w[q] if first + mine + q < n else zero
            if facts[3] != zero:
                rowwise(np.int32(facts[3]), sums, mine, n)
            for e in range(size):
                held[e] = sums[e]
        for g in range(groups):
            for r in range(rows):
                for q in range(FOUR):
                    write(out, r, g * group + mine + q, held[g * part + r * FOUR + q])
        sync_warp()  # out is seen by all lanes, and x may be stored to

    return forward


def make_access(rows):
    """Return ``read(x, r, j, absent)`` and ``write(out, r, j, value)``, which know no row or column beyond the array.

    The arrays are 1-D for one row.
    """

    def read_one(x, r, j, absent):
        return x[j] if j < x.shape[0] else absent

    def write_one(out, r, j, value):
        if j < out.shape[0]:
            out[j] = value

    def read(x, r, j, absent):
        return x[r, j] if r < x.shape[0] and j < x.shape[1] else absent

    def write(out, r, j, value):
        if r < out.shape[0] and j < out.shape[1]:
            out[r, j] = value

    return (read_one, write_one) if rows == 1 else (read, write)


def make_rowwise(width, rows, module, softmax, log_softmax, exp, log1p, lanes=WARP):
    """Return ``rowwise(code, sums, mine, n)``: softmax or log_softmax, by their codes, of rows spread over the lanes.

    Another code makes all NaN.  `mine` is the lane's first number in each group; those from `n` on are 0 and stay so.
    As in the activations themselves, except for the order of the sums: each lane's own, then those of pairs of lanes.
    """
    group, part = FOUR * lanes, rows * FOUR
    groups = width // group
    count = groups * FOUR  # numbers of a row that a lane has
    steps = tuple(1 << step for step in range(lanes.bit_length() - 1))

    def rowwise(code, sums, mine, n):
        T = type(sums[0])
        row = module.local.array(count, sums.dtype)
        logarithm = code == log_softmax
        known = logarithm or code == softmax
        for _ in range(rows):  # the first of them; then the others move up
            largest, winner = T(-np.inf), T(width)  # a place, as a number that can be shuffled
            for e in range(count):
                row[e] = sums[e // FOUR * part + e % FOUR]
                j = e // FOUR * group + e % FOUR + mine
                ahead = j < n and row[e] > largest
                largest, winner = row[e] if ahead else largest, T(j) if ahead else winner
            for step in steps:
                other, its = shuffle_xor(largest, step), shuffle_xor(winner, step)
                ahead = other > largest or (other == largest and its < winner)
                largest, winner = other if ahead else largest, its if ahead else winner
            total = T(0)
            for e in range(count):
                j = e // FOUR * group + e % FOUR + mine
                centred = row[0] - largest
                power = exp(centred)
                for q in range(count - 1):
                    row[q] = row[q + 1]
                row[count - 1] = centred if logarithm else power
                if j < n:
                    total += centred if logarithm and T(j) == winner else power
            for step in steps:
                total += shuffle_xor(total, step)
            log_total = log1p(total) if logarithm else total
            for e in range(count):
                inside = e // FOUR * group + e % FOUR + mine < n
                value = row[0] - log_total if logarithm else row[0] / total
                for q in range(count - 1):
                    row[q] = row[q + 1]
                row[count - 1] = (value if known else T(np.nan)) if inside else T(0)
            for g in range(groups):
                for e in range(part - FOUR):
                    sums[g * part + e] = sums[g * part + e + FOUR]
            for e in range(count):
                sums[e // FOUR * part + part - FOUR + e % FOUR] = row[e]

    def nothing(code, sums, mine, n):
        for e in range(sums.size):
            sums[e] = type(sums[e])(np.nan)

    return nothing if softmax == log_softmax else rowwise
