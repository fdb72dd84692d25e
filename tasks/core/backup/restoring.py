"""pg_restore at work on an archive from its standard input, into servers of any major.

pg_restore of 17 and later begins with `SET transaction_timeout`, which earlier servers do not know, and cannot be told
to leave out. There it writes SQL instead, which psql runs without that line. So it does for the tables' form, whatever
the servers: 17.12 and its siblings note a number of their own in each column's options (pg_attver), which a pg_dump
from before them copies like a setting that somebody made, and which no server takes.
"""

from __future__ import annotations

import contextvars
import re
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from tasks.core import commands
from tasks.core.addresses import Address
from tasks.core.errors import CommandFailed, CommandMissing
from tasks.core.postgres.relay import door
from tasks.core.postgres.tools import Tools

_UNKNOWN_SETTING = b"SET transaction_timeout"
_NOTED_BY_SERVER = re.compile(rb"ALTER TABLE (?:ONLY )?.+ ALTER COLUMN .+ SET \(pg_attver=\d+\);\n")
_FORM = "--section=pre-data"
_HEADER_LINES = 40  # the settings stand in the first fifteen or so; rows come later, and are never looked at
_SINCE = 17


def dbname_word(address: Address) -> str:
    """pg_restore connects only with --dbname, and takes a name with '=' in it for a connection string: so it is one."""
    return "dbname='" + address.dbname.replace("\\", "\\\\").replace("'", "\\'") + "'"


@contextmanager
def restoring(
    tools: Tools,
    address: Address,
    server_major: int,
    words: Sequence[str],
    *,
    options: Mapping[str, str] | None = None,
    timeout: float | None = None,
    purpose: str = "restore",
    descriptors: Sequence[int] = (),
) -> Iterator[commands.Running]:
    """A child whose stdin takes an archive and that restores it into `address`, stopping at the first error.

    `words` are further options of pg_restore, which may name `descriptors`; `options` settings of its session.
    `timeout` in seconds. Raises CommandFailed with what was said, CommandMissing where this server needs a psql that is
    not there.
    """
    argv: list[str | Path] = [tools.pg_restore, "--exit-on-error", "--no-password", *words]
    with door(address, tools) as way:
        env = {**_environment(way, options or {}), "PGAPPNAME": f"kg {purpose}"}
        form = _FORM in words and tools.psql is not None
        if not (server_major < _SINCE <= tools.major or form):
            argv.append(f"--dbname={dbname_word(address)}")
            with commands.stream(argv, env=env, timeout=timeout, stdin=True, descriptors=descriptors) as child:
                yield child
            return
        with _through_psql(tools, argv, env, server_major, timeout, form=form, descriptors=descriptors) as child:
            yield child


@contextmanager
def _through_psql(
    tools: Tools,
    argv: Sequence[str | Path],
    env: Mapping[str, str],
    server_major: int,
    timeout: float | None,
    *,
    form: bool,
    descriptors: Sequence[int],
) -> Iterator[commands.Running]:
    if tools.psql is None:
        raise CommandMissing(
            f"pg_restore {tools.version} cannot restore into PostgreSQL {server_major} without psql",
            hint=f"apt install postgresql-client-{server_major}",
        )
    psql: list[str | Path] = [
        tools.psql,
        "--no-psqlrc",
        "--quiet",
        "--no-password",
        "--output=/dev/null",
        "--set=ON_ERROR_STOP=1",
    ]
    # Where psql fails, pg_restore fails too, for want of a reader: psql's own word counts, so it is checked first.
    with (
        commands.stream(psql, env=env, timeout=timeout, stdin=True) as runner,
        commands.stream(
            [*argv, "--file=-"], timeout=timeout, stdin=True, check=False, descriptors=descriptors
        ) as writer,
    ):
        carrier = _carrier(writer.stdout, runner.stdin, form=form)
        yield writer
        with suppress(BrokenPipeError):
            writer.stdin.close()
        carrier.join()
    if writer.process.returncode != 0:
        raise CommandFailed(commands.failure_text(writer))


def without_unknown_setting(source: IO[bytes], sink: IO[bytes], *, form: bool = False) -> None:
    """Copy SQL, without the line that servers before 17 do not know, and, in the `form` of tables (which has no rows),
    without what a server had noted for itself.
    """
    for _ in range(_HEADER_LINES):
        line = source.readline()
        if not (line.startswith(_UNKNOWN_SETTING) or (form and _NOTED_BY_SERVER.fullmatch(line))):
            sink.write(line)
    if form:
        sink.writelines(line for line in source if not _NOTED_BY_SERVER.fullmatch(line))
    shutil.copyfileobj(source, sink, 1 << 20)


def _carrier(source: IO[bytes], sink: IO[bytes], *, form: bool) -> threading.Thread:
    def carry() -> None:
        with suppress(OSError, ValueError):  # psql has failed, or both were ended: their status tells
            try:
                without_unknown_setting(source, sink, form=form)
                sink.close()
            finally:
                source.close()  # pg_restore must not wait for a reader that is gone

    thread = threading.Thread(target=contextvars.copy_context().run, args=(carry,), daemon=True)
    thread.start()
    return thread


def _environment(address: Address, options: Mapping[str, str]) -> dict[str, str]:
    env = address.environment()
    words = [f"-c {name}={value}" for name, value in options.items()]
    return {**env, "PGOPTIONS": " ".join([env.get("PGOPTIONS", ""), *words]).strip()}
