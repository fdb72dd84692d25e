"""Who answers at PREFECT_API_URL: Prefect, nobody, or something else; each of these is one line with a hint."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from flows.cli.engine import probe
from tasks.core.errors import EngineFailed
from tests.terminal import kg

PAGE = b"<!doctype html><html><title>Welcome to nginx!</title></html>"


class Web:
    """A web server that answers everything with `status`, `kind` and `body`."""

    def __init__(self) -> None:
        self.status, self.kind, self.body = 200, "application/json", b"true"
        self.asked: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                moved = outer.status in (301, 302) and self.path != "/login"
                self.send_response(outer.status if moved or outer.status > 399 else 200)
                if moved:
                    self.send_header("Location", "/login")
                self.send_header("Content-Type", outer.kind)
                self.send_header("Content-Length", str(len(outer.body)))
                self.end_headers()
                self.wfile.write(outer.body)

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/api"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def web() -> Iterator[Web]:
    made = Web()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.mark.parametrize("status", [200, 401, 403])
def test_prefect_and_who_asks_for_a_password_before_it(web: Web, status: int) -> None:
    web.status = status
    probe(f"{web.url}/")
    assert web.asked == ["/api/health"]


@pytest.mark.parametrize(
    ("status", "kind", "body", "said"),
    [
        (404, "text/html", PAGE, "it answers 404, as Prefect's API does not"),
        (501, "text/html", PAGE, "it answers 501, as Prefect's API does not"),
        (503, "application/json", b"true", "it answers 503, as Prefect's API does not"),
        (200, "text/html", PAGE, "it answers as Prefect's API does not (text/html)"),
        (200, "application/json", b'{"status": "up"}', "it answers as Prefect's API does not (application/json)"),
        (302, "text/html", PAGE, "it answers as Prefect's API does not (text/html)"),
    ],
    ids=["404", "501", "503", "page", "other", "login"],
)
def test_a_web_server_that_is_not_prefect(web: Web, status: int, kind: str, body: bytes, said: str) -> None:
    web.status, web.kind, web.body = status, kind, body
    with pytest.raises(EngineFailed) as failed:
        probe(web.url.replace("//", "//me:password@"))
    assert failed.value.message == f"no Prefect server at PREFECT_API_URL ({web.url}): {said}"
    assert "ends in /api" in (failed.value.hint or "")


def test_what_speaks_no_http_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            with suppress(OSError):  # the listener is closed while it waits for one more
                while True:
                    client, _ = listener.accept()
                    client.sendall(b"220 mail.example\r\n\tESMTP\r\n\r\n")
                    client.close()

        threading.Thread(target=greet, daemon=True).start()
        with pytest.raises(EngineFailed) as failed:
            probe(f"http://127.0.0.1:{listener.getsockname()[1]}/api")
    assert "\n" not in failed.value.message


@pytest.mark.parametrize("verb", [("up",), ("up", "--check"), ("prune", "dev", "--apply")])
def test_every_verb_that_needs_a_server_says_so(web: Web, verb: tuple[str, ...], tmp_path: Path) -> None:
    web.kind, web.body = "text/html", PAGE
    done = kg(*verb, PREFECT_API_URL=web.url, PREFECT_HOME=str(tmp_path), KG_HOME=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"kg: no Prefect server at PREFECT_API_URL ({web.url}): it answers as Prefect's API does not (text/html)",
        "hint: start it, correct PREFECT_API_URL (a server's ends in /api), or unset it: "
        "kg then starts a server of its own",
    ]
