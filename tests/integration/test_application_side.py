"""verify's application side: real servers, each once well and once not."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from flows.cli.app import run
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
from tasks.core.postgres.connections import Connection
from tasks.core.settings import CHECKOUT, Settings
from tests.integration.application_server import Application, application, asking
from tests.integration.graphs import deploy_graph
from tests.processes import free_port
from tests.redis_server import redis_server

pytestmark = pytest.mark.slow
__all__ = ["application"]  # a fixture


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """host:port of a server that asks for the password "open-sesame"."""
    with redis_server(tmp_path_factory.mktemp("redis"), "open-sesame") as place:
        yield place


def found(settings: Settings, name: str) -> str:
    return next(f"{each.status}: {each.detail}" for each in check_application(settings) if each.name == name)


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
