"""What runs leave on their pages, read back from a real Prefect server; and who was told meanwhile."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from tasks.artifacts import MARKS
from tasks.core.backup import library
from tasks.core.postgres.connections import Connection
from tasks.core.progress import reporting
from tasks.core.settings import Settings
from tasks.core.store.base import open_store
from tests.core.test_notices import Webhook, webhook
from tests.flows.runs import backup, deploy
from tests.integration.graphs import deploy_graph
from tests.integration.test_prune import earlier

__all__ = ["webhook"]


def artifact(key: str) -> Any:
    return newest(key).data


def described(key: str) -> str:
    """What lists of artifacts show of it."""
    return str(newest(key).description)


def newest(key: str) -> Any:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
    from prefect.client.schemas.sorting import ArtifactSort

    with get_client(sync_client=True) as client:
        wanted = ArtifactFilter(key=ArtifactFilterKey(any_=[key]))
        found = client.read_artifacts(artifact_filter=wanted, sort=ArtifactSort.UPDATED_DESC, limit=1)
    assert found, key
    return found[0]


def linked(report: str) -> list[str]:
    """Where its links lead, in their order: an artifact's key, a flow run's name."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterId

    found = []
    with get_client(sync_client=True) as client:
        for kind, found_id in re.findall(r"\]\(\.\./\.\./(artifacts/artifact|runs/flow-run)/([0-9a-f-]{36})\)", report):
            if kind == "runs/flow-run":
                found.append(client.read_flow_run(UUID(found_id)).name)
            else:
                only = ArtifactFilter(id=ArtifactFilterId(any_=[UUID(found_id)]))
                found += [str(each.key) for each in client.read_artifacts(artifact_filter=only)]
    assert len(found) == report.count("]("), report
    return found


def bars() -> dict[str, float]:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterType

    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=ArtifactFilter(type=ArtifactFilterType(any_=["progress"])))
    return {str(each.description): float(str(each.data)) for each in found}


class Seen:
    """Subscribes as the terminal's bars do: the pieces of work with a known total, key -> title."""

    def __init__(self) -> None:
        self.work: dict[str, str] = {}

    def started(self, key: str, title: str, total: float | None, unit: str) -> None:
        if total:
            self.work[key] = title

    def advanced(self, key: str, done: float, total: float | None) -> None: ...
    def finished(self, key: str, detail: str, ok: bool) -> None: ...
    def noted(self, text: str) -> None: ...


