"""Many networks of one shape on the CPU, each with rows of its own, in one call.

The code says where the weights of the first network lie; those of network e lie ``e * stride`` bytes further.  The
rows of all networks form one list, in the order of the networks, that is cut into units of work:

::

    given x of its own, 3 rows each     0 0 0 1 1 1 2 2 2 3 3 3        the network of each row
                                        [ unit ][ unit ][ ...
    told which network is each row's    2 0 1 0 2 0   in the order 1 3 5 2 0 4:   0 0 0 1 2 2

The rows of one network in one unit go through its layers together, and then the next network's do: the weights are
read from the first byte to the last, at the pace at which a CPU prefetches by itself.
"""

from numba import prange

from numbadense._engine.cpu.forward import KERNEL, ROW_KERNEL
from numbadense._engine.cpu.primitives import call_kernel, matrix, part, rows_of, word


def sort(which, ends, order):
    """Sort the positions of `which` by its values, stably, and return the first position out of range, or -1.

    Expects an element of `ends` for each network and one more.  ``ends[e]`` becomes the place in `order` after the last
    row of network e.
    """
    count = ends.size - 1
    ends[:] = 0
    for i in range(which.size):
        if which[i] < 0 or which[i] >= count:
            return i
        ends[which[i] + 1] += 1
    for e in range(count):
        ends[e + 1] += ends[e]
    for i in range(which.size):
        e = which[i]
        order[ends[e]] = i
        ends[e] += 1
    return -1


def each(code, stride, x, y, m, shared, begin, end, scratch, offset, half):
    """Run rows `begin` to `end` of the list, of which every network has `m`.

    If x is `shared`, its m rows are each network's; otherwise it has as many rows as y.
    """
    xv, yv, own = matrix(x), matrix(y), rows_of(scratch, offset, 1)
    e, i = begin // m, begin
    while i < end:
        some = min(end, (e + 1) * m) - i
        source = part(xv, i - e * m if shared else i, 0)
        address = word(code, ROW_KERNEL if some == 1 else KERNEL)
        call_kernel(address, code, e * stride, source, some, part(yv, i, 0), own, half)
        i += some
        e += 1


def routed(code, stride, x, y, which, order, ends, begin, end, scratch, offset, half):
    """Run rows `begin` to `end` of the list that `sort` made.

    Rows of a network that are neighbours in x are read and written in place; others are gathered in scratch, beyond
    the hidden activations, and scattered from there.
    """
    n_in, n_out = x.shape[1], y.shape[1]
    xv, yv, own = matrix(x), matrix(y), rows_of(scratch, offset, 1)
    i = begin
    while i < end:
        first = order[i]
        e = which[first]
        some = min(end, ends[e]) - i
        address = word(code, ROW_KERNEL if some == 1 else KERNEL)
        if order[i + some - 1] - first == some - 1:
            call_kernel(address, code, e * stride, part(xv, first, 0), some, part(yv, first, 0), own, half)
        else:
            gathered = offset + 2 * half
            result = gathered + some * n_in
            for r in range(some):
                for p in range(n_in):
                    scratch[gathered + r * n_in + p] = x[order[i + r], p]
            source, target = rows_of(scratch, gathered, n_in), rows_of(scratch, result, n_out)
            call_kernel(address, code, e * stride, source, some, target, own, half)
            for r in range(some):
                for j in range(n_out):
                    y[order[i + r], j] = scratch[result + r * n_out + j]
        i += some


def make_population(each, routed):
    """Return the body of both twins: each thread takes its share of the units of `unit` rows.

    `m` is 0 where `which`, `order` and `ends` say whose each row is.  A thread has `room` elements of scratch.
    """

    def population(code, stride, x, y, m, shared, which, order, ends, scratch, unit, half, room, threads):
        total = y.shape[0]
        units = (total + unit - 1) // unit
        for t in prange(threads):
            for u in range(t * units // threads, (t + 1) * units // threads):
                begin, end = u * unit, min((u + 1) * unit, total)
                if m > 0:
                    each(code, stride, x, y, m, shared, begin, end, scratch, t * room, half)
                else:
                    routed(code, stride, x, y, which, order, ends, begin, end, scratch, t * room, half)

    return population
