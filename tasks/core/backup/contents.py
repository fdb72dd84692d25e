"""What a database holds, asked the same way of the original's snapshot and of a restored copy: tables, rows, samples,
sequences, roles, extensions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from psycopg import errors
from psycopg.rows import class_row
from psycopg.sql import SQL, Composed, Identifier

from sql import query
from tasks.core.backup.manifest import Extension, Identity, ServerFacts
from tasks.core.errors import BackupError, PrivilegeMissing
from tasks.core.postgres.connections import Connection, database_errors, describe, role_of, vector_extension
from tasks.core.progress import track
from tasks.core.schema import ledger

# Settings that text output depends on: a row's hash must be the same here and there.
_OUTPUT = {
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "lc_monetary": "C",
    "search_path": "pg_catalog",
    "xmlbinary": "base64",
}


@dataclass(frozen=True)
class Table:
    """A table that a dump holds. `label` is its quoted, qualified name; `condition` limits whose rows are dumped;
    `narrow` are the columns without vectors. Rows of a leaf that may lie in another after a restore are `counted_as`
    those of its ancestor of that label.
    """

    label: str
    schema: str
    name: str
    owner: str
    has_rows: bool
    condition: str
    primary_key: Sequence[str]
    narrow: Sequence[str] = ()
    counted_as: str = ""

    @property
    def identifier(self) -> Identifier:
        return Identifier(self.schema, self.name)

    @property
    def pattern(self) -> str:
        """For pg_dump: this table, and no other."""
        return f"{literal_pattern(self.schema)}.{literal_pattern(self.name)}"


def literal_pattern(name: str) -> str:
    """A pattern of pg_dump that means this one name: in double quotes nothing but $ and quotes is special."""
    return '"' + name.replace('"', '""') + '"'


def identity_of(conn: Connection) -> Identity:
    """Which database this is. Writes nothing: without kg_ops there is no uuid."""
    server = describe(conn)
    uuid = ledger.identity(conn, make=False)
    return Identity(uuid=str(uuid or ""), system_identifier=server.system_identifier, name=server.database)


def server_facts(conn: Connection) -> ServerFacts:
    server, vector = describe(conn), vector_extension(conn)
    return ServerFacts(
        version=server.version,
        major=server.major,
        pgvector=vector.installed or "",
        pgvector_schema=vector.schema or "",
        encoding=server.encoding,
        collation=server.collation,
    )


def dumped_tables(conn: Connection, schemas: Sequence[str] | None) -> tuple[Table, ...]:
    """Tables that a dump of these schemas (None: of the whole database) holds, by name."""
    with database_errors("listing the tables to dump"), conn.cursor(row_factory=class_row(Table)) as cursor:
        values = {"schemas": None if schemas is None else list(schemas)}
        return tuple(cursor.execute(query("dumped_tables"), values).fetchall())


def count_rows(conn: Connection, tables: Iterable[Table]) -> dict[str, int]:
    """Rows by the table's label. Raises PrivilegeMissing where the role would see only a part of them."""
    counted: dict[str, int] = {}
    holding = [table for table in tables if table.has_rows]
    with track("count", "Count rows", total=len(holding), unit="tables") as progress:
        for table in holding:
            # A condition is the extension's own words, out of its script.
            statement = query("count_rows").format(
                table=table.identifier, condition=SQL(table.condition)
            )  # the extension's own words
            with database_errors(f"counting the rows of {table.label}"):
                row = conn.execute(statement).fetchone()
            assert row
            label = table.counted_as or table.label
            counted[label] = counted.get(label, 0) + int(row[0])
            progress.advance(1)
        progress.say(f"{sum(counted.values()):,} rows in {len(counted)} tables")
    return counted


def sample_rows(conn: Connection, tables: Iterable[Table]) -> dict[str, str]:
    """A hash over some rows of each table that has any; the session's text output is made plain."""
    hashes = {}
    for name, value in _OUTPUT.items():
        conn.execute(query("set_setting"), {"name": name, "value": value})
    for table in tables:
        if not table.has_rows or table.counted_as:  # which of them lie there is another thing in each database
            continue
        with database_errors(f"reading a sample of {table.label}"):
            row = conn.execute(_sampling(table)).fetchone()
        if row and row[0]:
            hashes[table.label] = row[0]
    return hashes


def _sampling(table: Table) -> Composed:
    names = {"table": table.identifier, "condition": SQL(table.condition)}
    if table.primary_key:
        key = SQL(", ").join(Identifier("sampled", column) for column in table.primary_key)
        return query("hash_sample").format(key=key, **names)
    beginnings = SQL(", ").join(
        SQL("pg_catalog.left({}::text, 64)").format(Identifier("sampled", column)) for column in table.narrow
    )
    return query("hash_keyless_sample").format(beginnings=beginnings, **names)


def check_sequences(conn: Connection, tables: Iterable[Table]) -> tuple[str, ...]:
    """The owned sequences, each found ahead of its column: no snapshot holds a sequence, so a dump takes it as it is.

    Raises BackupError for one that would give a value again, with the statement that mends it.
    """
    labels = [table.label for table in tables]
    with database_errors("listing sequences"):
        found = conn.execute(query("dumped_sequences"), {"labels": labels}).fetchall()
    for label, schema, name, table_schema, table_name, column in found:
        statement = query("sequence_and_column").format(
            sequence=Identifier(schema, name), table=Identifier(table_schema, table_name), column=Identifier(column)
        )
        with database_errors(f"reading the sequence {label}"):
            row = conn.execute(statement).fetchone()
        assert row
        if row[1] is not None and row[0] <= row[1]:
            mend = SQL("SELECT setval({}, (SELECT max({}) FROM {}))").format(
                label, Identifier(column), Identifier(table_schema, table_name)
            )
            raise BackupError(
                f"the sequence {label} gives {row[0]} next, but {column} already goes up to {row[1]}",
                hint=f"set it: {mend.as_string(conn)}",
            )
    return tuple(row[0] for row in found)


def named_roles(conn: Connection) -> tuple[str, ...]:
    with database_errors("listing roles"):
        return tuple(row[0] for row in conn.execute(query("named_roles")))


def role_definitions(conn: Connection, roles: Sequence[str]) -> str:
    """A script for psql that makes these roles where they are not there, without passwords."""
    with database_errors("reading the definitions of roles"):
        lines = [row[0] for row in conn.execute(query("role_definitions"), {"roles": list(roles)})]
    head = "-- The roles that this backup names, as they were, without passwords: psql -X -d postgres -f globals.sql"
    return "\n".join([head, *lines]) + "\n"


def installed_extensions(conn: Connection) -> dict[str, Extension]:
    with database_errors("listing extensions"):
        rows = conn.execute(query("installed_extensions")).fetchall()
    return {name: Extension(version=version, schema_name=schema) for name, version, schema in rows}


def lock_tables(conn: Connection, tables: Iterable[Table]) -> None:
    """ACCESS SHARE on each, in the transaction under way. Raises PrivilegeMissing or DatabaseError, naming the table;
    UndefinedTable where it has just been dropped.
    """
    for table in tables:
        try:
            conn.execute(query("lock_table_for_dump").format(table=table.identifier))
        except errors.InsufficientPrivilege as error:
            role = role_of(conn)
            raise PrivilegeMissing(
                f"the role {role} may not read {table.label}, so it cannot be backed up",
                hint=f'ask the administrator for: GRANT SELECT ON {table.label} TO "{role}" '
                f'(and USAGE on schema "{table.schema}")',
            ) from error
        except errors.LockNotAvailable as error:
            with database_errors(f"locking {table.label} against changes of its form while it is dumped"):
                raise error
