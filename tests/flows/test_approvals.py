"""A deploy that people are asked about, on a real server: by the form of its run, and by `kg approve`."""

from __future__ import annotations

import contextvars
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from tasks.core.documents import DeployDocument, attached
from tasks.core.errors import Refused, UsageError
from tasks.core.postgres.connections import Connection
from tasks.core.release import approvals
from tasks.core.release.approvals import Waiting
from tasks.core.schema import ledger
from tasks.core.settings import CHECKOUT, Settings
from tests.processes import until
from tests.terminal import kg

LEAN = {"backup = true": "backup = false", "drill = true": "drill = false"}


@pytest.fixture
def asking(dev: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """dev asks so many people; without backup, drill and advice unless `whole`. More TOML at the end."""

    def write(people: int, more: str = "", *, whole: bool = False, expire: str = "PT2M") -> None:
        text = (CHECKOUT / "deployments" / "environments" / "dev.toml").read_text()
        text = re.sub("(reindex|prune) = true", r"\1 = false", text)
        for old, new in {} if whole else LEAN.items():
            assert old in text
            text = text.replace(old, new)
        folder = tmp_path / "environments"
        folder.mkdir(exist_ok=True)
        asked = f'[approvals]\nrequired = {people}\npoll = "PT0.5S"\nexpire = "{expire}"\n'
        (folder / "dev.toml").write_text(f"{text}\n{asked}{more}")
        monkeypatch.setenv("KG_ENVIRONMENTS", str(folder))

    return write


def deploy(**parameters: Any) -> DeployDocument:
    from flows.deploy import deploy as flow

    return flow(environment="dev", started_by="Ada Lovelace", **parameters)


class Meanwhile:
    """Runs beside the deploy, in Prefect's own settings; its error is the test's."""

    def __init__(self, work: Callable[[], None]) -> None:
        self.error: BaseException | None = None
        context = contextvars.copy_context()
        self.thread = threading.Thread(target=context.run, args=(self._run, work))

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self.error = error

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.thread.join(timeout=60)
        if self.error:
            raise self.error


def asked(settings: Settings, after: str = "") -> Waiting:
    """The plan that waits, other than `after`, as soon as its run is paused."""
    from prefect.client.orchestration import get_client

    end = time.monotonic() + 60
    while time.monotonic() < end:
        found = [each for each in approvals.waiting(settings) if each.hash != after and each.flow_run]
        if found:
            with get_client(sync_client=True) as client:
                state = client.read_flow_run(UUID(found[0].flow_run)).state
                if state and state.is_paused() and state.state_details.run_input_keyset:
                    return found[0]
        time.sleep(0.2)
    raise AssertionError("nothing waits")


def fill_in(plan: Waiting, decision: str, name: str, note: str = "") -> None:
    """The form, as the UI sends it."""
    from prefect.client.orchestration import get_client
    from prefect.states import StateType

    with get_client(sync_client=True) as client:
        run = UUID(plan.flow_run)
        result = client.resume_flow_run(run, run_input={"decision": decision, "name": name, "note": note})
        assert result.status.value == "ACCEPT", result
        while (state := client.read_flow_run(run).state) and state.type == StateType.PAUSED:
            time.sleep(0.1)


def release_of(conn: Connection, revision: str = "001") -> dict[str, Any]:
    row = conn.execute("SELECT release FROM kg_ops.ledger WHERE revision = %s AND state = 'applied'", (revision,))
    found = row.fetchone()
    assert found
    return dict(found[0] or {})


def test_the_form_shows_the_plan_and_nothing_is_held(
    asking: Callable[..., None], dev: Settings, conn: Connection
) -> None:
    asking(1, whole=True)
    seen: dict[str, Any] = {}

    def approve() -> None:
        plan = asked(dev)
        seen["document"] = plan.document
        seen["sessions"] = conn.execute(
            "SELECT application_name FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name LIKE 'kg %' AND application_name NOT IN ('kg approvals', 'kg test')"
        ).fetchall()
        seen["locks"] = conn.execute(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = 27495"
        ).fetchone()
        fill_in(plan, "approve", "Grace Hopper", "read it all")

    with Meanwhile(approve):
        done = deploy()
    assert (done.state, done.applied, done.approved_by) == ("deployed", ("001",), ("Grace Hopper",))
    assert (seen["sessions"], seen["locks"]) == ([], (0,))
    for words in ("CREATE TABLE", "rehearsed 001", done.backup, "restorable", "predicted duration", "Ada Lovelace"):
        assert words in seen["document"]
    released = release_of(conn)
    assert [each["name"] for each in released["approved"]] == ["Grace Hopper"]
    assert released["approved"][0]["note"] == "read it all"
    assert (released["started_by"], released["plan"]) == ("Ada Lovelace", done.plan)
    assert done.warnings == ()
    assert "Back up again" not in done.seconds, "a fresh proof of the same state is good enough"


def test_two_approvers_by_form_and_terminal_and_not_the_starter(
    asking: Callable[..., None], dev: Settings, conn: Connection, variables: dict[str, str], tmp_path: Path
) -> None:
    asking(2)
    terminal = {**variables, "KG_ENVIRONMENTS": str(tmp_path / "environments")}
    said: list[str] = []

    def approve() -> None:
        fill_in(asked(dev), "approve", "ada lovelace")
        fill_in(asked(dev), "approve", "Grace Hopper")
        # The run writes down what its form was filled with, in its own time.
        until(lambda: asked(dev).approved_by == ("Grace Hopper",), seconds=60)
        waits = kg("approvals", "dev", **terminal)
        himself = kg("approve", "dev", "--name", "Ada Lovelace", "--yes", **terminal)
        other = kg("approve", "dev", "--name", "Barbara Liskov", "--yes", **terminal)
        said.extend([waits.stdout, himself.stderr, other.stdout])
        assert (waits.returncode, himself.returncode, other.returncode) == (0, 3, 0), (himself.stderr, other.stderr)

    with Meanwhile(approve):
        done = deploy()
    assert (done.state, done.approved_by) == ("deployed", ("Grace Hopper", "Barbara Liskov"))
    assert "1 of 2" in said[0]
    assert "does not count as its approver" in said[1]
    assert "approved by Grace Hopper, Barbara Liskov" in said[2]
    assert [each["name"] for each in release_of(conn)["approved"]] == ["Grace Hopper", "Barbara Liskov"]
    assert approvals.waiting(dev) == ()


@pytest.mark.slow
def test_rejected_in_the_terminal(
    asking: Callable[..., None], dev: Settings, conn: Connection, variables: dict[str, str], tmp_path: Path
) -> None:
    asking(1)
    terminal = {**variables, "KG_ENVIRONMENTS": str(tmp_path / "environments")}

    def reject() -> None:
        asked(dev)
        done = kg("approve", "dev", "--name", "Grace", "--reject", "--note", "not on a Friday", "--yes", **terminal)
        assert "is rejected" in done.stdout, done.stderr

    with Meanwhile(reject), pytest.raises(Refused, match="rejected by Grace: not on a Friday") as refused:
        deploy()
    document = attached(refused.value)
    assert isinstance(document, DeployDocument)
    assert (document.state, document.applied) == ("refused", ())
    assert ledger.entries(conn) == ()


@pytest.mark.slow
def test_nobody_comes(asking: Callable[..., None], dev: Settings, conn: Connection) -> None:
    asking(1, expire="PT3S")
    with pytest.raises(Refused, match=r"has expired: 1 approval\(s\) did not come"):
        deploy()
    assert ledger.entries(conn) == ()
    assert conn.execute("SELECT state FROM kg_ops.plans").fetchall() == [("expired",)]


@pytest.mark.slow
def test_a_plan_that_has_changed_is_asked_for_again(
    asking: Callable[..., None], dev: Settings, conn: Connection, migrations: Path
) -> None:
    asking(1)

    def approve() -> None:
        first = asked(dev)
        (migrations / "002_review.up.sql").write_text("ALTER TABLE code_patterns ADD COLUMN reviewed boolean;")
        (migrations / "002_review.down.sql").write_text("ALTER TABLE code_patterns DROP COLUMN reviewed;")
        fill_in(first, "approve", "Grace")
        second = asked(dev, after=first.hash)
        assert "ADD COLUMN reviewed" in second.document
        assert second.decisions == ()
        fill_in(second, "approve", "Barbara")

    with Meanwhile(approve):
        done = deploy()
    assert (done.applied, done.approved_by) == (("001", "002"), ("Barbara",))
    states = conn.execute("SELECT state FROM kg_ops.plans ORDER BY created_at").fetchall()
    assert states == [("superseded",), ("released",)]


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
    assert "kg up" in (refused.value.hint or "")
    assert "--now --reason" in (refused.value.hint or "")
    assert ledger.entries(conn) == ()
    with pytest.raises(UsageError, match="needs a reason"):
        deploy(now=True)
    done = deploy(now=True, reason="the index is corrupt")
    assert done.state == "deployed"
    assert release_of(conn)["override"] == "the index is corrupt"
    row = conn.execute("SELECT detail -> 'release' ->> 'override' FROM kg_ops.operation WHERE state = 'done'"
                       " AND detail ? 'release'").fetchone()  # fmt: skip
    assert row == ("the index is corrupt",)


@pytest.mark.slow
def test_inside_of_the_window(asking: Callable[..., None], dev: Settings, conn: Connection) -> None:
    asking(0, '[[windows]]\ncron = "0 * * * *"\nduration = "PT4H"\n')
    done = deploy()
    assert done.state == "deployed"
    assert done.predicted_seconds
    assert re.fullmatch(r"20.* UTC", release_of(conn)["window"])


def test_who_starts_it_says_so(asking: Callable[..., None], dev: Settings) -> None:
    from flows.deploy import deploy as flow

    asking(1)
    with pytest.raises(Refused, match="nobody says who starts this deploy"):
        flow(environment="dev")


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
                made, "dev", work_pool_name="kg", entrypoint="flows.deploy:deploy", tags=["environment:dev"]
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

    asking(1, '[[windows]]\ncron = "0 * * * *"\nduration = "PT4H"\n')  # its time has come
    done = deploy(plan=first.plan)
    assert (done.state, done.approved_by) == ("deployed", ("Grace",)), "nobody was asked twice"
    assert release_of(conn)["approved"][0]["name"] == "Grace"
