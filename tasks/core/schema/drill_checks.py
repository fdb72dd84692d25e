"""Would the next backup restore where drills restore? What it names (roles, extensions, collations) must be there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from psycopg.sql import Identifier

from sql import query
from tasks.core import commands
from tasks.core.errors import CommandFailed
from tasks.core.postgres.binaries import Binaries, extensions_of, has_icu
from tasks.core.postgres.connections import Connection, Server, connect, role_of
from tasks.core.postgres.containers import check_image, image_for
from tasks.core.postgres.scratch import binaries_for
from tasks.core.schema.report import CheckResult, failed, ok, skipped
from tasks.core.settings import Settings


@dataclass(frozen=True)
class Needs:
    """What a dump of a database takes for granted. Collations with their provider: "c" libc, "i" ICU."""

    roles: frozenset[str]
    extensions: frozenset[str]
    collations: frozenset[tuple[str, str]]


def check_scratch(conn: Connection, server: Server, settings: Settings) -> CheckResult:
    """Raises ConnectionFailed where KG_SCRATCH_URL cannot be reached."""
    name = "scratch server"
    if not settings.deploy.drill:
        return skipped(name, "drills are off: deploy.drill")
    needs = _needs(conn)
    if settings.scratch is None:
        binaries = binaries_for(server.major)
        image = "" if binaries.major == server.major else image_for(server.major)
        if image:
            check_image(image)  # what it has is seen when it runs
            return ok(name, f"one of our own, in a container of {image}")
        problems, where = _own(needs, binaries), f"one of our own, PostgreSQL {binaries.version}"
    else:
        with connect(settings.scratch, purpose="check scratch") as scratch:
            problems, where = _elsewhere(needs, scratch), f"KG_SCRATCH_URL ({settings.scratch.host})"
    if problems:
        return failed(name, f"a drill on {where} would fail: {'; '.join(problems)}")
    return ok(name, f"{where}, has what a backup names")


def _needs(conn: Connection) -> Needs:
    from tasks.core.backup.contents import installed_extensions, named_roles

    return Needs(
        frozenset(role for role in named_roles(conn) if not role.startswith("pg_")),
        frozenset(installed_extensions(conn)),
        frozenset((name, provider) for name, provider in conn.execute(query("used_collations"))),
    )


def _own(needs: Needs, binaries: Binaries) -> list[str]:
    """In a cluster of our own roles are made; extensions and locales are what this machine has."""
    there = extensions_of(binaries)
    problems = [_no_extension(name, "this machine has not") for name in sorted(needs.extensions - there)]
    locales = _locales() if any(provider == "c" for _, provider in needs.collations) else frozenset()
    for name, provider in sorted(needs.collations):
        if provider == "i" and not has_icu(binaries):
            problems.append(f"collation {name} needs ICU, which {binaries.source} is built without: set KG_SCRATCH_URL")
        if provider == "c" and _plain(name) not in locales:
            problems.append(f"collation {name} is no locale of this machine: locale-gen, or set KG_SCRATCH_URL")
    return problems


def _elsewhere(needs: Needs, scratch: Connection) -> list[str]:
    row = scratch.execute(query("may_create_database")).fetchone()
    role = Identifier(role_of(scratch)).as_string(scratch)
    problems = [] if row and row[0] else [f"role {role} may not: ALTER ROLE {role} CREATEDB"]
    roles = {found for (found,) in scratch.execute(query("roles_present"), {"roles": sorted(needs.roles)})}
    for role in sorted(needs.roles - roles):
        problems.append(f"no role {role}: CREATE ROLE {Identifier(role).as_string(scratch)} NOLOGIN")
    extensions = {found for (found,) in scratch.execute(query("available_extensions"))}
    problems += [_no_extension(name, "that server has not") for name in sorted(needs.extensions - extensions)]
    collations = {found for (found,) in scratch.execute(query("present_collations"))}
    for name, _ in sorted(needs.collations):
        if name not in collations:
            problems.append(f"no collation {name}: install its locale, then SELECT pg_import_system_collations(...)")
    return problems


def _no_extension(name: str, who: str) -> str:
    return f"extension {name}, {who}: install its package there"


def _locales() -> frozenset[str]:
    try:
        found: Iterable[str] = commands.run(["locale", "-a"], timeout=10).stdout.split()
    except CommandFailed:  # a C library without the program
        found = ()
    return frozenset(map(_plain, ("C", "POSIX", *found)))


def _plain(locale: str) -> str:
    """As initdb compares them: en_US.UTF-8, en_US.utf8 and en_US (whose encoding may be either) by one name."""
    return locale.partition(".")[0].lower()
