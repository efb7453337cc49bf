"""The short way from Python to a kernel, for plain arrays in a tight loop: one call, no conversions.

``network(code, x, out)``, ``activation(code, x, out)``, ``jvp(code, x, v, y, dy)`` and ``jacobian(code, x, y, jac)``
take any objects.  They return 1 when they have done the work, and 0, with nothing touched, when anything is out of the
ordinary: then the long way of `numbadense._engine.run` or `derivatives` checks, converts and plans.
"""

from numbadense._engine.cpu import differential, operand
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
from numbadense._engine.cpu.primitives import (
    address,
    call_kernel,
    call_pass,
    part,
    swap,
    transposed,
    word,
)

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


def plain_rows(array, code, columns, flags):
    """Return how many rows of `columns` elements an array of a differential's dtype has, 1-D or 2-D, or -1."""
    if word(array, ARRAY_KIND) != word(code, differential.ARRAY_TYPE):
        return -1
    ndim = word(array, NDIM) & LOW_HALF
    if word(array, ARRAY_DTYPE) != word(code, differential.DTYPE) or word(array, FLAGS) & flags != flags:
        return -1
    if ndim < 1 or ndim > 2 or word(word(array, SHAPE), ndim - 1) != columns:
        return -1
    return word(word(array, SHAPE), 0) if ndim == 2 else 1


def apart(a, a_bytes, b, b_bytes):
    """Say whether two pieces of memory do not overlap."""
    return a >= b + b_bytes or b >= a + a_bytes


def make_jvp(jit, borrow, itemsize):
    """Return ``jvp(code, x, v, y, dy)``: the rows of x, 2-D or a single row, and one tangent of each."""
    rows_of_plain, far = jit(plain_rows), jit(apart)
    inside = jit(differential.make_inside(jit))

    def jvp(code, x_object, v_object, y_object, dy_object):
        x, v, y, dy = address(x_object), address(v_object), address(y_object), address(dy_object)
        n_in, n_out = word(code, differential.FEATURES), word(code, differential.OUTPUTS)
        m = rows_of_plain(x, code, n_in, PLAIN_X)
        if m < 0 or rows_of_plain(y, code, n_out, PLAIN_OUT) != m or rows_of_plain(dy, code, n_out, PLAIN_OUT) != m:
            return 0
        if rows_of_plain(v, code, n_in, PLAIN_X) != m or 2 * m > word(code, differential.MOST_ROWS) or n_out == 0:
            return 0
        ndim = word(x, NDIM) & LOW_HALF
        if word(v, NDIM) & LOW_HALF != ndim or word(y, NDIM) & LOW_HALF != ndim or word(dy, NDIM) & LOW_HALF != ndim:
            return 0
        x, v, y, dy = word(x, DATA), word(v, DATA), word(y, DATA), word(dy, DATA)
        given, found = m * n_in * itemsize, m * n_out * itemsize
        if not (far(y, found, x, given) and far(y, found, v, given) and far(y, found, dy, found)):
            return 0
        if not (far(dy, found, x, given) and far(dy, found, v, given)):
            return 0
        scratch = swap(code, differential.SCRATCH, 0)
        if scratch == 0:  # another thread has it
            return 0
        xv, vv, yv, dyv = borrow(x, m, n_in), borrow(v, m, n_in), borrow(y, m, n_out), borrow(dy, m, n_out)
        size = word(code, differential.ROOM)
        inside(code, xv, m, vv, 1, yv, dyv, n_out, borrow(scratch, size, 1), size, 0)
        swap(code, differential.SCRATCH, scratch)
        return 1

    return jvp


def make_jacobian(jit, borrow, itemsize):
    """Return ``jacobian(code, x, y, jac)``: of the rows of x, 2-D or a single row, and y besides."""
    rows_of_plain, far = jit(plain_rows), jit(apart)
    inside = jit(differential.make_inside(jit))

    def jacobian(code, x_object, y_object, jac_object):
        x, y, jac = address(x_object), address(y_object), address(jac_object)
        n_in, n_out = word(code, differential.FEATURES), word(code, differential.OUTPUTS)
        m = rows_of_plain(x, code, n_in, PLAIN_X)
        if m < 0 or rows_of_plain(y, code, n_out, PLAIN_OUT) != m or n_out == 0:
            return 0
        if m * (1 + n_in) > word(code, differential.MOST_ROWS):
            return 0
        if word(jac, ARRAY_KIND) != word(code, differential.ARRAY_TYPE):
            return 0
        if word(jac, ARRAY_DTYPE) != word(code, differential.DTYPE) or word(jac, FLAGS) & PLAIN_OUT != PLAIN_OUT:
            return 0
        ndim, shape = word(jac, NDIM) & LOW_HALF, word(jac, SHAPE)
        if ndim != (word(x, NDIM) & LOW_HALF) + 1 or word(y, NDIM) & LOW_HALF != ndim - 1:
            return 0
        if word(shape, ndim - 1) != n_in or word(shape, ndim - 2) != n_out or (ndim == 3 and word(shape, 0) != m):
            return 0
        x, y, jac = word(x, DATA), word(y, DATA), word(jac, DATA)
        given, found, most = m * n_in * itemsize, m * n_out * itemsize, m * n_in * n_out * itemsize
        if not (far(y, found, x, given) and far(y, found, jac, most) and far(jac, most, x, given)):
            return 0
        scratch = swap(code, differential.SCRATCH, 0)
        if scratch == 0:  # another thread has it
            return 0
        xv, yv, goal = borrow(x, m, n_in), borrow(y, m, n_out), borrow(jac, n_out, n_in)
        size, each = word(code, differential.ROOM), n_out
        if not word(code, differential.BACKWARD):
            each, goal = n_in, transposed(goal)
        inside(code, xv, m, xv, each, yv, goal, n_in * n_out, borrow(scratch, size, 1), size, 1)
        swap(code, differential.SCRATCH, scratch)
        return 1

    return jacobian
