"""A database beside another: made like it, given what hangs on it in the cluster, and put in its place.

Grants, settings and the connection limit belong to the database and not to what a dump of it holds.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from psycopg.sql import SQL, Composable, Composed, Identifier, Literal

from sql import query
from tasks.core.addresses import Address
from tasks.core.errors import DatabaseError
from tasks.core.postgres.connections import Connection, Server, database_errors
from tasks.core.postgres.scratch import locale_words

# Their values in pg_db_role_setting are lists whose elements are quoted already.
_LISTS = {"search_path", "temp_tablespaces", "session_preload_libraries", "local_preload_libraries"}
_LEAVE_SECONDS = 10.0


@dataclass(frozen=True)
class Facts:
    """A database as the cluster knows it; `comment` is None where it has none."""

    oid: int
    owner: str
    connection_limit: int
    open: bool
    tablespace: str
    comment: str | None
    owned: bool
    may_create: bool


def maintenance(address: Address) -> Address:
    """A database of the same server that is not the one in question."""
    return address.database("template1" if address.dbname == "postgres" else "postgres")


def facts(keeper: Connection, name: str) -> Facts:
    """Raises DatabaseError where there is no such database."""
    row = keeper.execute(query("database_facts"), {"name": name}).fetchone()
    if row is None:
        raise DatabaseError(f"there is no database {name}")
    return Facts(*row)


def hindrances(keeper: Connection, name: str) -> tuple[str, ...]:
    """What bars an exchange: slots, subscriptions, prepared transactions, sessions that this role may not end."""
    return tuple(row[0] for row in keeper.execute(query("database_hindrances"), {"name": name}))


def make_like(keeper: Connection, name: str, original: Facts, server: Server) -> None:
    """An empty database of the same owner, encoding, locale and tablespace."""
    statement = SQL("CREATE DATABASE {} TEMPLATE template0 OWNER {} ENCODING {} TABLESPACE {} ").format(
        Identifier(name), Identifier(original.owner), Literal(server.encoding), Identifier(original.tablespace)
    )
    with database_errors(f"making the database {name}"):
        keeper.execute(statement + locale_words(server.collation, server.major))


def carry_over(keeper: Connection, source: str, to: str, original: Facts) -> None:
    """Grants, settings and the connection limit of `source` for `to`. Raises DatabaseError."""
    target = Identifier(to)
    with database_errors(f"carrying grants and settings over to {to}"), keeper.transaction():
        keeper.execute(SQL("ALTER DATABASE {} CONNECTION LIMIT {}").format(target, original.connection_limit))
        grants = keeper.execute(query("database_grants"), {"name": source}).fetchall()
        if grants:
            owner = Identifier(original.owner)
            keeper.execute(SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC, {}").format(target, owner))
        for grantee, privilege, with_option in grants:
            to_whom = Identifier(grantee) if grantee else SQL("PUBLIC")
            keeper.execute(_grant(privilege, target, to_whom, with_option=with_option))
        for role, setting in keeper.execute(query("database_settings"), {"name": source}).fetchall():
            keeper.execute(_setting(target, role, *setting.split("=", 1)))


def close_door(keeper: Connection, name: str, spared: Sequence[int]) -> None:
    """New sessions are refused, also a superuser's; the others but `spared` (pids) are ended. Raises DatabaseError."""
    keeper.execute(SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(Identifier(name)))
    empty_out(keeper, name, spared)


def open_door(keeper: Connection, name: str) -> None:
    keeper.execute(SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(Identifier(name)))


def empty_out(keeper: Connection, name: str, spared: Sequence[int] = ()) -> None:
    """End the sessions in it but `spared`, and wait until they are gone. Raises DatabaseError."""
    deadline = time.monotonic() + _LEAVE_SECONDS
    while True:
        keeper.execute(query("end_other_sessions"), {"name": name, "spared": list(spared)})
        row = keeper.execute(query("sessions_in"), {"name": name}).fetchone()
        assert row
        if row[0] <= len(spared):
            return
        if time.monotonic() > deadline:
            raise DatabaseError(f"{row[0] - len(spared)} sessions in {name} do not end")
        time.sleep(0.05)


def exchange(keeper: Connection, name: str, staged: str, replaced: str, comments: dict[str, str | None]) -> None:
    """`staged` becomes `name`, which becomes `replaced`, in one transaction with their comments."""
    with database_errors(f"putting {staged} in the place of {name}"), keeper.transaction():
        keeper.execute("SET LOCAL synchronous_commit = on")
        for before, after in ((name, replaced), (staged, name)):
            keeper.execute(SQL("ALTER DATABASE {} RENAME TO {}").format(Identifier(before), Identifier(after)))
        for database, text in comments.items():
            comment(keeper, database, text)


def comment(keeper: Connection, name: str, text: str | None) -> None:
    keeper.execute(SQL("COMMENT ON DATABASE {} IS {}").format(Identifier(name), Literal(text)))


def drop(keeper: Connection, name: str) -> None:
    with database_errors(f"dropping the database {name}"):
        keeper.execute(query("end_sessions"), {"database": name})
        keeper.execute(SQL("DROP DATABASE IF EXISTS {}").format(Identifier(name)))


def _grant(privilege: str, database: Identifier, to: Composable, *, with_option: bool) -> Composed:
    words = {"CREATE": SQL("CREATE"), "CONNECT": SQL("CONNECT"), "TEMPORARY": SQL("TEMPORARY")}
    option = SQL(" WITH GRANT OPTION") if with_option else SQL("")
    return SQL("GRANT {} ON DATABASE {} TO {}{}").format(words[privilege], database, to, option)


def _setting(database: Identifier, role: str | None, name: str, value: str) -> Composed:
    spelled = SQL(value) if name in _LISTS else Literal(value)  # quoted by the server
    whose = SQL("ROLE {} IN DATABASE {}").format(Identifier(role), database) if role else None
    return SQL("ALTER {} SET {} TO {}").format(
        whose or SQL("DATABASE {}").format(database), Identifier(*name.split(".")), spelled
    )
