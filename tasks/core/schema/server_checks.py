"""What stands in the way of a deploy on the server's side: version, extension, privileges, locks, row security."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from psycopg import errors
from psycopg.rows import dict_row

from sql import query
from tasks.core.postgres.connections import Connection, Server, vector_extension
from tasks.core.postgres.tools import tools_for
from tasks.core.schema.expected import Expected
from tasks.core.schema.extension import known_bugs
from tasks.core.schema.report import CheckResult, failed, noted, ok
from tasks.core.schema.verify import check_extension
from tasks.core.settings import Settings

OLDEST_SERVER = 12


@dataclass(frozen=True)
class Patience:
    """How long a session may wait for a lock, or be idle in a transaction, before a check fails."""

    waiting: timedelta = timedelta(seconds=3)
    idle: timedelta = timedelta(minutes=5)


def check_server(conn: Connection, server: Server) -> CheckResult:
    name, where = "server", f"PostgreSQL {server.version}, database {server.database}, role {server.role}"
    if server.major < OLDEST_SERVER:
        return failed(name, f"{where}: {OLDEST_SERVER} is the oldest that kg works with")
    row = conn.execute(query("server_state")).fetchone()
    assert row is not None
    if row[0]:
        return failed(name, f"{where}: it is a standby, which takes no writes", "use the primary's address")
    if row[1]:
        return failed(name, f"{where}: default_transaction_read_only is on", "set it off for this role or database")
    return ok(name, where)


def check_tools(server: Server, settings: Settings) -> CheckResult:
    """Raises CommandMissing where every client is older than the server."""
    tools = tools_for(server.major, settings.home)
    newer = f", newer than the server ({server.major})" if tools.major != server.major else ""
    return ok("client tools", f"pg_dump {tools.version} from {tools.source}{newer}")


def check_vector(conn: Connection, server: Server) -> CheckResult:
    """Installed, or such that the first migration can install it."""
    name, vector = "pgvector", vector_extension(conn)
    if vector.installed is not None:
        found = check_extension(conn)
        if found.status == "failed" or vector.available in (vector.installed, None):
            return found
        return ok(name, f"{found.detail}; the server has {vector.available}: ALTER EXTENSION vector UPDATE")
    if vector.available is None:
        return failed(
            name,
            "the server has no pgvector",
            f"install its package (postgresql-{server.major}-pgvector on Debian); on Supabase: Dashboard, Extensions",
        )
    bugs = "".join(f"; known bug: {bug}" for bug in known_bugs(vector.available))
    try:
        with conn.transaction(force_rollback=True):
            conn.execute(query("try_vector"))
    except errors.InsufficientPrivilege:
        return failed(
            name,
            f"{vector.available} is available, but role {server.role} may not create it{bugs}",
            f"a superuser runs once, in database {server.database}: CREATE EXTENSION vector",
        )
    return ok(name, f"{vector.available} is available, and the first migration creates it{bugs}")


def check_privileges(conn: Connection, settings: Settings, expected: Expected | None) -> CheckResult:
    """May the role make and change what a deploy makes and changes? Else the statement for the administrator."""
    schema = settings.database.schema_name
    with conn.cursor(row_factory=dict_row) as cursor:
        may = cursor.execute(query("privileges_of_role"), {"schema": schema}).fetchone()
    assert may is not None
    remedies = list(_remedies(may))
    if expected:
        values = {"schema": schema, "tables": sorted(expected.scope)}
        for table, owner in conn.execute(query("foreign_owners"), values).fetchall():
            remedies.append(f"{table} belongs to {owner}: GRANT {owner} TO {may['role_name']}, or deploy as {owner}")
    if remedies:
        said = f"{may['role_name']} may not make or change all that a deploy does"
        return failed("privileges", said, "an administrator runs: " + "; ".join(remedies))
    return ok("privileges", f"{may['role_name']} may create schemas, and tables in {schema}")


def _remedies(may: dict[str, Any]) -> list[str]:
    role, schema = may["role_name"], may["schema_name"]
    missing = []
    if may["schema"] is None:
        missing.append(f"CREATE SCHEMA {schema} AUTHORIZATION {role}")
    elif not may["schema"]:
        missing.append(f"GRANT USAGE, CREATE ON SCHEMA {schema} TO {role}")
    if not may["database"]:
        missing.append(f"GRANT CREATE ON DATABASE {may['database_name']} TO {role}")
    if may["kg_ops"] is False:
        missing.append(f"ALTER SCHEMA kg_ops OWNER TO {role}, and its tables likewise")
    return missing


def check_locks(conn: Connection, patience: Patience) -> CheckResult:
    """Who waits for whom: a migration's locks would queue behind them; and who keeps a table for himself, though nobody
    waits for it yet. The remedy is for those that wait for nobody.
    """
    found, longest = conn.execute(query("waiting_sessions")).fetchall(), patience.waiting.total_seconds()
    waiting = [row for row in found if row[2] >= longest]
    told = {row[3] for row in waiting}
    holders = conn.execute(query("exclusive_holders")).fetchall()
    holding = [row for row in holders if (row[2] or 0) >= longest and row[0] not in told]
    if not (waiting or holding):
        return ok("locks", "no session waits for long" + _blind(conn))
    lines = [
        f"pid {pid} ({user}) has waited {seconds:.0f} s for pid {blocker} ({owner}, {state}: {said})"
        for pid, user, seconds, blocker, owner, state, said in waiting
    ]
    lines += [
        f"pid {pid} ({user}, {state}: {said}) keeps everybody out of {tables} for {seconds:.0f} s"
        for pid, user, seconds, state, said, tables in holding
    ]
    waiters = {row[0] for row in found}
    roots = {blocker: state for _, _, _, blocker, _, state, _ in found if waiting and blocker not in waiters}
    roots |= {row[0]: row[3] for row in holding if row[0] not in waiters}
    return failed("locks", "; ".join(lines), "; ".join(_ends(pid, state) for pid, state in roots.items()))


def _ends(pid: int, state: str) -> str:
    """A statement that works can be cancelled; who idles in a transaction must be ended."""
    if state == "active":
        return f"SELECT pg_cancel_backend({pid}) ends its statement, SELECT pg_terminate_backend({pid}) the session"
    return f"SELECT pg_terminate_backend({pid}) ends that one"


def check_idle(conn: Connection, patience: Patience) -> CheckResult:
    """Transactions left open keep their locks and hold vacuum back."""
    seconds, name = patience.idle.total_seconds(), "idle in transaction"
    found = conn.execute(query("idle_transactions"), {"seconds": seconds}).fetchall()
    if not found:
        return ok(name, f"none for {seconds / 60:.0f} min" + _blind(conn))
    lines = [f"pid {pid} ({user}) for {idle / 60:.0f} min after {said!r}" for pid, user, idle, said in found]
    ends = [f"SELECT pg_terminate_backend({pid})" for pid, *_ in found]
    return failed(name, "; ".join(lines), f"{'; '.join(ends)}; or kg deploy --terminate-idle-blockers")


def check_invalid_indexes(conn: Connection, settings: Settings) -> CheckResult:
    schema, name = settings.database.schema_name, "invalid indexes"
    names = [str(row[0]) for row in conn.execute(query("unfinished_indexes"), {"schema": schema})]
    built = {str(row[0]) for row in conn.execute(query("index_builds"))}
    left = [index for index in names if index not in built]
    if left:
        drops = [f'DROP INDEX CONCURRENTLY "{schema}"."{index}"' for index in left]
        return failed(name, f"{', '.join(left)}: left by a failed concurrent build", "; ".join(drops))
    return ok(name, f"none in schema {schema}" + (f" but {', '.join(names)}, being built now" if names else ""))


_NO_ARCHIVE = (
    "no point-in-time recovery (archive_mode is off): what is written after the last backup is lost with the server"
)


def check_archiving(conn: Connection) -> CheckResult:
    """For information: kg is no point-in-time recovery."""
    row = conn.execute(query("archiving")).fetchone()
    assert row is not None
    mode, archived, broken = row
    if mode == "off":
        return noted("archiving", _NO_ARCHIVE, "pgBackRest, Barman or the provider's PITR, where that is too much")
    if broken and (archived is None or broken > archived):
        detail = f"archive_mode is {mode}, but archiving fails since {broken:%Y-%m-%d %H:%M} UTC"
        return noted("archiving", detail, "the server's log has what archive_command said")
    return ok("archiving", f"archive_mode is {mode}: point-in-time recovery is that archive's work, not kg's")


def check_scope(conn: Connection, settings: Settings) -> CheckResult:
    """What the next backup would dump, and this role may not read: a platform's own tables, mostly."""
    scope = settings.database.scope
    values = {"schemas": None if scope == "database" else [*scope, settings.database.schema_name, "kg_ops"]}
    found = [str(row[0]) for row in conn.execute(query("unreadable_relations"), values)]
    what = "the whole database" if scope == "database" else f"schemas {', '.join(scope)}"
    if found:
        listed = ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")
        return failed(
            "backup scope",
            f"this role may not read {listed}, so that {what} cannot be dumped: dump our schemas only ([database] "
            "scope of the environment's TOML), or ask the administrator for GRANT SELECT",
        )
    return ok("backup scope", f"{what}, all of it readable")


def check_row_security(conn: Connection, settings: Settings, server: Server) -> CheckResult:
    """A role whose rows are filtered makes smaller backups than the tables are."""
    scope = settings.database.scope
    values = {"schemas": None if scope == "database" else list(scope)}
    tables = [str(row[0]) for row in conn.execute(query("filtered_tables"), values)]
    if tables:
        return failed(
            "row security",
            f"rows of {', '.join(tables)} are hidden from role {server.role}",
            f'use the tables\' owner, or an administrator runs: ALTER ROLE "{server.role}" BYPASSRLS',
        )
    return ok("row security", f"hides no row from role {server.role}")


def _blind(conn: Connection) -> str:
    row = conn.execute(query("sees_all_sessions")).fetchone()
    return "" if row and row[0] else " (this role sees its own sessions only)"
