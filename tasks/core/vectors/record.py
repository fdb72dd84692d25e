"""What the ledger keeps of a build: over how many rows, with what, and what the index was measured to be."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg.sql import Identifier
from psycopg.types.json import Jsonb

from sql import query
from tasks.core.operations.operation import Operation
from tasks.core.postgres.connections import Connection, database_errors
from tasks.core.vectors.build import Built
from tasks.core.vectors.indexes import Column, hnsw_indexes
from tasks.core.vectors.plan import BuildPlan, count_rows
from tasks.core.vectors.recall import Figures

# In a row's parameters: verify accepts these in place of the revision's.
CHOSEN_BY = "re-index"


def record_builds(operation: Operation, revisions: Sequence[str]) -> None:
    """After a migration that created indexes: how many rows each was built over. Indexes known already are left."""
    if not revisions:
        return
    schema = operation.settings.database.schema_name
    with operation.session("index builds") as conn:
        for index in hnsw_indexes(conn, operation.settings):
            if index.rows_at_build is not None:
                continue
            column = Column(schema, index.table_name, index.column_name, index.dimensions, schema, False)
            values = {
                "name": index.name,
                "rows": count_rows(conn, column),
                "parameters": Jsonb({"m": index.m, "ef_construction": index.ef_construction}),
                "operation": operation.id,
            }
            conn.execute(query("record_index_build"), values)


def record_rebuild(
    operation: Operation, conn: Connection, *, name: str, plan: BuildPlan, built: Built, after: Figures | None
) -> None:
    """The ledger's row of a re-index. `conn` is in the transaction of the caller's choice."""
    values = {
        "name": name,
        "rows": plan.rows,
        "parameters": Jsonb({"m": plan.m, "ef_construction": plan.ef_construction, "by": CHOSEN_BY}),
        "operation": operation.id,
        "recall_mean": after.recall.mean if after else None,
        "recall_minimum": after.recall.minimum if after else None,
        "p95_ms": after.p95_ms if after else None,
        "seconds": built.seconds,
    }
    conn.execute(query("record_measured_build"), values)


def analyze(conn: Connection, column: Column) -> None:
    """The planner's statistics anew: with old ones it may pass over an index that is there."""
    with database_errors(f"analysing {column.table}"):
        conn.execute(query("analyze_table").format(table=Identifier(column.schema, column.table)))
