"""The main job on a database as Supabase hands it out: others' schemas that we may not read, API roles that must not
read ours, a role that is no superuser, a database that cannot be renamed, a pooler in front.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import errors
from psycopg.sql import SQL, Identifier
from pydantic import SecretStr

from tasks.core.addresses import Address, parse_address
from tasks.core.errors import ConnectionFailed, SettingsError
from tasks.core.operations.operation import operation
from tasks.core.postgres.connections import Connection, connect, role_of
from tasks.core.postgres.scratch import private_cluster
from tasks.core.schema.check import check
from tasks.core.schema.verify import verify
from tasks.core.settings import Settings, load_settings
from tests.servers.job import assert_ok, deploy, fill, proved_backup, rollback, rows_in, state
from tests.servers.pooler import pooler

SHAPE = Path(__file__).with_name("supabase.sql")
TABLES = ("code_embeddings", "code_patterns", "code_relationships", "embedding_cache_stats")


@pytest.fixture
def administrator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    """The platform's own session, which is always there, so that nobody renames or drops the database."""
    with (
        private_cluster(tmp_path_factory.mktemp("supabase")) as cluster,
        connect(cluster.database("postgres"), purpose="platform") as conn,
    ):
        conn.execute(SHAPE.read_bytes())
        yield conn


@pytest.fixture
def direct(administrator: Connection) -> Address:
    """The direct address, with the role that a project's owner gets."""
    return Address(
        host=administrator.info.host,
        port=administrator.info.port,
        dbname="postgres",
        user="postgres",
        password=SecretStr("secret"),
    )


@pytest.fixture
def supabase(direct: Address, tmp_path: Path) -> Settings:
    """production's settings: our schemas only, and no migration without a restorable backup."""
    variables = {"KG_HOME": str(tmp_path / "home"), "PRODUCTION_DB_URL": f"postgresql://x@{direct.host}/x"}
    loaded = load_settings("production", variables)
    return loaded.model_copy(update={"address": direct, "store_url": (tmp_path / "store").as_uri()})


def tried_as(conn: Connection, role: str, statement: str) -> object:
    """The first value that `statement` gives to `role` of the Data API, or the SQLSTATE of its refusal."""
    with conn.transaction(force_rollback=True):
        conn.execute(SQL("SET LOCAL ROLE {}").format(Identifier(role)))
        try:
            cursor = conn.execute(statement.encode())
        except psycopg.Error as error:
            return error.sqlstate
        row = cursor.fetchone() if cursor.description else (cursor.rowcount,)
        return row[0] if row else None


def assert_api_rights(conn: Connection) -> None:
    """anon and authenticated read and write nothing of ours, service_role everything."""
    for table in TABLES:
        count = f"SELECT count(*) FROM public.{table}"
        every = rows_in(conn, table)
        assert tried_as(conn, "anon", count) == 0
        assert tried_as(conn, "authenticated", count) == 0
        assert tried_as(conn, "service_role", count) == every
    write = "INSERT INTO public.code_embeddings (file_path, file_hash) VALUES ('api', 'api')"
    change = "UPDATE public.code_embeddings SET language = 'api' WHERE id = 1"
    assert tried_as(conn, "anon", write) == errors.InsufficientPrivilege.sqlstate
    assert tried_as(conn, "anon", change) == 0
    assert tried_as(conn, "service_role", write) == 1
    assert tried_as(conn, "service_role", change) == 1


def test_the_main_job_there_and_back(supabase: Settings, administrator: Connection) -> None:
    before = state(supabase)
    first = deploy(supabase)
    assert first.restorable
    fill(administrator)
    assert_ok(verify(supabase))
    assert_api_rights(administrator)

    saved = proved_backup(supabase)
    assert saved.restorable
    assert {label.split(".")[0] for label in saved.manifest.tables} == {"public", "kg_ops"}
    deployed = state(supabase)
    administrator.execute("DELETE FROM public.code_embeddings WHERE id > 5")
    administrator.execute("ALTER TABLE public.code_embeddings DISABLE ROW LEVEL SECURITY")
    assert not verify(supabase).ok
    done = rollback(supabase, "restore", saved, yes=True)
    assert (done.fingerprint, state(supabase)) == (deployed, deployed)
    assert rows_in(administrator) == 20
    assert_api_rights(administrator)
    assert_ok(verify(supabase))
    # The API reaches what was replaced no more than before.
    assert done.replaced
    replaced = SQL("SELECT count(*) FROM {}").format(Identifier(done.replaced, "code_embeddings"))
    assert tried_as(administrator, "anon", replaced.as_string()) == errors.InsufficientPrivilege.sqlstate

    rollback(supabase, "restore", first, yes=True)
    assert state(supabase) == before
    found = administrator.execute("SELECT count(*) FROM auth.users").fetchone()
    assert found == (1,)


