"""Restore drills: what a proof says, what spoils it, and that nothing of the scratch database stays."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from psycopg.sql import SQL, Identifier

from tasks.core.addresses import Address
from tasks.core.backup.drill import drill
from tasks.core.backup.dump import back_up
from tasks.core.backup.library import find
from tasks.core.backup.manifest import DUMP, MANIFEST, Backup
from tasks.core.backup.reading import plain_chunks
from tasks.core.backup.restoring import dbname_word, restoring, without_unknown_setting
from tasks.core.errors import BackupError, CommandFailed, DrillFailed, StoreError
from tasks.core.postgres.connections import Connection, connect
from tasks.core.postgres.scratch import private_cluster
from tasks.core.postgres.tools import tools_for
from tasks.core.settings import Settings
from tasks.core.store.base import open_store
from tests.integration.graphs import ROWS, deploy_graph

pytestmark = pytest.mark.slow


def scratch_folders(settings: Settings) -> list[Path]:
    """Clusters that are still there, wherever they were made."""
    return [path for path in settings.home.rglob("scratch/*/data") if path.is_dir()]


def rewritten(settings: Settings, backup: Backup, **changes: Any) -> Backup:
    """The backup with a manifest that claims something else, checksum and all, in the store too."""
    manifest = backup.manifest.model_copy(update=changes).sealed()
    open_store(settings).put(backup.key(MANIFEST), [manifest.to_json()])
    return Backup(manifest=manifest)


@pytest.fixture
def role(conn: Connection) -> Iterator[str]:
    """A role of the session's server; what it got in the test's database goes with it."""
    name = f"role {secrets.token_hex(3)}"
    conn.execute(SQL("CREATE ROLE {} NOLOGIN").format(Identifier(name)))
    yield name
    conn.execute(SQL("DROP OWNED BY {}").format(Identifier(name)))
    conn.execute(SQL("DROP ROLE {}").format(Identifier(name)))


def test_a_drill_proves_a_backup(settings: Settings, conn: Connection) -> None:
    deploy_graph(conn, settings)
    backup = back_up(settings)
    with pytest.raises(BackupError, match="no proved backup"):
        find(open_store(settings), "dev")
    proof = drill(settings, backup)
    assert proof.ok
    assert proof.grade == "restorable"
    assert proof.tables == backup.manifest.tables
    assert proof.tables["public.code_embeddings"] == ROWS
    assert proof.fingerprint == backup.manifest.fingerprint
    assert set(proof.seconds) == {"scratch", "pre-data", "data", "post-data", "compare", "verify"}
    found = find(open_store(settings), "dev")
    assert found.proved
    assert found.proof == proof
    assert scratch_folders(settings) == []


def test_an_empty_database_has_a_proof_too(settings: Settings) -> None:
    proof = drill(settings, back_up(settings))
    assert proof.ok
    assert proof.grade == "restorable"


def test_only_a_ledger_and_only_tables(settings: Settings, conn: Connection) -> None:
    conn.execute("CREATE TABLE t AS SELECT 1 AS one")
    scoped = settings.model_copy(update={"database": settings.database.model_copy(update={"scope": ("public",)})})
    assert drill(scoped, back_up(scoped)).tables == {"public.t": 1}


def test_roles_policies_schemas_and_an_extension_elsewhere(settings: Settings, conn: Connection, role: str) -> None:
    """As on Supabase: our schemas only, vector in a schema that is not dumped, policies to roles of the platform."""
    scoped = settings.model_copy(
        update={
            "database": settings.database.model_copy(
                update={"scope": ("public", "our graph"), "schema_name": "our graph"}
            )
        }
    )
    conn.execute("CREATE SCHEMA extensions")
    conn.execute("CREATE EXTENSION vector SCHEMA extensions")
    deploy_graph(conn, scoped)
    name = Identifier(role)
    conn.execute('ALTER TABLE "our graph".code_patterns ENABLE ROW LEVEL SECURITY')
    conn.execute(SQL('CREATE POLICY mine ON "our graph".code_patterns TO {} USING (true)').format(name))
    conn.execute(SQL('GRANT SELECT ON "our graph".code_embeddings TO {}').format(name))
    conn.execute("CREATE TABLE owned (id serial PRIMARY KEY)")
    conn.execute(SQL("ALTER TABLE owned OWNER TO {}").format(name))
    backup = back_up(scoped)
    assert role in backup.manifest.roles
    assert backup.manifest.extensions["vector"].schema_name == "extensions"
    with pytest.raises(DrillFailed, match="verify fails on the restored copy: schema"):
        drill(scoped, backup)  # row security was switched on by hand
    conn.execute('ALTER TABLE "our graph".code_patterns DISABLE ROW LEVEL SECURITY')
    conn.execute('DROP POLICY mine ON "our graph".code_patterns')
    conn.execute(SQL('REVOKE SELECT ON "our graph".code_embeddings FROM {}').format(name))
    assert drill(scoped, back_up(scoped)).ok


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tables": {"public.t": 2}}, r"rows in public\.t: 1 in the restored copy, 2 in the manifest"),
        ({"tables": {}}, r"rows in public\.t: 1 in the restored copy, not there in the manifest"),
        ({"tables": {"public.t": 1, "public.u": 0}}, r"rows in public\.u: not there in the restored copy"),
        ({"samples": {"public.t": "0" * 64}}, r"sampled content of public\.t"),
        ({"fingerprint": "1:" + "0" * 64}, "the restored tables have fingerprint 1:"),
    ],
    ids=["count", "missing", "extra", "content", "fingerprint"],
)
def test_a_copy_that_differs_is_named(settings: Settings, conn: Connection, changes: dict[str, Any], said: str) -> None:
    conn.execute("CREATE TABLE t (id int PRIMARY KEY)")
    conn.execute("INSERT INTO t VALUES (1)")
    backup = rewritten(settings, back_up(settings), **changes)
    with pytest.raises(DrillFailed, match=said):
        drill(settings, backup)
    found = find(open_store(settings), "dev", backup.id)
    assert found.proof
    assert not found.proof.ok
    assert not found.proved
    assert found.proof.difference
    assert scratch_folders(settings) == []


def test_a_damaged_archive_is_no_proof(settings: Settings, conn: Connection) -> None:
    deploy_graph(conn, settings)
    backup = back_up(settings)
    path = Path(settings.store_url.removeprefix("file://"), backup.key(DUMP))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DrillFailed, match=r"database\.dump\.zst was changed"):
        drill(settings, backup)
    assert not find(open_store(settings), "dev", backup.id).proved
    assert scratch_folders(settings) == []


def test_a_store_that_fails_is_no_verdict_on_the_backup(settings: Settings, conn: Connection) -> None:
    conn.execute("CREATE TABLE t (id int)")
    backup = back_up(settings)
    proof = drill(settings, backup)
    Path(settings.store_url.removeprefix("file://"), backup.key(DUMP)).unlink()
    with pytest.raises(StoreError, match="it is not there"):
        drill(settings, backup.model_copy(update={"proof": proof}))
    assert scratch_folders(settings) == []


def test_a_scratch_server_of_the_operators(settings: Settings, conn: Connection, postgres: Address) -> None:
    deploy_graph(conn, settings)
    elsewhere = settings.model_copy(update={"scratch": postgres})
    assert drill(elsewhere, back_up(elsewhere)).ok
    left = conn.execute("SELECT datname FROM pg_database WHERE datname LIKE 'kg\\_scratch%'").fetchall()
    assert left == []


def test_roles_are_made_in_our_own_cluster_only(
    settings: Settings, conn: Connection, role: str, tmp_path: Path
) -> None:
    conn.execute("CREATE TABLE t (id int)")
    conn.execute(SQL("ALTER TABLE t OWNER TO {}").format(Identifier(role)))
    backup = back_up(settings)
    assert drill(settings, backup).ok
    with private_cluster(tmp_path / "other") as other:
        with pytest.raises(DrillFailed, match=f"lacks the roles {role}") as caught:
            drill(settings.model_copy(update={"scratch": other}), backup)
        assert f'CREATE ROLE "{role}" NOLOGIN' in (caught.value.hint or "")
        with connect(other, purpose="test") as there:
            assert not there.execute("SELECT 1 FROM pg_database WHERE datname LIKE 'kg\\_scratch%'").fetchall()


def test_what_pg_restore_stumbles_over_fails_the_drill(settings: Settings, conn: Connection) -> None:
    """A function that the dump's empty search_path breaks: restored with an error, which is not a pass."""
    conn.execute("CREATE FUNCTION two() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 2'")
    conn.execute("CREATE FUNCTION four() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 2 * two()'")
    conn.execute("CREATE TABLE t (id int, CHECK (four() = 4))")
    conn.execute("INSERT INTO t VALUES (1)")
    with pytest.raises(DrillFailed, match="it does not restore: pg_restore ended with status 1"):
        drill(settings, back_up(settings))
    assert scratch_folders(settings) == []


