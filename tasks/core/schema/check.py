"""The guide's --check-only: could a deploy go well, and if not, what is to be done first? Nothing is changed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial

from tasks.core.errors import OpsError, PrivilegeMissing
from tasks.core.postgres.connections import Connection, Server, connect, describe, refuse_shared_session, target
from tasks.core.schema import drill_checks, ledger, live_checks, server_checks
from tasks.core.schema.adoption import judge
from tasks.core.schema.expected import Expected, expected_catalogs
from tasks.core.schema.migrations import Migration, load_migrations
from tasks.core.schema.report import CheckResult, Report, failed, noted, ok, run_check, skipped
from tasks.core.schema.server_checks import Patience
from tasks.core.schema.verify import check_schema, expectation
from tasks.core.settings import Settings
from tasks.core.variables import unread

ADVISORY = frozenset(
    {
        "adoption",
        "migrations",
        "locks",
        "idle in transaction",
        "index builds",
        "invalid indexes",
        "re-index advice",
        "leftovers",
        "proved backup",
        "archiving",
    }
)
"""Names of checks whose failure does not keep a deploy from going on: it meets them itself, at its own time, or mends
them.
"""

_ANOTHERS = (
    "kg backup {} makes one of this; or is KG_STORE_URL, or the database's address, that of another environment?"
)
_DEFAULT_PATIENCE = Patience()


def check(settings: Settings, *, patience: Patience = _DEFAULT_PATIENCE) -> Report:
    """Every check, each with its remedy where it failed. Raises ConnectionFailed."""
    address = target(settings)
    with connect(address, purpose="check", database=settings.database) as conn:
        refuse_shared_session(conn, address)
        server = describe(conn)
        return Report(tuple(_all(conn, server, settings, patience)))


def _all(conn: Connection, server: Server, settings: Settings, patience: Patience) -> Iterator[CheckResult]:
    def run(name: str, look: Callable[..., CheckResult], *values: object) -> CheckResult:
        return run_check(name, partial(look, *values))

    yield run("server", server_checks.check_server, conn, server)
    yield run("session", live_checks.check_session, conn)
    yield run("client tools", server_checks.check_tools, server, settings)
    vector = run("pgvector", server_checks.check_vector, conn, server)
    yield vector
    expected, problem = _expected(conn, settings, vector)
    yield run("privileges", server_checks.check_privileges, conn, settings, expected)
    yield problem or run("schema", _schema, conn, settings, expected)
    yield run("migrations", _pending, conn, settings)
    yield run("locks", server_checks.check_locks, conn, patience)
    yield run("idle in transaction", server_checks.check_idle, conn, patience)
    yield run("index builds", live_checks.check_builds, conn)
    yield run("invalid indexes", server_checks.check_invalid_indexes, conn, settings)
    yield from _advice(settings)
    yield run("backup scope", server_checks.check_scope, conn, settings)
    yield run("leftovers", live_checks.check_leftovers, conn, settings)
    yield run("row security", server_checks.check_row_security, conn, settings, server)
    yield run("archiving", server_checks.check_archiving, conn)
    yield run("scratch server", drill_checks.check_scratch, conn, server, settings)
    store = run("store", _store, settings)
    yield store
    yield _unless_failed(store, "proved backup", partial(_proved_backup, conn, settings))
    if strange := unread(os.environ):
        yield noted("variables", f"nothing reads {', '.join(strange)}")


def _advice(settings: Settings) -> Iterator[CheckResult]:
    from tasks.core.vectors.summary import check_advice  # vectors builds on schema, elsewhere

    yield from check_advice(settings)


def _unless_failed(first: CheckResult, name: str, look: Callable[[], CheckResult]) -> CheckResult:
    return skipped(name, f"{first.name} failed") if first.status == "failed" else run_check(name, look)


def _expected(conn: Connection, settings: Settings, vector: CheckResult) -> tuple[Expected | None, CheckResult | None]:
    """What the migrations would make here, or the check that says why it cannot be known."""
    if vector.status == "failed":
        return None, skipped("schema", "pgvector failed, and without it our tables cannot be")
    try:
        migrations = load_migrations(settings.migrations)
        return expected_catalogs(conn, migrations, settings.database.schema_name, cache=settings.home / "cache"), None
    except PrivilegeMissing as error:
        return None, skipped("schema", f"what it should be cannot be found out: {error}")
    except OpsError as error:
        return None, failed("schema", str(error))


def _schema(conn: Connection, settings: Settings, expected: Expected) -> CheckResult:
    """Our tables against the ledger: fresh, to be adopted, or as the applied revision says."""
    entries = ledger.entries(conn)
    if entries:
        migrations = load_migrations(settings.migrations)
        if {entry.revision for entry in entries} - {migration.revision for migration in migrations}:
            return skipped("schema", "an applied revision has no file: see migrations")
        schema = settings.database.schema_name
        return check_schema(conn, schema, expectation(conn, settings, migrations, entries))
    return _adoption(conn, settings, expected)


def _adoption(conn: Connection, settings: Settings, expected: Expected) -> CheckResult:
    verdict = judge(conn, expected, settings.database.schema_name)
    if verdict.kind == "apply":
        return ok("schema", "there is no table of ours: a deploy makes them")
    if verdict.kind == "adopt":
        accepted = f", with {len(verdict.tolerated)} harmless differences" if verdict.tolerated else ""
        return ok("adoption", f"the tables are there without a ledger: a deploy adopts them as they are{accepted}")
    listed = "; ".join(str(difference) for difference in verdict.differences)
    remedy = "make them match, or move them to another schema: nothing of them is ever overwritten"
    return failed("adoption", f"there are tables of ours, but not those of the first revision: {listed}", remedy)


def _pending(conn: Connection, settings: Settings) -> CheckResult:
    migrations: Sequence[Migration] = load_migrations(settings.migrations)
    entries = ledger.entries(conn)
    waiting = ledger.pending(migrations, entries, out_of_order=settings.deploy.out_of_order)
    revision = f"revision {entries[-1].revision}" if entries else "no revision"
    if not waiting:
        return ok("migrations", f"{revision}, nothing is pending")
    return ok("migrations", f"{revision}, pending: {', '.join(migration.label for migration in waiting)}")


def _store(settings: Settings) -> CheckResult:
    from tasks.core.backup.encryption import check_identity
    from tasks.core.store.base import open_store, probe  # with it comes boto3, where the store is S3

    store = open_store(settings)
    lacking = probe(store)
    check_identity(settings.store_identity)
    encrypts = f"; dumps are encrypted to {settings.store_key}" if settings.store_key else ""
    found = f"{store.url} can be written and read{encrypts}" + "".join(f"; it lacks: {one}" for one in lacking)
    if settings.environment != "dev" and store.url.startswith("file:"):
        return noted(
            "store",
            f"{found}; it is a folder of this machine: who loses the machine loses {settings.environment}'s backups",
            "KG_STORE_URL=s3://bucket/prefix, or a folder that lies on another machine",
        )
    return ok("store", found)


def _proved_backup(conn: Connection, settings: Settings) -> CheckResult:
    """The newest backup of this very database that a drill has restored."""
    from tasks.core.backup.contents import identity_of
    from tasks.core.backup.library import backups
    from tasks.core.store.base import open_store

    name, environment = "proved backup", settings.environment
    mine = identity_of(conn)
    stored = backups(open_store(settings), environment)
    found = [one for one in stored if one.manifest.database.is_same(mine)]
    if stored and not found:
        names = ", ".join(sorted({one.manifest.database.name for one in stored}))
        whose = f"only backup is of another database (there {names}, here {mine.name})"
        if len(stored) > 1:
            whose = f"{len(stored)} backups are all of another database (there {names}, here {mine.name})"
        return failed(name, f"the store's {whose}", _ANOTHERS.format(environment))
    if not found:
        return skipped(name, f"no backup yet: kg backup {environment}")
    proved = [one for one in found if one.proved]
    if not proved:
        return failed(name, f"none of {len(found)} is proved", f"kg restore-drill {environment}")
    newest = proved[-1]
    assert newest.proof is not None
    age, limit = datetime.now(UTC) - newest.proof.created, settings.backup.max_proof_age
    detail = f"{newest.id}, {newest.proof.grade}, proved {_ago(age)} ago"
    if age > limit:
        return failed(name, f"{detail}, longer than {_ago(limit)}", f"kg backup {environment}")
    return ok(name, detail)


def _ago(age: timedelta) -> str:
    minutes = age.total_seconds() / 60
    if minutes < 120:
        return f"{minutes:.0f} min"
    return f"{minutes / 60:.0f} h" if minutes < 48 * 60 else f"{minutes / 60 / 24:.0f} days"
