"""Large vector tables beside the dump: which qualify, what their streams hold, and that they come back row by row."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyrage
import pytest
from psycopg.sql import SQL, Composed
from pydantic import SecretStr

from tasks.core import commands
from tasks.core.backup import streams as streams_module
from tasks.core.backup.archive import restore_archive
from tasks.core.backup.copying import CopyOut, copy_session
from tasks.core.backup.crew import workers
from tasks.core.backup.drill import drill
from tasks.core.backup.dump import back_up
from tasks.core.backup.manifest import LOAD, Backup
from tasks.core.backup.readback import verify_backups
from tasks.core.errors import BackupError, DatabaseError, DrillFailed
from tasks.core.postgres.connections import Connection, connect, describe
from tasks.core.postgres.scratch import scratch_database
from tasks.core.settings import Settings
from tests.integration.graphs import deploy_graph, files, with_section

ODD = '"Odd $chema"."ta""b.le"'
TABLES = rf"""
CREATE SCHEMA "Odd $chema";
CREATE TYPE mood AS ENUM ('glad', 'sad');
CREATE DOMAIN code AS text CHECK (value <> '');
CREATE TABLE {ODD} (gone int, "i d" int PRIMARY KEY, h halfvec(3), s sparsevec(5), b bit(8),
    twice int GENERATED ALWAYS AS ("i d" * 2) STORED, words text[], m mood, c code, j jsonb, note text DEFAULT 'x',
    number int GENERATED ALWAYS AS IDENTITY);
ALTER TABLE {ODD} DROP COLUMN gone;
INSERT INTO {ODD} ("i d", h, s, b, words, m, c, j, note)
    SELECT n, ARRAY[n, 2.5, -n]::vector::halfvec, '{{1:1.5,5:-2}}/5'::sparsevec, n::bit(8), '{{a,"b c",NULL}}'::text[],
           'sad'::mood, 'k', '{{"a": 1}}'::jsonb, E'tab\tnew\nline\\ é €' FROM generate_series(1, 300) AS n;
INSERT INTO {ODD} ("i d") VALUES (0);
CREATE TABLE part (id int, v vector(3)) PARTITION BY RANGE (id);
CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (1000);
CREATE TABLE part_2 PARTITION OF part FOR VALUES FROM (1000) TO (9999);
INSERT INTO part SELECT n, ARRAY[n, n / 3.0, -n]::vector FROM generate_series(1, 999) AS n;
CREATE TABLE parent (id int, v vector(2));
CREATE TABLE child (more text) INHERITS (parent);
INSERT INTO parent VALUES (1, '[1,2]');
INSERT INTO child SELECT n, '[3,4]', repeat('x', n) FROM generate_series(2, 200) AS n;
CREATE UNLOGGED TABLE unlogged AS SELECT n AS id, ARRAY[n, 1]::vector AS v FROM generate_series(1, 50) AS n;
CREATE TABLE secured (id int, v vector(2));
ALTER TABLE secured ENABLE ROW LEVEL SECURITY;
ALTER TABLE secured FORCE ROW LEVEL SECURITY;
INSERT INTO secured VALUES (1, '[1,2]');
CREATE TABLE empty (id int, v vector(2));
-- What COPY BINARY would carry wrongly into another database stays in the dump.
CREATE TYPE pair AS (a int, b int);
CREATE TABLE composite AS SELECT ROW (1, 2)::pair AS p, '[1,2]'::vector AS v;
CREATE TABLE arrays AS SELECT ARRAY['[1,2]'::vector] AS vs, '[1,2]'::vector AS v;
CREATE TABLE registered AS SELECT 'pg_class'::regclass AS r, '[1,2]'::vector AS v;
CREATE TABLE plain AS SELECT 1 AS id;
"""
# What hangs on tables and indexes, and comes after the rows.
AFTER = rf"""
CREATE INDEX part_index ON part USING hnsw (v vector_l2_ops);
CREATE INDEX by_note ON {ODD} (note) WHERE number > 3;
CREATE INDEX by_half ON {ODD} USING hnsw (h halfvec_cosine_ops) WITH (m = 8);
CREATE INDEX by_sum ON {ODD} (("i d" + 1));
ALTER INDEX "Odd $chema".by_sum ALTER COLUMN 1 SET STATISTICS 500;
CREATE STATISTICS "Odd $chema".together ON note, number FROM {ODD};
ALTER TABLE {ODD} REPLICA IDENTITY FULL;
ALTER TABLE {ODD} CLUSTER ON "ta""b.le_pkey";
ALTER TABLE child ALTER id SET NOT NULL, ADD UNIQUE (id);
ALTER TABLE child REPLICA IDENTITY USING INDEX child_id_key;
ALTER TABLE unlogged ADD FOREIGN KEY (id) REFERENCES {ODD} ("i d");
ALTER TABLE secured ADD CHECK (id > 0) NOT VALID;
CREATE POLICY own ON secured USING (id = 1);
COMMENT ON INDEX "Odd $chema".by_note IS 'partial';
"""
# A row's leaf follows from its enum's number in this database, which is another after a restore.
HASHED = """
CREATE TYPE shade AS ENUM ('a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j', 'k', 'l');
CREATE TABLE hashed (s shade, v vector(2)) PARTITION BY HASH (s);
CREATE TABLE hashed_0 PARTITION OF hashed FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE hashed_1 PARTITION OF hashed FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO hashed SELECT unnest(enum_range(NULL::shade)), '[1,2]';
"""
STREAMED = {ODD, "public.part_1", "public.part_2", "public.parent", "public.child", "public.unlogged"}
STREAMED |= {"public.secured", "public.empty", "public.code_embeddings"}


@pytest.fixture
def eager(settings: Settings, conn: Connection) -> Settings:
    """Every table with vectors counts as large."""
    deploy_graph(conn, settings)
    conn.execute(TABLES.encode())
    conn.execute(AFTER.encode())
    return with_section(settings, "backup", binary_from_mb=0)


def streamed(backup: Backup) -> dict[str, int]:
    """Rows by the table's quoted name, added up over its streams."""
    rows: dict[str, int] = {}
    for found in backup.manifest.streams:
        assert found.data
        names = (found.data.schema_name, found.data.table_name)
        quoted = [name if name.isidentifier() else '"' + name.replace('"', '""') + '"' for name in names]
        rows[".".join(quoted)] = rows.get(".".join(quoted), 0) + found.data.rows
    return rows


