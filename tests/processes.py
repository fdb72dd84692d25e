"""Processes that the tests start, watch and kill: as ourselves and, under root, as an ordinary user."""

from __future__ import annotations

import json
import os
import pwd
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from pydantic import SecretStr

from tasks.core.addresses import Address
from tasks.core.postgres import embedded, guardian, locks
from tasks.core.postgres.connections import connect
from tasks.core.settings import CHECKOUT

# Says in JSON what `program` printed last, then waits for its standard input to end (or for a signal).
_FRAME = """
import json, sys
from pathlib import Path
home = Path(sys.argv[1])
{program}
print(json.dumps(said), flush=True)
sys.stdin.read()
"""


# A program for `Person.run`: start or join the embedded server and say where it is.
USE = """
from tasks.core.postgres import embedded
address = embedded.ensure(home)
said = {"port": address.port, "password": address.password.get_secret_value()}
"""

# The same where it is refused: what the error says.
REFUSED = """
from tasks.core.errors import OpsError
from tasks.core.postgres import embedded
try:
    said = {"port": embedded.ensure(home).port}
except OpsError as error:
    said = {"message": error.message, "hint": error.hint}
"""


@dataclass
class Person:
    """Who runs a child: a Python that they can run, their home folder, and their uid (None: ours)."""

    python: str
    home: Path
    uid: int | None = None
    children: list[subprocess.Popen[str]] = field(default_factory=list)

    def begin(self, program: str, *, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
        """Start `program`, which has `home` and puts what it found in `said`."""
        child = subprocess.Popen(
            [self.python, "-c", _FRAME.format(program=program), str(self.home)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(CHECKOUT), *_packages(self)]), **(env or {})},
            user=self.uid,
            group=None if self.uid is None else pwd.getpwuid(self.uid).pw_gid,
            extra_groups=None if self.uid is None else [],
        )
        self.children.append(child)
        return child

    def run(
        self, program: str, *, env: dict[str, str] | None = None
    ) -> tuple[subprocess.Popen[str], dict[str, object]]:
        """`begin`, and what it said; the child is still there."""
        child = self.begin(program, env=env)
        return child, heard(child)

    def finish(self) -> None:
        """Kill -9 whoever is left."""
        for child in self.children:
            kill(child)


def heard(child: subprocess.Popen[str]) -> dict[str, object]:
    assert child.stdout is not None
    line = child.stdout.readline()
    assert line, f"the child ended with {child.wait()}"
    return dict(json.loads(line))


def quickest(work: Callable[[], object], times: int = 8) -> float:
    """Seconds of the quickest of some runs: what other processes take of the cores is not its own."""
    taken = []
    for _ in range(times):
        began = time.monotonic()
        work()
        taken.append(time.monotonic() - began)
    return min(taken)


def until(condition: Callable[[], bool], *, seconds: float = 2.0, pause: float = 0.02) -> None:
    """Wait for `condition`, looked at every `pause` seconds, and fail when it has not come true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(pause)


def using(home: Path, word: str) -> list[int]:
    """Processes with `word` in their command line and this PREFECT_HOME."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command, environment = (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes()
        except OSError:
            continue
        if word.encode() in command and f"PREFECT_HOME={home}\0".encode() in environment:
            found.append(int(entry.name))
    return found


def is_gone(pid: int) -> bool:
    """No process of that number, or only its zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return text.rpartition(")")[2].split()[0] == "Z"


def end(child: subprocess.Popen[str]) -> None:
    assert child.stdin is not None
    child.stdin.close()
    assert child.wait(timeout=10) == 0


def kill_hard(pid: int) -> None:
    """kill -9, and wait until it is gone."""
    os.kill(pid, signal.SIGKILL)
    until(lambda: is_gone(pid))


def kill(child: subprocess.Popen[str]) -> None:
    child.kill()
    child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe:
            pipe.close()


def server_of(place: Path) -> int:
    """The pid of the server that runs on the cluster in `place`, 0 for none."""
    found = guardian.running(str(place / "data"))
    return found[0] if found else 0


def guardian_of(place: Path) -> int:
    """The pid of the guardian of `place`, 0 for none."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if any(word.endswith(b"guardian.py") for word in words) and os.fsencode(place) in words:
            return int(path.parent.name)
    return 0


def _packages(person: Person) -> list[str]:
    return [] if person.python == sys.executable else [path for path in sys.path if path.endswith("site-packages")]


@cache
def python_of(uid: int) -> str | None:
    """A Python that the user can run with our packages; None where ours is under a closed folder and no other fits."""
    for python in (sys.executable, "/usr/local/bin/python3", "/usr/bin/python3"):
        with suppress(OSError):
            child = Person(python, Path("/"), uid).begin("import psycopg, pydantic, tasks.core.settings; said = {}")
            child.communicate()  # an end of its input, too
            if child.returncode == 0:
                return python
    return None


def reached(said: dict[str, object]) -> Address:
    port, password = int(str(said["port"])), SecretStr(str(said["password"]))
    return Address(host="127.0.0.1", port=port, dbname=embedded.DATABASE, user="kg", password=password)


def write(address: Address, word: str) -> None:
    with connect(address, purpose="test") as conn:
        conn.execute("CREATE TABLE IF NOT EXISTS words (word text)")
        conn.execute("INSERT INTO words VALUES (%s)", (word,))


def words(address: Address) -> list[str]:
    with connect(address, purpose="test") as conn:
        if conn.execute("SELECT to_regclass('words')").fetchone() == (None,):
            return []
        return [word for (word,) in conn.execute("SELECT word FROM words ORDER BY word")]


def assert_all_is_over(place: Path, *pids: int) -> None:
    """No process of the server is left within two seconds, and nobody holds its locks."""
    until(lambda: all(is_gone(pid) for pid in pids) and not server_of(place) and not guardian_of(place))
    until(lambda: not any(locks.is_held(place / name) for name in ("users.lock", "guardian.lock")), seconds=0.5)


def free_port() -> int:
    """A port of this machine that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
