"""A schema that never comes to be: migrations run in it on a real server, inside a transaction that is rolled back."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import psycopg
from psycopg import errors
from psycopg.sql import SQL, Composed, Identifier, Literal

from sql import query
from tasks.core.errors import MigrationFailed, PrivilegeMissing
from tasks.core.postgres.connections import Connection, database_errors
from tasks.core.schema.execution import search_path
from tasks.core.schema.extension import limit_hint
from tasks.core.schema.migrations import Migration
from tasks.core.schema.statements import Statement

LOCK_TIMEOUT = "2s"

# A comment, string, quoted identifier or dollar quote, in which CONCURRENTLY is just a word; then the word itself.
_CONCURRENTLY = re.compile(
    r"(--[^\n]*|/\*.*?\*/|'(?:''|[^'])*'|\"(?:\"\"|[^\"])*\"|\$(\w*)\$.*?\$\2\$)|\bconcurrently\b",
    re.DOTALL | re.IGNORECASE,
)


# What may move a sequence at once. A default or a function's body is kept, and must not name the guard's functions.
_MOVES = frozenset({"select", "with", "values", "insert", "update", "delete", "merge", "call", "do", "explain", "copy"})
_DEFAULT = re.compile(r"\bdefault\b", re.IGNORECASE)


@contextmanager
def scratch_schema(conn: Connection, schema: str) -> Iterator[str]:
    """The name of a new schema that grants by default what `schema` does; in a transaction (a savepoint, where one is
    open) that is rolled back. Raises PrivilegeMissing, and DatabaseError for what the server refuses in the block.
    """
    name = f"kg_expected_{uuid.uuid4().hex[:12]}"
    with database_errors("making the expected tables in a scratch schema"), conn.transaction(force_rollback=True):
        _set(conn, "lock_timeout", LOCK_TIMEOUT)
        _create(conn, name)
        _guard_sequences(conn, name)
        _keep_away(conn, name)
        for row in conn.execute(query("default_privileges"), {"schema": schema}).fetchall():
            conn.execute(_default_privilege(name, *row))
        yield name


def run_in_scratch(conn: Connection, migration: Migration, scratch: str) -> None:
    """Run the up script there. Raises MigrationFailed (file:line:column), also where it changes a table that no
    migration made; PrivilegeMissing.
    """
    before, positions = _locked_elsewhere(conn, scratch), _positions(conn, scratch)
    path = search_path(conn, scratch)
    guarded = SQL(", ").join(map(Identifier, (scratch, _guard(scratch), "pg_catalog"))).as_string(conn)
    for statement in migration.up_script.statements:
        if statement.words[:1] != ("vacuum",):  # cannot run in a transaction, and changes no catalog
            _set(conn, "search_path", f"{guarded}, {path}" if _may_move(statement) else path)
            _execute(conn, migration, statement)
            foreign = {name: kind for name, kind in _locked_elsewhere(conn, scratch).items() if name not in before}
            if foreign:
                _refuse_moved(conn, scratch, _where(migration, statement), foreign, positions)
                raise MigrationFailed(
                    f"{_where(migration, statement)}: changes {', '.join(sorted(foreign))}, which no migration made",
                    hint="a migration changes our own tables only; this run was rolled back",
                )
    _set(conn, "search_path", path)


def _refuse_moved(
    conn: Connection, scratch: str, place: str, foreign: Mapping[str, bool], before: dict[str, str]
) -> None:
    """What the guard did not see, of a superuser's or of a function with its owner's rights, must not go unnoticed."""
    now = _positions(conn, scratch)
    moved = sorted(
        name
        for name, is_sequence in foreign.items()
        if is_sequence and (name not in now or now[name] != before.get(name, now[name]))  # one that is new goes again
    )
    if moved:
        back = "; ".join(before.get(name, f"for {name} its owner knows where it stood") for name in moved)
        raise MigrationFailed(
            f"{place}: the sequence {', '.join(moved)} (which no migration made) was moved for good",
            hint=f"a migration changes our own tables only; where nobody has used it since, this puts it back: {back}",
        )


def _execute(conn: Connection, migration: Migration, statement: Statement) -> None:
    assert not statement.controls_transaction, "scripts.py refuses what would make the scratch schema real"
    try:
        # As bytes: psycopg would look for placeholders in a string.
        conn.execute(_without_concurrently(statement).encode(), binary=True)
    except psycopg.Error as error:
        if conn.broken:
            raise MigrationFailed(
                f"{_where(migration, statement)}: the session ended while this ran: {str(error).splitlines()[0]}",
                hint="it ran in a scratch schema, of which nothing is left; a migration cannot end sessions; where the "
                "server ended this one, try again",
            ) from error
        if error.sqlstate is None:
            raise
        place = _where(migration, statement, int(error.diag.statement_position or 1))
        message = f"{place}: {error.diag.message_primary} ({error.sqlstate}), in a scratch schema"
        if isinstance(error, errors.InsufficientPrivilege):
            raise PrivilegeMissing(message, hint=_remedy(statement, error)) from error
        hint = limit_hint(error.diag.message_primary or "") or error.diag.message_hint
        if isinstance(error, errors.ActiveSqlTransaction):
            hint = "run it by itself: what a migration makes is compared with what it makes in a transaction"
        raise MigrationFailed(message, hint=hint) from error


def _remedy(statement: Statement, error: psycopg.Error) -> str | None:
    if statement.words[:2] == ("create", "extension"):
        return "a superuser runs, in this database: CREATE EXTENSION vector"
    return error.diag.message_hint or (
        "tables and sequences which no migration made are kept from a migration here; what else it lacks, an "
        "administrator grants"
    )


def _where(migration: Migration, statement: Statement, position: int = 1) -> str:
    line, column = statement.place(position)
    return f"{migration.up.name}:{line}:{column}"


def _without_concurrently(statement: Statement) -> str:
    """Blanked out, so that the server's positions stay true."""
    if not statement.concurrent:
        return statement.text
    return _CONCURRENTLY.sub(lambda match: match[1] or " " * len(match[0]), statement.text)


