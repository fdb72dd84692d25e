"""kill -9 at calls of each operation, a sample: `python -m tests.faults.kills` tries every call, before and after."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tasks.core.settings import Settings
from tests.faults.bed import OPERATIONS, Bed, bed
from tests.faults.kills import kill_at, killings


@pytest.fixture
def on_bed(settings: Settings) -> Iterator[Bed]:
    with bed(settings) as found:
        yield found


@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_killed_run_leaves_nothing_that_passes_for_good(on_bed: Bed, name: str) -> None:
    every = list(killings(on_bed, [name]))
    for case in every[:: max(1, len(every) // 3)]:
        kill_at(on_bed, case)
