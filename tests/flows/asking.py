"""A deploy that people are asked about: an environment that asks them, and what they do meanwhile."""

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

from tasks.core.documents import DeployDocument
from tasks.core.postgres.connections import Connection
from tasks.core.release import approvals
from tasks.core.release.approvals import Waiting
from tasks.core.settings import CHECKOUT, Settings

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
