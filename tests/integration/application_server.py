"""An application that is well, ill or still starting, and answers with embeddings; and settings that ask it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tasks.core.application.settings import ApplicationSettings
from tasks.core.settings import Settings


class Application(BaseHTTPRequestHandler):
    """/well answers 200, /ill 503, /starting at first 503; /embeddings and /short give 1536 and 3 numbers to whoever
    brings the key.
    """

    starting = 0

    def do_GET(self) -> None:
        if self.path == "/starting" and Application.starting:
            Application.starting -= 1
            self._answer(503, b"")
            return
        self._answer(200 if self.path.startswith(("/well", "/starting")) else 503, b"")

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers["Authorization"] != "Bearer sk-right" or "input" not in asked:
            self._answer(401, b"{}")
            return
        numbers = [0.1] * (1536 if self.path == "/embeddings" else 3)
        self._answer(200, json.dumps({"data": [{"embedding": numbers}]}).encode())

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: Any) -> None:
        """Not into the test's output."""


@pytest.fixture(scope="module")
def application() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Application)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def asking(settings: Settings, **wanted: Any) -> Settings:
    given = {"health_attempts": 1, **wanted}
    return settings.model_copy(update={"application": ApplicationSettings(**given)})
