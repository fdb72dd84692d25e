"""Roles and owners: a plain owner of the database, one with limits of its own, and an application that owns nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from psycopg import errors
from psycopg.sql import SQL, Identifier
from pydantic import SecretStr

from tasks.core.addresses import Address
from tasks.core.backup.drill import drill
from tasks.core.backup.dump import back_up
from tasks.core.backup.manifest import Proof
from tasks.core.errors import PrivilegeMissing, RehearsalFailed
from tasks.core.operations.plan import preview
from tasks.core.operations.rehearsal import rehearse_on
from tasks.core.operations.rehearsed import Rehearsed
from tasks.core.postgres.connections import Connection, connect
from tasks.core.postgres.scratch import Scratch
from tasks.core.schema import ledger
from tasks.core.schema.check import check
from tasks.core.schema.verify import verify
from tasks.core.settings import Settings
from tests.integration.schemas import HAND_RUN
from tests.servers.job import assert_ok, deploy, fill, proved_backup, rollback, rows_in, state

MakeRole = Callable[[str], Address]


@pytest.fixture
def role(conn: Connection, database: Address) -> Iterator[MakeRole]:
    """Makes login roles without any privilege; they and what they own are gone afterwards."""
    made: list[str] = []

    def make(word: str) -> Address:
        name = f"{word}_{uuid4().hex[:8]}"
        conn.execute(SQL("CREATE ROLE {} LOGIN PASSWORD 'plain'").format(Identifier(name)))
        made.append(name)
        return database.model_copy(update={"user": name, "password": SecretStr("plain")})

    yield make
    for name in made:
        conn.execute(SQL("REASSIGN OWNED BY {} TO CURRENT_USER").format(Identifier(name)))
    for name in made:
        conn.execute(SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(Identifier(name)))


@pytest.fixture
def owner(conn: Connection, database: Address, role: MakeRole) -> Address:
    """Owns the database; may make no role, no database and no extension."""
    address = role("owner")
    conn.execute(SQL("ALTER DATABASE {} OWNER TO {}").format(Identifier(database.dbname), Identifier(address.user)))
    if conn.info.server_version < 150000:
        conn.execute(SQL("ALTER SCHEMA public OWNER TO {}").format(Identifier(address.user)))
    return address


@pytest.fixture
def owned(settings: Settings, owner: Address) -> Settings:
    return settings.model_copy(update={"address": owner})


@pytest.fixture
def application(conn: Connection, owner: Address, role: MakeRole) -> Address:
    """Reads and writes the tables of the owner, by default privileges."""
    address = role("app")
    for rights, what in (("SELECT, INSERT, UPDATE, DELETE", "TABLES"), ("USAGE, SELECT", "SEQUENCES")):
        conn.execute(
            SQL("ALTER DEFAULT PRIVILEGES FOR ROLE {} IN SCHEMA public GRANT {} ON {} TO {}").format(
                Identifier(owner.user), SQL(rights), SQL(what), Identifier(address.user)
            )
        )
    return address


def install_vector(conn: Connection, schema: str = "public") -> None:
    """As the administrator does: in a schema that everybody may use."""
    conn.execute(SQL("CREATE SCHEMA IF NOT EXISTS {}").format(Identifier(schema)))
    conn.execute(SQL("CREATE EXTENSION vector SCHEMA {}").format(Identifier(schema)))
    conn.execute(SQL("GRANT USAGE ON SCHEMA {} TO PUBLIC").format(Identifier(schema)))


def grant(conn: Connection, application: Address) -> None:
    """What an administrator grants by hand, after the tables are there."""
    to = Identifier(application.user)
    conn.execute(SQL("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {}").format(to))
    conn.execute(SQL("GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO {}").format(to))


def assert_reads_and_writes(application: Address) -> None:
    with connect(application, purpose="test") as conn, conn.transaction(force_rollback=True):
        conn.execute("INSERT INTO public.code_embeddings (file_path, file_hash) VALUES ('app', 'app')")
        conn.execute("UPDATE public.code_embeddings SET language = 'app' WHERE file_path = 'app'")
        conn.execute("INSERT INTO public.code_patterns (pattern_name, pattern_type, pattern_template, language)"
                     " VALUES ('app', 'app', 'app', 'app')")  # fmt: skip
        assert rows_in(conn) >= 1
        assert conn.execute("DELETE FROM public.code_embeddings WHERE file_path = 'app'").rowcount == 1


@pytest.mark.parametrize("schema", ["public", "extensions"])
def test_a_plain_owner_does_all_of_it(owned: Settings, application: Address, conn: Connection, schema: str) -> None:
    install_vector(conn, schema)
    before = state(owned)
    deploy(owned)
    assert_reads_and_writes(application)
    fill(conn)
    saved, deployed = proved_backup(owned), state(owned)
    conn.execute("DELETE FROM code_embeddings WHERE id > 7")
    replaced = rollback(owned, "restore", saved, yes=True).replaced
    assert (rows_in(conn), state(owned)) == (20, deployed)
    assert_reads_and_writes(application)
    with connect(application, purpose="test") as session, pytest.raises(errors.InsufficientPrivilege):
        rows_in(session, schema=replaced or "")
    rollback(owned, "reset", yes=True)
    assert_reads_and_writes(application)
    assert_ok(verify(owned))
    # What was put back counts as applied, hence it can be reverted, and all of it done again.
    assert rollback(owned, "revert").fingerprint == before
    deploy(owned)
    assert_reads_and_writes(application)
    owners = conn.execute("SELECT DISTINCT tableowner::text FROM pg_tables WHERE schemaname IN ('public', 'kg_ops')")
    assert owned.address
    assert owners.fetchall() == [(owned.address.user,)]


def test_without_pgvector_the_administrators_statement_is_said(owned: Settings, conn: Connection) -> None:
    vector = next(one for one in check(owned).checks if one.name == "pgvector")
    assert (vector.status, "CREATE EXTENSION vector" in vector.remedy) == ("failed", True)
    with pytest.raises(PrivilegeMissing) as refused:
        preview(owned)
    assert "CREATE EXTENSION vector" in (refused.value.hint or "")
    conn.execute("CREATE EXTENSION vector")  # exactly that
    deploy(owned)


def test_limits_that_the_role_has_by_default_end_nothing(owned: Settings, conn: Connection, tmp_path: Path) -> None:
    install_vector(conn, "extensions")
    assert owned.address
    role = Identifier(owned.address.user)
    for setting in ("statement_timeout = '400ms'", "search_path = pg_catalog", "lock_timeout = '10ms'"):
        conn.execute(SQL("ALTER ROLE {} SET {}").format(role, SQL(setting)))  # type: ignore[arg-type]
    slow = Path(shutil.copytree(owned.migrations, tmp_path / "migrations"))
    (slow / "002_take_time.up.sql").write_text("SELECT pg_sleep(0.6);\n")
    (slow / "002_take_time.down.sql").write_text("SELECT pg_sleep(0.6);\n")
    limited = owned.model_copy(update={"migrations": slow})
    deploy(limited)
    fill(conn)
    saved, deployed = proved_backup(limited), state(limited)
    conn.execute("DELETE FROM code_embeddings")
    rollback(limited, "restore", saved, yes=True)
    assert (rows_in(conn), state(limited)) == (20, deployed)
    assert_ok(verify(limited))


def test_the_application_works_after_adoption(owned: Settings, conn: Connection, role: MakeRole) -> None:
    """Tables that were made by hand, with grants of their own."""
    install_vector(conn)
    application = role("app")
    assert owned.address
    with connect(owned.address, purpose="test") as by_hand:
        by_hand.execute(
            HAND_RUN.read_text(encoding="utf-8").replace("CREATE EXTENSION", "-- CREATE EXTENSION").encode()
        )
        grant(by_hand, application)
        fill(by_hand)
    deploy(owned)
    assert [entry.kind for entry in ledger.entries(conn)] == ["adopted"]
    assert_reads_and_writes(application)
    saved = proved_backup(owned)
    conn.execute("DELETE FROM code_embeddings")
    rollback(owned, "restore", saved, yes=True)
    assert rows_in(conn) == 20
    assert_reads_and_writes(application)
    assert_ok(verify(owned))


def test_grants_made_by_hand_stand_and_outlive_a_restore_of_an_older_backup(
    owned: Settings, conn: Connection, role: MakeRole
) -> None:
    install_vector(conn)
    deploy(owned)
    saved = proved_backup(owned)
    application = role("app")
    assert owned.address
    with connect(owned.address, purpose="test") as by_hand:
        grant(by_hand, application)
    assert_reads_and_writes(application)
    assert_ok(verify(owned))
    rollback(owned, "restore", saved, yes=True)
    assert_reads_and_writes(application)
    assert_ok(verify(owned))


CANNOT = {
    "CREATE ROLE made_by_migration;": "permission denied to create role",
    "COPY code_patterns (pattern_name) FROM '/etc/hostname';": "permission denied to COPY from a file",
    "CREATE EXTENSION pageinspect;": 'permission denied to create extension "pageinspect"',
    "ALTER TABLE theirs ADD COLUMN ours int;": "must be owner of table theirs",
    "INSERT INTO theirs VALUES (1);": "permission denied for table theirs",
    "CREATE TABLE private.more (id int);": "permission denied for schema private",
}
ELSEWHERE = "DO $do$ BEGIN IF current_schema() = 'public' THEN EXECUTE {}; END IF; END $do$;"


def with_second(settings: Settings, folder: Path, up: str, down: str = "SELECT 1;") -> Settings:
    ahead = Path(shutil.copytree(settings.migrations, folder / "migrations"))
    (ahead / "002_change_something.up.sql").write_text(up)
    (ahead / "002_change_something.down.sql").write_text(down)
    return settings.model_copy(update={"migrations": ahead})


def rehearsed(settings: Settings) -> tuple[Rehearsed, ...]:
    """What a deploy does before it asks anybody: back up, prove, and try on the copy what is pending."""
    found: list[Rehearsed] = []
    pending = preview(settings).pending
    drill(settings, back_up(settings),
          lambda scratch, proof: found.extend(rehearse_on(scratch, settings, pending, proof.tables)))  # fmt: skip
    return tuple(found)


def test_what_the_role_may_not_do_fails_in_the_rehearsal(
    owned: Settings, conn: Connection, role: MakeRole, tmp_path: Path
) -> None:
    """Hidden from the plan, which tries migrations in a scratch schema on the database's own server."""
    install_vector(conn)
    assert owned.address
    mine, other = Identifier(owned.address.user), Identifier(role("other").user)
    conn.execute("CREATE TABLE theirs (id int); CREATE SCHEMA private")
    conn.execute(SQL("ALTER TABLE theirs OWNER TO {0}; ALTER SCHEMA private OWNER TO {0}").format(other))
    conn.execute(SQL("GRANT SELECT ON theirs TO {0}; GRANT USAGE ON SCHEMA private TO {0}").format(mine))
    deploy(owned)
    before = state(owned)

    def on_the_copy(scratch: Scratch, proof: Proof) -> None:
        for number, (statement, said) in enumerate(CANNOT.items()):
            ahead = with_second(owned, tmp_path / str(number), ELSEWHERE.format(f"$st${statement}$st$"))
            with pytest.raises(RehearsalFailed, match=rf"002_change_something\.up\.sql:1:1: {said}") as failed:
                rehearse_on(scratch, ahead, preview(ahead).pending, proof.tables)
            assert f"with the rights that {owned.address.user} has" in (failed.value.hint or "")
            assert "the database was not touched" in (failed.value.hint or "")

    drill(owned, back_up(owned), on_the_copy)
    assert state(owned) == before


