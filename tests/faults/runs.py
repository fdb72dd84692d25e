"""A deploy and a rollback as the flows compose them, without the flow engine: for processes that are killed."""

from __future__ import annotations

import os

from tasks.core.backup.drill import drill
from tasks.core.backup.dump import back_up
from tasks.core.backup.manifest import Backup
from tasks.core.errors import OpsError, VerificationFailed
from tasks.core.operations.migrate import migrate
from tasks.core.operations.operation import Operation, operation
from tasks.core.operations.plan import make_plan
from tasks.core.operations.recover import Recovered, close, recover, settle
from tasks.core.operations.rollback import Request, RolledBack, roll_back
from tasks.core.operations.whole import reopen, restore_whole
from tasks.core.postgres.connections import connect
from tasks.core.schema import ledger
from tasks.core.schema.verify import verify
from tasks.core.settings import Settings


def deploy(settings: Settings, *, drilled: bool = True) -> None:
    with operation(settings, "deploy") as held:
        settle(held)
        _verify(held)
        close(held)
        assert held.settings.address is not None
        with connect(held.settings.address, purpose="plan") as conn:
            plan = make_plan(conn, held.settings)
        if plan.nothing_pending:
            return
        backup = _backup(held) if drilled else None
        try:
            migrate(held, plan, backup)
            _verify(held)
        except OpsError:
            roll_back(held, Request("auto", only_operation=True))
            held.end_state = "rolled-back"
            raise


def rollback(settings: Settings, request: Request) -> RolledBack:
    with operation(settings, "rollback") as held:
        settle(held)
        undone = roll_back(held, request)
        _verify(held)
        close(held)
        held.end_state = "done" if undone.nothing else "rolled-back"
        return undone


def whole(settings: Settings) -> RolledBack:
    """The whole database from its newest backup."""
    with operation(settings, "rollback") as held:
        settle(held)
        undone = restore_whole(held, None, accept_loss=True)
        _verify(held)
        close(held)
        held.end_state = "rolled-back"
        return undone


def recovered(settings: Settings, *, terminate: bool = False) -> Recovered:
    reopen(settings)
    with operation(settings, "recover", terminate=terminate) as held:
        return recover(held)


def _backup(held: Operation) -> Backup:
    with held.step("backup") as outcome:
        backup = back_up(held.settings, operation=str(held.id))
        outcome["backup"] = backup.id
    with held.step("drill"):
        return backup.model_copy(update={"proof": drill(held.settings, backup)})


def _verify(held: Operation) -> None:
    with held.session("verified") as conn:
        unverified = [entry.revision for entry in ledger.entries(conn) if entry.verified_at is None]
        if not unverified:
            return
        report = verify(held.settings)
        if not report.ok:
            raise VerificationFailed(
                "; ".join(f"{item.name}: {item.detail}" for item in report.checks if item.status == "failed")
            )
        ledger.mark_verified(conn, unverified)


def variables(settings: Settings) -> dict[str, str]:
    """With which another process finds the same database, store and migrations, and nothing else of ours."""
    address = settings.address
    assert address is not None
    assert address.password is not None
    secret = address.password.get_secret_value()
    url = f"postgresql://{address.user}@{address.host}:{address.port}"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("KG_", "PREFECT_", "SUPABASE_"))}
    ours = {
        "KG_HOME": str(settings.home),
        "KG_STORE_URL": settings.store_url,
        "KG_MIGRATIONS": str(settings.migrations),
        "SUPABASE_URL": f"{url}/{address.dbname}",
        "SUPABASE_DB_PASSWORD": secret,
    }
    if settings.scratch is not None:
        ours |= {"KG_SCRATCH_URL": f"{url}/{settings.scratch.dbname}", "KG_SCRATCH_PASSWORD": secret}
    return kept | ours
