"""A server that will not, and migrations that reach for what is kg's own: one clear line each, and nothing is lost."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from psycopg.sql import SQL, Identifier
from pydantic import SecretStr

from tasks.core.addresses import Address
from tasks.core.backup.dump import back_up
from tasks.core.errors import ConnectionFailed, DatabaseError, MigrationFailed, OpsError, PrivilegeMissing
from tasks.core.operations.plan import preview
from tasks.core.postgres.connections import Connection, connect
from tasks.core.schema.check import check
from tasks.core.schema.report import Report
from tasks.core.schema.verify import verify
from tasks.core.settings import Settings
from tests.faults.runs import deploy, recovered
from tests.servers.job import state

ADDS = "ALTER TABLE code_patterns ADD COLUMN IF NOT EXISTS extra int;"
ALONE = "-- migrate: no-transaction\n"


@pytest.fixture
def ours(settings: Settings, tmp_path: Path) -> Settings:
    """Deployed at revision 001, with migrations of their own."""
    folder = Path(shutil.copytree(settings.migrations, tmp_path / "migrations"))
    own = settings.model_copy(update={"migrations": folder})
    deploy(own, drilled=False)
    return own


def second(settings: Settings, up: str) -> None:
    (settings.migrations / "002_reach_further.up.sql").write_text(up)
    (settings.migrations / "002_reach_further.down.sql").write_text("ALTER TABLE code_patterns DROP COLUMN extra;")


def known(conn: Connection) -> list[tuple[str, bool]]:
    """What the ledger says is applied, and whether that was verified."""
    rows = conn.execute("SELECT revision, verified_at IS NOT NULL FROM kg_ops.ledger WHERE state = 'applied'")
    return rows.fetchall()  # type: ignore[return-value]


def assert_clear(error: OpsError) -> None:
    assert "\n" not in error.message
    assert error.hint
    assert error.exit_status == 1


def failures(report: Report) -> str:
    return "; ".join(f"{one.name}: {one.detail} {one.remedy}" for one in report.checks if one.status == "failed")


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("DROP SCHEMA kg_ops CASCADE;", "DROP of kg_ops"),
        (f"{ALONE}DROP SCHEMA IF EXISTS kg_ops CASCADE;", "DROP of kg_ops"),
        (f'{ALONE}DELETE FROM "kg_ops".ledger;', "DELETE of kg_ops"),
        (f"{ALONE}DO $$ BEGIN EXECUTE 'DROP SCHEMA kg_ops CASCADE'; END $$;", "DO of kg_ops"),
        ("SELECT pg_advisory_unlock_all();", r"pg_advisory_unlock_all\(\)"),
        (f"{ALONE}DISCARD ALL;", "DISCARD ALL cannot run inside a transaction block"),
    ],
)
def test_what_is_kgs_own_is_refused_before_anything_runs(
    ours: Settings, conn: Connection, script: str, said: str
) -> None:
    second(ours, f"{script}\n{ADDS}\n")
    with pytest.raises(MigrationFailed, match=rf"002_reach_further\.up\.sql:\d+:1: {said}") as refused:
        deploy(ours, drilled=False)
    assert_clear(refused.value)
    (ours.migrations / "002_reach_further.up.sql").unlink()
    (ours.migrations / "002_reach_further.down.sql").unlink()
    assert recovered(ours).revision == "001"
    assert verify(ours).ok
    assert known(conn) == [("001", True)]


def test_a_migration_may_grant_on_kg_ops_and_speak_of_it(ours: Settings, conn: Connection) -> None:
    second(ours, f"{ADDS} GRANT USAGE ON SCHEMA kg_ops TO pg_monitor; UPDATE code_patterns SET language = 'kg_ops';")
    deploy(ours, drilled=False)
    assert known(conn) == [("001", True), ("002", True)]


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (f"SET search_path = pg_catalog; {ADDS}", 'relation "code_patterns" does not exist'),
        (f"{ADDS} SET ROLE pg_monitor;", "permission denied for schema kg_ops"),
        (
            f"{ADDS} DO $$ BEGIN EXECUTE 'SELECT pg_terminate' || '_backend(pid, 1000) FROM pg_stat_activity"
            " WHERE current_schema() = ''public'' AND datname = current_database()"
            " AND application_name = ''kg deploy lock'''; END $$;",
            "lost its lock",
        ),
    ],
    ids=["search-path", "role", "lock"],
)
def test_what_it_does_to_the_session_is_undone_with_it(
    ours: Settings, conn: Connection, script: str, said: str
) -> None:
    before = state(ours)
    second(ours, script)
    with pytest.raises(OpsError, match=said) as failed:
        deploy(ours, drilled=False)
    assert "\n" not in failed.value.message
    assert recovered(ours).fingerprint == before
    assert known(conn) == [("001", True)]
    assert conn.execute("SELECT FROM pg_locks WHERE locktype = 'advisory'").fetchall() == []


def test_a_read_only_database_is_backed_up_and_left_alone(ours: Settings, conn: Connection, database: Address) -> None:
    name = Identifier(database.dbname)
    second(ours, ADDS)
    conn.execute(SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(name))
    assert back_up(ours).manifest.tables
    for work in (deploy, recovered):
        with pytest.raises(DatabaseError, match="in a read-only transaction while starting") as failed:
            work(ours)
        assert_clear(failed.value)
        assert "default_transaction_read_only" in (failed.value.hint or "")
    assert "read-only" in failures(verify(ours))
    assert known(conn) == [("001", True)]
    conn.execute(SQL("ALTER DATABASE {} RESET default_transaction_read_only").format(name))
    deploy(ours, drilled=False)
    assert known(conn) == [("001", True), ("002", True)]


@pytest.mark.slow
def test_whoever_holds_a_table_for_himself_is_not_waited_for_long(ours: Settings, database: Address) -> None:
    with connect(database, purpose="test holder", autocommit=False) as holder:
        holder.execute("LOCK TABLE code_embeddings IN ACCESS EXCLUSIVE MODE")
        for look in (check, verify):
            assert "lock timeout" in failures(look(ours))
        said = next(one for one in check(ours).checks if one.name == "locks")
        assert f"pid {holder.info.backend_pid} ({database.user}, idle in transaction: LOCK TABLE" in said.detail
        assert "keeps everybody out of code_embeddings for" in said.detail
        assert said.remedy == f"SELECT pg_terminate_backend({holder.info.backend_pid}) ends that one"
        assert preview(ours).nothing_pending
        with pytest.raises(OpsError) as failed:
            back_up(ours)
        assert_clear(failed.value)
    assert verify(ours).ok
    assert back_up(ours).manifest.tables


@pytest.fixture
def limited(conn: Connection, ours: Settings, database: Address) -> Iterator[Callable[[int], Settings]]:
    """Settings for a member of the owner's role that may have so many connections."""
    name = f"limited_{os.getpid()}"
    role = Identifier(name)
    conn.execute(SQL("CREATE ROLE {} LOGIN PASSWORD 'plain'").format(role))
    conn.execute(SQL("GRANT {}, pg_read_all_data TO {}").format(Identifier(database.user), role))

    def to(number: int) -> Settings:
        conn.execute(SQL("ALTER ROLE {} CONNECTION LIMIT {}").format(role, number))
        address = database.model_copy(update={"user": name, "password": SecretStr("plain")})
        return ours.model_copy(update={"address": address})

    yield to
    conn.execute(SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(role))


