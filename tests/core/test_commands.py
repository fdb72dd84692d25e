"""The door to other programs: what a child is given, what comes back, and that it ends."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from tasks.core import commands
from tasks.core.errors import CommandFailed, CommandMissing

PYTHON = sys.executable


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_what_a_program_prints_comes_back() -> None:
    done = commands.run([PYTHON, "-c", "import sys; print('out'); print('err', file=sys.stderr)"], timeout=10)
    assert (done.returncode, done.stdout, done.stderr) == (0, "out\n", "err")


def test_a_failure_is_one_line_with_the_last_error() -> None:
    program = "import sys; sys.exit('noise\\nERROR: it broke\\nlast words')"
    with pytest.raises(CommandFailed, match="ended with status 1: ERROR: it broke") as caught:
        commands.run([PYTHON, "-c", program], timeout=10)
    assert "\n" not in str(caught.value)
    assert commands.run([PYTHON, "-c", program], timeout=10, check=False).returncode == 1


def test_a_missing_program_says_so(tmp_path: Path) -> None:
    with pytest.raises(CommandMissing, match="No such file"):
        commands.run([tmp_path / "nothing"], timeout=10)


def test_a_timeout_ends_the_child() -> None:
    began = time.monotonic()
    with pytest.raises(CommandFailed, match="did not end within 0 s"):
        commands.run([PYTHON, "-c", "import time; time.sleep(60)"], timeout=0.3)
    assert time.monotonic() - began < 5


def test_no_child_outlives_its_block() -> None:
    pids: list[int] = []

    def block_that_fails() -> None:
        argv = [PYTHON, "-c", "import time; print(1, flush=True); time.sleep(60)"]
        with commands.stream(argv, timeout=None) as child:
            pids.append(child.process.pid)
            child.stdout.readline()
            raise KeyError

    with pytest.raises(KeyError):
        block_that_fails()
    assert gone(pids[0])


def test_text_goes_to_standard_input() -> None:
    assert commands.run(["cat"], text="übergabe", timeout=10).stdout == "übergabe"


def test_a_child_that_stops_reading_is_reported_by_what_it_said() -> None:
    def endless() -> None:
        argv = [PYTHON, "-c", "import sys; sys.exit('ERROR: bad input')"]
        with commands.stream(argv, stdin=True, timeout=20) as child:
            while True:
                child.stdin.write(b"x" * 65536)

    with pytest.raises(CommandFailed, match="ERROR: bad input"):
        endless()


def test_the_environment_redirects_no_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "elsewhere.example")
    monkeypatch.setenv("PGOPTIONS", "-c search_path=evil")
    done = commands.run([PYTHON, "-c", "import os; print(*sorted(os.environ))"], env={"PGUSER": "me"}, timeout=10)
    assert {word for word in done.stdout.split() if word.startswith("PG")} == {"PGUSER", "PGCONNECT_TIMEOUT"}


def test_a_password_is_cut_out_of_what_a_child_says() -> None:
    program = "import os, sys; sys.exit('ERROR: no entry with ' + os.environ['PGPASSWORD'])"
    with pytest.raises(CommandFailed) as caught:
        commands.run([PYTHON, "-c", program], env={"PGPASSWORD": "hunter22"}, timeout=10)
    assert "hunter22" not in str(caught.value)
    assert "***" in str(caught.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can lend a child another account")
def test_another_account_gets_its_group_and_no_secret_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPABASE_DB_PASSWORD", "hunter22")
    said = commands.run(["/bin/sh", "-c", "id -u; id -g; id -G; pwd; env"], timeout=10, user=65534).stdout
    assert said.splitlines()[:2] == ["65534", "65534"]
    assert said.splitlines()[2:4] == ["65534", "/"]
    assert "hunter22" not in said


def test_a_launched_child_outlives_the_call_and_has_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPABASE_DB_PASSWORD", "hunter22")
    log = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    child = commands.launch(["/bin/sh", "-c", "echo trouble >&2; env; exec sleep 60"], log=log)
    os.close(log)
    assert child.stdout is not None
    try:
        assert not any(b"hunter22" in child.stdout.readline() for _ in range(2))
        assert os.getsid(child.pid) == child.pid
        assert (tmp_path / "log").read_text() == "trouble\n"
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def test_a_signal_that_ended_a_program_is_named() -> None:
    with pytest.raises(CommandFailed, match=r"was ended by SIGKILL$"):
        commands.run([PYTHON, "-c", "import os; os.kill(os.getpid(), 9)"], timeout=10)
    program = "import os, sys; print('working', file=sys.stderr, flush=True); os.kill(os.getpid(), 15)"
    with pytest.raises(CommandFailed, match=r"was ended by SIGTERM: working$"):
        commands.run([PYTHON, "-c", program], timeout=10)
