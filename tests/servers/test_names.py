"""Names and shapes as people choose them, and other people's tables beside ours."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

import boto3
import pytest
from psycopg.sql import SQL, Identifier, Literal

from tasks.core.addresses import Address
from tasks.core.errors import MigrationFailed
from tasks.core.operations.plan import expected_of
from tasks.core.postgres.connections import Connection, connect
from tasks.core.schema.verify import verify
from tasks.core.settings import Settings, load_settings
from tasks.core.store.base import open_store
from tests.s3 import moto_server, s3_variables
from tests.servers.job import assert_ok, deploy, fill, proved_backup, rollback, rows_in, state

ODD = 'Wissens Graph\'s "Größe" = 5%'
SECRET = 'pass word\'s "Ä"=%/@:#? \\ end'
FOLDER = 'home of "Ä" it\'s = 50% $HOME'

# Tables of others: in our schema, beside it, partitioned, with names close to ours or our very names elsewhere.
OTHERS = """
CREATE TABLE public.orders (id serial PRIMARY KEY, item text);
INSERT INTO public.orders (item) SELECT 'item ' || n FROM generate_series(1, 100) AS n;
CREATE TABLE public."Code_Embeddings" (id int PRIMARY KEY);
INSERT INTO public."Code_Embeddings" VALUES (1);
CREATE TABLE public.code_events (at date NOT NULL, what text) PARTITION BY RANGE (at);
CREATE TABLE public.code_events_2026 PARTITION OF public.code_events FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
INSERT INTO public.code_events VALUES ('2026-02-03', 'something');
CREATE VIEW public.items AS SELECT item FROM public.orders;
CREATE SCHEMA "Other People's";
CREATE TABLE "Other People's".code_embeddings (id int PRIMARY KEY, what text);
INSERT INTO "Other People's".code_embeddings VALUES (1, 'theirs');
CREATE FUNCTION public.touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
CREATE TRIGGER touch BEFORE UPDATE ON public.orders FOR EACH ROW EXECUTE FUNCTION public.touch();
"""
# Every row and every object of theirs, with its number in the catalog: made anew would be another one.
THEIR_STATE = """
SELECT md5(concat((SELECT string_agg(t::text, ';' ORDER BY id) FROM public.orders t),
                  (SELECT string_agg(t::text, ';') FROM public."Code_Embeddings" t),
                  (SELECT string_agg(t::text, ';') FROM public.code_events t),
                  (SELECT string_agg(t::text, ';') FROM "Other People's".code_embeddings t))),
       (SELECT string_agg(concat(c.oid, c.relname, c.relfilenode, c.relacl), ';' ORDER BY c.oid) FROM pg_class c
         WHERE c.relname IN ('orders', 'orders_pkey', 'orders_id_seq', 'Code_Embeddings', 'code_events', 'items',
                             'code_events_2026') OR c.relnamespace = to_regnamespace('"Other People''s"')),
       (SELECT string_agg(concat(oid, tgname, tgenabled), ';') FROM pg_trigger WHERE tgname = 'touch'),
       (SELECT last_value FROM public.orders_id_seq)