def test_revert_leaves_what_is_the_platforms(supabase: Settings, administrator: Connection) -> None:
    before = state(supabase)
    deploy(supabase)
    assert rollback(supabase, "revert").reverted == ("001",)
    assert state(supabase) == before
    assert administrator.execute("SELECT to_regtype('extensions.vector') IS NOT NULL").fetchone() == (True,)


def test_the_whole_database_cannot_be_dumped_there_and_check_says_so_beforehand(supabase: Settings) -> None:
    whole = supabase.model_copy(update={"database": supabase.database.model_copy(update={"scope": "database"})})
    failing = [one for one in check(whole).checks if one.status == "failed"]
    assert any("auth.users" in one.detail and "scope" in one.detail for one in failing), failing


def test_the_session_pooler_does_as_well(supabase: Settings, direct: Address, administrator: Connection) -> None:
    """It calls the role postgres.<project>, and the server calls it postgres."""
    with pooler(direct, "session", "postgres.abcdefghijklmnopqrst") as address:
        with connect(address, purpose="test") as conn, pytest.raises(errors.DivisionByZero), conn.transaction():
            assert (conn.info.user, role_of(conn)) == (address.user, "postgres")
            try:
                conn.execute("SELECT 1 / 0")
            finally:
                assert role_of(conn) == "postgres"
        through = supabase.model_copy(update={"address": address})
        deploy(through)
        fill(administrator)
        saved = proved_backup(through)
        administrator.execute("DELETE FROM public.code_embeddings")
        rollback(through, "restore", saved, yes=True)
        assert rows_in(administrator) == 20
        assert_api_rights(administrator)


def test_a_transaction_pooler_is_refused_on_any_port(supabase: Settings, direct: Address) -> None:
    with pooler(direct, "transaction") as address:
        through = supabase.model_copy(update={"address": address})
        with pytest.raises(ConnectionFailed, match="keeps no session") as refused, operation(through, "deploy"):
            pass
        assert "session pooler" in (refused.value.hint or "")
        with pytest.raises(ConnectionFailed, match="keeps no session"):
            check(through)
    with connect(direct, purpose="test") as conn:
        assert conn.execute("SELECT count(*) FROM pg_namespace WHERE nspname = 'kg_ops'").fetchone() == (0,)


@pytest.mark.parametrize(
    ("value", "label"),
    [
        ("https://abcdefghijklmnopqrst.supabase.co", "postgres@db.abcdefghijklmnopqrst.supabase.co:5432/postgres"),
        (
            "postgresql://postgres@db.abcdefghijklmnopqrst.supabase.co:5432/postgres",
            "postgres@db.abcdefghijklmnopqrst.supabase.co:5432/postgres",
        ),
        (
            "postgresql://postgres.abcdefghijklmnopqrst@aws-0-eu-central-1.pooler.supabase.com:5432/postgres",
            "postgres.abcdefghijklmnopqrst@aws-0-eu-central-1.pooler.supabase.com:5432/postgres",
        ),
    ],
)
def test_its_addresses_are_understood_and_want_tls(value: str, label: str) -> None:
    address = parse_address("SUPABASE_URL", value, "SUPABASE_DB_PASSWORD", "secret")
    assert address.label == label
    assert dict(address.options)["sslmode"] == "require"


def test_the_transaction_poolers_port_is_refused_before_anything_is_asked() -> None:
    value = "postgresql://postgres.abc@aws-0-eu-central-1.pooler.supabase.com:6543/postgres"
    with pytest.raises(SettingsError, match="keeps no session"):
        parse_address("SUPABASE_URL", value, "SUPABASE_DB_PASSWORD", "secret")