def contents(conn: Connection, tables: Mapping[str, int]) -> dict[str, list[tuple[str, ...]]]:
    """Every row of the tables as text."""
    conn.execute("SET search_path = pg_catalog")
    return {
        table: conn.execute(f"SELECT t::text FROM ONLY {table} AS t ORDER BY 1".encode()).fetchall() for table in tables
    }


def restored(settings: Settings, backup: Backup, conn: Connection) -> tuple[dict[str, list[tuple[str, ...]]], str]:
    """Its rows, and its form as pg_dump writes it, without the random word of \\restrict."""
    with scratch_database(settings, like=describe(conn)) as scratch:
        restore_archive(settings, backup, scratch)
        argv: list[str | Path] = [scratch.tools.pg_dump, "--schema-only"]
        form = commands.run(argv, env=scratch.address.environment(), timeout=60).stdout
        with connect(scratch.address, purpose="test") as copy:
            return contents(copy, backup.manifest.tables), re.sub(r"^\\.*$", "", form, flags=re.MULTILINE)


def test_both_ways_restore_to_the_same_rows_and_the_drill_proves_it(eager: Settings, conn: Connection) -> None:
    fast, portable = back_up(eager), back_up(with_section(eager, "backup", format="portable"))
    assert (fast.manifest.format, portable.manifest.format) == ("binary", "portable")
    assert fast.manifest.tables == portable.manifest.tables
    assert fast.manifest.fingerprint == portable.manifest.fingerprint
    assert not portable.manifest.streams
    rows = streamed(fast)
    assert set(rows) == STREAMED
    assert rows == {table: fast.manifest.tables[table] for table in STREAMED}
    assert len(fast.manifest.streams) > len(STREAMED), "a table of several blocks is several streams"
    assert drill(eager, fast).ok
    live = contents(conn, fast.manifest.tables)
    rows_fast, form_fast = restored(eager, fast, conn)
    rows_portable, form_portable = restored(eager, portable, conn)
    assert rows_fast == rows_portable == live
    assert form_fast == form_portable
    for words in (
        "REPLICA IDENTITY USING INDEX",
        "CLUSTER ON",
        "SET STATISTICS 500",
        "ATTACH PARTITION",
        "IS 'partial'",
    ):
        assert words in form_fast
    assert verify_backups(eager).ok


def test_leaves_by_the_hash_of_an_enum_stay_in_the_dump(eager: Settings, conn: Connection) -> None:
    conn.execute(HASHED.encode())
    backup = back_up(eager)
    assert not {label for label in streamed(backup) if "hashed" in label}
    assert backup.manifest.tables["public.hashed"] == 12
    assert drill(eager, backup).ok
    conn.execute("DELETE FROM hashed WHERE s = 'c'")
    assert back_up(eager).manifest.tables["public.hashed"] == 11
    with scratch_database(eager, like=describe(conn)) as scratch:
        restore_archive(eager, backup, scratch)
        with connect(scratch.address, purpose="test") as copy:
            assert copy.execute("SELECT count(*), count(DISTINCT s) FROM public.hashed").fetchone() == (12, 12)


