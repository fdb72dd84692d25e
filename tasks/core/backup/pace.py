"""How hard to compress: from what the last objects took to pack and to store. Each object is one frame of one level."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator

HIGHEST = 3  # beyond it vectors get no smaller, and text hardly: they cost several times the time
_SLOWER = 2.0  # the store against the compressor, before a level is worth its time; the next takes up to twice as long
_LEAST_SECONDS = 0.5  # of both: less says nothing


def next_level(level: int, lowest: int, packing: float, storing: float) -> int:
    """The level after an object that took these seconds to compress and to store: one up where the compressor has
    mostly waited for the store, one down where the store waited for it. Never below `lowest`, which may be above 3.
    """
    if packing + storing < _LEAST_SECONDS:
        return level
    if storing > _SLOWER * packing:
        return max(lowest, min(level + 1, HIGHEST))
    return max(lowest, level - 1) if packing > storing else level


class Pace:
    """The level of the next object. Threads may share one."""

    def __init__(self, lowest: int) -> None:
        self.level = self._lowest = lowest
        self._lock = threading.Lock()

    def compressed(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """`chunks` as one zstd frame; whoever takes it is the store, and is measured."""
        import zstandard  # not needed, hence not loaded, by verbs that only read

        # The checksum lets zstd alone find damage, also in a restore by hand.
        compressor = zstandard.ZstdCompressor(level=self.level, write_checksum=True).compressobj()
        packing = storing = 0.0
        for chunk in chunks:
            began = time.monotonic()
            packed = compressor.compress(chunk)
            between = time.monotonic()
            packing += between - began
            if packed:
                yield packed
                storing += time.monotonic() - between
        self._learn(packing, storing)
        yield compressor.flush()

    def _learn(self, packing: float, storing: float) -> None:
        with self._lock:
            self.level = next_level(self.level, self._lowest, packing, storing)
