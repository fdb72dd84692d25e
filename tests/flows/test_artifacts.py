"""What runs leave on their pages, read back from a real Prefect server; and who was told meanwhile."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tasks.core.postgres.connections import Connection
from tasks.core.progress import reporting
from tasks.core.settings import Settings
from tests.core.test_notices import Webhook, webhook
from tests.flows.runs import backup, deploy
from tests.integration.graphs import deploy_graph

__all__ = ["webhook"]


def artifact(key: str) -> Any:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
    from prefect.client.schemas.sorting import ArtifactSort

    with get_client(sync_client=True) as client:
        wanted = ArtifactFilter(key=ArtifactFilterKey(any_=[key]))
        found = client.read_artifacts(artifact_filter=wanted, sort=ArtifactSort.UPDATED_DESC, limit=1)
    assert found, key
    return found[0].data


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
    assert "█" in report
    assert str(done.backup) in report
    rows = json.loads(artifact("backups-dev"))
    assert [each["backup"] for each in rows] == [done.backup]
    assert rows[0]["proof"].startswith("✅")

    made = backup()
    history = artifact("drill-history-dev")
    assert made.id in history
    assert str(done.backup) in history
    assert "data:image/png;base64," in history
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
    from prefect.settings import PREFECT_SERVER_UI_ENABLED, PREFECT_UI_URL, temporary_settings

    pages = temporary_settings({PREFECT_UI_URL: "http://ui.example", PREFECT_SERVER_UI_ENABLED: True})
    with pages, pytest.raises(RuntimeError):
        deploy()
    assert [each["title"] for each in webhook.received[4:]] == [
        "dev: deploy started",
        "dev: was rolled back",
        "dev: deploy FAILED",
    ]
    report = artifact("deploy-dev")
    assert "| state | failed |" in report
    assert "| rolled back | [by " in report
    assert "](http://ui.example/runs/flow-run/" in report
    assert "/artifacts/key/backups-dev)" in report
    assert "a secret text" not in json.dumps(webhook.received)


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
