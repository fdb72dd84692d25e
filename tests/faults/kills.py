"""kill -9 at each call that an operation makes: before the call has reached the server, and after it has.

`python -m tests.faults.kills` tries all; run with an operation's name it is the child that gets killed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from tasks.core.postgres.connections import connect
from tasks.core.postgres.scratch import PREFIX, private_cluster
from tasks.core.settings import CHECKOUT, load_settings
from tests.faults.bed import OPERATIONS, Bed, Wrong, bed, by_copy, small_parts
from tests.faults.proxy import Call, Fault
from tests.faults.sweep import Case, Tally, count_calls, table

# A child that is killed after the server has got the call never sees the answer: so is it with these two.
MOMENTS: tuple[Fault, ...] = ("cut", "lost-answer")


def killings(found: Bed, names: Iterable[str]) -> Iterator[Case]:
    for name in names:
        for position in range(1, count_calls(found, OPERATIONS[name]) + 1):
            for moment in MOMENTS:
                yield Case(name, position, moment, lasting=True)


def kill_at(found: Bed, case: Case) -> None:
    """Raises Wrong where what is left is not as it must be, or a clean rerun does not come to the end."""
    operation = OPERATIONS[case.operation]
    found.fresh()
    operation.prepare(found)
    with tempfile.TemporaryDirectory() as folder:
        _kill_child(found, case, folder)
        if left := [path.name for path in Path(folder).iterdir()]:
            raise Wrong(f"{left[0]} stays in the temporary folder")
    operation.never(found)
    operation.run(found.direct)
    operation.check(found)
    if case.operation == "drill":
        _no_scratch_database(found)


def _kill_child(found: Bed, case: Case, folder: str) -> None:
    child = _child(found, case.operation, folder)

    def decide(call: Call) -> Fault | None:
        if call.number < case.position:
            return None
        os.kill(child.pid, signal.SIGKILL)
        return case.fault

    found.proxy.reset(decide)
    assert child.stdin
    child.stdin.close()  # it waits for this: now it begins
    if child.wait(timeout=120) != -signal.SIGKILL:
        raise Wrong(f"the child ended with {child.returncode} before its call {case.position}")


def _no_scratch_database(found: Bed) -> None:
    assert found.settings.address
    with connect(found.settings.address, purpose="test") as conn:
        left = conn.execute("SELECT datname FROM pg_database WHERE starts_with(datname, %s)", [PREFIX]).fetchall()
    if left:
        raise Wrong(f"the scratch database {left[0][0]} is still there")


def _child(found: Bed, name: str, folder: str) -> subprocess.Popen[bytes]:
    settings = found.through
    address = settings.address
    assert address
    assert address.password
    url = f"postgresql://{address.user}@{address.host}:{address.port}/{address.dbname}"
    password = address.password.get_secret_value()
    env = {
        **os.environ,
        "TMPDIR": folder,
        "KG_HOME": str(settings.home),
        "KG_STORE_URL": settings.store_url,
        "SUPABASE_URL": url,
        "SUPABASE_DB_PASSWORD": password,
        "KG_SCRATCH_URL": url,
        "KG_SCRATCH_PASSWORD": password,
    }
    argv = [sys.executable, "-m", "tests.faults.kills", name]
    return subprocess.Popen(argv, cwd=CHECKOUT, env=env, stdin=subprocess.PIPE)


def main() -> int:
    if sys.argv[1:]:
        sys.stdin.read()
        with small_parts():
            OPERATIONS[sys.argv[1]].run(by_copy(load_settings("dev")))
        return 0
    tallies: dict[str, Tally] = {}
    with tempfile.TemporaryDirectory() as folder, private_cluster(Path(folder)) as address:
        settings = load_settings("dev", {"KG_HOME": folder}).model_copy(update={"address": address})
        with bed(settings) as found:
            for case in list(killings(found, OPERATIONS)):
                tally = tallies.setdefault(case.operation, Tally())
                tally.positions.add(case.position)
                try:
                    kill_at(found, case)
                    tally.loud += 1
                except Exception as error:
                    tally.wrong.append(f"{case}: {type(error).__name__}: {error}")
    print(table(tallies))
    wrong = [line for tally in tallies.values() for line in tally.wrong]
    print(*wrong, sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
