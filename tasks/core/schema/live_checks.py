"""What goes on in the server at this moment: sessions that are none, index builds and their time, leftovers."""

from __future__ import annotations

from sql import query
from tasks.core.postgres.connections import Connection
from tasks.core.schema import ledger
from tasks.core.schema.report import CheckResult, failed, ok
from tasks.core.settings import Settings

_PROBE = "kg.session_probe"


def check_session(conn: Connection) -> CheckResult:
    """A transaction pooler gives each statement another backend: our locks and settings would be lost."""
    name = "session"
    conn.execute(query("set_setting"), {"name": _PROBE, "value": "kept"})
    first, second = (conn.execute(query("session_probe"), {"name": _PROBE}).fetchone() for _ in range(2))
    assert first
    assert second
    if first[0] != second[0] or second[1] != "kept":
        return failed(
            name,
            "a transaction pooler stands in between: statements of one session reach different backends",
            "use the server's own address, or the pooler's session mode (Supabase: port 5432, not 6543)",
        )
    return ok(name, "statements of one session reach one backend")


def check_builds(conn: Connection) -> CheckResult:
    """Index builds under way, with what is left of each by its pace so far. Slow is normal for HNSW; waiting is not."""
    name = "index builds"
    builds = conn.execute(query("index_builds")).fetchall()
    if not builds:
        return ok(name, "none is under way")
    said = "; ".join(_build(*row) for row in builds)
    lockers = sorted({int(row[6]) for row in builds if row[6]})
    if lockers:
        ends = "; ".join(f"SELECT pg_terminate_backend({pid})" for pid in lockers)
        return failed(name, said, f"it goes on when their transactions end; {ends} ends them")
    return ok(name, said)


def _build(index: str, pid: int, phase: str, done: int, total: int, seconds: float, locker: int | None) -> str:
    text = f"{index} (pid {pid}, {seconds / 60:.0f} min so far): {phase}"
    if locker:
        return f"{text}, for pid {locker}"
    if not (total and done):
        return text
    left = seconds * (total - done) / done
    return f"{text}, {done:,} of {total:,} ({done / total:.0%}), about {_duration(left)} left"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def check_leftovers(conn: Connection, settings: Settings) -> CheckResult:
    """Of runs that died: operations without an end, scratch schemas; and replaced tables, which wait to be pruned."""
    name, environment = "leftovers", settings.environment
    schemas = conn.execute(query("leftover_schemas")).fetchall()
    kept = [f"{schema} ({size / 2**20:.0f} MiB)" for schema, size in schemas if schema.startswith("kg_replaced_")]
    stray = [str(schema) for schema, _ in schemas if schema.startswith("kg_expected_")]
    dead = conn.execute(query("dead_operations")).fetchall() if ledger.exists(conn) else []
    if not (dead or stray):
        return ok(name, f"replaced tables are kept in {', '.join(kept)}" if kept else "none")
    said = [f"a {kind} of {began:%Y-%m-%d %H:%M} UTC died at {step or 'its start'}" for kind, began, step in dead]
    said += [f"schema {schema} of a run that was killed" for schema in stray]
    remedies = [f"kg recover {environment} reads the journal, and finishes or undoes it"] if dead else []
    remedies += [f"DROP SCHEMA {schema} CASCADE" for schema in stray]
    return failed(name, "; ".join(said), "; ".join(remedies))
