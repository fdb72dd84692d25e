"""What must hold after a kill and the recovery: no committed row is lost, and nothing of ours lies about."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from psycopg.sql import SQL, Identifier

from tasks.core.addresses import Address
from tasks.core.postgres.connections import Connection, connect

TEMPLATE_ROW = "src/1"  # one of those that were there before the workload

LEFT = """
SELECT 'staging schema ' || nspname FROM pg_namespace WHERE nspname ~ '^kg_restore_'
UNION ALL SELECT 'scratch database ' || datname FROM pg_database WHERE datname ~ '^kg_scratch_'
UNION ALL SELECT 'staged database ' || datname FROM pg_database WHERE datname ~ '^kg_restore_'
UNION ALL SELECT 'comment ' || shobj_description(oid, 'pg_database') FROM pg_database
    WHERE datname = current_database() AND shobj_description(oid, 'pg_database') LIKE 'kg restore:%'
UNION ALL SELECT 'invalid index ' || indexrelid::regclass FROM pg_index WHERE NOT (indisvalid AND indisready)
UNION ALL SELECT 'advisory lock of ' || pid FROM pg_locks WHERE locktype = 'advisory' AND classid = 27495
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
UNION ALL SELECT 'session ' || application_name FROM pg_stat_activity
    WHERE datname = current_database() AND application_name LIKE 'kg %' AND pid <> pg_backend_pid()
UNION ALL SELECT 'unfinished ' || kind FROM kg_ops.operation WHERE state = 'running'
UNION ALL SELECT 'unverified ' || revision FROM kg_ops.ledger WHERE state = 'applied' AND verified_at IS NULL
"""


def leftovers(conn: Connection) -> list[str]:
    return [row[0] for row in conn.execute(LEFT)]


def beside(conn: Connection) -> list[str]:
    """The databases that an exchange of the whole one made: the replaced, and one that was to take its place."""
    rows = conn.execute("SELECT datname FROM pg_database WHERE datname ~ '^kg_(replaced|restore)_' ORDER BY 1")
    return [row[0] for row in rows]


def lost(committed: set[str], conn: Connection, to: Callable[[str], Address], *, reset: bool) -> set[str]:
    """Rows of the workload that are neither in the live tables nor in what a restore put aside (schemas, databases).

    A `reset` that came to its end empties the tables of all that was written before: each writer's later rows stay.
    """
    found = _written(conn)
    for name in beside(conn):
        conn.execute(SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(Identifier(name)))
        with connect(to(name), purpose="chaos") as replaced:
            found |= _written(replaced)
    missing = committed - found
    return missing - _before_the_first(found, missing) if reset and TEMPLATE_ROW not in found else missing


def _before_the_first(found: Iterable[str], missing: Iterable[str]) -> set[str]:
    """Of the `missing`, those that their writer wrote before its first that is still there."""
    first: dict[str, int] = {}
    for writer, number in map(_parts, found):
        first[writer] = min(number, first.get(writer, number))
    return {row for row in missing if (parts := _parts(row)) and parts[1] < first.get(parts[0], parts[1] + 1)}


def _parts(row: str) -> tuple[str, int]:
    """The writer and the number of a row of the workload, which is called written-WRITER-NUMBER."""
    writer, _, number = row.rpartition("-")
    return writer, int(number) if number.isdigit() else 0


def _written(conn: Connection) -> set[str]:
    schemas = conn.execute("SELECT nspname FROM pg_namespace WHERE nspname ~ '^(public|kg_replaced_.*)$'").fetchall()
    found: set[str] = set()
    for (schema,) in schemas:
        table = Identifier(schema, "code_embeddings")
        found |= {row[0] for row in conn.execute(SQL("SELECT file_path FROM {}").format(table))}
    return found


def unfinished(conn: Connection) -> int:
    """Operations that never said how they ended."""
    row = conn.execute("SELECT count(*) FROM kg_ops.operation WHERE state = 'running'").fetchone()
    assert row
    return int(row[0])