"""


@pytest.fixture
def odd(postgres: Address, tmp_path: Path) -> Iterator[Settings]:
    """Settings, read as a user writes them, of a database, role, password and folders with odd names."""
    word = uuid4().hex[:6]
    name, user = f"{ODD} {word}", f'Rolle\'s "Ö" {word}'
    with connect(postgres, purpose="test set-up") as conn:
        conn.execute(SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(Identifier(user), Literal(SECRET)))
        conn.execute(SQL("CREATE DATABASE {} TEMPLATE template0").format(Identifier(name)))
        conn.execute(SQL("ALTER DATABASE {} OWNER TO {}").format(Identifier(name), Identifier(user)))
    with connect(postgres.database(name), purpose="test set-up") as conn:
        conn.execute("CREATE EXTENSION vector")
    folder = tmp_path / FOLDER
    folder.mkdir()
    url = f"postgresql://{quote(user, safe='')}@{postgres.host}:{postgres.port}/{quote(name, safe='')}"
    variables = {"SUPABASE_URL": url, "SUPABASE_DB_PASSWORD": SECRET, "KG_HOME": str(folder)}
    yield load_settings("dev", variables)
    with connect(postgres, purpose="test clean-up") as conn:
        conn.execute(SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(name)))
        conn.execute(SQL("DROP ROLE {}").format(Identifier(user)))


def there_and_back(settings: Settings) -> None:
    """Deploy, fill, back up, damage, restore; the state is proved by rows and fingerprint."""
    assert settings.address
    deploy(settings)
    with connect(settings.address, purpose="test") as conn:
        fill(conn)
        saved, deployed = proved_backup(settings), state(settings)
        conn.execute("DELETE FROM code_embeddings WHERE id > 3")
        rollback(settings, "restore", saved, yes=True)
        assert (rows_in(conn), state(settings)) == (20, deployed)
    assert_ok(verify(settings))


def test_odd_names_of_database_role_password_and_folder(odd: Settings) -> None:
    there_and_back(odd)
    kept = list((odd.home / "backups").rglob("manifest.json"))
    assert len(kept) == 2
    assert SECRET not in "".join(path.read_text(encoding="utf-8") for path in kept)


@pytest.mark.parametrize("place", ["file", "s3"])
def test_odd_names_of_the_store(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    if place == "file":
        odd = settings.model_copy(update={"store_url": (tmp_path / FOLDER).as_uri()})
        deploy(odd)
        assert list((tmp_path / FOLDER).rglob("manifest.json"))
        return
    with moto_server() as endpoint:
        for name, value in s3_variables(endpoint).items():
            monkeypatch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket="odd-names")
        odd = settings.model_copy(update={"store_url": 's3://odd-names/Sicherung "Ä" it\'s = 50%/+ &'})
        backup = deploy(odd)
        keys = [entry.key for entry in open_store(odd).list("dev/")]
        assert f"dev/{backup.id}/proof.json" in keys


def test_others_tables_beside_ours_are_never_touched(settings: Settings, conn: Connection) -> None:
    conn.execute(OTHERS.encode())
    theirs = conn.execute(THEIR_STATE.encode()).fetchone()
    there_and_back(settings)
    assert conn.execute(THEIR_STATE.encode()).fetchone() == theirs
    rollback(settings, "reset", yes=True)
    rollback(settings, "revert", yes=True)
    assert conn.execute(THEIR_STATE.encode()).fetchone() == theirs


def test_no_rows_at_all(settings: Settings, conn: Connection) -> None:
    deploy(settings)
    saved, deployed = proved_backup(settings), state(settings)
    assert saved.restorable
    conn.execute("DROP INDEX code_embeddings_embedding_idx")
    rollback(settings, "restore", saved)  # nothing is lost, so nobody needs to say yes
    assert (rows_in(conn), state(settings)) == (0, deployed)
    assert_ok(verify(settings))


def test_a_vector_column_too_wide_for_an_index_is_said_with_its_remedy(settings: Settings, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(settings.migrations, tmp_path / "migrations"))
    column = folder / "002_add_wide_embedding.up.sql"
    column.write_text("ALTER TABLE code_patterns ADD COLUMN IF NOT EXISTS wide vector(3072);\n")
    column.with_name("002_add_wide_embedding.down.sql").write_text("ALTER TABLE code_patterns DROP COLUMN wide;\n")
    wider = settings.model_copy(update={"migrations": folder})
    deploy(wider)
    said = next(one for one in verify(wider).checks if one.name == "width of code_patterns.wide")
    assert said.status == "ok"
    assert "3072 dimensions are more than the 2,000" in said.detail
    assert "halfvec(3072)" in said.detail

    index = folder / "003_index_wide_embedding.up.sql"
    index.write_text("CREATE INDEX wide_idx ON code_patterns USING hnsw (wide vector_cosine_ops);\n")
    index.with_name("003_index_wide_embedding.down.sql").write_text("DROP INDEX wide_idx;\n")
    assert settings.address
    with connect(settings.address, purpose="test") as conn, pytest.raises(MigrationFailed) as refused:
        expected_of(conn, wider)
    assert "003_index_wide_embedding.up.sql:1:" in refused.value.message
    assert "halfvec" in (refused.value.hint or "")
