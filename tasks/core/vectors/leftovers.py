"""What interrupted builds left behind: ours are dropped by the next re-index, others' are only told of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sql import query
from tasks.core.errors import DatabaseError
from tasks.core.operations.operation import Operation
from tasks.core.postgres.connections import Connection
from tasks.core.progress import note
from tasks.core.schema import ledger
from tasks.core.settings import Settings
from tasks.core.vectors.build import drop
from tasks.core.vectors.indexes import HnswIndex, hnsw_indexes, is_working_name


@dataclass(frozen=True)
class Leftover:
    """An index that nobody needs. `ours`: the next re-index drops it; else `why` says why it is left alone."""

    name: str
    size_bytes: int
    ours: bool
    why: str


def find_leftovers(conn: Connection, settings: Settings) -> tuple[Leftover, ...]:
    """Reads only."""
    named = _named_in_journal(conn) if ledger.exists(conn) else set()
    return classify(hnsw_indexes(conn, settings), named)


def classify(indexes: list[HnswIndex], named: Iterable[str]) -> tuple[Leftover, ...]:
    """Those of `indexes` that are left over. `named`: the names that the journal says a re-index was to make."""
    known = set(named)
    found = []
    for index in indexes:
        working = is_working_name(index.name) and index.name in known
        if not working and index.valid:
            continue
        if index.being_built:
            why = "it is being built at this moment"
        elif not working:
            why = "it is INVALID, and no re-index of ours made it: DROP INDEX CONCURRENTLY removes it"
        elif index.valid and not _has_other(index, indexes):
            why = "it is the only valid index on its column"
        else:
            found.append(Leftover(index.name, index.size_bytes, True, "a re-index that was interrupted left it"))
            continue
        found.append(Leftover(index.name, index.size_bytes, False, why))
    return tuple(found)


def drop_leftovers(operation: Operation) -> tuple[str, ...]:
    """Drop ours; returns their names. One that cannot be dropped now is said, and stays for the next run."""
    dropped = []
    with operation.session("re-index leftovers") as conn:
        for leftover in find_leftovers(conn, operation.settings):
            if not leftover.ours:
                note(f"index {leftover.name}: {leftover.why}")
                continue
            try:
                drop(operation, conn, operation.settings.database.schema_name, leftover.name)
            except DatabaseError as error:
                note(f"the leftover {leftover.name} is still there, and costs writes: {error.message}")
            else:
                note(f"dropped {leftover.name}, which an interrupted re-index had left")
                dropped.append(leftover.name)
    return tuple(dropped)


def _has_other(index: HnswIndex, indexes: list[HnswIndex]) -> bool:
    """Whether searches of its column have another index."""
    place = (index.table_name, index.column_name, index.operator_class)
    return any(
        other.valid and (other.table_name, other.column_name, other.operator_class) == place
        for other in indexes
        if other.oid != index.oid and not is_working_name(other.name)
    )


def _named_in_journal(conn: Connection) -> set[str]:
    return {str(name) for row in conn.execute(query("our_working_indexes")) for name in row if name}
