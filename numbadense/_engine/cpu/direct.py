"""The short way from Python to a kernel, for plain arrays in a tight loop: one call, no conversions.

``network(code, x, out)`` and ``activation(code, x, out)`` take any two objects.  They return 1 when they have done the
work, and 0, with nothing touched, when anything is out of the ordinary: then the long way of `numbadense._engine.run`
checks, converts and plans.
"""

from numbadense._engine.cpu import operand
from numbadense._engine.cpu.forward import (
    ARRAY_TYPE,
    BLOCK,
    DTYPE,
    FEATURES,
    KERNEL,
    MOST_ROWS,
    OUTPUTS,
    ROW_KERNEL,
    SCRATCH,
    WIDTH,
)
from numbadense._engine.cpu.primitives import address, call_kernel, call_pass, part, swap, word

PLAIN_X = operand.C_CONTIGUOUS | operand.ALIGNED
PLAIN_OUT = PLAIN_X | operand.WRITEABLE
ARRAY_KIND, DATA, NDIM, SHAPE, FLAGS = operand.KIND, operand.DATA, operand.NDIM, operand.SHAPE, operand.FLAGS
ARRAY_DTYPE, LOW_HALF = operand.DTYPE, operand.LOW_HALF
# The words of an activation's code.
OF_FLOAT32, PASS32, OF_FLOAT64, PASS64, ROWWISE, MOST_ELEMENTS, KIND = range(7)
ACTIVATION_WORDS = 7


def plain(x, out, kind):
    """Say whether both are C-contiguous, aligned arrays of one dtype and as many axes, and out can be written."""
    if word(x, ARRAY_KIND) != kind or word(out, ARRAY_KIND) != kind:
        return False
    if word(x, ARRAY_DTYPE) != word(out, ARRAY_DTYPE) or (word(x, NDIM) ^ word(out, NDIM)) & LOW_HALF != 0:
        return False
    return word(x, FLAGS) & PLAIN_X == PLAIN_X and word(out, FLAGS) & PLAIN_OUT == PLAIN_OUT


def make_network(jit, borrow, itemsize):
    """Return ``network(code, x, out)``: a network of one dtype over the rows of x, 2-D or a single row."""
    both_plain = jit(plain)

    def network(code, x_object, out_object):
        x, out = address(x_object), address(out_object)
        if not both_plain(x, out, word(code, ARRAY_TYPE)) or word(x, ARRAY_DTYPE) != word(code, DTYPE):
            return 0
        ndim, shape, out_shape = word(x, NDIM) & LOW_HALF, word(x, SHAPE), word(out, SHAPE)
        if ndim != 1 and ndim != 2:
            return 0
        m, out_rows = 1, 1
        if ndim == 2:
            m, out_rows = word(shape, 0), word(out_shape, 0)
        n_in, n_out = word(code, FEATURES), word(code, OUTPUTS)
        if m != out_rows or word(shape, ndim - 1) != n_in or word(out_shape, ndim - 1) != n_out:
            return 0
        if m > word(code, MOST_ROWS):
            return 0
        source, target = word(x, DATA), word(out, DATA)
        if source < target + m * n_out * itemsize and target < source + m * n_in * itemsize:
            return 0
        width, block = word(code, WIDTH), word(code, BLOCK)
        scratch = source
        if width > 0:
            scratch = swap(code, SCRATCH, 0)
            if scratch == 0:  # another thread has it
                return 0
        xv, yv, own = borrow(source, m, n_in), borrow(target, m, n_out), borrow(scratch, 2 * block * width, 1)
        for i in range(0, m, block):
            rows = min(block, m - i)
            kernel = word(code, ROW_KERNEL if rows == 1 else KERNEL)
            call_kernel(kernel, code, 0, part(xv, i, 0), rows, part(yv, i, 0), own, block * width)
        if width > 0:
            swap(code, SCRATCH, scratch)
        return 1

    return network


def make_activation(jit, borrow32, borrow64):
    """Return ``activation(code, x, out)``: an activation over arrays of float32 or float64, of one shape."""
    both_plain = jit(plain)

    def activation(code, x_object, out_object):
        x, out = address(x_object), address(out_object)
        if not both_plain(x, out, word(code, KIND)):
            return 0
        ndim, shape, out_shape = word(x, NDIM) & LOW_HALF, word(x, SHAPE), word(out, SHAPE)
        if ndim == 0:
            return 0
        size = 1
        for axis in range(ndim):
            if word(shape, axis) != word(out_shape, axis):
                return 0
            size *= word(shape, axis)
        dtype, itemsize, run = word(x, ARRAY_DTYPE), 4, word(code, PASS32)
        if dtype == word(code, OF_FLOAT64):
            itemsize, run = 8, word(code, PASS64)
        elif dtype != word(code, OF_FLOAT32):
            return 0
        if run == 0 or size == 0 or size > word(code, MOST_ELEMENTS):  # 0: the pass is not compiled yet
            return 0
        source, target = word(x, DATA), word(out, DATA)
        if source != target and source < target + size * itemsize and target < source + size * itemsize:
            return 0
        rows, columns = 1, size
        if word(code, ROWWISE) != 0:
            columns = word(shape, ndim - 1)
            rows = size // columns
        if itemsize == 4:
            call_pass(run, borrow32(source, rows, columns), borrow32(target, rows, columns), rows, columns)
        else:
            call_pass(run, borrow64(source, rows, columns), borrow64(target, rows, columns), rows, columns)
        return 1

    return activation
