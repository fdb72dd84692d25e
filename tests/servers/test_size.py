"""A million small rows beside a few vectors, all the way there and back."""

from __future__ import annotations

import pytest

from tasks.core.errors import Refused
from tasks.core.postgres.connections import Connection
from tasks.core.schema.verify import verify
from tasks.core.settings import Settings
from tests.servers.job import assert_ok, deploy, fill, proved_backup, rollback, rows_in, state

ROWS = 1_000_000
LOST = 1_000  # rows that are not there any more, so many changed besides
RELATIONSHIPS = f"""
INSERT INTO code_relationships (source_file, target_file, relationship_type, strength)
SELECT 'src/module_' || n || '.py', 'src/module_' || n % 1000 || '.py', 'imports', (n % 100) / 100.0
FROM generate_series(1, {ROWS}) AS n
"""
# Order-free, and of every column of every row.
CONTENT = "SELECT count(*), sum(hashtextextended(r::text, 0)::numeric) FROM code_relationships r"


@pytest.mark.slow
def test_a_million_small_rows_there_and_back(settings: Settings, conn: Connection) -> None:
    deploy(settings)
    fill(conn)
    conn.execute(RELATIONSHIPS.encode())
    before, deployed = conn.execute(CONTENT.encode()).fetchone(), state(settings)
    assert before
    assert before[0] == ROWS

    saved = proved_backup(settings)
    assert saved.restorable
    assert saved.manifest.tables["public.code_relationships"] == ROWS
    conn.execute(f"DELETE FROM code_relationships WHERE id % 1000 = 0 AND id <= {ROWS}".encode())
    conn.execute("UPDATE code_relationships SET strength = 0.001 WHERE id % 1000 = 1")
    assert rows_in(conn, "code_relationships") == ROWS - LOST

    with pytest.raises(Refused, match=f"code_relationships: 0 inserted, {LOST} deleted, {LOST} updated"):
        rollback(settings, "restore", saved)
    rollback(settings, "restore", saved, yes=True)
    assert (conn.execute(CONTENT.encode()).fetchone(), state(settings)) == (before, deployed)
    assert_ok(verify(settings))
