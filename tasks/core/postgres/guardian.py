"""A small program beside each PostgreSQL of ours: it starts the server and stops it when nobody uses it any more.

    python -I -S guardian.py PLACE UID GID KEEP|REMOVE POSTGRES [ARGUMENT...]

PLACE holds `data` and two lock files. Whoever uses the server holds a shared lock on `users.lock`; the kernel takes it
back when that process ends, also by kill -9. This program asks for the exclusive lock again and again, and once it has
it, nobody is left: it stops the server, removes PLACE if told so, and ends. It holds `guardian.lock` for as long as it
lives. A server that runs already (its guardian was killed) is taken over; one that somebody started by hand is watched,
and left running in the end. Standard library only, few imports (hence
no pathlib): its start is part of each command's.
"""
# ruff: noqa: PTH108, PTH112, PTH118, PTH119, PTH121, PTH123

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time

POLL = 0.1  # seconds between two looks: at most this long does the server outlive its last user
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
PATIENCE = (60.0, 5.0, 5.0)  # seconds for a fast, an immediate and a hard stop


def running(data: str) -> tuple[int, int, bool] | None:
    """(pid, port, ready) of the server in the folder `data`, None where none runs."""
    try:
        with open(os.path.join(data, "postmaster.pid"), encoding="utf-8") as stream:
            lines = stream.read().splitlines()
        pid = int(lines[0])
    except (OSError, ValueError, IndexError):
        return None  # no server, or one that is writing the file just now
    if not is_server(pid, data):
        return None
    ready = len(lines) > 7 and lines[7].strip() == "ready"
    return pid, int(lines[3]) if len(lines) > 3 else 0, ready


def listens(data: str) -> bool:
    """Whether the server of `data` listens on 127.0.0.1, by the first address that it says it listens on."""
    with contextlib.suppress(OSError), open(os.path.join(data, "postmaster.pid"), encoding="utf-8") as stream:
        lines = stream.read().splitlines()
        return len(lines) > 5 and lines[5].strip() in ("127.0.0.1", "localhost", "*", "0.0.0.0")  # noqa: S104
    return False


def is_server(pid: int, data: str) -> bool:
    """Whether `pid` is the server of `data`: its command line says so, or it stands in that folder. A pid alone could
    be anybody's after a crash.

    (A server enters its data folder, whatever its command line calls that; but root in a container may not see where a
    process of another account stands.)
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    if not os.path.isdir("/proc/self"):
        return True
    return is_named(pid, data) or (is_postgres(pid) and stands_in(pid, data) is True)


def is_named(pid: int, data: str) -> bool:
    """Whether `pid` is a server whose command line names `data`, as that of every server of ours does."""
    return is_postgres(pid) and os.fsencode(data) in command_line(pid)


def is_postgres(pid: int) -> bool:
    return os.path.basename(command_line(pid)[0]) == b"postgres"


def command_line(pid: int) -> list[bytes]:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as stream:
            return stream.read().split(b"\0")  # one empty word for a zombie
    except OSError:
        return [b""]


def stands_in(pid: int, folder: str) -> bool | None:
    """Whether `folder` is where that process stands; None where we may not know."""
    try:
        return os.path.samefile(f"/proc/{pid}/cwd", folder)
    except PermissionError:
        return None
    except OSError:
        return False


def clear_stale(data: str) -> None:
    """Remove a crashed server's pid file where its pid is somebody else's now: the server would think it runs.

    Where the pid is free the file stays: the server also finds its lost children's shared memory by it. It also stays
    where a PostgreSQL has the pid that may be the server of `data`: two servers on one folder would destroy it.
    """
    path = os.path.join(data, "postmaster.pid")
    with contextlib.suppress(OSError, ValueError, IndexError):
        with open(path, encoding="utf-8") as stream:
            pid = int(stream.readline())
        if not os.path.isdir(f"/proc/{pid}") or is_server(pid, data):
            return
        if not is_postgres(pid) or stands_in(pid, data) is False:
            os.unlink(path)


def start(argv: list[str], data: str, uid: int, gid: int) -> subprocess.Popen[bytes]:
    """The server as a child in the account given (-1: ours)."""
    clear_stale(data)
    other = uid >= 0
    return subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        cwd="/",
        user=uid if other else None,
        group=gid if other else None,
        extra_groups=[] if other else None,
    )


def stop(pid: int, data: str, *, keep: bool) -> None:
    """End the server: fast (or at once where the data goes too), then harder."""
    signals = (signal.SIGINT if keep else signal.SIGQUIT, signal.SIGQUIT, signal.SIGKILL)
    for number, patience in zip(signals, PATIENCE, strict=True):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            reap()
            if not is_server(pid, data):
                return
            time.sleep(0.005)


def reap() -> None:
    """Collect ended children; a zombie would count as a process that still is there."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def until_ready(data: str, child: subprocess.Popen[bytes] | None) -> bool:
    """Whether the server came to take connections; False when it ended before."""
    while True:
        found = running(data)
        if found and found[2]:
            return True
        if not found and (child is None or child.poll() is not None):
            return False
        time.sleep(0.005)


def watch(pid: int, data: str, users: int) -> None:
    """Return when the server is gone or nobody uses it."""
    while is_server(pid, data):
        try:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(POLL)
            reap()
        else:
            return


def leave(number: int, frame: object) -> None:
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)  # nothing interrupts the stop
    raise SystemExit(0)


def main(place: str, uid: str, gid: str, mode: str, *argv: str) -> int:
    data = os.path.join(place, "data")
    own = os.open(os.path.join(place, "guardian.lock"), os.O_RDWR)
    users = os.open(os.path.join(place, "users.lock"), os.O_RDWR)
    fcntl.flock(own, fcntl.LOCK_EX)
    for number in SIGNALS:
        signal.signal(number, leave)
    ours = True
    if found := running(data):
        child, pid = None, found[0]
        ours = is_named(pid, data) or not os.path.isdir("/proc/self")
    else:
        child = start(list(argv), data, int(uid), int(gid))
        pid = child.pid
    try:
        if not until_ready(data, child):
            return 1  # what there is stays, for whoever waits for our word
        with contextlib.suppress(OSError):  # whoever waited for this line may have been killed
            os.write(1, b"ready\n")
        os.dup2(os.open(os.devnull, os.O_RDWR), 1)
        watch(pid, data, users)
    except SystemExit:
        pass  # a signal asked for the end
    finally:
        if (ours or mode == "REMOVE") and is_server(pid, data):
            stop(pid, data, keep=mode == "KEEP")
    if mode == "REMOVE":
        import shutil

        shutil.rmtree(place, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
