"""Row-wise activations: one thread to a row."""

from numba import cuda


def make_rowwise(function):
    """Return the kernel ``out[i] = x[i]; function(out[i])``: the function changes the row it is given.

    Expects C-contiguous 2-D arrays of one shape and dtype, with a column at least: the same array, or two apart.
    Any grid will do.  A row is not shared among threads.
    """

    def rowwise(x, out):
        for i in range(cuda.grid(1), x.shape[0], cuda.gridsize(1)):
            for j in range(x.shape[1]):
                out[i, j] = x[i, j]
            function(out[i])

    return rowwise