@pytest.mark.parametrize("number", [0, 1])
def test_no_connection_left_is_said_and_leaves_nothing_half_done(
    limited: Callable[[int], Settings], conn: Connection, number: int
) -> None:
    few = limited(number)
    with pytest.raises(DatabaseError, match="has no connection left") as refused:
        deploy(few, drilled=False)
    assert_clear(refused.value)
    with pytest.raises(OpsError, match="no connection left") as without:
        back_up(few)
    assert_clear(without.value)
    assert conn.execute("SELECT FROM kg_ops.operation WHERE state = 'running'").fetchall() == []
    assert conn.execute("SELECT FROM pg_locks WHERE locktype = 'advisory'").fetchall() == []
    assert back_up(limited(-1)).manifest.tables


def test_a_server_without_a_connection_left_is_said_and_nothing_is_half_done(
    ours: Settings, conn: Connection, database: Address, tmp_path: Path
) -> None:
    """Everybody's, not the role's own: an application's pool has taken all of max_connections."""
    before = state(ours)
    second(ours, ADDS)
    with ExitStack() as pool:
        with suppress(ConnectionFailed):
            while True:
                pool.enter_context(connect(database, purpose="pool"))
        for work in (deploy, recovered, verify, back_up):
            with pytest.raises(DatabaseError, match="has no connection left") as refused:
                work(ours)
            assert_clear(refused.value)
    assert conn.execute("SELECT FROM kg_ops.operation WHERE state = 'running'").fetchall() == []
    assert state(ours) == before
    deploy(ours, drilled=False)
    assert known(conn) == [("001", True), ("002", True)]


