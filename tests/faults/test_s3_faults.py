"""S3 that fails: a sample of the sweep (`python -m tests.faults.sweep` is the whole), and what check says of servers
that lack something.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tasks.core.schema.check import check
from tasks.core.settings import Settings
from tests.faults.bed import OPERATIONS, Bed, bed
from tests.faults.sweep import cases, one_of_each, sweep, table


@pytest.fixture
def on_bed(settings: Settings) -> Iterator[Bed]:
    with bed(settings) as found:
        yield found


@pytest.mark.slow
def test_each_call_of_each_operation_may_fail(on_bed: Bed) -> None:
    tallies = sweep(on_bed, one_of_each(cases(on_bed, OPERATIONS)))
    print(table(tallies))
    assert [line for tally in tallies.values() for line in tally.wrong] == []
    assert set(tallies) == set(OPERATIONS)
    assert all(tally.survived and tally.tried == len(tally.positions) for tally in tallies.values())
    assert any(tally.loud for tally in tallies.values())


def test_what_a_server_lacks_is_said_by_check(on_bed: Bed) -> None:
    """A server that ignores conditions and checksums is one that never hears of them."""

    def store_check() -> str:
        return next(f"{each.status}: {each.detail}" for each in check(on_bed.through).checks if each.name == "store")

    on_bed.proxy.reset(lambda call: None)
    assert store_check().endswith("can be written and read")
    on_bed.proxy.without = ("if-none-match",)
    assert "it lacks: the store ignores conditional writes" in store_check()
    on_bed.proxy.without = ("x-amz-checksum-sha256", "x-amz-sdk-checksum-algorithm")
    assert "it lacks: the store keeps no SHA-256" in store_check()
