"""The embedded server after kill -9: of its users, its guardian, itself, or one of its sessions."""

from __future__ import annotations

import os
import time

import pytest

from tests.processes import (
    USE,
    Person,
    assert_all_is_over,
    end,
    guardian_of,
    is_gone,
    kill,
    kill_hard,
    reached,
    server_of,
    until,
    words,
    write,
)

pytestmark = pytest.mark.slow


USE_WITH_CHILD = USE + "import subprocess; said['child'] = subprocess.Popen(['sleep', '60']).pid"


@pytest.mark.slow
def test_kill_9_of_the_only_user_leaves_no_process(person: Person) -> None:
    child, said = person.run(USE_WITH_CHILD)
    place = person.home / "postgres"
    server, guardian = server_of(place), guardian_of(place)
    try:
        kill(child)
        assert_all_is_over(place, server, guardian)  # although a child of the killed process lives on
        assert not is_gone(int(str(said["child"])))
    finally:
        os.kill(int(str(said["child"])), 9)


@pytest.mark.slow
def test_a_killed_guardian_is_replaced(person: Person) -> None:
    first, said = person.run(USE)
    place = person.home / "postgres"
    server, guardian = server_of(place), guardian_of(place)
    kill_hard(guardian)
    assert server_of(place) == server
    second, same = person.run(USE)
    assert same == said
    assert (server_of(place), guardian_of(place) not in (0, guardian)) == (server, True)
    end(first)
    end(second)
    assert_all_is_over(place, server)


@pytest.mark.slow
def test_a_killed_server_is_started_again_with_its_data(person: Person) -> None:
    _, said = person.run(USE)
    place = person.home / "postgres"
    write(reached(said), "kept")
    server = server_of(place)
    kill_hard(server)
    _, again = person.run(USE)
    assert server_of(place) not in (0, server)
    assert words(reached(again)) == ["kept"]


CRASHES = """
import os, signal, time
from tasks.core.errors import OpsError
from tasks.core.postgres import embedded
from tasks.core.postgres.connections import connect

def parent(pid):
    return int(Path(f"/proc/{{pid}}/stat").read_text().rpartition(")")[2].split()[1])

failed = []
for _ in range(8):
    others = [connect(embedded.ensure(home), purpose="test") for _ in range(6)]  # the more, the longer it takes to die
    session = others[0].info.backend_pid
    victim = {victim}  # a dead session has no parent to ask for
    os.kill(victim, signal.{signal})
    while victim == session and Path(f"/proc/{{session}}").exists():
        pass  # until the server has noticed
    try:
        with connect(embedded.ensure(home), purpose="test") as conn:
            conn.execute("SELECT 1")
    except OpsError as error:
        failed.append(error.message)
        time.sleep(2)
    for other in others:
        other.close()
said = {{"failed": failed}}
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("victim", "signal"), [("parent(session)", "SIGKILL"), ("parent(session)", "SIGQUIT"), ("session", "SIGKILL")]
)
def test_a_server_that_is_dying_or_coming_back_is_waited_for(person: Person, victim: str, signal: str) -> None:
    """Its pid file says "ready" until the end, and all through the recovery from a session's crash."""
    child, said = person.run(CRASHES.format(victim=victim, signal=signal))
    assert said == {"failed": []}
    end(child)
    assert_all_is_over(person.home / "postgres")


@pytest.mark.slow
@pytest.mark.parametrize("pid_taken", [False, True], ids=["pid-free", "pid-taken"])
def test_after_a_crash_of_everything_it_is_taken_over(person: Person, pid_taken: bool) -> None:
    child, said = person.run(USE)
    place = person.home / "postgres"
    write(reached(said), "kept")
    server = server_of(place)
    kill_hard(guardian_of(place))
    kill(child)
    kill_hard(server)
    stale = place / "data" / "postmaster.pid"
    assert stale.exists()
    if pid_taken:  # as after a restart of the machine or the container: the number is somebody else's now
        taker = person.begin("said = {}")
        stale.write_text("\n".join([str(taker.pid), *stale.read_text().splitlines()[1:]]) + "\n")
    last, again = person.run(USE)
    assert words(reached(again)) == ["kept"]
    end(last)
    assert_all_is_over(place)


@pytest.mark.slow
def test_a_killed_initdb_is_not_taken_for_a_database(person: Person) -> None:
    place = person.home / "postgres"
    child = person.begin(USE)
    until(lambda: any(place.glob("making.*/data/PG_VERSION")), seconds=20)
    kill(child)
    assert not (place / "data").exists()
    # The killed one's initdb may still write for a moment; what it leaves then goes at the next start.
    time.sleep(2)
    last, said = person.run(USE)
    write(reached(said), "kept")
    assert not list(place.glob("making.*"))
    end(last)
    assert_all_is_over(place)
