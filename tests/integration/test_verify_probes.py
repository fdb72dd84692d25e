"""verify's live probes: they try the tables out, and leave nothing behind."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from psycopg.sql import SQL, Identifier

from tasks.core.addresses import Address
from tasks.core.postgres.connections import Connection, connect, vector_extension
from tasks.core.schema.probes import NAMES
from tasks.core.schema.verify import verify, verify_on
from tasks.core.settings import CHECKOUT, Settings
from tests.integration.checking import failing, found, role
from tests.integration.verifying import TABLES, deploy, deployed

__all__ = ["deployed", "role"]  # fixtures


def everything(conn: Connection) -> list[tuple[object, ...]]:
    """Relations with their files and planner's figures, rows, sequences, and what else probes could leave."""
    state = conn.execute(
        "SELECT relname, relfilenode, relkind, reltuples, relhastriggers FROM pg_class"
        " WHERE relnamespace NOT IN ('pg_catalog'::regnamespace, 'pg_toast'::regnamespace) ORDER BY 1"
    ).fetchall()
    for table in TABLES.split(", "):
        state += conn.execute(SQL("SELECT t.*::text FROM {} t ORDER BY id").format(Identifier(table))).fetchall()
        state += conn.execute(SQL("TABLE {}").format(Identifier(f"{table}_id_seq"))).fetchall()
    return [*state, *conn.execute("SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' ORDER BY 1").fetchall()]


def test_nothing_of_a_verification_remains(conn: Connection, deployed: Settings) -> None:
    before = everything(conn)
    assert verify(deployed).ok
    assert everything(conn) == before


def test_without_probes_nothing_is_written(conn: Connection, deployed: Settings) -> None:
    verify(deployed)  # from now on the expected catalog is at hand
    with connect(deployed.address, purpose="test") as reader:  # type: ignore[arg-type]
        reader.execute("SET default_transaction_read_only = on")
        report = verify_on(reader, deployed, probes=False)
        assert report.ok
        assert [found(report, name) for name in NAMES] == ["skipped: probes were left out on request"] * 4
        assert failing(verify_on(reader, deployed)) == {"read and write"}


def as_role(conn: Connection, role: Address, statement: str) -> None:
    conn.execute(SQL(statement).format(Identifier(role.user)))  # type: ignore[arg-type]


def test_a_role_that_may_not_write_fails(conn: Connection, deployed: Settings, role: Address) -> None:
    as_role(conn, role, f'GRANT CREATE ON DATABASE "{conn.info.dbname}" TO {{0}}')
    as_role(conn, role, "GRANT USAGE ON SCHEMA kg_ops TO {0}; GRANT SELECT ON ALL TABLES IN SCHEMA kg_ops TO {0}")
    as_role(conn, role, "GRANT SELECT ON ALL TABLES IN SCHEMA public TO {0}; "
                        "GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO {0}")  # fmt: skip
    report = verify(deployed.model_copy(update={"address": role}))
    said = found(report, "read and write")
    assert said.startswith("failed: code_embeddings: permission denied for table code_embeddings (GRANT SELECT, INSERT")
    assert found(report, "updated_at triggers").startswith("skipped")


def test_a_role_that_row_security_filters_fails(conn: Connection, deployed: Settings, role: Address) -> None:
    as_role(conn, role, f'GRANT CREATE ON DATABASE "{conn.info.dbname}" TO {{0}}')
    as_role(conn, role, "GRANT USAGE ON SCHEMA kg_ops TO {0}; GRANT SELECT ON ALL TABLES IN SCHEMA kg_ops TO {0}")
    as_role(conn, role, "GRANT ALL ON ALL TABLES IN SCHEMA public TO {0}; "
                        "GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {0}")  # fmt: skip
    conn.execute("ALTER TABLE code_patterns ENABLE ROW LEVEL SECURITY")
    conn.execute("CREATE POLICY half ON code_patterns USING (id > 10)")
    report = verify(deployed.model_copy(update={"address": role}))
    assert "code_patterns" in found(report, "read and write")
    assert "row-level security" in found(report, "read and write")


