"""The main job step by step, as the flows take it, without the flow engine: for servers of every shape."""

from __future__ import annotations

from psycopg.sql import SQL, Identifier

from tasks.core.backup.drill import drill
from tasks.core.backup.dump import back_up
from tasks.core.backup.manifest import Backup
from tasks.core.operations.migrate import migrate, our_fingerprint
from tasks.core.operations.operation import operation
from tasks.core.operations.plan import expected_of, make_plan
from tasks.core.operations.rollback import Request, RolledBack, Strategy, roll_back
from tasks.core.postgres.connections import Connection, connect, target
from tasks.core.schema import ledger
from tasks.core.schema.check import ADVISORY, check
from tasks.core.schema.report import Report
from tasks.core.schema.verify import verify
from tasks.core.settings import Settings


def assert_ok(report: Report, *, besides: frozenset[str] = frozenset()) -> None:
    wrong = [f"{one.name}: {one.detail}" for one in report.checks if one.status == "failed" and one.name not in besides]
    assert not wrong, wrong


def deploy(settings: Settings) -> Backup:
    """Check, plan, back up, prove, migrate, verify; returns the proved backup from before the migration."""
    with operation(settings, "deploy") as held:
        assert_ok(check(settings), besides=ADVISORY)
        with connect(target(settings), purpose="plan", database=settings.database) as conn:
            plan = make_plan(conn, settings)
        backup = proved_backup(settings)
        migrate(held, plan, backup)
        assert_ok(verify(settings))
        with held.session("verified") as conn:
            ledger.mark_verified(conn, [entry.revision for entry in ledger.entries(conn)])
        return backup


def proved_backup(settings: Settings) -> Backup:
    backup = back_up(settings)
    return backup.model_copy(update={"proof": drill(settings, backup)})


def rollback(settings: Settings, strategy: Strategy, backup: Backup | None = None, *, yes: bool = False) -> RolledBack:
    with operation(settings, "rollback") as held:
        return roll_back(held, Request(strategy, backup.id if backup else None, yes=yes))


def state(settings: Settings) -> str:
    """The fingerprint of our schema now."""
    with connect(target(settings), purpose="test", database=settings.database) as conn:
        return our_fingerprint(conn, settings.database.schema_name, expected_of(conn, settings))


def fill(conn: Connection, rows: int = 20, schema: str = "public") -> None:
    """So many embeddings; nothing is taken from the search_path but pgvector's type."""
    conn.execute(
        SQL(
            "INSERT INTO {} (file_path, file_hash, embedding)"
            " SELECT 'file_' || n, md5(n::text),"
            " (SELECT array_agg(sin(n * k)) FROM generate_series(1, 1536) AS k)::{}.vector"
            " FROM generate_series(1, {}) AS n"
        ).format(Identifier(schema, "code_embeddings"), Identifier(_home_of_vector(conn)), rows)
    )


def rows_in(conn: Connection, table: str = "code_embeddings", schema: str = "public") -> int:
    row = conn.execute(SQL("SELECT count(*) FROM {}").format(Identifier(schema, table))).fetchone()
    assert row
    return int(row[0])


def _home_of_vector(conn: Connection) -> str:
    row = conn.execute(
        "SELECT nspname FROM pg_catalog.pg_extension JOIN pg_catalog.pg_namespace n ON n.oid = extnamespace"
        " WHERE extname = 'vector'"
    ).fetchone()
    assert row
    return str(row[0])
