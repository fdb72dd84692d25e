"""The databases of tests: empty on an ordinary server, as the platform hands them out on a Supabase-shaped one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from psycopg.sql import SQL, Identifier
from pydantic import SecretStr

from tasks.core.addresses import Address
from tasks.core.postgres.connections import connect
from tasks.core.postgres.scratch import private_cluster

SHAPE = Path(__file__).parent / "servers" / "supabase.sql"
TIMEOUT = "2min"  # what Supabase lets a statement take
_platforms: dict[int, Address] = {}  # the superuser of each Supabase-shaped server, by its port

# Tests that a Supabase-shaped server cannot run: why -> what their names contain.
CANNOT = {
    "it breaks something by means of a superuser": (
        "UPDATE pg_index",
        "test_an_index_that_the_planner_may_not_use_fails",
        "test_an_invalid_index_has_its_statement",
        "test_a_unique_index_that_does_not_work_is_noticed",
        "test_a_deadlock_is_tried_again",
        "test_a_restore_without_transaction_timeout",
    ),
    "it makes a role and works as that role, which CREATEROLE alone does not allow": (
        "test_an_administrators_statement_names_the_role",
        "test_a_role_without_the_privilege_is_told",
        "test_a_ledger_that_may_not_be_read",
        "test_a_role_that_may_not_write_fails",
        "test_a_role_that_row_security_filters_fails",
        "test_a_role_that_may_not_create_the_extension",
        "test_roles_are_made_in_our_own_cluster_only",
        "test_a_role_that_reads_everything_may_back_up",
        "test_an_unreadable_table_is_named_with_the_grant",
        "test_row_security_is_an_error_and_not_a_smaller_backup",
    ),
    "it wants pgvector in public, or not there yet, or puts it elsewhere itself": (
        "test_an_empty_database_is_to_be_migrated",
        "test_what_the_migration_made_is_adopted_without",
        "test_a_name_that_is_taken_is_refused",
        "test_another_schema_with_the_extension_elsewhere",
        "test_roles_policies_schemas_and_an_extension_elsewhere",
        "test_the_session_of_a_migration",
        "test_a_missing_schema_is_named",
        "test_without_a_transaction_statements_run_one_by_one",
        "test_staging_has_applied_but_not_verified",
        "test_staging_has_applied_another_file",
        "test_what_the_whole_server_would_feel",
        "test_what_staging_has_rolled_back",
        "test_a_scratch_server_of_the_operators",
    ),
    "it expects tables without row security, as they are where the Data API's roles are not": (
        "test_what_the_old_script_made_is_adopted",
        "row security expected no",
        "ENABLE ROW LEVEL SECURITY",
    ),
    "it dumps or locks every table of the database, where some are the platform's": (
        "test_only_the_scope_is_dumped",
        "test_odd_names_partitions_inheritance",
        "test_the_locks_come_before_the_snapshot",
        "test_nobody_truncates_while_the_snapshot_is_held",
        "test_the_server_bounds_how_long_a_snapshot_is_held",
    ),
}


def cannot_run_on_supabase(name: str) -> str:
    """Why not, "" where it can."""
    return next((why for why, words in CANNOT.items() if any(word in name for word in words)), "")


@contextmanager
def supabase_server(folder: Path) -> Iterator[Address]:
    """The address that a project's owner gets: no superuser's, and the database is not that role's."""
    with private_cluster(folder) as superuser:
        with connect(superuser.database("postgres"), purpose="platform") as conn:
            conn.execute(SHAPE.read_bytes())
        _platforms[superuser.port] = superuser
        try:
            owner = {"dbname": "postgres", "user": "postgres", "password": SecretStr("secret")}
            yield superuser.model_copy(update=owner)
        finally:
            del _platforms[superuser.port]


def is_supabase(server: Address) -> bool:
    return server.port in _platforms


@contextmanager
def new_database(server: Address, name: str) -> Iterator[Address]:
    """A database for the length of the block; whatever is still connected then is ended."""
    maker, identifier = _platforms.get(server.port, server), Identifier(name)
    template = Identifier("postgres" if is_supabase(server) else "template0")
    with connect(maker, purpose="test set-up") as conn:
        conn.execute(SQL("CREATE DATABASE {} TEMPLATE {}").format(identifier, template))
        if is_supabase(server):  # a copy has neither the rights of its template nor its settings
            conn.execute(SQL("ALTER DATABASE {} OWNER TO supabase_admin").format(identifier))
            conn.execute(SQL("GRANT ALL ON DATABASE {} TO postgres").format(identifier))
            conn.execute(SQL("ALTER DATABASE {} SET statement_timeout = {}").format(identifier, TIMEOUT))
    try:
        yield server.database(name)
    finally:
        with connect(maker, purpose="test clean-up") as conn:
            conn.execute(SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(identifier))
