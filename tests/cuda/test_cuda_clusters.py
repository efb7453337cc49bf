"""Hopper's dense kernel in clusters of blocks, simulated: edges, and that twins notice what a kernel leaves out."""

import collections
import dataclasses
import threading
import time

import pytest
from test_cuda_hopper import check, impatient, leave_stages_early, simulator, tiles, without

__all__ = ["impatient", "simulator"]  # fixtures
STEPS = 5


def tile_of(apart):
    """Return the tile of a cluster of two."""
    return next(tile for tile in tiles() if tile.cluster == 2 and tile.apart is apart)


@pytest.fixture(params=[True, False], ids=["apart", "together"])
def tile(request):
    """Both tiles, in turn."""
    return tile_of(request.param)


@pytest.mark.parametrize("rows", [0.5, 1.5, 3])
def test_a_block_beyond_the_edge_copies_for_the_other_and_stores_nothing(tile, rows):
    check(tile, "bf16", (int(rows * tile.rows), 130, 2 * tile.columns + 1), blocks=4)


def test_a_cluster_may_have_four_blocks():
    tile = dataclasses.replace(tile_of(False), cluster=4)
    check(tile, "tf32", (6 * tile.rows + 1, 150, tile.columns + 3), blocks=8)


def test_blocks_are_whole_clusters_and_at_most_one_for_each_multiprocessor(tile):
    rows, columns = 2 * tile.rows, tile.columns
    assert tile.blocks(1, 1, 132) == tile.blocks(rows, columns, 132) == 2
    assert tile.blocks(rows + 1, columns, 132) == 4
    assert tile.blocks(100 * rows, columns, 132) == tile.blocks(100 * rows, columns, 133) == 132


def meeting(comes):
    """Let a thread come to the meeting of its cluster where ``comes(thread)`` says so."""

    def fault(primitives):
        make = primitives.make_meet

        def made(cluster):
            meet = make(cluster)
            return lambda: meet() if comes(threading.current_thread()) else None

        return "make_meet", made

    return fault


def end_early(primitives):
    """Do not wait for empty stages after the last step."""
    wait, waits = primitives.barrier_wait, collections.Counter()

    def waiting(address, parity):
        me = threading.current_thread()
        waits[me] += 1
        if me.threadIdx.x or waits[me] <= STEPS:
            wait(address, parity)

    return "barrier_wait", waiting


def telling(whom):
    """Give a stage back to the block ``whom(rank, mine)`` instead, or to none."""

    def fault(primitives):
        make, make_rank = primitives.make_arrive_at, primitives.make_rank

        def made(cluster):
            arrive_at, rank_of_block = make(cluster), make_rank(cluster)

            def give(address, rank):
                to = whom(rank, rank_of_block())
                if to is not None:
                    arrive_at(address, to)

            return give

        return "make_arrive_at", made

    return fault


def counting(change):
    """Make barriers of another number of arrivals."""
    return lambda primitives: (
        "barrier_init",
        lambda address, count, init=primitives.barrier_init: init(address, change(count)),
    )


def expecting(change):
    """Expect another number of bytes."""
    return lambda primitives: (
        "barrier_expect",
        lambda address, count, expect=primitives.barrier_expect: expect(address, change(count)),
    )


FAULTS = {
    "blocks begin before they meet": meeting(lambda thread: False),
    "one thread begins before they meet": meeting(lambda thread: thread.threadIdx.x != 1),
    "blocks end when they have no more to do": end_early,
    "barriers not shown to the other block": lambda _: without("barrier_init_fence"),
    "the other block not told of an empty stage": telling(lambda rank, mine: mine if rank == mine else None),
    "its own block told for the other": telling(lambda rank, mine: mine),
    "the other block told twice": telling(lambda rank, mine: 1 - mine),
    "arrivals of one block counted": counting(lambda count: count // 2 if count > 4 else count),
    "each block copies for itself": lambda primitives: ("make_copy_to_all", lambda cluster: primitives.copy_box),
    "both blocks copy the same share": lambda _: ("make_rank", lambda cluster: lambda: 0),
    "bytes of its own copies expected": expecting(lambda count: count - 1024),
    "stages empty too soon": leave_stages_early,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_twins_notice(fault, monkeypatch, impatient):
    """Also where one block is slow: the other must not overwrite what that one reads."""
    from numbadense._engine.cuda import compile as compiler
    from numbadense._engine.cuda import hopper

    tile = tile_of(True)
    monkeypatch.setattr(hopper.primitives, *FAULTS[fault](hopper.primitives))
    monkeypatch.setattr(hopper.primitives, *slow(hopper.primitives))
    compiler.hopper_dense.cache_clear()
    try:
        with pytest.raises((AssertionError, RuntimeError)):
            check(tile, "bf16", (tile.rows + 3, 64 * STEPS - 60, 12), blocks=2)
    finally:
        compiler.hopper_dense.cache_clear()


def slow(primitives):
    """Let one block of each cluster multiply slowly."""
    make, make_rank = primitives.make_multiply_wait, primitives.make_rank

    def made(pending, lanes):
        wait_for_others, rank_of_block = make(pending, lanes), make_rank(2)

        def wait():
            if rank_of_block() and primitives.number_of_thread() % (4 * lanes) == 0:
                time.sleep(0.01)
            wait_for_others()

        return wait

    return "make_multiply_wait", made


def test_a_slow_block_is_waited_for(tile, monkeypatch):
    from numbadense._engine.cuda import compile as compiler
    from numbadense._engine.cuda import hopper

    monkeypatch.setattr(hopper.primitives, *slow(hopper.primitives))
    compiler.hopper_dense.cache_clear()
    try:
        check(tile, "bf16", (tile.rows + 3, 64 * STEPS - 60, 12), blocks=2)
    finally:
        compiler.hopper_dense.cache_clear()
