"""Rows written since the backup, carried over a restore: exported to the store, and applied again where they fit.

It happens in the swap's own transaction, when the last writer is out: what is exported is what the restore takes away,
and a kill leaves all of it done or nothing. Objects: salvage/<environment>/<operation>/<table>.csv, each row with its
change (inserted, updated, deleted; a deleted row has its key only), for psql and people.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import psycopg
from psycopg.sql import SQL, Composable, Composed, Identifier, Literal

from sql import query
from tasks.core.backup.loss import TableLoss, tables_in
from tasks.core.operations.operation import Operation
from tasks.core.postgres.connections import Connection
from tasks.core.progress import track
from tasks.core.store.base import Store, open_store


@dataclass(frozen=True)
class Changes:
    """Of one table: where its changes are listed (None: its rows cannot be told apart, or the backup has it not), and
    which columns both have, which only the live one.
    """

    table: str
    listed: Identifier | None
    key: tuple[str, ...]
    shared: tuple[str, ...]
    gone: tuple[str, ...]


@dataclass(frozen=True)
class Salvaged:
    """`applied` again; `unfit` says what did not fit, a line a table. All of it is under `folder` of the store."""

    folder: str
    applied: int
    unfit: tuple[str, ...]

    def __str__(self) -> str:
        rest = f"; did not fit: {'; '.join(self.unfit)}" if self.unfit else ""
        return f"{self.applied} rows written since were applied again (exported to {self.folder}){rest}"


class Salvage:
    """`take` before the tables are exchanged, `give_back` after; in one transaction of `conn`."""

    def __init__(self, operation: Operation, conn: Connection, live: str, staged: str) -> None:
        self._conn, self._live, self._staged = conn, live, staged
        self._store: Store = open_store(operation.settings)
        self.folder = f"salvage/{operation.settings.environment}/{operation.id}"
        self._found: list[Changes] = []

    def take(self, loss: Sequence[TableLoss]) -> None:
        """List what was written since, and export it. Raises StoreError; then nothing was changed."""
        known = tables_in(self._conn, self._staged)
        with track("salvage", f"Export what was written since, of {len(loss)} tables"):
            for number, each in enumerate(loss):
                found = self._list(number, each.table, each.table in known)
                self._found.append(found)
                self._store.put(f"{self.folder}/{each.table}.csv", self._rows(found))

    def give_back(self, replaced: str) -> Salvaged:
        """Apply it to the restored tables, the live ones now; the former are in schema `replaced`."""
        applied, unfit = 0, []
        for found in self._found:
            done, missing = self._apply(found, replaced)
            applied += done
            unfit += [f"{found.table}: {said}" for said in missing]
        self._advance_sequences()
        return Salvaged(self.folder, applied, tuple(unfit))

    def discard(self) -> None:
        """The swap is not made: what was exported is still in the tables."""
        for found in self._found:
            self._store.delete(f"{self.folder}/{found.table}.csv")

    def _list(self, number: int, table: str, both: bool) -> Changes:
        live, staged = Identifier(self._live, table), Identifier(self._staged, table)
        names = {"live": live.as_string(self._conn), "staged": staged.as_string(self._conn)}
        columns = self._conn.execute(query("live_columns"), names).fetchall()
        generated = {row[0] for row in self._conn.execute(query("generated_columns"), names)}
        key = tuple(name for name, is_key, shared in columns if is_key and shared)
        shared = tuple(name for name, _, shared in columns if shared and name not in generated)
        gone = tuple(name for name, _, shared in columns if not shared and name not in generated)
        if not (both and key):
            return Changes(table, None, key, shared, gone)
        listed = Identifier(f"kg_changes_{number}")
        words = {"key": _names(key), "columns": _names(shared), "more": _names(gone), "live": live, "staged": staged}
        self._conn.execute(query("list_changes").format(changes=listed, **words))
        return Changes(table, listed, key, shared, gone)

    def _rows(self, found: Changes) -> Iterator[bytes]:
        live = Identifier(self._live, found.table)
        rows = SQL("SELECT 'inserted' AS kg_change, * FROM {live}").format(live=live)
        if found.listed:
            rows = SQL("SELECT * FROM {changes} LEFT JOIN {live} USING ({key})").format(
                changes=found.listed, live=live, key=_names(found.key)
            )
        with self._conn.cursor().copy(SQL("COPY ({}) TO STDOUT (FORMAT csv, HEADER)").format(rows)) as copy:
            for chunk in copy:
                yield bytes(chunk)

    def _apply(self, found: Changes, replaced: str) -> tuple[int, list[str]]:
        if found.listed is None:
            why = "its rows have no key that both versions share" if found.shared else "the backup does not have it"
            return 0, [f"all rows: {why}"]
        total = self._number(SQL("SELECT count(*) FROM {}").format(found.listed))
        said = self._columns_gone(found, replaced)
        try:
            with self._conn.transaction():
                self._write(found, replaced, SQL("true"))
        except psycopg.Error:
            done, why = self._one_by_one(found, replaced, total)
            return done, [*said, *([f"{total - done} rows ({why})"] if done < total else [])]
        return total, said

    def _one_by_one(self, found: Changes, replaced: str, total: int) -> tuple[int, str]:
        """Each row in a savepoint of its own; how many fitted, and why the first of the others did not."""
        done, why = 0, ""
        for number in range(1, total + 1):
            try:
                with self._conn.transaction():
                    self._write(found, replaced, SQL("changes.kg_number = {}").format(number))
            except psycopg.Error as error:
                why = why or str(error.diag.message_primary)
            else:
                done += 1
        return done, why

    def _write(self, found: Changes, replaced: str, which: Composable) -> None:
        """An update is a delete and an insert, so that no trigger gives the row a new updated_at."""
        assert found.listed
        words = {
            "table": Identifier(self._live, found.table),
            "former": Identifier(replaced, found.table),
            "changes": found.listed,
            "key": _names(found.key),
            "same": SQL(" AND ").join(SQL("restored.{0} = changes.{0}").format(Identifier(name)) for name in found.key),
            "columns": _names(found.shared),
            "which": which,
        }
        for name in ("delete_changed", "insert_changed"):
            self._conn.execute(query(name).format(**words))

    def _columns_gone(self, found: Changes, replaced: str) -> list[str]:
        table = Identifier(replaced, found.table)
        filled = SQL("SELECT count({}) FROM {}")
        counts = {name: self._number(filled.format(Identifier(name), table)) for name in found.gone}
        return [f"column {name} of {count} rows" for name, count in counts.items() if count]

    def _advance_sequences(self) -> None:
        tables = [found.table for found in self._found if found.listed]
        values = {"schema": self._live, "tables": tables}
        for table, column, name in self._conn.execute(query("numbering_sequences"), values).fetchall():
            sequence = Identifier(self._live, name)
            words = {"table": Identifier(self._live, table), "column": Identifier(column), "sequence": sequence}
            literal = Literal(sequence.as_string(self._conn))
            self._conn.execute(query("advance_sequence").format(name=literal, **words))

    def _number(self, statement: Composed) -> int:
        row = self._conn.execute(statement).fetchone()
        assert row
        return int(row[0])


def _names(columns: Sequence[str]) -> Composable:
    return SQL(", ").join(map(Identifier, columns)) if columns else SQL("NULL")
