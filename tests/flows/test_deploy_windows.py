"""A deploy and its maintenance window, on a real server: waited for, overridden, scheduled."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

import pytest

from tasks.core.errors import Refused, UsageError
from tasks.core.postgres.connections import Connection
from tasks.core.progress import reporting
from tasks.core.release import approvals
from tasks.core.schema import ledger
from tasks.core.settings import Settings
from tests.flows.asking import Meanwhile, asked, asking, deploy, fill_in, release_of

__all__ = ["asking"]

OPEN = '[[windows]]\ncron = "0 * * * *"\nduration = "PT4H"\n'


class Counted:
    """Hears the titles of the steps."""

    def __init__(self) -> None:
        self.titles: list[str] = []

    def started(self, key: str, title: str, total: float | None, unit: str) -> None:
        if title.startswith("["):
            self.titles.append(title)

    def advanced(self, key: str, done: float, total: float | None) -> None: ...

    def finished(self, key: str, detail: str, ok: bool) -> None: ...

    def noted(self, text: str) -> None: ...


@pytest.mark.slow
def test_outside_of_the_window(asking: Callable[..., None], dev: Settings, conn: Connection) -> None:
    """Its next opening is days away, and this server has no deployment to schedule."""
    asking(0, '[[windows]]\nrrule = "DTSTART:20990104T020000\\nRRULE:FREQ=WEEKLY"\nduration = "PT2H"\n')
    with pytest.raises(Refused, match="no maintenance window of dev is long enough"):
        deploy()
    soon = time.strftime("%Y%m%dT%H%M%S", time.gmtime(time.time() + 3 * 86400))
    asking(0, f'[[windows]]\nrrule = "DTSTART:{soon}\\nRRULE:FREQ=WEEKLY"\nduration = "PT2H"\n')
    with pytest.raises(Refused, match=r"is not in a maintenance window with .* left; the next is") as refused:
        deploy()
    closing = time.strftime("%Y%m%dT%H%M%S", time.gmtime(time.time() - 3600))
    asking(0, f'[[windows]]\nrrule = "DTSTART:{closing}\\nRRULE:FREQ=WEEKLY"\nduration = "PT3620S"\n')
    with pytest.raises(Refused, match=r"is not in a maintenance window with .* left; the next is") as refused:
        deploy()  # it is open, for some seconds more
    assert "kg up" in (refused.value.hint or "")
    assert "--now --reason" in (refused.value.hint or "")
    assert ledger.entries(conn) == ()
    with pytest.raises(UsageError, match="needs a reason"):
        deploy(now=True)
    done = deploy(now=True, reason="the index\0 is corrupt")  # PostgreSQL keeps no NUL
    assert done.state == "deployed"
    assert release_of(conn)["override"] == "the index is corrupt"
    row = conn.execute("SELECT detail -> 'release' ->> 'override' FROM kg_ops.operation WHERE state = 'done'"
                       " AND detail ? 'release'").fetchone()  # fmt: skip
    assert row == ("the index is corrupt",)


@pytest.mark.slow
def test_inside_of_the_window(asking: Callable[..., None], dev: Settings, conn: Connection) -> None:
    asking(0, OPEN)
    counted = Counted()
    with reporting(counted):
        done = deploy()
    assert done.state == "deployed"
    # Without backup and drill, advice and prune, which this environment leaves out.
    assert counted.titles == [
        f"[{number}/7] {title}"
        for number, title in enumerate(["Check", "Plan", "Window", "Check again", "Migrate", "Verify", "Report"], 1)
    ]
    assert done.predicted_seconds
    assert re.fullmatch(r"20.* UTC", release_of(conn)["window"])


@pytest.mark.slow
def test_nobody_need_be_named_where_nobody_is_asked(
    asking: Callable[..., None], dev: Settings, conn: Connection
) -> None:
    """As the form of the UI leaves it."""
    from flows.deploy import deploy as flow

    asking(0, OPEN)
    assert flow(environment="dev").state == "deployed"
    assert release_of(conn)["started_by"] == approvals.NOBODY


@pytest.mark.slow
def test_a_freeze_that_is_written_while_people_are_asked_holds_it(
    asking: Callable[..., None], dev: Settings, conn: Connection
) -> None:
    asking(1, OPEN)
    today, then = date.today(), date.today() + timedelta(days=500)

    def freeze_and_approve() -> None:
        plan = asked(dev)
        asking(1, f"{OPEN}[[freeze]]\nfrom = {today - timedelta(days=1)}\nuntil = {then}\n")
        fill_in(plan, "approve", "Grace")

    with Meanwhile(freeze_and_approve), pytest.raises(Refused, match="no maintenance window of dev"):
        deploy()
    assert ledger.entries(conn) == (), "nothing is changed in a freeze"


def polled_deployment() -> None:
    """deploy/dev on this server, and a worker's heartbeat for its pool."""
    import asyncio

    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate

    from flows.deploy import deploy as flow

    async def register() -> None:
        async with get_client() as client:
            await client.create_work_pool(WorkPoolCreate(name="kg", type="process"), overwrite=True)
            made = await client.create_flow(flow)
            await client.create_deployment(
                made, "dev", work_pool_name="kg", entrypoint="flows.deploy.deploy", tags=["environment:dev"]
            )
            await client.send_worker_heartbeat("kg", "nobody", heartbeat_interval_seconds=30)

    asyncio.run(register())


def scheduled_runs() -> list[Any]:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter

    with get_client(sync_client=True) as client:
        wanted = FlowRunFilter.model_validate({"state": {"type": {"any_": ["SCHEDULED"]}}})
        return list(client.read_flow_runs(flow_run_filter=wanted))


@pytest.mark.slow
def test_scheduled_for_its_window_with_the_approval_it_has(
    asking: Callable[..., None], dev: Settings, conn: Connection
) -> None:
    soon = time.strftime("%Y%m%dT%H%M%S", time.gmtime(time.time() + 3 * 86400))
    later = f'notice = "PT10M"\n[[windows]]\nrrule = "DTSTART:{soon}\\nRRULE:FREQ=WEEKLY"\nduration = "PT2H"\n'
    asking(1, later)
    polled_deployment()
    with Meanwhile(lambda: fill_in(asked(dev), "approve", "Grace")):
        first = deploy()
    assert (first.state, first.applied) == ("scheduled", ())
    assert first.scheduled_for is not None
    assert first.scheduled_for.strftime("%Y%m%dT%H%M%S") == soon
    assert ledger.entries(conn) == ()
    [run] = scheduled_runs()
    assert run.parameters["plan"] == first.plan
    assert run.parameters["started_by"] == "Ada Lovelace"
    assert (first.scheduled_for - run.expected_start_time).total_seconds() == pytest.approx(600, abs=1)
    [waits] = approvals.waiting(dev)
    assert (waits.state, waits.approved_by) == ("scheduled", ("Grace",))
    assert waits.expires_at > first.scheduled_for, "an approval counts until its window is over"

    assert deploy().state == "scheduled"
    assert [each.id for each in scheduled_runs()] == [run.id], "asked for twice, scheduled once"

    asking(1, OPEN)  # its time has come
    from flows.deploy import deploy as flow

    done = flow(environment="dev", started_by="Barbara", plan=first.plan)
    assert (done.state, done.approved_by) == ("deployed", ("Grace",)), "nobody was asked twice"
    assert release_of(conn)["approved"][0]["name"] == "Grace"
    assert release_of(conn)["started_by"] == "Ada Lovelace", "whose plan was agreed to, not who took it up"
