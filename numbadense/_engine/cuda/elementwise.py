"""One-dimensional kernels: an activation over an array, and a copy that gathers and casts."""

from numba import cuda


def make_elementwise(scalar):
    """Return the kernel ``out[i] = scalar(x[i])``.

    Expects contiguous 1-D arrays of one size and dtype: the same array, or two apart.  Any grid will do.
    """

    def elementwise(x, out):
        for i in range(cuda.grid(1), x.size, cuda.gridsize(1)):
            out[i] = scalar(x[i])

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
