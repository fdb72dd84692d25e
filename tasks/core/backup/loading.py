"""The data objects of a backup back into their tables: each straight from the store, several at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import closing
from functools import partial

from psycopg.sql import SQL, Identifier

from sql import query
from tasks.core.addresses import Address
from tasks.core.backup.copying import copy_session
from tasks.core.backup.crew import Crew
from tasks.core.backup.manifest import Backup, Rows, StoredObject
from tasks.core.backup.reading import plain_chunks
from tasks.core.errors import IntegrityError
from tasks.core.postgres.connections import Connection, database_errors
from tasks.core.settings import Settings
from tasks.core.store.base import Store


def loading(settings: Settings, store: Store, backup: Backup, address: Address) -> Crew[int]:
    """A crew that loads every data object into the tables at `address`, which have their form and no index yet; its
    results are the rows of each.

    Its jobs raise IntegrityError for an object, or a table there, that is not as the manifest says; then nothing of
    that object is in the table.
    """
    jobs = [partial(_load, settings, store, backup, address, each) for each in backup.manifest.streams]
    return Crew(jobs, "load")


def load_script(streams: Sequence[StoredObject], encoding: str) -> str:
    """The same for psql, by hand, in the folder of the backup's objects."""
    lines = [
        "-- Rows of the large vector tables; to be run between pre-data and post-data, in this folder:",
        "--   psql -X --single-transaction -v ON_ERROR_STOP=1 -d DATABASE -f load.sql",
        f"\\encoding {encoding}",
    ]
    for found in streams:
        assert found.data
        decrypted = f"age -d -i identity.txt {found.name} | zstd -dcq" if found.age else f"zstd -dcq {found.name}"
        columns = ", ".join(_quoted(column.name) for column in found.data.columns)
        table = f"{_quoted(found.data.schema_name)}.{_quoted(found.data.table_name)}"
        lines.append(f"\\copy {table} ({columns}) from program '{decrypted}' with (format binary)")
    return "\n".join(lines) + "\n"


def _load(
    settings: Settings, store: Store, backup: Backup, address: Address, wanted: StoredObject, crew: Crew[int]
) -> int:
    data, identity = wanted.data, settings.store_identity
    assert data
    label = f"{data.schema_name}.{data.table_name}"
    with (
        closing(copy_session(address, "restore data", settings.backup.dump_timeout)) as conn,
        database_errors(f"restoring the rows of {label}"),
    ):
        set_encoding(conn, backup.manifest.server.encoding)
        check_types(conn, data, label)
        rows = copy_in(conn, data, plain_chunks(store, backup, identity, wanted), crew)
        if rows != data.rows:
            raise IntegrityError(f"{wanted.name} holds {rows} rows of {label}, the manifest says {data.rows}")
        conn.commit()
    return rows


def copy_in(conn: Connection, data: Rows, chunks: Iterable[bytes], crew: Crew[int]) -> int:
    """The table's new rows, in a transaction that is left open."""
    columns = SQL(", ").join(Identifier(column.name) for column in data.columns)
    table = Identifier(data.schema_name, data.table_name)
    conn.autocommit = False
    with conn.cursor() as cursor:
        with cursor.copy(query("copy_rows_in").format(table=table, columns=columns)) as copy:
            for chunk in chunks:
                crew.check()
                copy.write(chunk)
                crew.advance(len(chunk))
        return cursor.rowcount


def set_encoding(conn: Connection, encoding: str) -> None:
    """Text lies in the rows as the original's database had it."""
    conn.execute(query("set_setting"), {"name": "client_encoding", "value": encoding})


def check_types(conn: Connection, data: Rows, label: str) -> None:
    """A binary form says nothing of its type: another one would be read as nonsense."""
    names = {"schema": data.schema_name, "name": data.table_name}
    there: dict[str, str] = dict(conn.execute(query("column_types"), names).fetchall())
    for column in data.columns:
        if there.get(column.name) != column.type:
            raise IntegrityError(
                f"{label}.{column.name} is {there.get(column.name, 'not there')} in the restored table, "
                f"and {column.type} in the backup's data"
            )


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