def _may_move(statement: Statement) -> bool:
    first = statement.words[0] if statement.words else ""
    # A DO block may make a table, whose default is a name for good; what it moves is found out by its lock only.
    return first in _MOVES and not (first == "do" and _DEFAULT.search(statement.text))


def _guard(scratch: str) -> str:
    return f"{scratch}_guard"


def _guard_sequences(conn: Connection, scratch: str) -> None:
    guard = Identifier(_guard(scratch))
    conn.execute(SQL("CREATE SCHEMA {}").format(guard))
    conn.execute(query("sequence_guard").format(guard=guard, schema=Literal(scratch)))


def _keep_away(conn: Connection, scratch: str) -> None:
    """Takes from us, until the rollback, what a migration could move for good by a way that the guard does not see: a
    qualified name, a default, a trigger, a function with a search_path of its own. A superuser keeps all rights.
    """
    for rights, schema, name, owner in conn.execute(query("kept_from_migrations"), {"schema": scratch}).fetchall():
        words = Identifier(schema, name), Identifier(owner)
        conn.execute(SQL(f"REVOKE {rights} {{}} FROM PUBLIC, CURRENT_USER, {{}}").format(*words))


def _positions(conn: Connection, scratch: str) -> dict[str, str]:
    """The statement that puts it where it is, by sequence outside `scratch` that we may read."""
    found = conn.execute(query("sequences_elsewhere"), {"schema": scratch}).fetchall()
    read = [
        query("way_back_of_sequence").format(schema=schema, name=name, sequence=Identifier(schema, name))
        for schema, name in found
    ]
    return dict(conn.execute(SQL(" UNION ALL ").join(read)).fetchall()) if read else {}


def _create(conn: Connection, name: str) -> None:
    try:
        with conn.transaction():
            conn.execute(SQL("CREATE SCHEMA {}").format(Identifier(name)))
    except errors.InsufficientPrivilege as error:
        row = conn.execute(query("database_and_role")).fetchone()
        assert row is not None
        database, role = row
        grant = SQL("GRANT CREATE ON DATABASE {} TO {};").format(Identifier(database), Identifier(role))
        raise PrivilegeMissing(
            f"the role {role} may not create a schema in the database {database}, and what the migrations make is "
            "found out in one (it is rolled back)",
            hint=f"ask the administrator for: {grant.as_string(conn)}",
        ) from error


def _default_privilege(scratch: str, objects: str, privilege: str, grantable: bool, grantee: str | None) -> Composed:
    return SQL("ALTER DEFAULT PRIVILEGES IN SCHEMA {} GRANT {} ON {} TO {}{}").format(
        Identifier(scratch),
        SQL(privilege),
        SQL(objects),
        Identifier(grantee) if grantee else SQL("PUBLIC"),
        SQL(" WITH GRANT OPTION" if grantable else ""),
    )


def _locked_elsewhere(conn: Connection, scratch: str) -> dict[str, bool]:
    """By name, and whether it is a sequence."""
    return dict(conn.execute(query("locked_elsewhere"), {"schema": scratch}).fetchall())


def _set(conn: Connection, name: str, value: str) -> None:
    conn.execute(query("set_migration_setting"), {"name": name, "value": value, "local": True})
