"""A server on this machine that speaks OpenAI's embeddings API, with the faults of a real one on request."""

from __future__ import annotations

import base64
import json
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from tasks.core.application.embeddings import OfflineEmbedder

KEY = "sk-right-1234"
MODELS = ("text-embedding-3-small", "local-model")
CONTEXT_BYTES = 16_000  # a text of more is refused as too long


@dataclass
class EmbeddingsServer:
    """`faults` are taken one a call, from the left; `lasting` stands for every call where there is none.

    A fault: a status ("429", "500", ...), "slow" (a second), "cut", "short" (3 numbers), "zero", "page" (no JSON).
    """

    url: str = ""
    faults: deque[str] = field(default_factory=deque)
    lasting: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    calls: list[list[str]] = field(default_factory=list)
    """The texts of each call that was answered with vectors."""
    asked: int = 0

    def tokens(self) -> int:
        return sum(_tokens(text) for texts in self.calls for text in texts)


def _tokens(text: str) -> int:
    return max(1, len(text.encode()) // 4)


@contextmanager
def embeddings_server() -> Iterator[EmbeddingsServer]:
    state = EmbeddingsServer()
    # Another class for each server: handlers have no state of their own to keep it in.
    handler = type("Handler", (_Handler,), {"state": state})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    state.url = f"http://127.0.0.1:{server.server_port}/v1"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    state: EmbeddingsServer

    def do_POST(self) -> None:
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.state.asked += 1
        fault = self.state.faults.popleft() if self.state.faults else self.state.lasting
        if fault == "cut":
            # Closed with an RST, in the middle of the answer.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")
            self.connection.close()
        elif fault == "page":
            self._answer(200, b"<html>Welcome</html>", "text/html")
        elif fault.isdigit():
            self._refuse(int(fault), "no more for now")
        elif fault == "quota":
            self._refuse(429, "You exceeded your current quota", "insufficient_quota")
        else:
            if fault == "slow":
                time.sleep(1)
            self._embed(question, fault)

    def _embed(self, question: dict[str, Any], fault: str) -> None:
        texts = question["input"]
        if self.headers["Authorization"] != f"Bearer {KEY}":
            self._refuse(401, f"Incorrect API key provided: {self.headers['Authorization']}")
        elif question["model"] not in MODELS or self.path != "/v1/embeddings":
            self._refuse(404, f"The model {question['model']} does not exist")
        elif not texts or not all(texts):
            self._refuse(400, "input cannot be an empty string")
        elif max(len(text.encode()) for text in texts) > CONTEXT_BYTES:
            self._refuse(400, "This model's maximum context length is 8192 tokens")
        else:
            vectors = 2 * OfflineEmbedder().embed(texts)  # twice: not every model's are of length one
            vectors = {"short": vectors[:, :3], "zero": 0 * vectors}.get(fault, vectors)
            data = [
                {"object": "embedding", "index": row, "embedding": _encoded(vector, question.get("encoding_format"))}
                for row, vector in enumerate(vectors)
            ]
            used = sum(map(_tokens, texts))
            self.state.calls.append(texts)
            usage = {"prompt_tokens": used, "total_tokens": used}
            # Out of order: `index` counts.
            body = {"object": "list", "data": data[::-1], "model": question["model"], "usage": usage}
            self._answer(200, json.dumps(body).encode())

    def _refuse(self, status: int, message: str, code: str | None = None) -> None:
        self._answer(status, json.dumps({"error": {"message": message, "code": code, "type": "x"}}).encode())

    def _answer(self, status: int, body: bytes, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in self.state.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: Any) -> None:
        """Not into the test's output."""


def _encoded(vector: Any, encoding: str | None) -> Any:
    return base64.b64encode(vector.astype(np.float32).tobytes()).decode() if encoding == "base64" else vector.tolist()
