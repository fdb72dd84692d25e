"""What the target's role may do, and a login with the same rights in a scratch cluster of ours: what is tried there as
a superuser would pass, and then fail in the database.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from psycopg import errors
from psycopg.rows import dict_row
from psycopg.sql import SQL, Identifier, Literal
from pydantic import SecretStr

from sql import query
from tasks.core.addresses import Address
from tasks.core.errors import MigrationFailed, OpsError, PrivilegeMissing
from tasks.core.postgres.connections import Connection, connect, database_errors, target
from tasks.core.postgres.scratch import Scratch
from tasks.core.settings import Settings

Row = Mapping[str, Any]
T = TypeVar("T")

_ATTRIBUTES = ("superuser", "createrole", "createdb", "bypassrls", "replication", "inherit")


@dataclass(frozen=True)
class Rights:
    """Of one role in one database: itself and the roles that it is a member of, first itself."""

    roles: tuple[Row, ...]
    memberships: tuple[Row, ...]
    database: Row
    schemas: tuple[Row, ...]
    extensions: Mapping[str, str]

    @property
    def role(self) -> str:
        return str(self.roles[0]["name"])

    def __str__(self) -> str:
        return f"{self.role}, a superuser" if self.roles[0]["superuser"] else self.role


@dataclass(frozen=True)
class Stand:
    """With whose `rights` a rehearsal goes, as people read it. `lend`, where the target's platform lends its roles what
    they have not by the catalog, lets our login do everything for the length of a block; for what it did is in `lent`.
    """

    rights: str = ""
    lend: Callable[[], AbstractContextManager[None]] | None = None
    lent: list[str] = field(default_factory=list)

    def attempt(self, work: Callable[[], T]) -> T:
        """Again with what the platform lends, where that was missing."""
        try:
            return work()
        except (MigrationFailed, PrivilegeMissing) as error:
            if self.lend is None or not _lendable(error):
                raise
            with self.lend():
                done = work()
            self.lent.append(error.message)
            return done

    def __str__(self) -> str:
        return f"{self.rights}, but as a superuser for: {self.lent[0]}" if self.lent else self.rights


def _lendable(error: OpsError) -> bool:
    """To make what only administrators make; never what belongs to others ("must be owner of", "denied for table")."""
    cause = error.__cause__
    if not isinstance(cause, errors.InsufficientPrivilege):
        return False
    return (cause.diag.message_primary or "").startswith(("permission denied to create", "must be superuser"))


def rights_of(conn: Connection) -> Rights:
    """Of the role and in the database of `conn`. Raises DatabaseError."""

    def rows(name: str, **values: object) -> tuple[Row, ...]:
        return tuple(cursor.execute(query(name), values).fetchall())

    with database_errors("reading the rights of our role"), conn.cursor(row_factory=dict_row) as cursor:
        roles = rows("roles_of_us")
        names = [each["name"] for each in roles]
        [database] = rows("rights_in_database")
        extensions: dict[str, str] = dict(conn.execute(query("extension_owners")).fetchall())
        return Rights(
            roles, rows("memberships_of", roles=names), database, rows("rights_in_schemas", role=names[0]), extensions
        )


def stand_on(scratch: Scratch, settings: Settings) -> tuple[Address, Stand]:
    """A login on the restored copy with the rights that our role has in the target; where the scratch server is not
    ours to make roles on, its own.
    """
    with connect(target(settings), purpose="rehearsal", database=settings.database) as conn:
        rights = rights_of(conn)
    if not scratch.own:
        return scratch.address, Stand(whose(rights, scratch.server.role))
    password = SecretStr(secrets.token_urlsafe(24))
    with connect(scratch.address, purpose="scratch") as conn, database_errors("making the target's role on the copy"):
        _make_roles(conn, rights, password)
        _make_database(conn, scratch.address.dbname, rights)
        _make_schemas(conn, rights)
    address = scratch.address.model_copy(update={"user": rights.role, "password": password})
    lend = partial(_lending, scratch.address, rights.role) if rights.database["lends"] else None
    return address, Stand(str(rights), lend)


def whose(rights: Rights, elsewhere: str = "") -> str:
    """With whose rights a rehearsal goes; `elsewhere`: whose login on KG_SCRATCH_URL's server it has to take."""
    return f"{elsewhere} on KG_SCRATCH_URL's server, not of {rights}" if elsewhere else str(rights)