def test_small_tables_stay_in_the_dump(settings: Settings, conn: Connection) -> None:
    deploy_graph(conn, settings)
    backup = back_up(settings)
    assert backup.manifest.format == "portable"
    assert len(backup.manifest.objects) == 2  # the archive and the roles


def test_streams_that_miss_rows_are_no_backup(
    eager: Settings, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    conn.execute("INSERT INTO part SELECT 1, '[1,2,3]' FROM generate_series(1, 2000)")
    monkeypatch.setattr(streams_module, "_cuts", lambda size, blocks: [1])
    with pytest.raises(BackupError, match=r"the streams of .* hold \d+ rows, and \d+ were counted"):
        back_up(eager)
    assert files(eager) == []


@pytest.mark.slow
def test_streams_share_a_session_for_each_that_runs_at_once(eager: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Connection] = []

    def counted(*words: Any) -> Connection:
        opened.append(copy_session(*words))
        return opened[-1]

    monkeypatch.setattr(streams_module, "copy_session", counted)
    backup = back_up(eager)
    assert len(backup.manifest.streams) > len(opened) >= 1
    assert len(opened) <= workers()
    assert all(conn.closed for conn in opened)


def test_a_stream_that_fails_leaves_nothing(eager: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CopyOut, "_wait", lambda self: self._conn.pgconn.finish())
    with pytest.raises(DatabaseError, match="the connection was lost while copying the rows of"):
        back_up(eager)
    assert files(eager) == []


@pytest.mark.slow
def test_a_column_of_another_type_is_not_read_as_nonsense(eager: Settings) -> None:
    backup = back_up(eager)
    first, *rest = backup.manifest.streams
    assert first.data
    columns = tuple(each.model_copy(update={"type": "bigint"}) for each in first.data.columns)
    forged = first.model_copy(update={"data": first.data.model_copy(update={"columns": columns})})
    objects = (backup.manifest.dump, forged, *rest)
    changed = Backup(manifest=backup.manifest.model_copy(update={"objects": objects}).sealed())
    with pytest.raises(DrillFailed, match=r"is .* in the restored table, and bigint in the backup's data"):
        drill(eager, changed)


@pytest.mark.slow
def test_damage_of_a_data_object_is_named(eager: Settings) -> None:
    backup = back_up(eager)
    folder = Path(eager.store_url.removeprefix("file://"), backup.manifest.folder)
    first, second = (folder / found.name for found in backup.manifest.streams[:2])
    whole = first.read_bytes()
    flipped = bytearray(whole)
    flipped[len(flipped) // 2] ^= 1
    for harmed in (whole[:-5], second.read_bytes(), bytes(flipped)):
        first.write_bytes(harmed)
        [check] = verify_backups(eager, backup.id).checks
        assert check.status == "failed"
        assert f"data/{first.name}" in check.detail
    with pytest.raises(DrillFailed, match=first.name):
        drill(eager, backup)


@pytest.mark.slow
def test_streams_are_encrypted_like_the_archive(eager: Settings, tmp_path: Path) -> None:
    identity = pyrage.x25519.Identity.generate()
    key_file = tmp_path / "identity.txt"
    key_file.write_text(f"{identity}\n")
    writer = eager.model_copy(update={"store_key": str(identity.to_public())})
    backup = back_up(writer)
    assert all(found.name.endswith(".copy.zst.age") for found in backup.manifest.streams)
    folder = Path(eager.store_url.removeprefix("file://"), backup.manifest.folder)
    assert (folder / backup.manifest.streams[0].name).read_bytes().startswith(b"age-encryption.org")
    assert "age -d -i identity.txt data/" in (folder / LOAD).read_text()
    assert verify_backups(writer).ok, "the stored bytes, without the identity"
    assert drill(writer.model_copy(update={"store_identity": SecretStr(str(key_file))}), backup).ok


def test_a_server_that_stalls_is_not_waited_for(eager: Settings, conn: Connection) -> None:
    """A statement of the server's own that takes longer than the limit sends nothing meanwhile."""
    assert eager.address
    with connect(eager.address, purpose="test") as slow:
        out = CopyOut(slow, Composed([SQL("COPY (SELECT pg_sleep(30)) TO STDOUT")]), "t", 0.6, lambda: None)
        began = time.monotonic()
        with pytest.raises(BackupError, match=r"the server sent nothing of t for 1 s"):
            list(out)
        assert time.monotonic() - began < 10
        slow.close()
