"""The table of tiles for tensor cores."""

import pytest

from numbadense._engine.cuda.tensor_tiles import COLUMN, PARTS, TABLE, row
from numbadense._engine.cuda.tiles import choose

H200 = 132
SHARED = {"simulator": 48, (8, 0): 164, (8, 6): 100, (9, 0): 228, (12, 0): 100}  # KB, of a multiprocessor
CASES = [(least, precision, tile) for least in TABLE for precision in PARTS for tile in TABLE[least][precision]]


@pytest.mark.parametrize(("least", "precision", "tile"), CASES, ids=str)
def test_every_tile_fits_its_devices_and_every_thread_copies_as_much_as_any_other(least, precision, tile):
    words = 32 if precision not in ("bf16", "fp16") else 16
    assert tile.size <= 1024 and tile.stages >= 2
    for x_words in {32, words}:
        block = 4 * tile.shared(precision, x_words) + 1024
        assert block * tile.resident <= SHARED[least] * 1024
        outputs = 16 * tile.pitch * tile.warps[0] * tile.warps[1] * min(2, tile.fragments[0])
        assert outputs <= tile.shared(precision, x_words), "outputs of each warp pass through shared memory"
    for step in (32, 8, words // 4):  # rows of x by elements, by chunks, in 16 bits
        assert tile.size % step == 0 and tile.rows % (tile.size // step) == 0
    assert tile.columns * COLUMN // 4 % tile.size == 0


def test_each_device_has_the_row_of_the_last_capability_before_its_own():
    for capability, least in (
        ((8, 0), (8, 0)),
        ((8, 9), (8, 6)),
        ((9, 0), (9, 0)),
        ((10, 3), (9, 0)),
        ((12, 1), (12, 0)),
    ):
        assert row(capability) is TABLE[least]
    assert row(None) is TABLE["simulator"]


@pytest.mark.parametrize("precision", PARTS)
def test_large_outputs_get_the_largest_tile_and_single_rows_the_thinnest(precision):
    tiles = row((8, 0))[precision]
    for m, n, place in ((8192, 8192, 0), (65536, 1024, 0), (1, 1024, -1), (16, 1024, -1)):
        assert choose(tiles, m, n, H200) is tiles[place]