@contextmanager
def _lending(superuser: Address, role: str) -> Iterator[None]:
    """What is made meanwhile belongs to the role all the same."""
    name = Identifier(role)
    with connect(superuser, purpose="scratch") as conn:
        conn.execute(SQL("ALTER ROLE {} SUPERUSER").format(name))
        try:
            yield
        finally:
            conn.execute(SQL("ALTER ROLE {} NOSUPERUSER").format(name))


def _make_roles(conn: Connection, rights: Rights, password: SecretStr) -> None:
    present = _roles(conn)
    for role in rights.roles:
        if role["name"].startswith("pg_"):
            continue
        words = " ".join(word.upper() if role[word] else f"NO{word.upper()}" for word in _ATTRIBUTES)
        verb = SQL("ALTER" if role["name"] in present else "CREATE")
        conn.execute(SQL("{} ROLE {} {}").format(verb, Identifier(role["name"]), SQL(words)))
    conn.execute(
        SQL("ALTER ROLE {} LOGIN PASSWORD {}").format(Identifier(rights.role), Literal(password.get_secret_value()))
    )
    present = _roles(conn)
    for each in rights.memberships:
        if each["role"] in present:  # a predefined one of a newer server may not be
            _make_member(conn, each)


def _make_member(conn: Connection, membership: Row) -> None:
    """Before 16 a grant says nothing of inheriting and SET ROLE."""
    names = Identifier(membership["role"]), Identifier(membership["member"])
    if conn.info.server_version < 160000:
        conn.execute(SQL("GRANT {} TO {}" + (" WITH ADMIN OPTION" if membership["admin"] else "")).format(*names))
        return
    words = ", ".join(f"{word.upper()} {str(membership[word]).upper()}" for word in ("admin", "inherit", "set"))
    conn.execute(SQL("GRANT {} TO {} WITH ").format(*names) + SQL(words))


def _make_database(conn: Connection, name: str, rights: Rights) -> None:
    database, role, found = Identifier(name), Identifier(rights.role), rights.database
    conn.execute(SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(database))
    conn.execute(SQL("GRANT CONNECT ON DATABASE {} TO PUBLIC").format(database))
    if found["owner"] in {each["name"] for each in rights.roles}:
        conn.execute(SQL("ALTER DATABASE {} OWNER TO {}").format(database, Identifier(found["owner"])))
    for privilege, held in (("CREATE", found["may_create"]), ("TEMPORARY", found["may_temp"])):
        if held:
            conn.execute(SQL("GRANT {} ON DATABASE {} TO {}").format(SQL(privilege), database, role))


def _make_schemas(conn: Connection, rights: Rights) -> None:
    """Owners and rights of schemas that were there before the restore are not in an archive, nor are extensions'."""
    present = _roles(conn)
    wanted = {each["name"]: each for each in rights.schemas}
    for schema in (each for each in _schemas(conn, rights.role) if each["name"] in wanted):
        if (owner := wanted[schema["name"]]["owner"]) in present and owner != schema["owner"]:
            words = Identifier(schema["name"]), Identifier(owner)
            conn.execute(SQL("ALTER SCHEMA {} OWNER TO {}").format(*words))
    for schema in (each for each in _schemas(conn, rights.role) if each["name"] in wanted):
        for privilege in ("CREATE", "USAGE"):
            if schema[privilege] != wanted[schema["name"]][privilege]:
                _set_privilege(conn, rights.role, schema, privilege)
    for name, owner in rights.extensions.items():
        if owner in present:
            conn.execute(query("own_extension"), {"name": name, "owner": owner})


def _set_privilege(conn: Connection, role: str, schema: Row, privilege: str) -> None:
    form = "REVOKE {} ON SCHEMA {} FROM PUBLIC, {}" if schema[privilege] else "GRANT {} ON SCHEMA {} TO {}"
    conn.execute(SQL(form).format(SQL(privilege), Identifier(schema["name"]), Identifier(role)))


def _schemas(conn: Connection, role: str) -> list[Row]:
    with conn.cursor(row_factory=dict_row) as cursor:
        return list(cursor.execute(query("rights_in_schemas"), {"role": role}).fetchall())


def _roles(conn: Connection) -> set[str]:
    return {str(row[0]) for row in conn.execute(query("all_roles"))}