def test_a_restore_that_takes_too_long_is_ended(settings: Settings, conn: Connection) -> None:
    conn.execute(
        "CREATE FUNCTION slow(int) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN"
        " IF current_setting('application_name') = 'kg restore' THEN PERFORM pg_sleep(20); END IF; RETURN true; END $$"
    )
    conn.execute("CREATE TABLE t (id int, CHECK (public.slow(id)))")
    conn.execute("INSERT INTO t VALUES (1)")
    impatient = settings.backup.model_copy(update={"dump_timeout": timedelta(seconds=1)})
    backup = back_up(settings)
    with pytest.raises(DrillFailed, match="did not end within 1 s"):
        drill(settings.model_copy(update={"backup": impatient}), backup)


def test_an_odd_database_name_is_no_connection_string(settings: Settings, conn: Connection) -> None:
    odd = "it's a=b \\ c"
    conn.execute(SQL("CREATE DATABASE {}").format(Identifier(odd)))
    try:
        assert settings.address
        address = settings.address.database(odd)
        assert dbname_word(address) == "dbname='it\\'s a=b \\\\ c'"
        there = settings.model_copy(update={"address": address})
        with connect(address, purpose="test") as other:
            other.execute("CREATE TABLE t AS SELECT 1 AS one")
        assert drill(there, back_up(there)).tables == {"public.t": 1}
    finally:
        conn.execute(SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(odd)))


