"""The client programs: pg_dump and pg_restore of a major that fits the server. A client reads no newer server.

With the server's own major an archive restores to that server without exceptions; a newer client is second choice.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tasks.core.errors import CommandFailed, CommandMissing
from tasks.core.postgres.binaries import DEBIAN, program_version, wheel

CLIENTS = "clients"
"""Folder of KG_HOME where an operator can put (or link) client programs of other majors: clients/<any name>/bin."""


@dataclass(frozen=True)
class Tools:
    """Client programs of one version, from one folder."""

    pg_dump: Path
    pg_restore: Path
    psql: Path | None
    major: int
    version: str
    source: str


def tools_for(server_major: int, home: Path) -> Tools:
    """Client programs of the server's own major, else of the nearest newer one.

    Looked for in the wheel, KG_HOME/clients, PATH and Debian's folders. Raises CommandMissing where all are older.
    """
    found = list(_all_tools(home))
    fitting = [tools for tools in found if tools.major >= server_major]
    if not fitting:
        newest = max((tools.version for tools in found), key=_number, default="")
        raise CommandMissing(
            f"the server is PostgreSQL {server_major}, and "
            + (f"the newest pg_dump here is {newest}" if newest else "there is no pg_dump here"),
            hint=f"apt install postgresql-client-{server_major}, or put its programs into "
            f"{home / CLIENTS / str(server_major) / 'bin'}",
        )
    return min(fitting, key=lambda tools: tools.major)  # the first of equals, in the order of the search


def _all_tools(home: Path) -> Iterator[Tools]:
    for folder, source in _folders(home):
        tools = _tools_in(folder, source)
        if tools:
            yield tools


def _folders(home: Path) -> Iterator[tuple[Path, str]]:
    try:
        own = wheel()
    except CommandMissing:
        pass
    else:
        yield own.folder, own.source
    for folder in sorted((home / CLIENTS).glob("*/bin")):
        yield folder, str(folder)
    for text in os.environ.get("PATH", "").split(os.pathsep):
        if text:
            yield Path(text), "PATH"
    for folder in sorted(DEBIAN.glob("*/bin")):
        yield folder, str(folder)


@cache
def _tools_in(folder: Path, source: str) -> Tools | None:
    """The tools in `folder`, None unless pg_dump and pg_restore are both there, run, and are of one version."""
    dump, restore, psql = (folder / name for name in ("pg_dump", "pg_restore", "psql"))
    if not (_is_program(dump) and _is_program(restore)):
        return None
    try:
        version = program_version(dump)
        if program_version(restore) != version:
            return None
    except CommandFailed:
        return None
    major = int(re.match(r"\d+", version)[0])  # type: ignore[index]  # a version begins with a number
    return Tools(dump, restore, psql if _is_program(psql) else None, major, version, source)


def _is_program(path: Path) -> bool:
    # Debian's pg_dump in PATH is a wrapper that picks a version by rules of its own; the real ones are found beside it.
    return os.access(path, os.X_OK) and path.is_file() and path.resolve().name != "pg_wrapper"


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
