"""The flow engine of one kg process: the Prefect server at PREFECT_API_URL, or one of our own as a child.

    with engine() as running:       # the server's start overlaps what follows
        from flows.deploy import deploy
        ...
        running.ready()             # raises EngineFailed where there is no server
        deploy(environment="dev")

Prefect reads its settings when it is imported and registers exit handlers that still talk to the server. So the
environment variables are set, and the server's stop is registered with atexit (which runs in reverse), before that
import: a server that stopped first would make the exit hang for a minute.
"""

from __future__ import annotations

import atexit
import http.client
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO
from urllib.error import HTTPError
from urllib.request import urlopen

from flows.cli.errors import one_line
from flows.cli.up.state import prefect_home, running_url
from tasks.core.errors import EngineFailed
from tasks.core.progress import track

log = logging.getLogger(__name__)

START_SECONDS = 90.0  # a first start migrates an empty database: 7 s alone, several times that on a busy machine
STOP_SECONDS = 2.0
REVIVALS = 3  # what dies more often than that has a reason
PROBE_SECONDS = 10.0

HEARTBEAT_SECONDS = "30"  # a server that stays notices by them that a run has died

_KEPT_OUTPUT_BYTES = 8_000
_LONGEST_ANSWER = 64  # bytes; Prefect's is "true"

# No telemetry, no console lines in the middle of the display; core's log lines go into the run's log.
_CLIENT_VARIABLES = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "tasks,flows",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
}
_SERVER_VARIABLES = {
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT__SERVER_FINAL": "1",
    "PREFECT_SERVER_UI_ENABLED": "false",
    "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
}


class Engine:
    """A server that is there, or is on its way. `url` is its API's."""

    def __init__(self, url: str, server: OwnServer | None) -> None:
        self.url, self._server = url, server
        self._settings = ExitStack()

    def ready(self, environment: str = "") -> None:
        """Return when flows can run, and tag those that follow with their environment, as deployments' runs are.

        By that tag the automations of a server that stays find what to recover. Raises EngineFailed. Imports Prefect.
        """
        if environment:
            from prefect import tags

            self._settings.enter_context(tags(f"environment:{environment}"))
        if self._server is None:
            return
        with track("engine", "Start the flow engine"):
            self._server.wait()
        self._server.keep()
        from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

        # Heartbeats tell a server that a run has died. This server dies with the run, and each costs a second to join.
        self._settings.enter_context(temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}))

    def output(self) -> str:
        """The last of what a server of our own has printed."""
        return self._server.output() if self._server else ""

    def leave(self) -> None:
        self._settings.close()


