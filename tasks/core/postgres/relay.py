"""TLS for client programs that cannot speak it themselves, as those of the wheel: a door on the loopback interface.

What comes in there goes to the server over a TLS connection of ours, made and checked as the address asks for. The
program authenticates itself through it, so the door lets nobody in who does not know the password; with SCRAM the
password itself passes neither way.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tasks.core import commands
from tasks.core.addresses import Address
from tasks.core.errors import ConnectionFailed, SettingsError
from tasks.core.postgres.tools import Tools

_HOST = "127.0.0.1"
_SSL_REQUEST = (8).to_bytes(4, "big") + (80877103).to_bytes(4, "big")  # the protocol's SSLRequest message
_SASL = (10).to_bytes(4, "big")  # AuthenticationSASL, which lists the mechanisms that the server knows
_CHUNK = 1 << 18
_DEMANDING = ("require", "verify-ca", "verify-full")
# Words of libpq that are about TLS: behind the door there is none, nor is the host what the certificate says.
_ABOUT_TLS = ("ssl", "hostaddr", "channel_binding", "gssencmode")


@contextmanager
def door(address: Address, tools: Tools) -> Iterator[Address]:
    """The address at which `tools` reach `address`: the same, or a door of ours for the length of the block.

    Raises SettingsError for a certificate file that cannot be read.
    """
    if dict(address.options).get("sslmode") not in _DEMANDING or speaks_tls(tools):
        yield address
        return
    relay = _Relay(address, tls_context(address))
    relay.start()
    try:
        options = tuple(item for item in address.options if not item[0].startswith(_ABOUT_TLS))
        plain = (*options, ("sslmode", "disable"))
        yield address.model_copy(update={"host": _HOST, "port": relay.port, "options": plain})
    finally:
        relay.stop()


def speaks_tls(tools: Tools) -> bool:
    """Was it built with TLS? One that was not refuses the very word; the other finds nobody at port 1."""
    env = {"PGSSLMODE": "require", "PGHOST": _HOST, "PGPORT": "1"}
    said = commands.run(
        [tools.pg_dump, "--no-password", "--schema-only", "--dbname=x"], env=env, timeout=20, check=False
    )
    return "not compiled in" not in said.stderr


def tls_context(address: Address) -> ssl.SSLContext:
    """What libpq would check: with `require` only where a root certificate is named."""
    words = dict(address.options)
    mode, root = words["sslmode"], words.get("sslrootcert")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = mode == "verify-full" or root == "system"
    if mode == "require" and not root:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        if root == "system":
            context.load_default_certs()
        elif context.verify_mode != ssl.CERT_NONE:
            context.load_verify_locations(root or Path("~/.postgresql/root.crt").expanduser())
        if crl := words.get("sslcrl"):
            context.load_verify_locations(crl)
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        if certificate := words.get("sslcert"):
            context.load_cert_chain(certificate, words.get("sslkey"))
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(
            f"the certificates of {address.label} cannot be read: {error}",
            hint="check sslrootcert, sslcert, sslkey and sslcrl of the address",
        ) from error
    if words.get("sslnegotiation") == "direct":
        context.set_alpn_protocols(["postgresql"])
    return context


class _Relay:
    """Listens in a thread with an event loop of its own; each connection there becomes one to the server."""

    def __init__(self, address: Address, context: ssl.SSLContext) -> None:
        self.address, self.context, self.port = address, context, 0
        self._direct = dict(address.options).get("sslnegotiation") == "direct"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def start(self) -> None:
        self._thread.start()
        listening = asyncio.start_server(self._carry, _HOST, 0)
        server = asyncio.run_coroutine_threadsafe(listening, self._loop).result(timeout=10)
        self.port = server.sockets[0].getsockname()[1]

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(timeout=10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)
        self._loop.close()

    async def _end(self) -> None:
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await self._far_side()
        except (OSError, EOFError, ssl.SSLError, ConnectionFailed) as error:
            writer.write(_refusal(f"no TLS connection to {self.address.host}:{self.address.port}: {error}"))
            await _close(writer)
            return
        with suppress(asyncio.CancelledError):  # the block that wanted the door has ended
            await asyncio.gather(_pump(reader, far_writer), _answer(far_reader, writer))

    async def _far_side(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        place = dict(self.address.options).get("hostaddr", self.address.host)
        reader, writer = await asyncio.open_connection(place, self.address.port, limit=_CHUNK)
        if not self._direct:
            writer.write(_SSL_REQUEST)
            if await reader.readexactly(1) != b"S":
                writer.close()
                raise ConnectionFailed("the server does not speak SSL")
        await writer.start_tls(self.context, server_hostname=self.address.host)
        return reader, writer


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """What the server says, but for the offer to bind the password to a TLS connection that the program has not: it
    would take that for an attack.
    """
    kind = b"v"
    with suppress(EOFError, OSError):  # a request to cancel gets no answer
        while kind == b"v":  # a word on the protocol's version, before the one on how to log in
            kind = await reader.readexactly(1)
            length = await reader.readexactly(4)
            body = await reader.readexactly(int.from_bytes(length, "big") - 4)
            if kind == b"R" and body.startswith(_SASL):
                body = body.replace(b"SCRAM-SHA-256-PLUS\0", b"")
            writer.write(kind + (len(body) + 4).to_bytes(4, "big") + body)
    await _pump(reader, writer)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError, ssl.SSLError):  # either side may go at any time; the programs say what that means
        while chunk := await reader.read(_CHUNK):
            writer.write(chunk)
            await writer.drain()
    await _close(writer)


async def _close(writer: asyncio.StreamWriter) -> None:
    with suppress(OSError, ssl.SSLError):
        writer.close()
        await writer.wait_closed()


def _refusal(text: str) -> bytes:
    """The protocol's ErrorResponse, which the program prints as the server's own word."""
    fields = b"".join(kind + value.encode() + b"\0" for kind, value in ((b"S", "FATAL"), (b"C", "08001"), (b"M", text)))
    return b"E" + (len(fields) + 5).to_bytes(4, "big") + fields + b"\0"
