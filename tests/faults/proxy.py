"""A proxy before an S3 server that counts the calls, and at chosen ones answers wrongly, cuts, stalls, truncates, or
kills whoever calls.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal, get_args
from urllib.parse import urlsplit

Fault = Literal["403", "500", "503", "cut", "lost-answer", "stall", "truncate"]
FAULTS: tuple[Fault, ...] = get_args(Fault)
STALLED = 30.0  # seconds that a stalled call would last; every client here gives up long before


@dataclass(frozen=True)
class Answer:
    """What a server says instead of doing it: the status line's end, and S3's code for it, or a `body` of another."""

    status: str
    code: str = ""
    body: str | None = None


_ANSWERS = {
    "403": Answer("403 Forbidden", "AccessDenied"),
    "500": Answer("500 Internal Server Error", "InternalError"),
    "503": Answer("503 Slow Down", "SlowDown"),
}
_DROPPED = (b"expect:", b"connection:")


@dataclass(frozen=True)
class Call:
    """One request: its number from 1, and its first line without the version."""

    number: int
    what: str


@dataclass
class Proxy:
    """`decide` says what happens to a call; None lets it pass. `headers` names request headers that never arrive."""

    upstream: str
    decide: Callable[[Call], Fault | Answer | None] = lambda call: None
    without: tuple[str, ...] = ()
    calls: list[Call] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def reset(self, decide: Callable[[Call], Fault | Answer | None]) -> None:
        self.calls.clear()
        self.decide = decide

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One call a connection: so a cut never hits another call."""
        with suppress(OSError, asyncio.IncompleteReadError):
            head, body = await self._request(reader, writer)
            words = head.split(b" ", 2)
            call = Call(len(self.calls) + 1, f"{words[0].decode()} {words[1].decode()}")
            self.calls.append(call)
            await self._answer(self.decide(call), head, body, writer)
        with suppress(OSError):
            writer.close()

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[bytes, bytes]:
        head = await reader.readuntil(b"\r\n\r\n")
        if b"expect: 100-continue" in head.lower():
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        sizes = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        body = await reader.readexactly(int(sizes[0].split(b":")[1])) if sizes else b""
        return head, body

    async def _answer(
        self, fault: Fault | Answer | None, head: bytes, body: bytes, writer: asyncio.StreamWriter
    ) -> None:
        if fault == "cut":
            writer.transport.abort()
        elif fault == "stall":
            await asyncio.sleep(STALLED)
        elif isinstance(fault, Answer) or fault in _ANSWERS:
            said = fault if isinstance(fault, Answer) else _ANSWERS[fault]
            body = f"<Error><Code>{said.code}</Code></Error>" if said.body is None else said.body
            text = b"" if head.startswith(b"HEAD") else body.encode()
            writer.write(
                f"HTTP/1.1 {said.status}\r\nContent-Length: {len(text)}\r\nConnection: close\r\n\r\n".encode() + text
            )
            await writer.drain()
        else:
            answer = await self._forward(head, body)
            if fault == "lost-answer":
                writer.transport.abort()
                return
            writer.write(answer[: _half(answer)] if fault == "truncate" else answer)
            await writer.drain()

    async def _forward(self, head: bytes, body: bytes) -> bytes:
        target = urlsplit(self.upstream)
        reader, writer = await asyncio.open_connection(target.hostname, target.port)
        lines = [line for line in head.split(b"\r\n") if line and not line.lower().startswith(self._dropped())]
        writer.write(b"\r\n".join([*lines, b"Connection: close", b"", b""]) + body)
        await writer.drain()
        answer = await reader.read()
        writer.close()
        return answer

    def _dropped(self) -> tuple[bytes, ...]:
        return (*_DROPPED, *(f"{name.lower()}:".encode() for name in self.without))


def _half(answer: bytes) -> int:
    """Where the answer is cut: in the middle of its body, or of its head where it has none."""
    start = answer.index(b"\r\n\r\n") + 4
    return start // 2 if start == len(answer) else (start + len(answer)) // 2


@contextmanager
def proxy(upstream: str) -> Iterator[Proxy]:
    """A proxy before `upstream` (http://host:port) in a thread of its own."""
    found, loop = Proxy(upstream), asyncio.new_event_loop()

    async def start() -> asyncio.Server:
        server = await asyncio.start_server(found.serve, "127.0.0.1", 0, limit=1 << 20)
        found.port = server.sockets[0].getsockname()[1]
        return server

    server = loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever, daemon=True, name="s3-proxy")
    thread.start()
    try:
        yield found
    finally:

        async def end() -> None:
            server.close()
            others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
