"""Messages: to a real webhook, to ones that fail and stall, and never with a secret."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tasks.core.notifications import sending
from tasks.core.notifications.message import compose
from tasks.core.notifications.secrets import scrub


class Webhook:
    """A local server; `answers` are the statuses of its next answers (then 200), `stall` the seconds before each."""

    def __init__(self) -> None:
        self.received: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.answers: list[int] = []
        self.stall = 0.0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                time.sleep(outer.stall)
                status = outer.answers.pop(0) if outer.answers else 200
                outer.paths.append(self.path)
                if body and status == 200:
                    outer.received.append(json.loads(body))
                self.send_response(status)
                self.end_headers()

            do_GET = do_POST  # noqa: N815 - its name there

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@contextmanager
def listening() -> Iterator[Webhook]:
    hook = Webhook()
    try:
        yield hook
    finally:
        hook.server.shutdown()
        hook.server.server_close()


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    with listening() as hook:
        yield hook


@pytest.fixture
def tell(webhook: Webhook, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    from tasks.notices import tell

    monkeypatch.setenv("KG_NOTIFY_URLS", f"json://operator:hook-password@{webhook.address}/path-secret")
    monkeypatch.setenv("SUPABASE_DB_PASSWORD", "database/password")
    return tell  # type: ignore[return-value]


def test_a_message_says_it_in_words_and_then_links(webhook: Webhook, tell) -> None:  # type: ignore[no-untyped-def]
    tell("dev", "backup-failed", "The disk is full.", backup="20261123T221212Z-303466d0", page="http://ui/runs/1")
    (got,) = webhook.received
    assert got["title"] == "dev: the backup FAILED"
    assert got["message"].splitlines() == [
        "The disk is full.",
        "",
        "backup: 20261123T221212Z-303466d0",
        "page: http://ui/runs/1",
    ]
    assert got["type"] == "failure"


def test_a_failing_webhook_is_tried_again(webhook: Webhook, tell, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(sending, "PAUSES", (0.05, 0.05, 0.05))
    webhook.answers = [500, 503]
    tell("dev", "failed", "It did not work.")
    assert len(webhook.paths) == 3
    assert len(webhook.received) == 1


def test_a_stalling_webhook_holds_nobody_up(webhook: Webhook, tell, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(sending, "WAIT_SECONDS", 0.3)
    webhook.stall = 2.0
    began = time.monotonic()
    tell("dev", "started", "It begins.")
    assert time.monotonic() - began < 1.5
    assert not webhook.received
    sending.finish()
    assert len(webhook.received) == 1, "the end of the process waits for what is under way"


def test_nobody_there_is_a_warning_without_the_address(
    tell,  # type: ignore[no-untyped-def]
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(sending, "PAUSES", (0.05,))
    monkeypatch.setenv("KG_NOTIFY_URLS", "json://operator:hook-password@127.0.0.1:1/path-secret nonsense://x/token-x")
    monkeypatch.setenv("KG_HEARTBEAT_URL", "http://127.0.0.1:1/beat-secret")
    from tasks.notices import report_nightly

    with caplog.at_level(logging.DEBUG):
        tell("dev", "failed", "It did not work.")
        report_nightly("dev")
        sending.finish()
    assert "address 1 of KG_NOTIFY_URLS could not be delivered to" in caplog.text
    assert "address 2 of KG_NOTIFY_URLS is none that Apprise knows" in caplog.text
    assert "KG_HEARTBEAT_URL could not be delivered to" in caplog.text
    for secret in ("hook-password", "path-secret", "token-x", "beat-secret"):
        assert secret not in caplog.text


def test_malformed_settings_fail_nothing(
    tell,  # type: ignore[no-untyped-def]
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("KG_ENVIRONMENTS", "/nowhere")
    tell("production", "failed", "It did not work.")
    assert "nobody was told that production failed: SettingsError" in caplog.text


def test_a_wrong_heartbeat_address_silences_nobody(
    webhook: Webhook,
    tell,  # type: ignore[no-untyped-def]
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from tasks.notices import report_nightly

    monkeypatch.setenv("KG_HEARTBEAT_URL", "ftp://elsewhere/beat-secret")
    tell("dev", "failed", "It did not work.")
    assert [each["title"] for each in webhook.received] == ["dev: the run FAILED"]
    report_nightly("dev")
    assert "no heartbeat for dev: SettingsError" in caplog.text
    assert "beat-secret" not in caplog.text


def test_no_secret_of_database_or_webhook_is_in_a_message(webhook: Webhook, tell) -> None:  # type: ignore[no-untyped-def]
    leak = f"postgresql://kg:other-password@h/d database/password database%2Fpassword {webhook.address}/path-secret"
    tell("dev", "failed", leak, page="http://me:link-password@ui/")
    (got,) = webhook.received
    for secret in ("other-password", "database/password", "database%2Fpassword", "path-secret", "link-password"):
        assert secret not in json.dumps(got)


def test_an_environment_chooses_its_events(webhook: Webhook, tell, tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "dev.toml").write_text('[notifications]\nevents = ["failed"]\n')
    monkeypatch.setenv("KG_ENVIRONMENTS", str(tmp_path))
    tell("dev", "started", "It begins.")
    tell("dev", "failed", "It ends.")
    assert [each["title"] for each in webhook.received] == ["dev: the run FAILED"]


def test_the_heartbeat_names_the_environment(webhook: Webhook, monkeypatch: pytest.MonkeyPatch) -> None:
    from tasks.notices import report_nightly

    monkeypatch.setenv("KG_HEARTBEAT_URL", f"http://{webhook.address}/ping/kg-{{environment}}")
    report_nightly("production")
    assert webhook.paths == ["/ping/kg-production"]


def test_a_long_text_is_cut_and_empty_links_are_left_out() -> None:
    made = compose("dev", "pruned", "x" * 10_000, {"run": ""}, {})
    assert made.body == "x" * 3000 + " ..."


def test_scrub_leaves_words_alone() -> None:
    assert scrub("kg at a host", {"SUPABASE_DB_PASSWORD": "a", "KG_HOME": "kg"}) == "kg at a host"


AT_THE_END = """
import logging, threading
from tasks.core.notifications import sending

class Remote(logging.Handler):
    '''As Prefect's: what it takes is sent by a thread, which ends with the others.'''

    def __init__(self):
        super().__init__()
        self.there = True
        threading._register_atexit(self.end)

    def end(self):
        self.there = False

    def emit(self, record):
        print(record.getMessage() if self.there else "nobody sends this any more")

logging.getLogger().addHandler(Remote())
sending.PAUSES, sending.WAIT_SECONDS = (0.3,), 0.0
sending.in_threads([("address 1", lambda: False)])
"""


def test_what_was_not_delivered_at_the_end_still_reaches_the_runs_log() -> None:
    """Prefect's handler, used after that, prints a traceback on the terminal instead."""
    done = subprocess.run([sys.executable, "-c", AT_THE_END], capture_output=True, text=True, check=True)
    assert done.stdout == "address 1 could not be delivered to: it was refused. The operation goes on without\n"
    assert done.stderr == ""
