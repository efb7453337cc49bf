"""One-dimensional kernels: an activation over an array, and a copy that gathers and casts."""

from numba import cuda

from numbadense._engine.cuda.primitives import CHUNK, address, load16, store16


def make_elementwise(dtype, scalar):
    """Return the kernel ``out[i] = scalar(x[i])``.

    Expects contiguous 1-D arrays of one size and of `dtype`: the same array, or two apart.  Any grid will do.  Arrays
    that begin at the same distance from a multiple of 16 bytes are read and written in chunks of 16, two of which a
    thread has on their way at once; what is before and behind the chunks goes one by one, as do other arrays.
    """
    element, itemsize = dtype.type, dtype.itemsize
    chunk = CHUNK // itemsize

    def elementwise(x, out):
        one, other = cuda.local.array(chunk, element), cuda.local.array(chunk, element)
        me, step = cuda.grid(1), cuda.gridsize(1)
        begin = address(x)
        before, chunks = 0, 0
        if begin % CHUNK == address(out) % CHUNK:
            before = min(-begin % CHUNK // itemsize, x.size)
            chunks = (x.size - before) // chunk
        q = me
        while q + step < chunks:
            at, next_at = before + q * chunk, before + (q + step) * chunk
            load16(one, 0, x, at)
            load16(other, 0, x, next_at)
            for e in range(chunk):
                one[e] = scalar(one[e])
            store16(out, at, one, 0)
            for e in range(chunk):
                other[e] = scalar(other[e])
            store16(out, next_at, other, 0)
            q += 2 * step
        if q < chunks:
            load16(one, 0, x, before + q * chunk)
            for e in range(chunk):
                one[e] = scalar(one[e])
            store16(out, before + q * chunk, one, 0)
        for i in range(me, x.size - chunks * chunk, step):
            at = i if i < before else i + chunks * chunk
            out[at] = scalar(x[at])

    return elementwise


def copy(x, out):
    """out[i, j] = x[i, j], cast to the dtype of out.

    Expects 2-D arrays of one shape, apart, of any strides and real dtypes.  Any grid will do.
    """
    columns = x.shape[1]
    for q in range(cuda.grid(1), x.shape[0] * columns, cuda.gridsize(1)):
        i = q // columns
        j = q - i * columns
        out[i, j] = x[i, j]
