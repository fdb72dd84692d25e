"""The one door to other programs: argv lists, a clean libpq environment, logged output, and an end to each child.

No password is ever in an argv: it goes through the environment of the one child that needs it, and is cut out of
whatever that child prints.
"""

from __future__ import annotations

import contextvars
import logging
import os
import pwd
import shutil
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from tasks.core.errors import CommandFailed, CommandMissing

log = logging.getLogger(__name__)

_KEPT_STDERR_LINES = 200
_SECRET_NAMES = ("PASSWORD", "SECRET", "TOKEN", "API_KEY")


@dataclass(frozen=True)
class Completed:
    argv: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str


@dataclass
class Running:
    """A child whose standard output (and input, when asked for) the caller pumps."""

    process: subprocess.Popen[bytes]
    family: bool = False
    stderr: deque[str] = field(default_factory=lambda: deque(maxlen=_KEPT_STDERR_LINES))
    timed_out: bool = False

    @property
    def stdout(self) -> IO[bytes]:
        assert self.process.stdout is not None
        return self.process.stdout

    @property
    def stdin(self) -> IO[bytes]:
        assert self.process.stdin is not None
        return self.process.stdin


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Ours without any PG* variable (they would silently redirect a client), in the C locale, plus `extra`."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return {**clean, "LC_ALL": "C", "PGCONNECT_TIMEOUT": "15", **(extra or {})}


def bare_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The least that a program needs, for children in another account or that outlive us: no secret of ours."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "TZ") if name in os.environ}
    return {**kept, "LC_ALL": "C", **(extra or {})}


def redact(text: str, env: Mapping[str, str]) -> str:
    """`text` without the values of secret variables in `env`."""
    for name, value in env.items():
        if len(value) > 3 and any(word in name.upper() for word in _SECRET_NAMES):
            text = text.replace(value, "***")
    return text


def run(
    argv: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    timeout: float,
    check: bool = True,
    text: str | None = None,
    cwd: Path | None = None,
    user: int | None = None,
) -> Completed:
    """Run to the end and return what it printed. `timeout` in seconds ends the child.

    `user` (root only) is the uid to run as, in that account's group, with a bare environment. `text` goes to its
    standard input. Raises CommandFailed on a non-zero end (when `check`) or a timeout, CommandMissing where it cannot
    be started.
    """
    given = text is not None
    with stream(argv, env=env, timeout=timeout, check=check, stdin=given, cwd=cwd, user=user) as child:
        if text is not None:
            child.stdin.write(text.encode())  # at most a pipe's buffer, or both could wait for each other
            child.stdin.close()
        output = child.stdout.read()
    return Completed(
        tuple(str(part) for part in argv),
        child.process.returncode,
        output.decode(errors="replace"),
        "\n".join(child.stderr),
    )


@contextmanager
def stream(
    argv: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    timeout: float | None,
    check: bool = True,
    stdin: bool = False,
    cwd: Path | None = None,
    user: int | None = None,
    family: bool = False,
    descriptors: Sequence[int] = (),
) -> Iterator[Running]:
    """A child whose stdout (and stdin) the block pumps; it never outlives the block.

    With `family` nor does what it started, and its stderr comes in its stdout. `descriptors` are open in it, too.

    After a clean block its end is awaited and, when `check`, a non-zero status raises CommandFailed. An exception in
    the block ends the child at once. `timeout` (seconds, None for none) ends it too and is reported as such.
    """
    words = [str(part) for part in argv]
    full_env = environment(env) if user is None else bare_environment(env)
    started = _start(words, full_env, *descriptors, stdin=stdin, cwd=cwd, user=user, family=family)
    child = Running(started, family)
    reader = _drain_stderr(child, full_env)
    try:
        with _limited(child, timeout):
            yield child
            if stdin:
                child.stdin.close()
            child.process.wait()
    except BrokenPipeError:
        # The child stopped reading: where it failed, what it said tells more than the pipe does.
        if not (stdin and check and _failed_by_itself(child)):
            raise
    finally:
        _end(child)
        reader.join(timeout=5)
    if child.timed_out:
        raise CommandFailed(f"{Path(words[0]).name} did not end within {timeout:.0f} s and was stopped")
    if check and child.process.returncode != 0:
        raise CommandFailed(failure_text(child), hint=None)


