"""`kg up`: a Prefect server, everything in prefect.yaml registered on it, and a worker; until told to stop.

Imports Prefect only after its settings are in the environment (see `engine`).
"""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Annotated, get_args

import typer

from flows.cli.options import Output, Verbose, flag
from flows.cli.up.state import UpState, claimed

if TYPE_CHECKING:
    from flows.cli.engine import OwnServer
    from tasks.core.settings import Environment

CheckOnly = Annotated[
    bool, flag("--check", help="Only say what is missing on the server at PREFECT_API_URL, or our own.")
]
Host = Annotated[str, typer.Option("--host", help="Where our own server listens.")]
Port = Annotated[int, typer.Option("--port", min=0, max=65535, help="Its port; 0 takes any that is free.")]


def up(check: CheckOnly = False, host: Host = "127.0.0.1", port: Port = 4200, verbose: Verbose = False) -> int:
    """Run schedules, the UI and its forms: a Prefect server, all deployments, and a worker, until told to stop.

    The server is the one at PREFECT_API_URL, else one of our own. The first Ctrl-C (or SIGTERM) takes no new runs and
    waits for those in progress; the second ends them, and they are marked Crashed. After a crash, recover runs first.
    """
    from flows.cli.answer import answer

    def work() -> tuple[()]:
        settings_of_prefect()
        if check:
            say_what_is_missing()
        else:
            guard_address(host)
            with claimed() as state, serving(state, host, port) as server:
                from flows.cli.up.keeping import keep

                keep(state, server, configured())
        return ()

    return answer(Output(json=False, verbose=verbose), work, lambda _: None)


def settings_of_prefect() -> None:
    """deployments/prefect.env, where the environment does not say otherwise; and no lines of Prefect's among ours."""
    from tasks.core.settings import CHECKOUT

    assert "prefect" not in sys.modules, "Prefect has read its settings already"
    for line in (CHECKOUT / "deployments" / "prefect.env").read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not name.startswith("#"):
            os.environ.setdefault(name, value)
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    if os.environ.get("PREFECT_SERVER_API_AUTH_STRING"):
        os.environ.setdefault("PREFECT_API_AUTH_STRING", os.environ["PREFECT_SERVER_API_AUTH_STRING"])


def guard_address(host: str) -> None:
    """Whoever reaches the server can start any flow. Raises Refused where that is more than this machine, unasked."""
    from tasks.core.errors import Refused

    if not is_loopback(host) and not os.environ.get("PREFECT_SERVER_API_AUTH_STRING"):
        raise Refused(
            f"--host {host}: everybody who reaches the server could start a deploy or a rollback",
            hint="set PREFECT_SERVER_API_AUTH_STRING=user:password, and put TLS in front (deployments/README.md)",
        )


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@contextmanager
def serving(state: UpState, host: str, port: int) -> Iterator[OwnServer | None]:
    """The server at PREFECT_API_URL (None), or one of our own, begun and not waited for. Sets PREFECT_API_URL."""
    from flows.cli.engine import OwnServer, probe

    if url := os.environ.get("PREFECT_API_URL"):
        probe(url)
        yield None
        return
    port = port or free_port(host)
    with (state.folder / "server.log").open("w+b") as log:
        server = OwnServer(server_variables(host, port), host=host, port=port, output=log)
        os.environ["PREFECT_API_URL"] = server.url
        os.environ["PREFECT_UI_URL"] = ui_url(host, server.port)
        os.environ["NO_PROXY"] = ",".join(filter(None, (os.environ.get("NO_PROXY"), "127.0.0.1")))
        try:
            yield server
        finally:
            server.stop()


def server_variables(host: str, port: int) -> dict[str, str]:
    """The server's environment. The UI asks the API at the address that the browser has, whatever the port."""
    return {
        "PREFECT_SERVER_UI_API_URL": f"{ui_url(host, port)}/api",
        "PREFECT_UI_URL": ui_url(host, port),
        **os.environ,
        "PREFECT_API_URL": "",
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
    }


def free_port(host: str) -> int:
    """The UI is told its port before the server has one."""
    with socket.create_server((host, 0)) as probe:
        return int(probe.getsockname()[1])


def ui_url(host: str, port: int) -> str:
    """PREFECT_UI_URL where it is set: behind a proxy only the operator knows it."""
    name = _own_name() if host in ("", "0.0.0.0", "::") else host  # noqa: S104 - only compared
    return os.environ.get("PREFECT_UI_URL") or f"http://{f'[{name}]' if ':' in name else name}:{port}"


def _own_name() -> str:
    """This machine's, as others call it: many a hosts file has localhost as its first."""
    name = socket.getfqdn()
    return socket.gethostname() if name.partition(".")[0] in ("localhost", "ip6-localhost") else name


def configured() -> list[Environment]:
    """Environments whose settings are here; the others are named with what is missing."""
    from tasks.core.errors import SettingsError
    from tasks.core.settings import Environment, load_settings

    found: list[Environment] = []
    for name in get_args(Environment):
        try:
            load_settings(name)
        except SettingsError as error:
            say(f"{name}: left out, {error.message}")
        else:
            found.append(name)
    return found


def say_what_is_missing() -> None:
    """Print it, a line each, and raise EngineFailed; or say that nothing is."""
    from flows.cli.engine import probe
    from flows.cli.up.state import running_url
    from tasks.core.errors import EngineFailed

    url = os.environ.get("PREFECT_API_URL") or running_url()
    if not url:
        raise EngineFailed("no Prefect server: PREFECT_API_URL is not set, and no kg up is running", hint="kg up")
    probe(url)
    os.environ["PREFECT_API_URL"] = url
    environments = configured()
    from prefect.client.orchestration import get_client

    from flows.cli.up.registry import missing

    with get_client(sync_client=True) as client:
        found = list(missing(client, environments))
    for line in found:
        say(line)
    if found:
        raise EngineFailed(f"{len(found)} things are missing on {url}", hint="kg up makes them, and starts a worker")
    say(f"nothing is missing on {url}")


def say(text: str, stream: IO[str] | None = None) -> None:
    print(text, file=stream or sys.stderr, flush=True)
