"""Scratch databases: what they are like, and that nothing of them is left, also after kill -9."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.sql import SQL, Identifier
from pydantic import SecretStr

from tasks.core.addresses import Address
from tasks.core.errors import DatabaseError, PrivilegeMissing
from tasks.core.postgres import scratch as scratch_module
from tasks.core.postgres.binaries import DEBIAN, Binaries, program_version, wheel
from tasks.core.postgres.connections import Connection, Server, connect, describe
from tasks.core.postgres.places import Place, remove_unless_used
from tasks.core.postgres.scratch import PREFIX, scratch_database
from tasks.core.settings import Settings
from tests.processes import Person, guardian_of, is_gone, kill, kill_hard, server_of, until

# Enters a scratch cluster and stays in it.
ENTER = """
from tasks.core.postgres.scratch import private_cluster
entered = private_cluster(home)
address = entered.__enter__()
said = {"port": address.port, "place": str(next(path.parent for path in places_with_data()))}
"""
_FIND = """
def places_with_data():
    from tasks.core.postgres.places import ROOT_FOLDER
    for folder in (home / "scratch", ROOT_FOLDER / "scratch"):
        if folder.exists():
            yield from folder.glob("*/data")
"""
# Enters a scratch database on the server of KG_SCRATCH_URL and stays in it.
ENTER_THERE = """
from tasks.core.postgres.connections import connect, describe
from tasks.core.postgres.scratch import scratch_database
from tasks.core.settings import load_settings
settings = load_settings("dev")
with connect(settings.scratch, purpose="test") as conn:
    like = describe(conn)
