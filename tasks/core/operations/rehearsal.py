"""Pending migrations tried out where nothing can break: on a restored copy, up and down; or, for a plan's locks, on an
empty database with the same tables.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from psycopg.errors import InsufficientPrivilege

from tasks.core.errors import MigrationFailed, OpsError, PrivilegeMissing, RehearsalFailed
from tasks.core.operations.census import Census, census, lost
from tasks.core.operations.rehearsed import Rehearsed, changes
from tasks.core.operations.rights import Stand, stand_on
from tasks.core.operations.stakes import count_rows, tables_of
from tasks.core.postgres.connections import Connection, Server, connect
from tasks.core.postgres.scratch import Scratch, scratch_database
from tasks.core.progress import note, track
from tasks.core.schema.catalog import fingerprint, read_catalog
from tasks.core.schema.compare import compare, failures
from tasks.core.schema.expected import Expected, expected_catalogs
from tasks.core.schema.migrations import Migration, apply, load_migrations, revert
from tasks.core.schema.observing import Observed, Watch
from tasks.core.schema.reach import cluster_wide
from tasks.core.settings import DatabaseSettings, Settings

_OUR_OWN = Stand()


@dataclass(frozen=True)
class Measured:
    """Statements by revision, as seen in a scratch database; `where` names its server, or says why there is none.
    `failed`: what a migration stumbled over there.
    """

    where: str
    statements: Mapping[str, tuple[Observed, ...]]
    failed: str = ""


def rehearse_on(
    scratch: Scratch, settings: Settings, pending: Sequence[Migration], counted: Mapping[str, int]
) -> tuple[Rehearsed, ...]:
    """`rehearse` in the restored copy that a drill has made, with the rights of the target's role; `counted` are the
    rows in it, as its proof has them.
    """
    if reaching := _beyond(settings, pending):
        raise RehearsalFailed(
            f"not rehearsed: {reaching}",
            hint="the database was not touched; do that by hand and take it out of the migration, or leave "
            "KG_SCRATCH_URL out",
        )
    rows = {label.replace('"', ""): count for label, count in counted.items()}
    address, stand = stand_on(scratch, settings)
    with connect(address, purpose="rehearsal", database=settings.database) as conn:
        rehearsed = rehearse(conn, settings, pending, rows, stand)
    for each in rehearsed:
        note(str(each))
    return rehearsed


def rehearse(
    conn: Connection,
    settings: Settings,
    pending: Sequence[Migration],
    rows: Mapping[str, int],
    stand: Stand = _OUR_OWN,
) -> tuple[Rehearsed, ...]:
    """Run `pending` up on the restored copy of `conn`, compare with what the migrations say, and down again, compared
    with what was there before each. `rows` by "schema.table". Raises RehearsalFailed: the target was not touched.
    """
    schema = settings.database.schema_name
    expected = _expected(conn, settings, stand)
    known = _differences(conn, schema, expected, _before(expected, pending[0]))
    before: dict[str, tuple[str, Census]] = {}
    ups: dict[str, tuple[float, Watch]] = {}
    for migration in pending:
        counted = {} if migration.irreversible else census(conn, schema, expected, migration.revision)
        before[migration.revision] = (_fingerprint(conn, schema, expected), counted)
        held = _our_rows(conn, schema, expected, migration)
        ups[migration.revision] = _up(conn, settings.database, migration, stand)
        watch = ups[migration.revision][1]
        watch.changed = changes(held, _our_rows(conn, schema, expected, migration), watch.changed)
    newest = pending[-1]
    # The last of all: what is applied out of order has to come out as if it had been in order.
    last = list(expected.catalogs)[-1]
    _refuse_differences(newest, known, _differences(conn, schema, expected, last))
    downs = _down_all(conn, settings.database, pending, before, expected, stand)
    return tuple(_rehearsed(one, *ups[one.revision], downs.get(one.revision), schema, rows, stand) for one in pending)


def _rehearsed(
    one: Migration,
    seconds: float,
    watch: Watch,
    down: float | None,
    schema: str,
    rows: Mapping[str, int],
    stand: Stand,
) -> Rehearsed:
    found = tuple(watch.statements)
    held = _rows_of(schema, found, rows)
    counted = one.transactional or all(each.concurrent for each in one.up_script.statements)
    return Rehearsed(one.revision, one.name, seconds, down, found, held, str(stand), watch.changed, counted)


def measure_locks(
    settings: Settings, server: Server, applied: Sequence[Migration], pending: Sequence[Migration]
) -> Measured:
    """What the statements of `pending` lock, seen on an empty scratch database in which `applied` ran before. Where it
    cannot be found out, why not: a plan holds without it.
    """
    statements: dict[str, tuple[Observed, ...]] = {}
    where = "locks were not measured"
    if reaching := _beyond(settings, [*applied, *pending]):
        return Measured(f"{where}: {reaching}", statements)
    try:
        with scratch_database(settings, like=server) as scratch, connect(scratch.address, purpose="plan") as conn:
            where = f"measured on an empty scratch database, PostgreSQL {scratch.server.version}"
            database = _in_scratch(conn, settings.database)
            for migration in applied:
                apply(conn, migration, database, _nothing)
            for migration in pending:
                watch = Watch(database.schema_name)
                apply(conn, migration, database, _nothing, observer=watch)
                statements[migration.revision] = tuple(watch.statements)
    except MigrationFailed as error:
        return Measured(f"{where}, as far as it came", statements, error.message)
    except OpsError as error:
        return Measured(f"{where}: {error.message}", statements)
    return Measured(where, statements)


def _beyond(settings: Settings, migrations: Sequence[Migration]) -> str:
    """On a server that others use too, what a migration does to the whole of it would be done for good."""
    if settings.scratch is None:
        return ""
    found = [
        f"{what} ({one.up.name}:{statement.line}) would change the whole of KG_SCRATCH_URL's server"
        for one in migrations
        for script in (one.up_script, one.down_script)
        if script
        for statement, what in cluster_wide(script.statements)
    ]
    return "; ".join(found)


def _in_scratch(conn: Connection, database: DatabaseSettings) -> DatabaseSettings:
    """Our tables' schema need not have its name there: migrations name none."""
    return database.model_copy(update={"schema_name": "public"})


