"""Sessions: how they are dressed, and one clear line for each way of not getting in."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from datetime import timedelta

import psycopg
import pytest
from psycopg.sql import SQL, Identifier
from pydantic import SecretStr

from tasks.core.addresses import Address
from tasks.core.errors import ConnectionFailed, DatabaseError, PrivilegeMissing
from tasks.core.postgres.connections import (
    Connection,
    connect,
    database_errors,
    describe,
    target,
    vector_extension,
)
from tasks.core.settings import DatabaseSettings, Settings


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that accepts and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def refusal(address: Address) -> ConnectionFailed:
    with pytest.raises(ConnectionFailed) as caught:
        connect(address, purpose="test")
    assert "\n" not in str(caught.value)
    assert caught.value.hint
    if address.password:
        assert address.password.get_secret_value() not in str(caught.value)
    return caught.value


def test_a_session_is_named_and_limited(database: Address) -> None:
    limits = DatabaseSettings(lock_timeout=timedelta(milliseconds=1500), statement_timeout=timedelta(minutes=2))
    with connect(database, purpose="migrate", database=limits, search_path=('odd"name', "public")) as conn:
        shown = {
            name: conn.execute("SELECT current_setting(%s, true)", (name,)).fetchone()
            for name in ("application_name", "TimeZone", "lock_timeout", "statement_timeout", "search_path")
        }
        interval = conn.execute("SELECT current_setting('client_connection_check_interval', true)").fetchone()
    assert shown == {
        "application_name": ("kg migrate",),
        "TimeZone": ("UTC",),
        "lock_timeout": ("1500ms",),
        "statement_timeout": ("2min",),
        "search_path": ('"odd""name", "public"',),
    }
    assert interval in (("1s",), (None,))


def test_without_autocommit_the_dress_survives_a_rollback(database: Address) -> None:
    with connect(database, purpose="test", autocommit=False, search_path=("elsewhere",)) as conn:
        assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        conn.execute("SELECT 1")
        conn.rollback()
        assert conn.execute("SHOW search_path").fetchone() == ('"elsewhere"',)


def test_the_machines_pg_variables_lead_nowhere(database: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PGHOSTADDR": "192.0.2.1", "PGOPTIONS": "-c work_mem=1MB", "PGSSLMODE": "verify-full"}.items():
        monkeypatch.setenv(name, value)
    with connect(database, purpose="test") as conn:
        assert conn.execute("SELECT current_database()").fetchone() == (database.dbname,)
        assert conn.execute("SHOW work_mem").fetchone() != ("1MB",)


def test_wrong_password(postgres: Address) -> None:
    error = refusal(postgres.model_copy(update={"password": SecretStr("not-the-password")}))
    assert f"refused the password of {postgres.user}" in error.message


def test_no_password(postgres: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "from-elsewhere")
    assert "refused the password" in refusal(postgres.model_copy(update={"password": None})).message


def test_no_such_database(postgres: Address) -> None:
    assert "there is no database nowhere on" in refusal(postgres.database("nowhere")).message


def test_no_such_role_or_password(postgres: Address) -> None:
    error = refusal(postgres.model_copy(update={"user": "nobody_known"}))
    assert "nobody_known" in error.message  # scram does not say which of the two it was


def test_no_such_host(postgres: Address) -> None:
    error = refusal(postgres.model_copy(update={"host": "no-such-host.invalid"}))
    assert error.message == "there is no host no-such-host.invalid"


def test_nothing_listens(postgres: Address, closed_port: int) -> None:
    error = refusal(postgres.model_copy(update={"host": "127.0.0.1", "port": closed_port}))
    assert error.message == f"nothing listens at 127.0.0.1:{closed_port}"


def test_no_answer_in_time(postgres: Address, silent_port: int) -> None:
    began = time.monotonic()
    silent = {"host": "127.0.0.1", "port": silent_port, "options": (("connect_timeout", "2"),)}
    error = refusal(postgres.model_copy(update=silent))
    assert "did not answer in time" in error.message
    assert time.monotonic() - began < 6


def test_ssl_where_the_server_has_none(postgres: Address, conn: Connection) -> None:
    if conn.execute("SHOW ssl").fetchone() != ("off",):
        pytest.skip("this server speaks SSL")
    error = refusal(postgres.model_copy(update={"options": (("sslmode", "require"),)}))
    assert "does not speak SSL" in error.message


def test_a_role_that_may_not_log_in_and_one_with_no_connection_left(database: Address, conn: Connection) -> None:
    conn.execute("DROP ROLE IF EXISTS kg_test_guest")
    conn.execute("CREATE ROLE kg_test_guest NOLOGIN PASSWORD 'guest-word' CONNECTION LIMIT 0")
    guest = database.model_copy(update={"user": "kg_test_guest", "password": SecretStr("guest-word")})
    try:
        assert "may not log in" in refusal(guest).message
        conn.execute("ALTER ROLE kg_test_guest LOGIN")
        assert "has no connection left" in refusal(guest).message
    finally:
        conn.execute("DROP ROLE kg_test_guest")


def test_a_session_that_cannot_be_dressed_is_closed(database: Address, conn: Connection) -> None:
    limits = DatabaseSettings.model_construct(
        lock_timeout=timedelta(seconds=-5), statement_timeout=timedelta(seconds=1)
    )
    with pytest.raises(DatabaseError, match=r"lock_timeout.* while opening a session for undressed"):
        connect(database, purpose="undressed", database=limits)
    deadline = time.monotonic() + 2
    count = SQL("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'kg undressed'")
    while conn.execute(count).fetchone() != (0,):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_describe(database: Address, conn: Connection) -> None:
    server = describe(conn)
    assert server.version.startswith(f"{server.major}.")
    assert server.version_num // 10000 == server.major
    assert (server.database, server.role, server.superuser) == (database.dbname, database.user, True)
    assert server.encoding == "UTF8"
    assert server.collation
    assert server.system_identifier.isdecimal()


def test_text_is_text_in_a_database_without_an_encoding(postgres: Address, conn: Connection) -> None:
    name = Identifier("kg_test_ascii")
    conn.execute(SQL("DROP DATABASE IF EXISTS {}").format(name))
    locale = "LC_COLLATE 'C' LC_CTYPE 'C'" + (" LOCALE_PROVIDER libc" if describe(conn).major >= 15 else "")
    conn.execute(SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'SQL_ASCII' {}").format(name, SQL(locale)))
    try:
        with connect(postgres.database("kg_test_ascii"), purpose="test") as inside:
            assert (describe(inside).encoding, describe(inside).collation) == ("SQL_ASCII", "C")
    finally:
        conn.execute(SQL("DROP DATABASE {}").format(name))


def test_describe_for_a_role_without_rights(database: Address, conn: Connection) -> None:
    conn.execute("DROP ROLE IF EXISTS kg_test_plain")
    conn.execute("CREATE ROLE kg_test_plain LOGIN PASSWORD 'plain-word'")
    conn.execute("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM public")
    try:
        plain = database.model_copy(update={"user": "kg_test_plain", "password": SecretStr("plain-word")})
        with connect(plain, purpose="test") as session:
            server = describe(session)
        assert (server.role, server.superuser, server.system_identifier) == ("kg_test_plain", False, "")
    finally:
        conn.execute("DROP OWNED BY kg_test_plain")
        conn.execute("DROP ROLE kg_test_plain")


def test_where_pgvector_is(conn: Connection) -> None:
    before = vector_extension(conn)
    assert (before.installed, before.schema) == (None, None)
    if before.available is None:
        pytest.skip("this server has no pgvector")
    conn.execute("CREATE SCHEMA extensions; CREATE EXTENSION vector SCHEMA extensions")
    after = vector_extension(conn)
    assert (after.installed, after.available, after.schema) == (before.available, before.available, "extensions")


def test_target_is_the_address_where_there_is_one(settings: Settings) -> None:
    assert target(settings) == settings.address
    assert not (settings.home / "postgres").exists()


def test_a_missing_privilege_names_the_administrators_statement(database: Address, conn: Connection) -> None:
    conn.execute("CREATE TABLE ours (id int)")
    conn.execute("DROP ROLE IF EXISTS kg_test_plain")
    conn.execute("CREATE ROLE kg_test_plain")
    try:
        conn.execute("SET ROLE kg_test_plain")
        with pytest.raises(PrivilegeMissing, match="permission denied for table ours while counting rows") as caught:
            count_rows(conn)
        assert "GRANT ALL ON TABLE ours TO" in (caught.value.hint or "")
        with pytest.raises(PrivilegeMissing, match="must be owner") as caught, database_errors("altering"):
            conn.execute("ALTER TABLE ours ADD COLUMN x int")
        assert "ALTER TABLE ours OWNER TO" in (caught.value.hint or "")
        with pytest.raises(PrivilegeMissing) as caught, database_errors("preparing"):
            conn.execute("CREATE EXTENSION pageinspect")  # like vector, not a trusted one
        assert 'CREATE EXTENSION "pageinspect"' in (caught.value.hint or "")
    finally:
        conn.execute("RESET ROLE")
        conn.execute("DROP ROLE kg_test_plain")


def count_rows(conn: Connection) -> None:
    with database_errors("counting rows"):
        conn.execute("SELECT count(*) FROM ours")


def test_a_statement_over_its_time_says_so(conn: Connection) -> None:
    conn.execute("SET statement_timeout = '50ms'")
    with pytest.raises(DatabaseError, match="while sleeping") as caught, database_errors("sleeping"):
        conn.execute("SELECT pg_sleep(5)")
    assert "statement_timeout" in (caught.value.hint or "")


def test_a_lost_connection_says_so(database: Address, conn: Connection) -> None:
    with connect(database, purpose="victim") as victim:
        conn.execute("SELECT pg_terminate_backend(%s)", (victim.info.backend_pid,))
        with pytest.raises(DatabaseError, match="connection was lost while waiting"), database_errors("waiting"):
            victim.execute("SELECT 1")


def test_other_errors_carry_the_servers_own_hint(conn: Connection) -> None:
    with (
        pytest.raises(DatabaseError, match=r"nothing_here\(\) does not exist while calling"),
        database_errors("calling"),
    ):
        conn.execute("SELECT nothing_here()")