def progress_keys() -> dict[str, str]:
    """Key -> title of the newest progress artifact of each series."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterType
    from prefect.client.schemas.sorting import ArtifactSort

    only = ArtifactFilter(type=ArtifactFilterType(any_=["progress"]))
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=only, sort=ArtifactSort.UPDATED_DESC)
    return {str(each.key): str(each.description) for each in reversed(found)}


def test_bars_and_progress_artifacts_are_fed_by_the_same_events(dev: Settings, conn: Connection) -> None:
    deploy_graph(conn, dev)
    terminal = Seen()
    with reporting(terminal):
        backup()
    assert {"dump", "read-back", "restore-data"} <= terminal.work.keys(), terminal.work
    shown = progress_keys()
    for key, title in terminal.work.items():
        assert shown[f"progress-{key}-dev"] == title


def test_a_day_is_told_and_shown(
    dev: Settings, migrations: Path, conn: Connection, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KG_NOTIFY_URLS", f"json://{webhook.address}/hook")
    monkeypatch.setenv("KG_HEARTBEAT_URL", f"http://{webhook.address}/alive/{{environment}}")
    done = deploy()
    report = artifact("deploy-dev")
    assert "| Migrate |" in report
    assert described("deploy-dev") == "Deploy of dev: deployed, revision 001"
    assert described("plan-dev").startswith("Deploy to dev (plan")
    assert described("backups-dev").startswith("Backups of dev, newest first: 1; the newest that is proved: 2")
    assert "█" in report
    assert str(done.backup) in report
    assert linked(report) == ["plan-dev", "rehearsal-dev", "drill-dev", "backups-dev"]
    assert f"`{(done.fingerprint_after or '')[:18]}…`" in report
    rows = json.loads(artifact("backups-dev"))
    assert [each["backup"] for each in rows] == [done.backup]
    assert rows[0]["proof"].startswith("✅")

    made = backup()
    history = artifact("drill-history-dev")
    assert made.id in history
    assert str(done.backup) in history
    assert "data:image/png;base64," in history
    assert described("drill-history-dev") == "Restore drills of dev"
    shown = bars()
    assert shown["Dump to the store"] == 100
    assert any(title.startswith("Read ") for title in shown), shown
    told = [each["title"] for each in webhook.received]
    assert told == ["dev: deploy started", "dev: deploy succeeded", "dev: backup succeeded"]
    assert f"backup: {made.id}" in webhook.received[-1]["message"]
    assert "/alive/dev" in webhook.paths

    assert deploy().state == "nothing-pending"
    assert [each["title"] for each in webhook.received[3:]] == ["dev: deploy succeeded"], "one message, no pair"
    assert "Nothing was pending." in webhook.received[3]["message"]

    (migrations / "999_breaks.up.sql").write_text("ALTER TABLE code_patterns ADD COLUMN surprise text;")
    (migrations / "999_breaks.down.sql").write_text("ALTER TABLE code_patterns DROP COLUMN surprise;")
    monkeypatch.setattr("flows.deploy.verify_target", _fails)
    with pytest.raises(RuntimeError):
        deploy()
    assert [each["title"] for each in webhook.received[4:]] == [
        "dev: deploy started",
        "dev: was rolled back",
        "dev: deploy FAILED",
    ]
    report = artifact("deploy-dev")
    assert "| state | failed |" in report
    assert described("deploy-dev") == "Deploy of dev: failed, revision 001; RuntimeError: a secret text of a library"
    assert "| rolled back | [by revert](" in report
    assert linked(report) == [
        "plan-dev",
        "rehearsal-dev",
        "drill-dev",
        "backups-dev",
        "rollback-dev",
        "rollback dev auto",
    ]
    assert "ALTER TABLE code_patterns ADD COLUMN surprise text;" in artifact("plan-dev")
    assert "a secret text" not in json.dumps(webhook.received)


def test_verification_and_retention_are_tables_in_series(dev: Settings, conn: Connection) -> None:
    """One key a thing and environment, which the UI keeps as a history."""
    from flows.prune import prune
    from flows.verify import verify

    deploy()
    before = {key: how_often(key) for key in ("verify-dev", "retention-dev")}
    conn.execute("DROP INDEX code_patterns_language_idx")
    assert verify(environment="dev").ok is False
    rows = json.loads(artifact("verify-dev"))
    assert all(set(each) == {"check", "status", "detail", "remedy"} for each in rows)
    assert {each["status"] for each in rows} <= set(MARKS.values())
    [failed] = [each for each in rows if each["status"] == MARKS["failed"]]
    assert "code_patterns_language_idx" in failed["detail"]
    assert rows[0] == failed, "the page shows ten rows"
    assert described("verify-dev").startswith("Verification of dev: FAILED, schema: ")
    assert {each["status"] for each in rows[-2:]} == {MARKS["skipped"]}

    [newest] = library.backups(open_store(dev), "dev")
    old = earlier(dev, newest, 8)
    for apply, gone in ((False, "delete (dry run)"), (True, "deleted")):
        prune(environment="dev", apply=apply)
        rows = json.loads(artifact("retention-dev"))
        assert {each["backup"]: each["decision"] for each in rows} == {newest.id: "keep", old.id: gone}
        assert all(each["reason"] for each in rows)
        assert described("retention-dev") == f"Retention of dev: 1 kept, 1 {gone}"
    assert how_often("verify-dev") == before["verify-dev"] + 1
    assert how_often("retention-dev") == before["retention-dev"] + 2


def how_often(key: str) -> int:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

    with get_client(sync_client=True) as client:
        return len(client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key]))))


def _fails(environment: str) -> None:
    raise RuntimeError("a secret text of a library")


def test_without_pillow_the_history_is_a_table_that_says_so(
    dev: Settings, monkeypatch: pytest.MonkeyPatch, webhook: Webhook
) -> None:
    monkeypatch.setattr("tasks.core.drawing.find_spec", lambda name: None)
    monkeypatch.setenv("KG_NOTIFY_URLS", f"json://{webhook.address}/hook")
    backup()
    history = artifact("drill-history-dev")
    assert "No picture: pip install 'kg-operations[plots]' draws it." in history
    assert "| drilled | backup |" in history
    assert "base64" not in history


def test_a_backup_that_fails_is_told(dev: Settings, monkeypatch: pytest.MonkeyPatch, webhook: Webhook) -> None:
    from tasks.core.errors import OpsError

    monkeypatch.setenv("KG_NOTIFY_URLS", f"json://{webhook.address}/hook")
    monkeypatch.setenv("KG_HEARTBEAT_URL", f"http://{webhook.address}/alive")
    monkeypatch.setenv("SUPABASE_URL", "postgresql://kg@127.0.0.1:1/nothing")
    with pytest.raises(OpsError):
        backup()
    assert [each["title"] for each in webhook.received] == ["dev: the backup FAILED"]
    assert "/alive" not in webhook.paths
