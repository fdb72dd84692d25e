"""Compression level, ranges and workers: chosen from what was measured, by rules that need no server."""

from __future__ import annotations

import time

import pytest
import zstandard

from tasks.core.backup import streams
from tasks.core.backup.pace import HIGHEST, Pace, next_level


@pytest.mark.parametrize(
    ("level", "lowest", "packing", "storing", "expected"),
    [
        (1, 1, 1.0, 5.0, 2),  # the compressor waits for the store
        (HIGHEST, 1, 1.0, 5.0, HIGHEST),
        (3, 1, 5.0, 1.0, 2),  # the store waits for the compressor
        (1, 1, 5.0, 1.0, 1),
        (2, 1, 1.0, 1.5, 2),  # near to balance: as it is
        (1, 1, 0.01, 0.2, 1),  # too little to judge by
        (9, 9, 1.0, 50.0, 9),  # whoever asks for more gets it
        (9, 9, 50.0, 1.0, 9),
    ],
)
def test_the_level_follows_the_slower_side(
    level: int, lowest: int, packing: float, storing: float, expected: int
) -> None:
    assert next_level(level, lowest, packing, storing) == expected


def test_a_slow_store_is_measured_and_the_next_object_packed_harder() -> None:
    pace, content = Pace(1), [bytes([n]) * (1 << 20) for n in range(12)]
    packed = bytearray()
    for piece in pace.compressed(content):
        packed += piece
        time.sleep(0.1)
    assert zstandard.ZstdDecompressor().decompressobj().decompress(bytes(packed)) == b"".join(content)
    assert pace.level == 2


@pytest.mark.parametrize("cores", [2, 3, 8])
@pytest.mark.parametrize("size", [1, 100 << 20, 900 << 20, 40 << 30, 4 << 40])
def test_ranges_are_a_multiple_of_the_workers_and_cover_the_table(
    size: int, cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "workers", lambda: cores)
    cuts = streams._cuts(size, 1_000_000)
    assert cuts[0] == 0
    assert cuts == sorted(set(cuts))
    assert len(cuts) <= 256
    assert len(cuts) % cores == 0
    assert size // len(cuts) < 2 * (256 << 20) * cores or len(cuts) > 256 - cores


def test_a_table_of_few_blocks_has_no_empty_range() -> None:
    assert streams._cuts(1 << 40, 3) == [0, 1, 2]
    assert streams._cuts(100, 0) == [0]
