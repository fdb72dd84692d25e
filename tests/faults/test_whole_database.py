"""The whole database from a backup, in one exchange of names: killed on the way, refused where it cuts others off."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest.mock import patch

import pytest
from psycopg.sql import SQL, Identifier
from pydantic import SecretStr

from tasks.core.backup.drill import drill
from tasks.core.backup.dump import back_up
from tasks.core.backup.retention import prune
from tasks.core.errors import ConnectionFailed, RollbackFailed
from tasks.core.operations.operation import operation
from tasks.core.operations.rollback import Request, RolledBack
from tasks.core.operations.whole import reopen, restore_whole
from tasks.core.postgres import scratch
from tasks.core.postgres.connections import Connection, connect
from tasks.core.postgres.sibling import hindrances
from tasks.core.settings import CHECKOUT, Settings
from tests.faults.runs import deploy, recovered, rollback, variables, whole
from tests.integration.graphs import with_section

INSERT = "INSERT INTO code_embeddings (file_path, file_hash) VALUES (%s, '1')"


@pytest.fixture
def saved(settings: Settings, tmp_path: Path) -> Iterator[tuple[Settings, str]]:
    """A deployed graph with somebody else's table and view, grants and settings; proved; then written to."""
    assert settings.address is not None
    folder = Path(shutil.copytree(CHECKOUT / "sql" / "migrations", tmp_path / "migrations"))
    own = settings.model_copy(update={"migrations": folder, "scratch": settings.address.database("postgres")})
    deploy(own, drilled=False)
    name = Identifier(settings.address.dbname)
    with connect(settings.address, purpose="test") as conn:
        conn.execute(INSERT, ("kept",))
        conn.execute("CREATE TABLE theirs (id int PRIMARY KEY, word text)")
        conn.execute("INSERT INTO theirs VALUES (1, 'kept'), (2, 'kept')")
        conn.execute("CREATE VIEW recent AS SELECT file_path FROM code_embeddings")  # bars a swap of tables
        conn.execute(SQL("ALTER DATABASE {} SET work_mem TO '7MB'").format(name))
        conn.execute(SQL('ALTER DATABASE {} SET search_path TO public, "$user"').format(name))
        conn.execute(SQL("REVOKE TEMPORARY ON DATABASE {} FROM PUBLIC").format(name))
        conn.execute(SQL("ALTER DATABASE {} CONNECTION LIMIT 77").format(name))
        conn.execute(SQL("COMMENT ON DATABASE {} IS 'the graph''s own'").format(name))
    backup = back_up(with_section(own, "backup", binary_from_mb=0))  # rows that come back from beside the archive
    assert backup.manifest.streams
    drill(own, backup)
    with connect(settings.address, purpose="test") as conn:
        conn.execute("UPDATE theirs SET word = 'changed' WHERE id = 2")
        conn.execute(INSERT, ("new",))
    yield own, backup.id
    with connect(settings.address.database("postgres"), purpose="test clean-up") as conn:
        for (left,) in conn.execute("SELECT datname FROM pg_database WHERE datname ~ '^kg_re'").fetchall():
            conn.execute(SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(left)))


def state(settings: Settings) -> tuple[object, ...]:
    """What the cluster says of the database, and its rows."""
    assert settings.address is not None
    with connect(settings.address, purpose="test") as conn:
        about = conn.execute(
            "SELECT ARRAY(SELECT unnest(datacl)::text ORDER BY 1), datconnlimit, datallowconn,"
            " shobj_description(oid, 'pg_database'),"
            " (SELECT setconfig FROM pg_db_role_setting WHERE setdatabase = d.oid AND setrole = 0)"
            " FROM pg_database AS d WHERE datname = current_database()"
        ).fetchone()
        rows = conn.execute("SELECT word FROM theirs ORDER BY id").fetchall()
        files = conn.execute("SELECT file_path FROM code_embeddings ORDER BY id").fetchall()
        return about, [row[0] for row in rows], [row[0] for row in files]


def others(settings: Settings) -> list[tuple[str, bool]]:
    assert settings.address is not None
    with connect(settings.address.database("postgres"), purpose="test") as conn:
        return conn.execute(  # type: ignore[return-value]
            "SELECT left(datname, 11), datallowconn FROM pg_database WHERE datname ~ '^kg_re' ORDER BY 1"
        ).fetchall()