@pytest.fixture
def theirs(conn: Connection, ours: Settings, database: Address) -> Iterator[Settings]:
    """The owner of our tables and of the database; kg_ops and what is in it stays another's."""
    name = f"owner_{os.getpid()}"
    role, owner = Identifier(name), Identifier(database.user)
    conn.execute(SQL("CREATE ROLE {} LOGIN PASSWORD 'plain'").format(role))
    conn.execute(SQL("ALTER DATABASE {} OWNER TO {}").format(Identifier(database.dbname), role))
    conn.execute(SQL("GRANT ALL ON SCHEMA public TO {}").format(role))
    for table in ("code_embeddings", "code_patterns", "code_relationships", "embedding_cache_stats"):
        conn.execute(SQL("ALTER TABLE {} OWNER TO {}").format(Identifier(table), role))
    conn.execute(SQL("ALTER FUNCTION knowledge_graph_set_updated_at() OWNER TO {}").format(role))
    yield ours.model_copy(
        update={"address": database.model_copy(update={"user": name, "password": SecretStr("plain")})}
    )
    conn.execute(SQL("ALTER DATABASE {} OWNER TO {}").format(Identifier(database.dbname), owner))
    conn.execute(SQL("REASSIGN OWNED BY {0} TO {1}; DROP OWNED BY {0}; DROP ROLE {0}").format(role, owner))


def test_a_kg_ops_of_another_role_is_said_with_the_administrators_statement(theirs: Settings, conn: Connection) -> None:
    second(theirs, ADDS)
    for work in (deploy, recovered):
        with pytest.raises(PrivilegeMissing, match="kg_ops") as refused:
            work(theirs)
        assert_clear(refused.value)
        assert "kg_ops" in (refused.value.hint or "")
    said = next(one for one in check(theirs).checks if one.name == "privileges")
    assert (said.status, "ALTER SCHEMA kg_ops OWNER TO" in said.remedy) == ("failed", True)
    assert known(conn) == [("001", True)]
    name = theirs.address.user if theirs.address else ""
    conn.execute(SQL("ALTER SCHEMA kg_ops OWNER TO {}").format(Identifier(name)))
    for (table,) in conn.execute("SELECT tablename::text FROM pg_tables WHERE schemaname = 'kg_ops'").fetchall():
        conn.execute(SQL("ALTER TABLE {} OWNER TO {}").format(Identifier("kg_ops", table), Identifier(name)))
    deploy(theirs, drilled=False)
    assert known(conn) == [("001", True), ("002", True)]


@pytest.fixture
def small_tablespace(conn: Connection) -> Iterator[str]:
    """A tablespace on a file system of a few megabytes."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    folder, name = Path("/tmp") / f"kg-tablespace-{os.getpid()}", f"small_{os.getpid()}"
    folder.mkdir()
    data = conn.execute("SHOW data_directory").fetchone()
    assert data
    owner = Path(data[0]).stat()
    words = ["mount", "-t", "tmpfs", "-o", f"size=4m,mode=700,uid={owner.st_uid},gid={owner.st_gid}", "none", folder]
    if subprocess.run(words, capture_output=True, check=False).returncode:
        folder.rmdir()
        pytest.skip("no file system can be mounted here")
    conn.execute(SQL("CREATE TABLESPACE {} LOCATION {}").format(Identifier(name), str(folder)))
    yield name
    conn.execute("DROP TABLE IF EXISTS wide")
    conn.execute(SQL("DROP TABLESPACE {}").format(Identifier(name)))
    subprocess.run(["umount", "--lazy", folder], check=True)
    folder.rmdir()


def test_a_full_disk_undoes_the_migration(ours: Settings, conn: Connection, small_tablespace: str) -> None:
    before = state(ours)
    rows = "SELECT repeat(md5(n::text), 30) AS t FROM generate_series(1, CASE current_schema() WHEN 'public' THEN 9999"
    second(ours, f"{ADDS}\nCREATE TABLE wide TABLESPACE {small_tablespace} AS {rows} ELSE 1 END) AS n;")
    with pytest.raises(MigrationFailed, match=r"002_reach_further\.up\.sql:2:1: .*No space left on device") as failed:
        deploy(ours, drilled=False)
    assert "disk is full" in (failed.value.hint or "")
    assert (recovered(ours).fingerprint, known(conn)) == (before, [("001", True)])