def test_the_drill_says_what_failed_and_not_its_wrapper(settings: Settings) -> None:
    backup = back_up(settings)
    with pytest.raises(DrillFailed) as caught:
        drill(settings, rewritten(settings, backup, toc=backup.manifest.toc.model_copy(update={"entries": 5})))
    assert not isinstance(caught.value.__cause__, CommandFailed)
    assert "table of contents" in caught.value.message


# Servers before 17, which do not know transaction_timeout: psql runs what pg_restore writes, on any server.


def restore_as_before_17(settings: Settings, backup: Backup, words: list[str]) -> None:
    assert settings.address
    tools = tools_for(backup.manifest.server.major, settings.home)
    with restoring(tools, settings.address, 16, words, timeout=30) as child:
        try:
            for chunk in plain_chunks(open_store(settings), backup):
                child.stdin.write(chunk)
        except BrokenPipeError:
            pass


def test_a_restore_without_transaction_timeout(settings: Settings, conn: Connection) -> None:
    deploy_graph(conn, settings)
    conn.execute("INSERT INTO code_patterns VALUES (1, E'\\\\.\\nSET transaction_timeout = 0;', 'b', 'c', 'd')")
    conn.execute("SELECT setval('code_patterns_id_seq', 1)")
    before = conn.execute("SELECT * FROM code_patterns").fetchall()
    backup = back_up(settings)
    conn.execute("DROP SCHEMA public, kg_ops CASCADE")
    conn.execute("CREATE SCHEMA public")
    restore_as_before_17(settings, backup, ["--section=pre-data", "--section=data"])
    assert conn.execute("SELECT * FROM code_patterns").fetchall() == before
    row = conn.execute("SELECT count(*) FROM code_embeddings").fetchone()
    assert row == (ROWS,)


def test_an_error_of_psql_is_the_one_that_is_told(settings: Settings, conn: Connection) -> None:
    deploy_graph(conn, settings)
    backup = back_up(settings)
    with pytest.raises(CommandFailed, match=r"psql ended with status 3: .*already exists"):
        restore_as_before_17(settings, backup, ["--section=pre-data", "--section=data"])


def test_only_the_header_is_looked_at() -> None:
    rows = b"SET transaction_timeout in a row\n" * 3
    source = BytesIO(b"-- header\nSET transaction_timeout = 0;\nSET x = 1;\n" + b"--\n" * 50 + rows)
    sink = BytesIO()
    without_unknown_setting(source, sink)
    assert sink.getvalue() == b"-- header\nSET x = 1;\n" + b"--\n" * 50 + rows