@contextmanager
def _limited(child: Running, timeout: float | None) -> Iterator[None]:
    """End `child` when the block takes longer than `timeout` seconds."""
    timer = threading.Timer(timeout, _expire, (child,)) if timeout else None
    if timer:
        timer.daemon = True
        timer.start()
    try:
        yield
    finally:
        if timer:
            timer.cancel()


def failure_text(child: Running) -> str:
    """One line: the program, its status or the signal that ended it, and the last thing it said."""
    name = Path(str(child.process.args[0])).name  # type: ignore[index]
    said = next((line for line in reversed(child.stderr) if "error" in line.lower()), None)
    said = said or (child.stderr[-1] if child.stderr else "")
    status = child.process.returncode
    if status < 0:  # mostly the kernel's, where memory is short: then nothing was said
        return f"{name} was ended by {_signal_name(-status)}" + (f": {said}" if said else "")
    return f"{name} ended with status {status}: {said or 'it said nothing'}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


def which(name: str) -> Path | None:
    return Path(found) if (found := shutil.which(name)) else None


def hand_over(argv: Sequence[str | Path], *, env: Mapping[str, str]) -> int:
    """Give a program our terminal until it ends; its status. Ctrl-C is the program's to deal with."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return subprocess.call([str(word) for word in argv], env=environment(env))
    except OSError as error:
        raise CommandMissing(f"{argv[0]} could not be started: {error.strerror}") from error
    finally:
        signal.signal(signal.SIGINT, before)


def launch(argv: Sequence[str | Path], *, log: int, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start a child that may outlive us: in a session of its own (Ctrl-C does not reach it), its errors into the
    descriptor `log`. The caller reads its stdout and knows how it ends. Raises CommandMissing.
    """
    words = [str(part) for part in argv]
    try:
        return subprocess.Popen(
            words,
            env=bare_environment(env),
            cwd="/",
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
        )
    except OSError as error:
        raise CommandMissing(f"{words[0]} could not be started: {error.strerror}") from error


def _start(
    argv: list[str], env: dict[str, str], *fds: int, stdin: bool, cwd: Path | None, user: int | None, family: bool
) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            argv,
            env=env,
            # Another account may not be able to stand where we stand.
            cwd=cwd or (None if user is None else "/"),
            user=user,
            group=None if user is None else _group(user),
            extra_groups=None if user is None else [],
            process_group=0 if family else None,
            pass_fds=fds,
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if family else subprocess.PIPE,
        )
    except OSError as error:
        raise CommandMissing(f"{argv[0]} could not be started: {error.strerror}") from error


def _group(user: int) -> int:
    try:
        return pwd.getpwuid(user).pw_gid
    except KeyError:  # a bare number, as containers have them
        return user


def _failed_by_itself(child: Running) -> bool:
    try:
        return child.process.wait(timeout=3) != 0
    except subprocess.TimeoutExpired:
        return False


def _drain_stderr(child: Running, env: Mapping[str, str]) -> threading.Thread:
    def drain() -> None:
        if child.process.stderr is None:
            return
        with child.process.stderr as pipe:
            for raw in pipe:
                line = redact(raw.decode(errors="replace").rstrip(), env)
                if line:
                    child.stderr.append(line)
                    log.debug("%s", line)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(drain,), daemon=True)
    thread.start()
    return thread


def _expire(child: Running) -> None:
    child.timed_out = True
    _signal(child, signal.SIGKILL)


def _signal(child: Running, number: signal.Signals) -> None:
    """To the child, and to all that it started where they are a family."""
    if not child.family:
        child.process.send_signal(number)
        return
    with suppress(ProcessLookupError):
        os.killpg(child.process.pid, number)


def _end(child: Running) -> None:
    """Terminate, then kill: pg_dump needs a moment to cancel its query in the server."""
    if child.process.poll() is None:
        _signal(child, signal.SIGTERM)
        try:
            child.process.wait(timeout=3)
        except subprocess.TimeoutExpired:
            _signal(child, signal.SIGKILL)
            child.process.wait()
    if child.family:
        _signal(child, signal.SIGKILL)  # whoever of them is left
    for pipe in (child.process.stdin, child.process.stdout):
        if pipe and not pipe.closed:
            with suppress(OSError):  # broken already
                pipe.close()