def _nothing(_: Connection) -> None:
    """No ledger on a copy that is thrown away."""


def _expected(conn: Connection, settings: Settings, stand: Stand) -> Expected:
    migrations = load_migrations(settings.migrations)
    try:
        return stand.attempt(lambda: expected_catalogs(conn, migrations, settings.database.schema_name))
    except (MigrationFailed, PrivilegeMissing) as error:
        raise RehearsalFailed(f"on the restored copy, {error.message}", hint=_hint(error, stand)) from error


def _up(conn: Connection, database: DatabaseSettings, migration: Migration, stand: Stand) -> tuple[float, Watch]:
    watch, began = Watch(database.schema_name), time.monotonic()
    with track(f"rehearse-{migration.revision}", f"Rehearse {migration.label} on the copy"):
        try:
            stand.attempt(lambda: apply(conn, migration, database, _nothing, observer=watch))
        except MigrationFailed as error:
            raise _failed(migration, "fails", error, stand) from error
    return round(time.monotonic() - began, 3), watch


def _down_all(
    conn: Connection,
    database: DatabaseSettings,
    pending: Sequence[Migration],
    before: Mapping[str, tuple[str, Census]],
    expected: Expected,
    stand: Stand,
) -> dict[str, float]:
    seconds: dict[str, float] = {}
    for migration in reversed(pending):
        if migration.irreversible:
            note(f"{migration.label} has no way down: its way back is a restore of the backup just proved")
            break
        began = time.monotonic()
        try:
            stand.attempt(partial(revert, conn, migration, database, _nothing))
        except MigrationFailed as error:
            raise _failed(migration, "cannot be reverted", error, stand) from error
        seconds[migration.revision] = round(time.monotonic() - began, 3)
        _refuse_no_way_back(conn, database.schema_name, expected, migration, before[migration.revision])
    return seconds


def _refuse_no_way_back(
    conn: Connection, schema: str, expected: Expected, migration: Migration, before: tuple[str, Census]
) -> None:
    form, counted = before
    found = _fingerprint(conn, schema, expected)
    differs = [] if found == form else [f"fingerprint {found[:14]}, {form[:14]} before it"]
    differs += lost(counted, census(conn, schema, expected, migration.revision))
    if differs:
        raise RehearsalFailed(
            f"reverting {migration.label} on the restored copy does not lead back: {'; '.join(differs)}",
            hint="the database was not touched; mend the down script, or say `-- migrate: irreversible`",
        )


def _differences(conn: Connection, schema: str, expected: Expected, revision: str) -> dict[str, str]:
    """What the copy has otherwise than `revision` says, by its line."""
    found = failures(compare(expected.catalogs[revision], read_catalog(conn, schema, expected.scope)))
    return {difference.detail: str(difference) for difference in found}


def _refuse_differences(newest: Migration, known: Mapping[str, str], found: Mapping[str, str]) -> None:
    """What was otherwise before (accepted at an adoption, say) is not these migrations' work."""
    made = [line for detail, line in found.items() if detail not in known]
    if made:
        raise RehearsalFailed(
            f"on the restored copy {newest.label} does not make what the migrations make: {'; '.join(made)}",
            hint="the database was not touched; mend the migration",
        )


def _our_rows(conn: Connection, schema: str, expected: Expected, migration: Migration) -> dict[str, int]:
    """Of the tables that were there before it, where they still are."""
    return count_rows(conn, schema, sorted(tables_of(expected.catalogs[_before(expected, migration)])))


def _before(expected: Expected, migration: Migration) -> str:
    revisions = list(expected.catalogs)
    return revisions[revisions.index(migration.revision) - 1]


def _fingerprint(conn: Connection, schema: str, expected: Expected) -> str:
    return fingerprint(read_catalog(conn, schema, expected.scope))


def _failed(migration: Migration, what: str, error: OpsError, stand: Stand) -> RehearsalFailed:
    message = f"{migration.label} {what} on the restored copy: {error.message}"
    return RehearsalFailed(message, hint=_hint(error, stand))


def _hint(error: OpsError, stand: Stand) -> str:
    lacking = stand.rights and isinstance(error.__cause__, InsufficientPrivilege)
    mend = "" if error.hint or lacking else "mend the migration, or the rows, and deploy again"
    rights = f"it was tried with the rights that {stand.rights} has: an administrator grants what is missing"
    return "; ".join(filter(None, ["the database was not touched", rights if lacking else "", error.hint, mend]))


def _rows_of(schema: str, statements: Sequence[Observed], rows: Mapping[str, int]) -> dict[str, int]:
    tables = {lock.table for each in statements for lock in each.locks}
    return {table: rows[f"{schema}.{table}"] for table in sorted(tables) if f"{schema}.{table}" in rows}
