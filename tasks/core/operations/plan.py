"""What a deploy would do, as data: computed without writing anything, shown to people, and bound to its hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from psycopg import errors

from tasks.core.errors import AdoptionRefused, MigrationFailed, Refused, quoted
from tasks.core.postgres.connections import Connection, connect, describe, target
from tasks.core.schema import ledger
from tasks.core.schema.adoption import judge
from tasks.core.schema.catalog import read_catalog
from tasks.core.schema.expected import Expected, expected_catalogs, scope_of
from tasks.core.schema.known import known
from tasks.core.schema.matching import RELATIONS
from tasks.core.schema.migrations import Migration, load_migrations
from tasks.core.schema.named import refuse_named
from tasks.core.settings import Environment, Settings

Action = Literal["apply", "adopt", "nothing"]


@dataclass(frozen=True)
class DeployPlan:
    """`pending` is what would run, in order; `adopted` is recorded without running. `hash` names exactly this plan."""

    environment: Environment
    database: str
    revision: str
    pending: tuple[Migration, ...]
    adopted: tuple[Migration, ...]
    tolerated: tuple[str, ...]
    unverified: tuple[str, ...]
    hash: str

    @property
    def nothing_pending(self) -> bool:
        return not (self.pending or self.adopted)

    @property
    def target_revision(self) -> str:
        ahead = [self.revision or "0", *(each.revision for each in (*self.adopted, *self.pending))]
        newest = max(ahead, key=int)  # one that is applied out of order is below what is there
        return newest if newest != "0" else self.revision


def preview(settings: Settings) -> DeployPlan:
    """The plan of a deploy, on a connection of its own. Raises AdoptionRefused, Refused (drift) and DatabaseError."""
    with connect(target(settings), purpose="plan", database=settings.database) as conn:
        return make_plan(conn, settings)


def is_current(conn: Connection, settings: Settings) -> bool:
    """Has the ledger every revision, so that nothing is pending? A quick look, before the plan is made."""
    return ledger.exists(conn) and not _pending(settings, load_migrations(settings.migrations), ledger.entries(conn))


def make_plan(conn: Connection, settings: Settings) -> DeployPlan:
    """The plan on this connection's database; nothing is written."""
    migrations = load_migrations(settings.migrations)
    entries = ledger.entries(conn) if ledger.exists(conn) else ()
    pending = _pending(settings, migrations, entries)
    for migration in pending:
        refuse_named(conn, migration.up_script.statements, migration.up.name)
    adopted: tuple[Migration, ...] = ()
    tolerated: tuple[str, ...] = ()
    if pending and not entries:
        adopted, tolerated = _adoption(conn, settings, migrations)
    elif pending:
        _refuse_taken(conn, settings, entries)
    to_run = tuple(migration for migration in pending if migration not in adopted)
    server = describe(conn)
    revision = entries[-1].revision if entries else ""
    # Without a revision it may not have an identity yet: the deploy makes one after the plan was approved.
    identity = str(ledger.identity(conn)) if entries else ""
    return DeployPlan(
        environment=settings.environment,
        database=server.database,
        revision=revision,
        pending=to_run,
        adopted=adopted,
        tolerated=tolerated,
        unverified=tuple(entry.revision for entry in entries if entry.verified_at is None),
        hash=_hash([settings.environment, server.database, identity, revision], adopted, to_run),
    )


def _pending(
    settings: Settings, migrations: Sequence[Migration], entries: Sequence[ledger.Entry]
) -> tuple[Migration, ...]:
    return ledger.pending(migrations, entries, out_of_order=settings.deploy.out_of_order)


def agree(plan: DeployPlan, approved: str) -> None:
    """Raises Refused unless `approved` (a plan's hash, or empty for any) is this plan."""
    if approved and approved != plan.hash:
        raise Refused(
            f"the plan has changed since it was approved: {quoted(approved)} is now {plan.hash}",
            hint=f"look at it again with `kg deploy {plan.environment}`",
        )


def expected_of(conn: Connection, settings: Settings) -> Expected:
    """What each revision of the migrations should look like on this connection's server."""
    migrations = load_migrations(settings.migrations)
    return expected_catalogs(conn, migrations, settings.database.schema_name, cache=settings.home / "cache")


def known_expected(conn: Connection, settings: Settings, *, begun: Collection[str] = ()) -> Expected:
    """As expected_of, of the revisions in the ledger (also those reverted since) and those `begun` only: a file that is
    merely pending must not bar the way back, and a table that happens to bear a name in it is not ours.
    """
    migrations = known(conn, settings.migrations, begun=begun)
    return expected_catalogs(conn, migrations, settings.database.schema_name, cache=settings.home / "cache")


def _refuse_taken(conn: Connection, settings: Settings, entries: Sequence[ledger.Entry]) -> None:
    """IF NOT EXISTS would pass over what somebody else has made under a pending revision's name, and the way back
    would take it for ours. A no-transaction migration is left out: it runs again over what it made before it failed.
    """
    migrations, schema = load_migrations(settings.migrations), settings.database.schema_name
    try:
        expected = expected_of(conn, settings)
    except MigrationFailed as failure:
        if isinstance(failure.__cause__, errors.ActiveSqlTransaction):  # applied, it could never be verified
            raise
        return  # what it would make cannot be found out here; the rehearsal says why it fails
    new = expected.scope - scope_of(expected.catalogs[entries[-1].revision])
    if not new or any(not each.transactional for each in migrations):
        return
    taken = [name for name, found in read_catalog(conn, schema, new)["objects"].items() if found["kind"] in RELATIONS]
    if taken:
        raise Refused(
            f"a pending revision would make what is there already and is not ours: {', '.join(taken)}",
            hint="rename one of the two; nothing was executed",
        )


def _adoption(
    conn: Connection, settings: Settings, migrations: tuple[Migration, ...]
) -> tuple[tuple[Migration, ...], tuple[str, ...]]:
    """Revision 1 and what is tolerated, where its objects all exist and match; nothing where none exists."""
    verdict = judge(conn, expected_of(conn, settings), settings.database.schema_name)
    if verdict.kind == "refuse":
        listed = "; ".join(difference.detail for difference in verdict.differences)
        raise AdoptionRefused(
            f"the database has tables of the knowledge graph that are not revision {migrations[0].revision}: {listed}",
            hint="nothing was executed; make them match, or move them to another schema, and deploy again",
        )
    return ((migrations[0],), verdict.tolerated) if verdict.kind == "adopt" else ((), ())


def _hash(place: list[str], adopted: tuple[Migration, ...], pending: tuple[Migration, ...]) -> str:
    content = [place, [m.checksum for m in adopted], [m.checksum for m in pending]]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]