def restore(settings: Settings, backup: str, *, yes: bool) -> RolledBack:
    with operation(settings, "rollback") as held:
        return restore_whole(held, backup, accept_loss=yes)


def test_everything_is_as_the_backup_has_it_and_the_journal_goes_on(saved: tuple[Settings, str]) -> None:
    settings, backup = saved
    before = state(settings)
    done = restore(settings, backup, yes=True)
    assert state(settings) == (before[0], ["kept", "kept"], ["kept"])
    assert "code_embeddings: 1 inserted, 0 deleted, 0 updated; theirs: 0 inserted, 0 deleted, 1 updated" in done.detail
    assert (done.revision, others(settings)) == ("001", [("kg_replaced", False)])
    assert settings.address is not None
    with connect(settings.address, purpose="test") as conn:
        kinds = conn.execute("SELECT kind, state FROM kg_ops.operation ORDER BY started_at").fetchall()
        assert kinds == [("deploy", "done"), ("rollback", "done")]
        steps = conn.execute("SELECT state FROM kg_ops.journal WHERE step = 'whole database' ORDER BY sequence")
        assert steps.fetchall() == [("started",), ("done",)]
        assert conn.execute("SELECT detail ->> 'restored_from' FROM kg_ops.operation WHERE kind = 'rollback'"
                            ).fetchone() == (backup,)  # fmt: skip
        assert conn.execute("SELECT count(*) FROM recent").fetchone() == (1,)
    assert recovered(settings).nothing
    with operation(settings, "deploy"):
        pass  # nobody holds the lock


def test_rows_of_anyone_bar_it_without_yes(saved: tuple[Settings, str], conn: Connection) -> None:
    settings, backup = saved
    before = state(settings)
    with pytest.raises(RollbackFailed, match="theirs: 0 inserted, 0 deleted, 1 updated"):
        restore(settings, backup, yes=False)
    assert state(settings) == before
    assert others(settings) == []
    assert conn.execute("SELECT 1").fetchone() == (1,)  # nobody's session was ended


def test_what_would_be_cut_off_bars_it(saved: tuple[Settings, str], conn: Connection) -> None:
    settings, backup = saved
    before = state(settings)
    conn.execute("CREATE SUBSCRIPTION theirs CONNECTION 'dbname=nowhere' PUBLICATION p WITH (connect = false)")
    try:
        with pytest.raises(RollbackFailed, match="subscription theirs; nothing was changed") as refused:
            restore(settings, backup, yes=True)
        assert "without --whole-database" in (refused.value.hint or "")
    finally:
        conn.execute("ALTER SUBSCRIPTION theirs SET (slot_name = NONE)")
        conn.execute("DROP SUBSCRIPTION theirs")
    assert (state(settings), others(settings)) == (before, [])


def test_a_replaced_database_goes_by_its_age(saved: tuple[Settings, str], conn: Connection) -> None:
    settings, backup = saved
    replaced = restore(settings, backup, yes=True).replaced or ""
    aged = f"kg_replaced_{datetime.now(UTC) - timedelta(days=9):%Y%m%dT%H%M%SZ}"
    assert settings.address is not None
    with connect(settings.address.database("postgres"), purpose="test") as keeper:
        young = dict(prune(settings, apply=True).keep)[replaced]
        assert young == "a replaced database, not older than 7 days"
        bare = replaced.removeprefix("database ")
        keeper.execute(SQL("ALTER DATABASE {} RENAME TO {}").format(Identifier(bare), Identifier(aged)))
        keeper.execute('CREATE DATABASE "kg_replaced_20250101T000000Z" ALLOW_CONNECTIONS false')  # somebody else's
    try:
        assert [each.id for each in prune(settings, apply=False).replaced] == [f"database {aged}"]
        assert others(settings) == [("kg_replaced", False)] * 2
        prune(settings, apply=True)
        assert others(settings) == [("kg_replaced", False)]
    finally:
        with connect(settings.address.database("postgres"), purpose="test") as keeper:
            keeper.execute('DROP DATABASE "kg_replaced_20250101T000000Z"')


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    """The superuser of a server that has logical slots and prepared transactions."""
    wanted = {"wal_level": "logical", "max_prepared_transactions": "2", "max_replication_slots": "2"}
    wanted |= {"max_wal_senders": "2"}
    with (
        patch.object(scratch, "_tuned", lambda: wanted),
        scratch.private_cluster(tmp_path_factory.mktemp("strict")) as address,
        connect(address, purpose="test") as conn,
    ):
        yield conn