def test_what_the_role_may_do_passes_with_its_rights(
    owned: Settings, conn: Connection, role: MakeRole, tmp_path: Path
) -> None:
    """Rights by membership, by attribute, by the database and by a schema's grants."""
    install_vector(conn)
    assert owned.address
    mine, group = Identifier(owned.address.user), Identifier(role("group").user)
    conn.execute("CREATE TABLE theirs (id int); CREATE SCHEMA granted")
    conn.execute(SQL("ALTER TABLE theirs OWNER TO {1}; GRANT {1} TO {0}; GRANT ALL ON SCHEMA granted TO {0};"
                     "ALTER ROLE {0} CREATEROLE").format(mine, group))  # fmt: skip
    deploy(owned)
    name = f"made_{uuid4().hex[:8]}"
    may = f"ALTER TABLE theirs ADD COLUMN ours int; CREATE TABLE granted.more (id int); CREATE ROLE {name};"
    back = f"ALTER TABLE theirs DROP COLUMN ours; DROP TABLE granted.more; DROP ROLE {name};"
    [one] = rehearsed(with_second(owned, tmp_path, ELSEWHERE.format(f"$st${may}$st$"),
                                  ELSEWHERE.format(f"$st${back}$st$")))  # fmt: skip
    assert one.down_seconds is not None
    assert str(one).endswith(f"; with the rights of {owned.address.user}")


