"""Rows made up from nothing but the catalog, for probes: every number below zero and below all others, so that no
sequence moves and nothing that is there is met.
"""

from __future__ import annotations

import itertools
import math
import random
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import TypeAlias

from psycopg.rows import class_row, dict_row
from psycopg.sql import SQL, Composed, Identifier, Literal

from sql import query
from tasks.core.postgres.connections import Connection

Row: TypeAlias = dict[str, str]

VECTORS = ("vector", "halfvec")

# A value of each category of types (pg_type.typcategory), in the server's own spelling; others are told by the type.
_PLAIN_VALUES = {"A": "{}", "B": "false", "I": "127.0.0.1", "R": "empty", "T": "1 hour", "V": "0"}
_PLAIN_TYPES = {"jsonb": "{}", "json": "{}", "bytea": "", "time": "00:00:01", "timetz": "00:00:01+00"}


@dataclass(frozen=True)
class Column:
    """`required`: it must be given a value; `draws`: its default would take one from a sequence."""

    table: str
    name: str
    type: str
    category: str
    modifier: int
    required: bool
    draws: bool
    generated: bool
    label: str

    @property
    def is_vector(self) -> bool:
        return self.type in VECTORS and self.modifier > 0


@dataclass(frozen=True)
class Unique:
    """A unique index over these columns; an index of a constraint has the constraint's name."""

    name: str
    primary: bool
    columns: tuple[str, ...]


@dataclass
class ProbeTable:
    """A table to be probed. `row` makes a new row each time, different from the earlier ones in every unique column."""

    schema: str
    name: str
    columns: tuple[Column, ...]
    uniques: tuple[Unique, ...]
    least: Mapping[str, int] = field(default_factory=dict)
    _day: int = field(default_factory=lambda: random.randrange(300_000), repr=False)  # noqa: S311
    _count: itertools.count[int] = field(default_factory=itertools.count, repr=False)

    @property
    def identifier(self) -> Identifier:
        return Identifier(self.schema, self.name)

    @property
    def vectors(self) -> tuple[Column, ...]:
        return tuple(column for column in self.columns if column.is_vector)

    @property
    def key(self) -> tuple[str, ...]:
        """The columns by which a probe's own row is found again."""
        return self.uniques[0].columns if self.uniques else ()

    def row(self, *, vectors: bool = False) -> Row:
        """Values, as text, for what must be given one and for every unique column (and the vectors)."""
        number = next(self._count)
        unique = {name for one in self.uniques for name in one.columns}
        return {
            column.name: self._value(column, number)
            for column in self.columns
            if not column.generated
            and (column.required or column.draws or column.name in unique or (vectors and column.is_vector))
        }

    def insert(self, row: Row) -> Composed:
        return query("insert_probe").format(
            table=self.identifier,
            columns=SQL(", ").join(map(Identifier, row)),
            values=SQL(", ").join(map(Literal, row.values())),
        )

    def where(self, row: Row) -> Composed:
        return SQL(" AND ").join(SQL("{} = {}").format(Identifier(name), Literal(row[name])) for name in self.key)

    def _value(self, column: Column, number: int) -> str:
        if column.is_vector:
            return random_unit_vector(column.modifier)
        if column.category == "N":
            return str(self.least.get(column.name, -1) - number)
        if column.category == "S":
            return f"kg-probe-{uuid.uuid4().hex[:12]}"
        if column.type == "uuid":
            return str(uuid.uuid4())
        if column.type in ("date", "timestamp", "timestamptz"):
            return str(date(1, 1, 1) + timedelta(days=self._day + number))
        if column.category == "E":
            return column.label
        return _PLAIN_TYPES.get(column.type) or _PLAIN_VALUES.get(column.category, "")


def probe_tables(conn: Connection, schema: str, names: Sequence[str]) -> tuple[ProbeTable, ...]:
    """What probes need to know of these tables; reads the least number in each unique column."""
    values = {"schema": schema, "tables": list(names)}
    with conn.cursor(row_factory=class_row(Column)) as cursor:
        columns = cursor.execute(query("probe_columns"), values).fetchall()
    with conn.cursor(row_factory=dict_row) as cursor:
        uniques = cursor.execute(query("probe_uniques"), values).fetchall()
    return tuple(
        _with_least(
            conn,
            ProbeTable(
                schema=schema,
                name=name,
                columns=tuple(column for column in columns if column.table == name),
                uniques=tuple(
                    Unique(one["name"], one["primary"], tuple(one["columns"]))
                    for one in uniques
                    if one["table"] == name
                ),
            ),
        )
        for name in names
    )


def random_unit_vector(dimensions: int) -> str:
    """The text of a vector of length 1 in a direction that no stored one has."""
    parts = [random.gauss(0, 1) for _ in range(dimensions)]
    length = math.sqrt(sum(part * part for part in parts))
    return "[" + ",".join(f"{part / length:.6f}" for part in parts) + "]"


def _with_least(conn: Connection, table: ProbeTable) -> ProbeTable:
    unique = {name for one in table.uniques for name in one.columns}
    numbered = [one for one in table.columns if one.category == "N" and (one.draws or one.name in unique)]
    least = {}
    for column in numbered:
        statement = query("least_number").format(column=Identifier(column.name), table=table.identifier)
        row = conn.execute(statement).fetchone()
        assert row is not None
        least[column.name] = int(row[0])
    table.least = least
    return table
