"""What must be proved before a migration may run: a backup that restores, and, for production, staging's own proof.

Each gate is a check with the command that opens it. Nothing here writes anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from sql import query
from tasks.core.addresses import Address
from tasks.core.backup.contents import identity_of
from tasks.core.backup.library import backups
from tasks.core.backup.manifest import Backup, Identity
from tasks.core.errors import ConnectionFailed, Refused, SettingsError
from tasks.core.operations.plan import DeployPlan
from tasks.core.postgres.connections import Connection, connect, describe, vector_extension
from tasks.core.schema import ledger
from tasks.core.schema.migrations import Migration
from tasks.core.schema.report import CheckResult, failed, ok, skipped
from tasks.core.settings import Settings, load_settings
from tasks.core.store.base import open_store

PROOF, STAGING = "gate: proved backup", "gate: staging"


def pass_gates(checks: Sequence[CheckResult]) -> None:
    """Raises Refused (exit 3) with what is missing and the commands that make it."""
    shut = [check for check in checks if check.status == "failed"]
    if shut:
        raise Refused(
            "; ".join(check.detail for check in shut),
            hint="; then ".join(dict.fromkeys(check.remedy for check in shut if check.remedy)) or None,
        )


def lasting_gates(conn: Connection, settings: Settings, plan: DeployPlan) -> tuple[CheckResult, ...]:
    """The gates that nothing in a deploy can open: known to be shut before any work is done."""
    own = settings.deploy.backup and settings.deploy.drill
    proof = () if own else (never_proved(settings, plan) or proof_gate(conn, settings, plan, None),)
    return (*proof, staging_gate(conn, settings, plan))


def never_proved(settings: Settings, plan: DeployPlan) -> CheckResult | None:
    """A deploy that makes a backup of its own and never restores it has nothing to show at its own gate."""
    wanted, environment = settings.deploy, settings.environment
    if plan.nothing_pending or not (wanted.require_proof and wanted.backup and not wanted.drill):
        return None
    return failed(
        PROOF,
        f"{environment}.toml asks for a proved backup ([deploy] require_proof = true), and its deploys make one that "
        "they do not prove (backup = true, drill = false)",
        f"set drill = true in {environment}.toml; or backup = false, and `kg backup {environment}` before each deploy",
    )


def proof_gate(conn: Connection, settings: Settings, plan: DeployPlan, backup: Backup | None) -> CheckResult:
    """Is `backup` (None: the newest proved one in the store) a way back from this very plan? `conn` is the target's."""
    environment = settings.environment
    if plan.nothing_pending or not settings.deploy.require_proof:
        return skipped(PROOF, "nothing is pending" if plan.nothing_pending else "require_proof is off here")
    mine = identity_of(conn)
    chosen = backup or _newest(settings, mine)
    if chosen is None:
        return failed(
            PROOF,
            f"{environment} migrates only with a proved backup, and {settings.store_url} has none of this database",
            f"kg backup {environment}",
        )
    return _judge(conn, settings, plan, chosen, mine)


def staging_gate(conn: Connection, settings: Settings, plan: DeployPlan) -> CheckResult:
    """Has the staging database applied and verified every revision of `plan`, from the same files?"""
    if plan.nothing_pending or not settings.deploy.require_staging:
        return skipped(STAGING, "nothing is pending" if plan.nothing_pending else "require_staging is off here")
    try:
        address = _staging_address()
        with connect(address, purpose="gate", database=settings.database) as staging:
            staging.execute(query("set_setting"), {"name": "default_transaction_read_only", "value": "on"})
            if identity_of(staging).is_same(identity_of(conn)):
                return failed(
                    STAGING,
                    f"STAGING_DB_URL names the {settings.environment} database itself ({address.label})",
                    "put the address of the staging database in STAGING_DB_URL",
                )
            entries = ledger.entries(staging)
    except (ConnectionFailed, SettingsError) as error:
        return failed(
            STAGING,
            f"the staging database cannot be asked whether it has proved these revisions: {error.message}",
            error.hint or "let STAGING_DB_URL and STAGING_DB_PASSWORD reach it from here: kg check staging",
        )
    return _proved_there({entry.revision: entry for entry in entries}, (*plan.adopted, *plan.pending))


def _proved_there(entries: dict[str, ledger.Entry], wanted: Sequence[Migration]) -> CheckResult:
    lacking = [said for migration in wanted if (said := _lacking(entries.get(migration.revision), migration))]
    if lacking:
        return failed(STAGING, f"staging has not proved what is pending: {'; '.join(lacking)}", "kg deploy staging")
    return ok(STAGING, f"staging has applied and verified {', '.join(migration.label for migration in wanted)}")


def _lacking(entry: ledger.Entry | None, migration: Migration) -> str:
    if entry is None:
        return f"{migration.label} is not applied there"
    if entry.checksum != migration.checksum:
        return (
            f"{migration.label} was applied there from another file "
            f"(sha256 {entry.checksum[:12]} there, {migration.checksum[:12]} here): roll it back there first"
        )
    return "" if entry.verified_at else f"{migration.label} is applied there, but not verified"


def _staging_address() -> Address:
    address = load_settings("staging").address
    assert address is not None, "only dev goes without an address"
    return address


def _newest(settings: Settings, mine: Identity) -> Backup | None:
    """The newest proved backup of this database; where none is proved, the newest: its refusal says more."""
    found = [one for one in backups(open_store(settings), settings.environment) if one.manifest.database.is_same(mine)]
    preferred = [one for one in found if one.proved] or found
    return preferred[-1] if preferred else None


def _judge(conn: Connection, settings: Settings, plan: DeployPlan, backup: Backup, mine: Identity) -> CheckResult:
    environment, manifest = settings.environment, backup.manifest
    drill = f"kg restore-drill {environment} --backup {backup.id}"
    another = f"kg backup {environment}"
    age, limit = datetime.now(UTC) - backup.created, settings.backup.max_backup_age
    if not manifest.database.is_same(mine):
        return failed(PROOF, f"backup {backup.id} is of another database ({manifest.database.name})", another)
    if not backup.proved:
        return failed(PROOF, f"backup {backup.id} is not proved: it was never restored", drill)
    if not backup.restorable:
        return failed(PROOF, f"backup {backup.id} is {_readable_only(backup)}", f"{_scratch_like(conn)}, then {drill}")
    if manifest.revision != plan.revision:
        detail = f"backup {backup.id} is of revision {manifest.revision or 'none'}, "
        return failed(PROOF, f"{detail}the database is at {plan.revision or 'none'}", another)
    if age > limit:
        detail = f"backup {backup.id} is {_hours(age)} old, and may be {_hours(limit)} (max_backup_age)"
        return failed(PROOF, detail, another)
    return ok(PROOF, f"{backup.id}, restorable, {_hours(age)} old, of this database at this revision")


def _readable_only(backup: Backup) -> str:
    server, proof = backup.manifest.server, backup.proof
    where = (
        f"PostgreSQL {proof.server.version} / pgvector {proof.server.pgvector or 'none'}, "
        if proof and proof.server
        else ""
    )
    return (
        f"proved readable on {where}not restorable on the server's own PostgreSQL {server.major} "
        f"/ pgvector {server.pgvector or 'none'}"
    )


def _scratch_like(conn: Connection) -> str:
    server, vector = describe(conn), vector_extension(conn)
    return f"let KG_SCRATCH_URL name a server with PostgreSQL {server.major} and pgvector {vector.installed or 'any'}"


def _hours(age: timedelta) -> str:
    hours = age.total_seconds() / 3600
    return f"{hours * 60:.0f} min" if hours < 2 else f"{hours:.1f} h"
