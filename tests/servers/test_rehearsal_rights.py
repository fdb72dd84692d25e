"""A rehearsal has the rights of the target's role: what that may not do fails on the copy, and not in the database."""

from __future__ import annotations

import shutil
from pathlib import Path
from uuid import uuid4

import pytest
from psycopg.sql import SQL, Identifier

from tasks.core.addresses import Address
from tasks.core.backup.drill import drill
from tasks.core.backup.dump import back_up
from tasks.core.backup.manifest import Proof
from tasks.core.errors import RehearsalFailed
from tasks.core.operations.plan import preview
from tasks.core.operations.rehearsal import rehearse_on
from tasks.core.operations.rehearsed import Rehearsed
from tasks.core.postgres.connections import Connection
from tasks.core.postgres.scratch import Scratch
from tasks.core.settings import Settings
from tests.servers.job import deploy, state
from tests.servers.roles import MakeRole, install_vector, owned, owner, role

__all__ = ["owned", "owner", "role"]  # fixtures


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


def user_of(settings: Settings) -> str:
    assert settings.address
    return settings.address.user


def others_table(conn: Connection, owned: Settings, other: Address, schema: str) -> tuple[Identifier, Identifier]:
    """A table of `other`, and a schema beside it; our role and the other, for statements."""
    install_vector(conn)
    conn.execute(SQL("CREATE TABLE theirs (id int); CREATE SCHEMA {}").format(Identifier(schema)))
    theirs = Identifier(other.user)
    conn.execute(SQL("ALTER TABLE theirs OWNER TO {}").format(theirs))
    return Identifier(user_of(owned)), theirs


def test_what_the_role_may_not_do_fails_in_the_rehearsal(
    owned: Settings, conn: Connection, role: MakeRole, tmp_path: Path
) -> None:
    """Hidden from the plan, which tries migrations in a scratch schema on the database's own server."""
    mine, other = others_table(conn, owned, role("other"), "private")
    conn.execute(SQL("ALTER SCHEMA private OWNER TO {}").format(other))
    conn.execute(SQL("GRANT SELECT ON theirs TO {0}; GRANT USAGE ON SCHEMA private TO {0}").format(mine))
    deploy(owned)
    before = state(owned)

    def on_the_copy(scratch: Scratch, proof: Proof) -> None:
        for number, (statement, said) in enumerate(CANNOT.items()):
            ahead = with_second(owned, tmp_path / str(number), ELSEWHERE.format(f"$st${statement}$st$"))
            with pytest.raises(RehearsalFailed, match=rf"002_change_something\.up\.sql:1:1: {said}") as failed:
                rehearse_on(scratch, ahead, preview(ahead).pending, proof.tables)
            assert f"with the rights that {user_of(owned)} has" in (failed.value.hint or "")
            assert "the database was not touched" in (failed.value.hint or "")

    drill(owned, back_up(owned), on_the_copy)
    assert state(owned) == before


def test_what_the_role_may_do_passes_with_its_rights(
    owned: Settings, conn: Connection, role: MakeRole, tmp_path: Path
) -> None:
    """Rights by membership, by attribute, by the database and by a schema's grants."""
    mine, group = others_table(conn, owned, role("group"), "granted")
    conn.execute(
        SQL("GRANT {1} TO {0}; GRANT ALL ON SCHEMA granted TO {0}; ALTER ROLE {0} CREATEROLE").format(mine, group)
    )
    deploy(owned)
    name = f"made_{uuid4().hex[:8]}"
    may = f"ALTER TABLE theirs ADD COLUMN ours int; CREATE TABLE granted.more (id int); CREATE ROLE {name};"
    back = f"ALTER TABLE theirs DROP COLUMN ours; DROP TABLE granted.more; DROP ROLE {name};"
    [one] = rehearsed(with_second(owned, tmp_path, ELSEWHERE.format(f"$st${may}$st$"),
                                  ELSEWHERE.format(f"$st${back}$st$")))  # fmt: skip
    assert one.down_seconds is not None
    assert str(one).endswith(f"; with the rights of {user_of(owned)}")


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