entered = scratch_database(settings, like=like)
said = {"name": entered.__enter__().address.dbname}
"""


def scratch_databases(conn: Connection) -> set[str]:
    found = conn.execute("SELECT datname FROM pg_database WHERE starts_with(datname, %s)", (PREFIX,))
    return {name for (name,) in found}


def like(conn: Connection, **changes: Any) -> Server:
    return replace(describe(conn), **changes)


@pytest.fixture
def own(settings: Settings) -> Settings:
    return settings.model_copy(update={"scratch": None})


@pytest.fixture
def there(settings: Settings, database: Address) -> Settings:
    return settings.model_copy(update={"scratch": database})


def test_a_cluster_of_our_own_is_quick_empty_and_gone_afterwards(own: Settings, conn: Connection) -> None:
    with scratch_database(own, like=like(conn)) as scratch:
        assert scratch.own
        assert scratch.vector
        assert scratch.tools.major >= scratch.server.major
        assert scratch.server.superuser
        with connect(scratch.address, purpose="test") as inside:
            assert describe(inside).database == scratch.address.dbname
            names = ("fsync", "full_page_writes", "synchronous_commit", "autovacuum", "wal_level", "max_wal_senders")
            shown = [inside.execute("SELECT current_setting(%s)", (name,)).fetchone() for name in names]
            assert shown == [("off",), ("off",), ("off",), ("off",), ("minimal",), ("0",)]
            assert inside.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone() == (0,)
            (folder,) = inside.execute("SHOW data_directory").fetchone() or ("",)
        place = Path(folder).parent
        server, guardian = server_of(place), guardian_of(place)
        assert server
        assert guardian
    assert is_gone(server)
    assert is_gone(guardian)
    assert not place.exists()


def test_an_error_in_the_block_ends_it_as_well(own: Settings, conn: Connection) -> None:
    folders: list[Path] = []

    def block_that_fails() -> None:
        with scratch_database(own, like=like(conn)) as scratch:
            with connect(scratch.address, purpose="test") as inside:
                folders.extend(Path(folder) for (folder,) in inside.execute("SHOW data_directory"))
            assert folders[0].exists()
            raise KeyError

    with pytest.raises(KeyError):
        block_that_fails()
    assert not folders[0].exists()


def test_a_cluster_of_debians_programs(own: Settings, conn: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    found = sorted(DEBIAN.glob("*/bin/initdb"))
    if not found:
        pytest.skip("Debian's PostgreSQL is not installed")
    folder = found[0].parent
    debian = Binaries(folder, program_version(folder / "postgres"), str(folder))
    monkeypatch.setattr(scratch_module, "binaries_for", lambda major: debian)  # whether it has pgvector or not
    with scratch_database(own, like=like(conn, major=debian.major)) as scratch:
        assert (scratch.server.major, scratch.server.encoding, scratch.own) == (debian.major, "UTF8", True)


@pytest.mark.slow
def test_an_older_server_without_its_programs_gets_the_newer(own: Settings, conn: Connection) -> None:
    with scratch_database(own, like=like(conn, major=12, version="12.0")) as scratch:
        assert scratch.server.major == wheel().major
        assert scratch.tools.major >= wheel().major


@pytest.mark.parametrize(
    ("encoding", "collation", "expected"),
    [
        ("UTF8", "icu:en-US-x-none", ("UTF8", "builtin:C.UTF-8")),
        ("UTF8", "xx_YY.no-such", ("UTF8", "builtin:C.UTF-8")),
        ("LATIN1", "de_DE.ISO8859-1-nowhere", ("LATIN1", "C")),
        ("SQL_ASCII", "C", ("SQL_ASCII", "C")),
    ],
)
def test_encoding_and_locale_are_those_of_the_other_where_they_exist(
    there: Settings, conn: Connection, encoding: str, collation: str, expected: tuple[str, str]
) -> None:
    if describe(conn).major < 17:  # before that no server had a locale of its own
        expected = (expected[0], "C")
    with scratch_database(there, like=like(conn, encoding=encoding, collation=collation)) as scratch:
        assert scratch.server.encoding == expected[0]
        assert scratch.server.collation in (collation, expected[1])


def test_a_killed_guardian_does_not_keep_the_block_from_ending(own: Settings, conn: Connection) -> None:
    with scratch_database(own, like=like(conn)) as scratch, connect(scratch.address, purpose="test") as inside:
        (folder,) = inside.execute("SHOW data_directory").fetchone() or ("",)
        place = Path(folder).parent
        server = server_of(place)
        kill_hard(guardian_of(place))
    assert is_gone(server)
    assert not place.exists()


@pytest.mark.slow
def test_kill_9_leaves_neither_process_nor_folder(person: Person) -> None:
    child, said = person.run(_FIND + ENTER)
    place = Path(str(said["place"]))
    server, guardian = server_of(place), guardian_of(place)
    assert server
    kill(child)
    until(lambda: is_gone(server) and is_gone(guardian) and not place.exists(), seconds=20)


@pytest.mark.slow
def test_what_a_killed_guardian_left_is_swept_by_the_next(person: Person) -> None:
    child, said = person.run(_FIND + ENTER)
    place = Path(str(said["place"]))
    server = server_of(place)
    kill_hard(guardian_of(place))
    kill(child)
    assert not is_gone(server)
    next_one = person.begin(ENTER.replace("next(path.parent for path in places_with_data())", "''"))
    until(lambda: is_gone(server) and not place.exists(), seconds=10)
    next_one.communicate()


def test_on_a_server_of_yours_a_database_comes_and_goes(there: Settings, conn: Connection) -> None:
    with scratch_database(there, like=like(conn)) as scratch:
        assert not scratch.own
        assert scratch.address.dbname in scratch_databases(conn)
        lingering = connect(scratch.address, purpose="left open")
    assert scratch.address.dbname not in scratch_databases(conn)
    with pytest.raises(psycopg.OperationalError):
        lingering.execute("SELECT 1")
    lingering.close()


@pytest.mark.slow
def test_a_killed_ones_database_is_dropped_by_the_next_and_a_living_ones_is_not(
    there: Settings, conn: Connection, tmp_path: Path
) -> None:
    me = Person(python=sys.executable, home=tmp_path)
    address = there.scratch
    assert address is not None
    assert address.password is not None
    secret = address.password.get_secret_value()
    env = {
        "KG_SCRATCH_URL": f"postgresql://{address.user}@{address.host}:{address.port}/{address.dbname}",
        "KG_SCRATCH_PASSWORD": secret,
    }
    killed, dead = me.run(ENTER_THERE, env=env)
    _, alive = me.run(ENTER_THERE, env=env)
    kill(killed)
    until(lambda: conn.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").fetchone() == (1,))
    try:
        with scratch_database(there, like=like(conn)):
            assert str(dead["name"]) not in scratch_databases(conn)
            assert str(alive["name"]) in scratch_databases(conn)
    finally:
        me.finish()
        conn.execute(SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(Identifier(str(alive["name"]))))


def test_a_role_that_may_make_no_database_is_told_so(there: Settings, database: Address, conn: Connection) -> None:
    conn.execute("DROP ROLE IF EXISTS kg_test_plain")
    conn.execute("CREATE ROLE kg_test_plain LOGIN PASSWORD 'plain-word'")
    plain = database.model_copy(update={"user": "kg_test_plain", "password": SecretStr("plain-word")})
    try:
        with (
            pytest.raises(PrivilegeMissing, match="permission denied to create database") as caught,
            scratch_database(there.model_copy(update={"scratch": plain}), like=like(conn)),
        ):
            pass
        assert "CREATEDB" in (caught.value.hint or "")
    finally:
        conn.execute("DROP ROLE kg_test_plain")


def test_an_encoding_that_no_locale_fits_is_an_error_and_not_a_traceback(there: Settings, conn: Connection) -> None:
    with (
        pytest.raises(DatabaseError, match="while making a scratch database"),
        scratch_database(there, like=like(conn, encoding="KLINGON")),
    ):
        pass


def test_a_place_that_goes_while_it_is_swept_is_passed_over(tmp_path: Path) -> None:
    # Its own process disposes of it without the folder's lock, between the sweeper's look and its grip.
    remove_unless_used(Place(tmp_path / "0123456789ab"))
    assert not list(tmp_path.iterdir())
