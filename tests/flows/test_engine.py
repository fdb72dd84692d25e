"""The engine for real: a flow in a process of its own, ended in every way a process can end."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import using

SLEEPER = Path(__file__).with_name("sleeper.py")
WARM_SECONDS = 30.0  # about 5 s on an idle machine; generous, since CI shares its cores
FRESH_SECONDS = 90.0
INTERRUPT_SECONDS = 10.0  # 1.4 alone; every core is busy while the tests run. Prefect's own takes a minute


@pytest.fixture(scope="session")
def prefect_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One PREFECT_HOME for the session, migrated by the first test that needs it."""
    home = tmp_path_factory.mktemp("prefect")
    first = start(home, 0)
    assert first.wait(timeout=FRESH_SECONDS) == 0, first.stderr.read() if first.stderr else ""
    return home


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    yield
    for child in _started:
        if child.poll() is None:
            child.kill()
        child.wait()
    _started.clear()


_started: list[subprocess.Popen[str]] = []


def start(home: Path, seconds: float, *, stubborn: float = 0, **variables: str) -> subprocess.Popen[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
    child = subprocess.Popen(
        [sys.executable, str(SLEEPER), str(seconds), str(stubborn)],
        env={**env, "PREFECT_HOME": str(home), **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    _started.append(child)
    return child


def until(child: subprocess.Popen[str], word: str) -> str:
    """Read the child's error stream up to the line that begins with `word`; that line."""
    assert child.stderr
    seen = []
    for line in child.stderr:
        seen.append(line)
        if line.startswith(word):
            return line.strip()
    raise AssertionError(f"{word!r} never came: {''.join(seen)}")


def servers(home: Path) -> list[int]:
    """Processes of flows.cli.server that use this PREFECT_HOME."""
    return using(home, "flows.cli.server")


def no_servers_within(home: Path, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while servers(home) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not servers(home)


def rows(home: Path, statement: str) -> list[tuple[object, ...]]:
    with sqlite3.connect(home / "prefect.db", timeout=30) as connection:
        return connection.execute(statement).fetchall()


def states(home: Path) -> list[str]:
    return [str(row[0]) for row in rows(home, "SELECT state_type FROM flow_run ORDER BY created")]


def test_a_run_leaves_its_records_and_no_process_and_no_noise(prefect_home: Path) -> None:
    begun = time.monotonic()
    child = start(prefect_home, 0)
    output, errors = child.communicate(timeout=WARM_SECONDS)
    assert (child.returncode, output) == (0, "[]\n"), errors
    assert [line.split()[0] for line in errors.splitlines()] == ["url", "ready", "running"]
    assert servers(prefect_home) == []
    assert states(prefect_home)[-1] == "COMPLETED"
    assert rows(prefect_home, "SELECT state_type FROM task_run ORDER BY created DESC LIMIT 1") == [("COMPLETED",)]
    assert rows(prefect_home, "SELECT count(*) FROM log WHERE message = 'said by core'") != [(0,)]
    assert time.monotonic() - begun < WARM_SECONDS


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_ends_the_run_in_order(prefect_home: Path, number: signal.Signals) -> None:
    child = start(prefect_home, 60)
    until(child, "running")
    begun = time.monotonic()
    child.send_signal(number)
    output, errors = child.communicate(timeout=20)
    assert time.monotonic() - begun < INTERRUPT_SECONDS
    assert child.returncode == 130, errors
    assert json.loads(output)["error"]["code"] == "interrupted"
    assert errors.splitlines() == ["giving up", "kg: interrupted"]
    assert servers(prefect_home) == []
    assert states(prefect_home)[-1] == "CRASHED"


def test_ctrl_c_of_a_terminal_reaches_the_whole_group_and_ends_in_order(prefect_home: Path) -> None:
    child = start(prefect_home, 60)
    until(child, "running")
    begun = time.monotonic()
    os.killpg(child.pid, signal.SIGINT)
    assert child.wait(timeout=20) == 130
    assert time.monotonic() - begun < INTERRUPT_SECONDS
    assert servers(prefect_home) == []
    assert states(prefect_home)[-1] == "CRASHED"


@pytest.mark.parametrize("word", ["url", "ready"])
def test_ctrl_c_while_the_engine_starts(prefect_home: Path, word: str) -> None:
    child = start(prefect_home, 60)
    until(child, word)
    time.sleep(0.05)
    begun = time.monotonic()
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=20)
    assert time.monotonic() - begun < INTERRUPT_SECONDS
    assert (child.returncode, "Traceback" in errors) == (130, False), errors
    assert servers(prefect_home) == []
    assert "RUNNING" not in states(prefect_home)


def test_signals_that_come_together_are_one(prefect_home: Path) -> None:
    """A terminal sends Ctrl-C to `uv run` and to kg, and uv passes it on."""
    child = start(prefect_home, 60)
    until(child, "running")
    child.send_signal(signal.SIGINT)
    time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    assert child.wait(timeout=20) == 130
    assert states(prefect_home)[-1] == "CRASHED"


def test_a_later_second_ctrl_c_ends_at_once(prefect_home: Path) -> None:
    child = start(prefect_home, 60, stubborn=60)
    until(child, "running")
    child.send_signal(signal.SIGINT)
    until(child, "giving up")
    time.sleep(1.1)
    child.send_signal(signal.SIGINT)
    begun = time.monotonic()
    assert child.wait(timeout=20) == 130
    assert time.monotonic() - begun < 5, "it had 60 s to go"
    assert no_servers_within(prefect_home, 3)


def test_kill_leaves_no_server_behind(prefect_home: Path) -> None:
    child = start(prefect_home, 60)
    until(child, "running")
    assert servers(prefect_home) != []
    child.kill()
    child.wait()
    assert no_servers_within(prefect_home, 3)


def test_two_at_once_on_an_empty_home_and_one_killed_before(tmp_path: Path) -> None:
    killed = start(tmp_path, 0)
    until(killed, "url")
    time.sleep(4)  # in the middle of the first migration, or near it
    killed.kill()
    killed.wait()
    children = [start(tmp_path, 1), start(tmp_path, 1)]
    for child in children:
        output, errors = child.communicate(timeout=FRESH_SECONDS)
        assert (child.returncode, output) == (0, "[]\n"), errors
        assert [line.split()[0] for line in errors.splitlines()] == ["url", "ready", "running"]
    assert sorted(states(tmp_path)) == ["COMPLETED", "COMPLETED"]


def test_a_server_that_is_there_is_used(prefect_home: Path) -> None:
    host = start(prefect_home, 60)
    url = until(host, "url").split()[1]
    until(host, "running")
    guest = start(prefect_home, 0, PREFECT_API_URL=url)
    output, errors = guest.communicate(timeout=WARM_SECONDS)
    assert (guest.returncode, output) == (0, "[]\n"), errors
    assert f"url {url}" in errors
    assert len(servers(prefect_home)) == 1


def test_a_server_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    child = start(tmp_path, 0, PREFECT_API_URL="http://127.0.0.1:9/api")
    output, errors = child.communicate(timeout=WARM_SECONDS)
    assert child.returncode == 1
    assert json.loads(output)["error"]["code"] == "engine"
    assert "kg: no Prefect server at PREFECT_API_URL (http://127.0.0.1:9/api): [Errno 111] Connection refused" in errors
    assert "hint: " in errors
    assert "Traceback" not in errors


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "prefect.db").write_bytes(b"this is no database" * 1000)
    child = start(tmp_path, 0)
    output, errors = child.communicate(timeout=FRESH_SECONDS)
    assert child.returncode == 1
    assert json.loads(output)["error"]["code"] == "engine"
    assert "kg: the Prefect server did not start" in errors
    assert "Traceback" not in errors
    assert servers(tmp_path) == []


def test_a_home_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    child = start(tmp_path / "file" / "home", 0)
    _, errors = child.communicate(timeout=WARM_SECONDS)
    assert child.returncode == 1
    assert "kg: Prefect's folder" in errors
    assert "hint: set PREFECT_HOME" in errors