def test_a_row_that_cannot_be_made_up_is_skipped_with_its_reason(conn: Connection, deployed: Settings) -> None:
    conn.execute("ALTER TABLE code_patterns ADD CHECK (pattern_name LIKE 'only this%')")
    report = verify(deployed)
    assert failing(report) == {"schema"}
    assert "code_patterns: no row could be made up: " in found(report, "unique constraints")


def test_a_table_that_someone_has_locked_is_not_waited_for(database: Address, deployed: Settings) -> None:
    verify(deployed)
    with connect(database, purpose="holder") as holder, holder.transaction():
        holder.execute("LOCK TABLE code_relationships IN SHARE MODE")
        began = time.monotonic()
        report = verify(deployed)
        assert time.monotonic() - began < 3
    assert failing(report) == {"read and write"}
    assert "code_relationships: canceling statement due to lock timeout (another session holds it" in found(
        report, "read and write"
    )


def test_readers_and_writers_do_not_wait_for_a_verification(database: Address, deployed: Settings) -> None:
    longest, done = [0.0], threading.Event()

    def work() -> None:
        with connect(database, purpose="workload") as mine:
            while not done.is_set():
                began = time.monotonic()
                mine.execute("INSERT INTO code_embeddings (file_path, file_hash) VALUES (gen_random_uuid(), 'x')")
                mine.execute("SELECT count(*) FROM code_embeddings")
                longest[0] = max(longest[0], time.monotonic() - began)

    worker = threading.Thread(target=work)
    worker.start()
    for _ in range(3):
        assert verify(deployed).ok
    done.set()
    worker.join()
    assert longest[0] < 0.5


OTHER_TYPES = """
CREATE TYPE mood AS ENUM ('fine', 'tired');
CREATE DOMAIN short AS text CHECK (length(value) < 30);
CREATE TABLE more (
    id uuid PRIMARY KEY, number bigint GENERATED ALWAYS AS IDENTITY UNIQUE, code short NOT NULL UNIQUE DEFERRABLE
    INITIALLY DEFERRED, at timestamptz NOT NULL, mood mood NOT NULL, tags text[] NOT NULL, raw bytea NOT NULL,
    yes boolean NOT NULL, address inet NOT NULL, span interval NOT NULL, hours int4range NOT NULL, day time NOT NULL,
    doc jsonb NOT NULL, price numeric(8, 2) NOT NULL, doubled numeric GENERATED ALWAYS AS (price * 2) STORED,
    half halfvec(8) NOT NULL, product vector(8), updated_at timestamptz DEFAULT now()
);
CREATE INDEX ON more USING hnsw (half halfvec_l2_ops);
CREATE INDEX ON more USING hnsw (product vector_ip_ops);
CREATE TRIGGER touch BEFORE UPDATE ON more FOR EACH ROW EXECUTE FUNCTION knowledge_graph_set_updated_at();
"""


def test_probes_know_every_type_from_the_catalog_alone(conn: Connection, settings: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "migrations"
    folder.mkdir()
    for path in (CHECKOUT / "sql" / "migrations").glob("001*"):
        (folder / path.name).write_bytes(path.read_bytes())
    half = vector_extension(conn).available not in ("0.5.1", "0.6.2")  # halfvec came with 0.7
    (folder / "002_more.up.sql").write_text(OTHER_TYPES if half else OTHER_TYPES.replace("halfvec", "vector"))
    (folder / "002_more.down.sql").write_text("DROP TABLE more; DROP DOMAIN short; DROP TYPE mood;")
    wider = settings.model_copy(update={"migrations": folder})
    deploy(conn, wider)
    report = verify(wider)
    assert report.ok, report
    for columns in ("(id)", "(number)", "(code)"):
        assert f"more {columns} refuses a duplicate" in found(report, "unique constraints")
    assert "more.half finds" in found(report, "similarity search")
    assert "more.product finds" in found(report, "similarity search")
    assert "more keeps it true" in found(report, "updated_at triggers")