def test_what_a_platform_lends_to_its_roles_is_lent_in_the_rehearsal(
    owned: Settings, conn: Connection, database: Address, tmp_path: Path
) -> None:
    """A managed server lets its roles create extensions by hooks that a scratch server has not; no table of others'."""
    install_vector(conn)
    deploy(owned)
    conn.execute(SQL("ALTER DATABASE {} SET supautils.privileged_extensions = 'pageinspect'").format(
        Identifier(database.dbname)))  # fmt: skip
    up, down = "CREATE EXTENSION pageinspect;", "DROP EXTENSION pageinspect;"
    [one] = rehearsed(with_second(owned, tmp_path, *(ELSEWHERE.format(f"$st${each}$st$") for each in (up, down))))
    assert "but as a superuser for: 002_change_something.up.sql:1:1: permission denied to create extension" in str(one)


def test_a_server_of_the_operators_has_rights_of_its_own(
    owned: Settings, conn: Connection, postgres: Address, tmp_path: Path
) -> None:
    install_vector(conn)
    deploy(owned)
    up, down = "CREATE EXTENSION pageinspect;", "DROP EXTENSION pageinspect;"
    ahead = with_second(owned, tmp_path, *(ELSEWHERE.format(f"$st${each}$st$") for each in (up, down)))
    [one] = rehearsed(ahead.model_copy(update={"scratch": postgres}))
    assert owned.address
    assert f"; with the rights of {postgres.user} on KG_SCRATCH_URL's server, not of {owned.address.user}" in str(one)
