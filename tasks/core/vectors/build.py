"""Build an HNSW index beside the old one: concurrently, with the memory and workers of its plan, and watched."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from psycopg import errors
from psycopg.errors import Diagnostic
from psycopg.sql import SQL, Composed, Identifier

from sql import query
from tasks.core.errors import ReindexFailed
from tasks.core.operations.operation import Operation
from tasks.core.postgres.connections import Connection, database_errors
from tasks.core.progress import note
from tasks.core.schema.blockers import Blocker, noting_blockers
from tasks.core.vectors.indexes import Target
from tasks.core.vectors.plan import BuildPlan
from tasks.core.vectors.sample import create_index
from tasks.core.vectors.watch import watching


@dataclass(frozen=True)
class Built:
    """`settings` are what SHOW said before the build, `workers` the most that were seen at work, `waited_for` whom it
    waited for. `outgrown` is the server's notice where the graph did not fit into its memory, else "".
    """

    seconds: float
    settings: dict[str, str]
    workers: int
    waited_for: tuple[str, ...]
    outgrown: str


def build(operation: Operation, target: Target, plan: BuildPlan, name: str) -> Built:
    """Build index `name` by `plan`. Raises ReindexFailed, DatabaseError; an INVALID index may be left then, for the
    caller to drop.
    """
    with operation.session("re-index build") as conn, database_errors(f"building {name}"):
        operation.guard(conn)
        try:
            return _build(operation, conn, target, plan, name)
        except errors.DiskFull as error:
            if "shared memory" not in str(error):
                raise ReindexFailed(
                    f"building {name} ran out of disk: {error.diag.message_primary}",
                    hint=f"it needs about {plan.index_bytes // 2**20:,} MB beside the old index",
                ) from error
        note("the server has not the shared memory for a parallel build: once more without parallel workers")
        drop(operation, conn, target.column.schema, name)
        return _build(operation, conn, target, replace(plan, workers=0), name)


def drop(operation: Operation, conn: Connection, schema: str, name: str) -> None:
    """DROP INDEX CONCURRENTLY, waiting `blocked_timeout` at most for those that use it; they are named.

    Raises DatabaseError; the index may be left then, marked invalid.
    """
    limit = operation.settings.reindex.blocked_timeout.total_seconds()
    _set(conn, {"lock_timeout": "0", "statement_timeout": f"{limit * 1000:.0f}ms"})
    statement = query("drop_index").format(concurrently=SQL("CONCURRENTLY"), name=Identifier(schema, name))
    with database_errors(f"dropping the index {name}"), noting_blockers(conn, f"DROP INDEX {name}"):
        conn.execute(statement)


def older_snapshots(conn: Connection) -> tuple[Blocker, ...]:
    """Transactions that a build started now will wait for, oldest first."""
    return tuple(Blocker(*row) for row in conn.execute(query("older_snapshots")))


def _build(operation: Operation, conn: Connection, target: Target, plan: BuildPlan, name: str) -> Built:
    shown = _set(conn, _session(operation, plan))
    outgrown: list[str] = []

    def hear(diagnostic: Diagnostic) -> None:
        text = diagnostic.message_primary or ""
        if "no longer fits" in text:
            outgrown.append(text)
            note(f"{text}: the rest of the build is several times slower")

    conn.add_notice_handler(hear)
    title = f"Build {name} (m={plan.m}, ef_construction={plan.ef_construction})"
    limit = operation.settings.reindex.blocked_timeout.total_seconds()
    assert operation.settings.address is not None
    began = time.monotonic()
    try:
        with watching(operation.settings.address, conn.info.backend_pid, title, plan.rows, limit) as watch:
            try:
                conn.execute(_statement(target, plan, name))
            except errors.QueryCanceled as error:
                raise _cancelled(name, watch.cancelled) from error
    finally:
        conn.remove_notice_handler(hear)
    waited = tuple(watch.waited_for.values())
    return Built(time.monotonic() - began, shown, watch.workers, waited, "; ".join(outgrown))


def _statement(target: Target, plan: BuildPlan, name: str) -> Composed:
    space = target.found.tablespace if target.found else None
    parameters = (plan.m, plan.ef_construction)
    return create_index(target.column, name, plan.operator_class, parameters, concurrently=True, tablespace=space)


def _session(operation: Operation, plan: BuildPlan) -> dict[str, str]:
    """For the session and not SET LOCAL: a concurrent build has no transaction to be local to."""
    limit = operation.settings.reindex.build_timeout.total_seconds()
    return {
        "lock_timeout": "0",
        "statement_timeout": f"{limit * 1000:.0f}ms",
        "maintenance_work_mem": f"{plan.maintenance_work_mem // 1024}kB",
        "max_parallel_maintenance_workers": str(plan.workers),
        # The vectors lie beside the table (TOAST), which looks too small for workers without them.
        "min_parallel_table_scan_size": "0",
    }


def _set(conn: Connection, values: dict[str, str]) -> dict[str, str]:
    """Set for the session; returns what SHOW says of them afterwards."""
    for name, value in values.items():
        conn.execute(query("set_setting"), {"name": name, "value": value})
    shown = {name: conn.execute(query("show_setting").format(name=Identifier(name))).fetchone() for name in values}
    return {name: str(row[0]) for name, row in shown.items() if row}


def _cancelled(name: str, why: str) -> ReindexFailed:
    if why:
        return ReindexFailed(
            f"building {name} was ended: {why}", hint="end that transaction, or build at a quieter hour"
        )
    return ReindexFailed(
        f"building {name} was cancelled, by somebody or by build_timeout", hint="[reindex] build_timeout in the TOML"
    )
