"""The dense kernel on ordinary CUDA cores: tiles in shared memory, outputs in registers, activation in the epilogue."""

from numba import cuda


def make_dense(tile, dtype, scalar):
    """Return the kernel ``out = scalar(b + x @ w)``.

    Expects C-contiguous x (m, k), w (k, n) and out (m, n), and b (n,), all of `dtype`, out apart from the others; one
    block per tile of the output, in one dimension, with ``tile.threads`` threads.  Any m, n and k: what a tile has
    beyond the edges of x and w is zero, and beyond those of out it is not stored.

    ::

                        columns of the block                 thread (ty, tx) has the outputs
                       +--------------------+                rows     ty, ty + threads[0], ...
              depth    | w_tile[p, j]       |                columns  tx, tx + threads[1], ...
                       +--------------------+
              depth                                          so that the threads of a warp store,
            +-------+  +--------------------+                and read w_tile, side by side
            | x_tile|  | total[i, j]        | rows
            |  [p,i]|  | in registers       | of the
            +-------+  +--------------------+ block

    Bias first, then the products in the order of the features, one fused multiply-add at a time: the order of the CPU.
    """
    element = dtype.type
    down, across = tile.threads
    high, wide = tile.outputs
    rows, columns, depth = tile.rows, tile.columns, tile.depth
    threads = down * across
    x_shape = (depth, rows + 1)  # transposed; the odd pitch spreads a column over the banks of shared memory
    w_shape = (depth, columns)

    def dense(x, w, b, out):
        x_tile = cuda.shared.array(x_shape, element)
        w_tile = cuda.shared.array(w_shape, element)
        total = cuda.local.array((high, wide), element)
        zero = element(0)
        m, k = x.shape
        n = w.shape[1]
        tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
        me = ty * across + tx
        blocks_across = (n + columns - 1) // columns
        block = cuda.blockIdx.x // blocks_across
        top = block * rows
        left = (cuda.blockIdx.x - block * blocks_across) * columns

        for j in range(wide):
            column = left + tx + j * across
            start = b[column] if column < n else zero
            for i in range(high):
                total[i, j] = start

        for first in range(0, k, depth):
            for q in range(me, rows * depth, threads):
                i = q // depth
                p = q - i * depth
                x_tile[p, i] = x[top + i, first + p] if top + i < m and first + p < k else zero
            for q in range(me, depth * columns, threads):
                p = q // columns
                j = q - p * columns
                w_tile[p, j] = w[first + p, left + j] if first + p < k and left + j < n else zero
            cuda.syncthreads()
            for p in range(depth):
                for i in range(high):
                    value = x_tile[p, ty + i * down]
                    for j in range(wide):
                        total[i, j] += value * w_tile[p, tx + j * across]
            cuda.syncthreads()

        for i in range(high):
            row = top + ty + i * down
            for j in range(wide):
                column = left + tx + j * across
                if row < m and column < n:
                    out[row, column] = scalar(total[i, j])

    return dense