def test_slots_and_prepared_transactions_and_others_sessions_are_named(strict: Connection) -> None:
    """Each would be cut off by the exchange, or bars it: none is ended, all are said."""
    name = strict.info.dbname
    assert hindrances(strict, name) == ()
    strict.execute("SELECT pg_create_logical_replication_slot('theirs', 'pgoutput')")
    strict.execute("CREATE TABLE t (id int)")
    strict.execute("BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'half'")
    strict.execute("CREATE ROLE owner LOGIN")
    assert set(hindrances(strict, name)) == {"replication slot theirs", "prepared transaction half"}
    strict.execute("ROLLBACK PREPARED 'half'")
    strict.execute("SELECT pg_drop_replication_slot('theirs')")
    strict.execute("SET ROLE owner")
    try:
        [session] = hindrances(strict, name)  # the superuser's own
        assert session.endswith(f"of {strict.info.user}, which this role may not end")
    finally:
        strict.execute("RESET ROLE")


DYING = """
import os, signal, sys
from tasks.core.operations.operation import operation
from tasks.core.operations import whole
from tasks.core.settings import load_settings
from tasks.core.postgres import sibling
name, when = sys.argv[1].split(":")
real = getattr(sibling, name)
def dying(*args, **words):
    if when == "after":
        real(*args, **words)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(sibling, name, dying)
with operation(load_settings("dev"), "rollback") as held:
    whole.restore_whole(held, sys.argv[2], accept_loss=True)
"""


@pytest.mark.parametrize(
    "moment", ["make_like:before", "make_like:after", "carry_over:after", "close_door:after", "exchange:before",
               "exchange:after"],
)  # fmt: skip
def test_killed_on_the_way_it_is_the_old_or_the_new_one(saved: tuple[Settings, str], moment: str) -> None:
    settings, backup = saved
    before = state(settings)
    words = [sys.executable, "-c", DYING, moment, backup]
    died = subprocess.run(words, env=variables(settings), cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert died.returncode == -9, died.stderr
    if moment in ("close_door:after", "exchange:before"):
        with pytest.raises(ConnectionFailed, match="takes no connections") as shut, operation(settings, "deploy"):
            pass
        assert "kg recover" in (shut.value.hint or "")
    opened = reopen(settings)
    done = recovered(settings)
    assert [dead.kind for dead in done.dead] == ["rollback"]
    if moment == "exchange:after":
        assert (opened, others(settings)) == ((), [("kg_replaced", False)])
        assert state(settings) == (before[0], ["kept", "kept"], ["kept"])
    else:
        assert (len(opened), others(settings)) == (1, [])
        assert state(settings) == before
    assert recovered(settings).nothing


def test_where_no_database_may_be_created_the_other_way_is_named(settings: Settings, conn: Connection) -> None:
    assert settings.address
    name = f"plain_{os.getpid()}"
    role, database = Identifier(name), Identifier(settings.address.dbname)
    conn.execute(SQL("CREATE EXTENSION vector; CREATE ROLE {0} LOGIN PASSWORD 'plain'").format(role))
    conn.execute(SQL("ALTER DATABASE {} OWNER TO {}").format(database, role))
    conn.execute(SQL("ALTER SCHEMA public OWNER TO {}").format(role))
    own = settings.address.model_copy(update={"user": name, "password": SecretStr("plain")})
    plain = settings.model_copy(update={"address": own})
    try:
        deploy(plain, drilled=False)
        drill(plain, back_up(plain))
        before = conn.execute("SELECT oid FROM pg_database WHERE datname = current_database()").fetchone()
        with pytest.raises(RollbackFailed, match="this role may not create databases; nothing was changed") as refused:
            whole(plain)
        assert refused.value.hint == (
            "without --whole-database our tables are swapped by schema: kg rollback dev --strategy restore"
        )
        assert conn.execute("SELECT oid FROM pg_database WHERE datname = current_database()").fetchone() == before
        assert rollback(plain, Request("restore", yes=True)).strategy == "restore"
    finally:
        conn.execute(SQL("ALTER DATABASE {} OWNER TO CURRENT_USER").format(database))
        conn.execute(SQL("REASSIGN OWNED BY {0} TO CURRENT_USER; DROP OWNED BY {0}; DROP ROLE {0}").format(role))
