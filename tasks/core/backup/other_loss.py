"""What a restore of the whole database would discard: two databases side by side, row by row, by hashes in order."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing

from psycopg.sql import SQL, Composable, Identifier

from sql import query
from tasks.core.backup.loss import TableLoss
from tasks.core.postgres.connections import Connection

Table = tuple[dict[str, str], list[str]]  # the type of each column, and the key's columns
_BATCH = 2_000


def database_loss(live: Connection, staged: Connection) -> tuple[TableLoss, ...]:
    """One entry for each table of `live` that would lose something: other people's tables too."""
    here, there = _tables(live), _tables(staged)
    found = [_compare(live, staged, name, table, there.get(name)) for name, table in here.items()]
    return tuple(loss for loss in found if loss)


def _tables(conn: Connection) -> dict[tuple[str, str], Table]:
    rows = conn.execute(query("user_tables")).fetchall()
    return {(schema, name): (columns, key or []) for schema, name, columns, key in rows}


def _compare(
    live: Connection, staged: Connection, name: tuple[str, str], table: Table, other: Table | None
) -> TableLoss:
    label = name[1] if name[0] == "public" else ".".join(name)
    if other is None:
        row = live.execute(SQL("SELECT count(*) FROM {}").format(Identifier(*name))).fetchone()
        assert row
        return TableLoss(label, int(row[0]), 0, 0)
    shared = sorted(column for column, kind in table[0].items() if other[0].get(column) == kind)
    gone = sorted(set(table[0]) - set(shared))
    key = [each for each in table[1] if each in shared] or shared
    inserted = deleted = updated = 0
    ours, theirs = _hashes(live, name, key, shared, gone), _hashes(staged, name, key, shared, [])
    with closing(ours), closing(theirs):
        for mine, its in _paired(ours, theirs):
            inserted += its is None
            deleted += mine is None
            updated += mine is not None and its is not None and mine != its
    return TableLoss(label, inserted, deleted, updated)


def _paired(
    ours: Iterator[tuple[str, str]], theirs: Iterator[tuple[str, str]]
) -> Iterator[tuple[str | None, str | None]]:
    """The contents under each key of two streams in order of their keys; None where a stream has not that key."""
    mine, its = next(ours, None), next(theirs, None)
    while mine or its:
        if its is None or (mine is not None and mine[0] < its[0]):
            assert mine
            yield mine[1], None
            mine = next(ours, None)
        elif mine is None or its[0] < mine[0]:
            yield None, its[1]
            its = next(theirs, None)
        else:
            yield mine[1], its[1]
            mine, its = next(ours, None), next(theirs, None)


def _hashes(
    conn: Connection, name: tuple[str, str], key: Sequence[str], shared: Sequence[str], gone: Sequence[str]
) -> Generator[tuple[str, str], None, None]:
    words = {"key": _names(key), "columns": _names(shared), "more": _names(gone), "table": Identifier(*name)}
    with conn.transaction(), conn.cursor(name="kg_hashes") as cursor:
        cursor.itersize = _BATCH
        cursor.execute(query("hashed_rows").format(**words))
        yield from cursor


def _names(columns: Sequence[str]) -> Composable:
    return SQL(", ").join(map(Identifier, columns)) if columns else SQL("NULL")
