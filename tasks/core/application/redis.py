"""Is a Redis server there, and does it let us in? Four lines of its protocol, so that no client library is needed."""

from __future__ import annotations

import socket
import ssl
from urllib.parse import unquote, urlsplit

from tasks.core.errors import OpsError

_PORT = 6379


def ping(url: str, *, timeout: float) -> str:
    """Where it answered PONG, as host:port. `timeout` in seconds. Raises OpsError, which never says the password."""
    parts = urlsplit(url)
    if parts.scheme not in ("redis", "rediss") or not parts.hostname:
        raise OpsError("REDIS_URL is not a Redis address", hint="put redis://host:6379/0 or rediss://... in it")
    place = f"{parts.hostname}:{parts.port or _PORT}"
    words = [word for word in (unquote(parts.username or ""), unquote(parts.password or "")) if word]
    try:
        with socket.create_connection((parts.hostname, parts.port or _PORT), timeout=timeout) as plain:
            secured = parts.scheme == "rediss"
            stream = (
                ssl.create_default_context().wrap_socket(plain, server_hostname=parts.hostname) if secured else plain
            )
            with stream:
                if parts.password:
                    _ask(stream, place, ["AUTH", *words])
                _ask(stream, place, ["PING"])
    except OSError as error:
        raise OpsError(f"Redis at {place} does not answer: {error}", hint="is it running, and reachable?") from error
    return place


def _ask(stream: socket.socket, place: str, words: list[str]) -> None:
    parts = [f"${len(word.encode())}\r\n{word}\r\n" for word in words]
    stream.sendall(f"*{len(words)}\r\n{''.join(parts)}".encode())
    answer = b""
    while not answer.endswith(b"\n"):
        part = stream.recv(1024)
        if not part:
            raise OpsError(f"Redis at {place} closed the connection", hint="does REDIS_URL need rediss:// (TLS)?")
        answer += part
    if not answer.startswith(b"+"):
        said = answer.decode(errors="replace").strip().lstrip("-")
        raise OpsError(f"Redis at {place} refused {words[0]}: {said}", hint="check REDIS_URL's user and password")