class OwnServer:
    """The child process of flows.cli.server, in a session of its own so that a Ctrl-C of the terminal spares it."""

    def __init__(
        self,
        variables: Mapping[str, str],
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        output: IO[bytes] | None = None,
    ) -> None:
        self._output: IO[bytes] = output or tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._bind, self._variables = host, dict(variables)
        self._host = "127.0.0.1" if host in ("", "0.0.0.0") else host  # noqa: S104 - where we reach it ourselves
        self._ending, self._turn = False, threading.Lock()
        self.port = port
        self._process = self._spawn()
        atexit.register(self.stop)

    def _spawn(self) -> subprocess.Popen[bytes]:
        with _listen(self._bind, self.port) as listener:
            self.port = int(listener.getsockname()[1])
            return subprocess.Popen(
                [sys.executable, "-P", "-m", "flows.cli.server", str(listener.fileno()), str(_lock_file())],
                stdin=subprocess.PIPE,
                stdout=self._output,
                stderr=self._output,
                env=self._variables,
                pass_fds=(listener.fileno(),),
                start_new_session=True,
            )

    @property
    def url(self) -> str:
        return f"http://{self._host}:{self.port}/api"

    @property
    def ended(self) -> int | None:
        """The exit status of a server that is no more."""
        return self._process.poll()

    def keep(self) -> None:
        """From now on begin it anew, on the same port, whenever it dies: the runs are in its file, and Prefect's client
        tries again for some seconds, and goes on. Without it each step of a run would wait for minutes.
        """
        threading.Thread(target=self._revive, daemon=True, name="engine").start()

    def _revive(self) -> None:
        for _ in range(REVIVALS):
            status = self._process.wait()
            with self._turn:
                if self._ending:
                    return
                log.warning("the Prefect server ended with %s, and is begun anew", status)
                try:
                    self._process = self._spawn()
                except (EngineFailed, OSError) as error:
                    log.warning("it could not be: %s", error.message if isinstance(error, EngineFailed) else error)
                    return

    def wait(self) -> None:
        """Return when it answers. The listening socket is the child's alone: its end is a refused connection."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            if self._answers():
                return
            time.sleep(0.05)
        ended = self._process.poll()
        self.stop()
        said = self.output().strip().splitlines()
        raise EngineFailed(
            f"the Prefect server did not start ({f'it ended with {ended}' if ended is not None else 'too slow'})"
            + (f": {said[-1]}" if said else ""),
            hint="--verbose shows what it said; set PREFECT_HOME to a folder that can be written, or PREFECT_API_URL",
        )

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection(self._host, self.port, timeout=PROBE_SECONDS)
        try:
            connection.request("GET", "/api/health")
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def output(self) -> str:
        size = self._output.seek(0, os.SEEK_END)
        # pread leaves the offset, which the child shares, where it is.
        kept = os.pread(self._output.fileno(), _KEPT_OUTPUT_BYTES, max(0, size - _KEPT_OUTPUT_BYTES))
        return kept.decode(errors="replace")

    def stop(self) -> None:
        """Orderly within STOP_SECONDS (it still writes task runs down), then hard. Safe to call twice."""
        with self._turn:
            self._ending = True
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout=STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.send_signal(signal.SIGKILL)
                self._process.wait()
        if self._process.stdin:
            self._process.stdin.close()


@contextmanager
def engine() -> Iterator[Engine]:
    """Begin to start the engine, at once and without waiting. To be entered before anything imports Prefect.

    The server is the one at PREFECT_API_URL, else that of a `kg up` on this PREFECT_HOME, else one of our own. Raises
    EngineFailed where nobody answers at PREFECT_API_URL.
    """
    assert "prefect" not in sys.modules, "Prefect has read its settings already"
    os.environ.update(_CLIENT_VARIABLES)
    url, server = os.environ.get("PREFECT_API_URL", ""), None
    if url or (url := running_url()):
        probe(url)
        os.environ["PREFECT_API_URL"] = url
        os.environ.setdefault("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", HEARTBEAT_SECONDS)
    else:
        server = OwnServer({**os.environ, "PREFECT_API_URL": "", **_SERVER_VARIABLES})
        url = os.environ["PREFECT_API_URL"] = server.url
        os.environ["PREFECT_SERVER_UI_ENABLED"] = "false"  # it shows no pages: no message links to one
        os.environ["KG_OWN_ENGINE"] = "1"  # nothing can be scheduled on a server that ends with this command
        os.environ["NO_PROXY"] = ",".join(filter(None, (os.environ.get("NO_PROXY"), "127.0.0.1")))
    started = Engine(url, server)
    try:
        yield started
    finally:
        log.debug("the Prefect server at %s said: %s", url, started.output().strip() or "nothing")
        started.leave()


def probe(url: str) -> None:
    """Return where Prefect's API answers, or asks who we are: authentication and versions are Prefect's business.

    Raises EngineFailed where nobody answers, or something else than Prefect.
    """
    # No user and password: urllib cannot use them, nor are they shown.
    bare = re.sub("//.*@", "//", url, flags=re.DOTALL).rstrip("/")
    try:
        with urlopen(f"{bare}/health", timeout=PROBE_SECONDS) as answer:  # noqa: S310 - the operator's own setting
            if answer.read(_LONGEST_ANSWER).strip() == b"true":
                return
            reason = f"it answers as Prefect's API does not ({answer.headers.get_content_type()})"
    except HTTPError as error:
        if _asks_who_we_are(error):
            return
        reason = f"it answers {error.code}, as Prefect's API does not"
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = one_line(str(getattr(error, "reason", error))) or type(error).__name__
    raise EngineFailed(
        f"no Prefect server at PREFECT_API_URL ({bare}): {reason}",
        hint="start it, correct PREFECT_API_URL (a server's ends in /api), or unset it: "
        "kg then starts a server of its own",
    )


def _asks_who_we_are(error: HTTPError) -> bool:
    """Prefect's health needs no key, but a proxy before it may; and Cloud's workspaces have none of their own."""
    if re.match(r"https://[\w.-]*\.prefect\.cloud/", error.url or ""):
        return error.code < http.client.INTERNAL_SERVER_ERROR
    return error.code in (http.client.UNAUTHORIZED, http.client.FORBIDDEN)


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port))
    except OSError as error:
        raise EngineFailed(
            f"cannot listen on {host}:{port}: {error.strerror}",
            hint="a server that runs there is used with PREFECT_API_URL; --port takes another port",
        ) from error


def _lock_file() -> Path:
    home = prefect_home()
    try:
        home.mkdir(parents=True, exist_ok=True)
        lock = home / "kg-server.lock"
        lock.touch()
    except OSError as error:
        raise EngineFailed(
            f"Prefect's folder {home} cannot be written: {error.strerror}",
            hint="set PREFECT_HOME to a folder that can be",
        ) from error
    return lock
