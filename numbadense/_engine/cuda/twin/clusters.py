"""Clusters of simulated blocks, which run at once, where numba's simulator runs one block after another.

A cluster may have one block: then it is numba's way of running blocks without the thread that polls their threads.
"""

import functools
import sys
import threading

import numpy as np

from numbadense._engine.cuda.twin.memory import _block

CLUSTER = "numbadense_cluster"  # what a simulated block has


class Cluster:
    """The blocks of a cluster, and how often all of their threads have met.

    They may use the shared memory of each other from when they have met on, until its block ends.
    """

    def __init__(self, blocks):
        self.blocks, self.lock, self.meetings, self.met = blocks, threading.RLock(), {}, 0
        self.ended, self.failures, self.checks = set(), [], []
        for block in blocks:
            vars(block)[CLUSTER] = self

    def rank(self):
        """Return the number of this thread's block."""
        return self.blocks.index(_block())

    def reach(self, rank):
        """Return a block whose shared memory is used."""
        assert 0 <= rank < len(self.blocks), f"the cluster has no block {rank}"
        assert self.met > 0, f"block {rank} of the cluster may not have begun yet: they have not met"
        assert rank not in self.ended, f"block {rank} of the cluster has ended"
        return self.blocks[rank]

    def run(self, make, function, first, rest, arguments):
        """Run the threads of all blocks; `make` is numba's class of them."""
        size = self.blocks[0]._block_dim
        left = [int(np.prod(size))] * len(self.blocks)

        def one(rank):
            try:
                function(*arguments)
            except BaseException as failure:  # whatever it is, all end with it
                self.failures.append(failure)
                raise
            with self.lock:
                left[rank] -= 1
                if not left[rank]:
                    self.ended.add(rank)

        threads = [
            make(functools.partial(one, rank), block, (first + rank, *rest), point, False)
            for rank, block in enumerate(self.blocks)
            for point in np.ndindex(*size)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self.failures:
            raise self.failures[0]
        for check in self.checks:
            check()


def cluster_of_block(size):
    """Return the cluster of this thread's block, which has so many."""
    found = vars(_block()).get(CLUSTER)
    assert found is not None and len(found.blocks) == size, f"the blocks do not run in clusters of {size}"
    return found


def met():
    """Return how often the threads of this cluster have met."""
    return vars(_block())[CLUSTER].met


def at_end(check):
    """Have something checked when all blocks of the cluster have ended."""
    vars(_block())[CLUSTER].checks.append(check)


def failed():
    """Say whether a thread of this cluster has failed."""
    return bool(vars(_block())[CLUSTER].failures)


class _Blocks:
    """What numba has run at each point of the grid: at the first of a cluster all its blocks, at the others nothing."""

    def __init__(self, module, alone, size, function, grid, *rest):
        assert grid[0] % size == 0, f"{grid[0]} blocks are no whole number of clusters of {size}"
        self._size, self._function, self._thread = size, function, module.BlockThread
        self._blocks = [alone(function, grid, *rest) for _ in range(size)]

    def run(self, point, *arguments):
        """Run them."""
        first, *rest = point
        if first % self._size == 0:
            Cluster(self._blocks).run(self._thread, self._function, first, rest, arguments)


class Together:
    """A kernel of the simulator whose blocks run in clusters."""

    def __init__(self, kernel, size):
        self._kernel, self._size = kernel, size

    def __getitem__(self, configuration):
        return functools.partial(self._run, self._kernel[configuration])

    def _run(self, kernel, *arguments):
        module = sys.modules[type(kernel).__module__]
        alone = module.BlockManager
        module.BlockManager = functools.partial(_Blocks, module, alone, self._size)
        try:
            kernel(*arguments)
        finally:
            module.BlockManager = alone
