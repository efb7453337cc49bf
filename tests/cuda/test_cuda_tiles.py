"""The table of tiles, and which of them a shape gets."""

import pytest

from numbadense._engine.cuda.tiles import TABLE, choose, cost, explain, target

SHARED_MEMORY = 48 * 1024  # of a block, on any device, without asking for more
H200 = 132
ROWS = [(row, itemsize, tile) for row in TABLE for itemsize in (4, 8) for tile in TABLE[row].dense[itemsize]]


def test_the_table_has_a_row_for_every_device():
    assert target(None) is TABLE["simulator"]
    for capability in ((5, 0), (7, 5), (8, 0), (8, 9), (9, 0), (12, 1)):
        assert {4, 8} <= target(capability).dense.keys()
        assert target(capability).pipelined is (capability >= (8, 0))


@pytest.mark.parametrize(("row", "itemsize", "tile"), ROWS, ids=str)
def test_every_tile_fits_a_block_and_its_chunks(row, itemsize, tile):
    chunk = 16 // itemsize
    assert tile.size <= 1024
    assert tile.shared * itemsize <= SHARED_MEMORY
    assert tile.outputs[1] % chunk == 0 and tile.depth % (2 * chunk) == 0 and tile.stages >= 2
    for step in (1, chunk):  # every thread copies as often as any other, and stays in its column
        assert tile.size % (tile.depth // step) == tile.size % (tile.columns // step) == 0
        assert tile.rows * tile.depth % (tile.size * step) == tile.depth * tile.columns % (tile.size * step) == 0
    assert tile.threads[0] % tile.warp[0] == 0 and tile.threads[1] % tile.warp[1] == 0
    assert tile.size * tile.outputs[1] <= tile.shared, "the outputs of a row of each thread pass through shared memory"
    if row != "simulator":
        assert tile.warp[0] * tile.warp[1] == 32


@pytest.mark.parametrize("itemsize", [4, 8])
@pytest.mark.parametrize(
    ("m", "n", "place"), [(4096, 4096, 0), (65536, 256, 0), (8192, 1024, 0), (1, 1024, -1), (8, 1024, -1), (1, 1, -1)]
)
def test_large_outputs_get_the_largest_tile_and_single_rows_the_thinnest(itemsize, m, n, place):
    tiles = target((9, 0)).dense[itemsize]
    assert choose(tiles, m, n, H200) is tiles[place]


@pytest.mark.parametrize("itemsize", [4, 8])
def test_the_choice_has_the_least_cost_and_is_explained(itemsize):
    tiles = target((9, 0)).dense[itemsize]
    for m in (1, 7, 64, 500, 3000):
        for n in (1, 32, 100, 1000):
            tile = choose(tiles, m, n, H200)
            assert all(cost(tile, m, n, H200) <= cost(other, m, n, H200) for other in tiles)
            text = explain(tile, m, n, H200)
            assert f"{tile.blocks(m, n)} tiles of {tile.rows} x {tile.columns} outputs" in text
            assert "on 132 multiprocessors" in text


def test_an_explanation_counts_what_is_beyond_the_edges():
    tile = target(None).dense[4][0]
    assert (tile.rows, tile.columns) == (12, 8)
    assert explain(tile, 13, 8, 2) == (
        "2 tiles of 12 x 8 outputs, 3 x 8 features on their way, on 2 multiprocessors: 1 for the busiest; "
        "46% beyond the edges, 50% of the inner loop multiplies and adds"
    )
