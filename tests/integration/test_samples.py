"""The sample of rows whose content is compared: of every table, with a primary key or without."""

from __future__ import annotations

import pytest

from tasks.core.backup.contents import dumped_tables, sample_rows
from tasks.core.backup.drill import drill
from tasks.core.backup.dump import back_up
from tasks.core.backup.manifest import MANIFEST, Backup
from tasks.core.errors import DrillFailed
from tasks.core.postgres.connections import Connection
from tasks.core.settings import Settings
from tasks.core.store.base import open_store

# Without a key, with rows that occur twice, and with so many that not all are sampled.
KEYLESS = """
CREATE TABLE keyless (n int, sampled text, j jsonb);
INSERT INTO keyless SELECT n % 400, 'word ' || n % 400, '{"a": [1, null]}' FROM generate_series(1, 800) AS n;
CREATE TABLE alike (word text, v float8[]);
INSERT INTO alike SELECT repeat('x', 64) || n % 90, ARRAY[n % 90, 0.1] FROM generate_series(1, 95) AS n;
CREATE TABLE columnless ();
INSERT INTO columnless DEFAULT VALUES;
"""


def samples(conn: Connection) -> dict[str, str]:
    return sample_rows(conn, dumped_tables(conn, ["public"]))


def test_the_order_of_rows_changes_no_sample(conn: Connection) -> None:
    conn.execute(KEYLESS.encode())
    before = samples(conn)
    assert set(before) == {"public.keyless", "public.alike", "public.columnless"}
    for table in ("keyless", "alike"):
        conn.execute(
            f"CREATE TABLE public.{table}_2 AS SELECT * FROM public.{table} ORDER BY 1 DESC, random()".encode()
        )
        conn.execute(f"DROP TABLE public.{table}; ALTER TABLE public.{table}_2 RENAME TO {table}".encode())
    assert samples(conn) == before


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE public.alike SET v = '{1e9}' WHERE v[1] = 50",
        "DELETE FROM public.alike WHERE ctid = (SELECT min(ctid) FROM public.alike WHERE v[1] = 1)",  # it occurs twice
        "INSERT INTO public.alike SELECT * FROM public.alike WHERE v[1] = 50",
        "UPDATE public.alike SET word = word || ' '",
    ],
)
def test_another_row_or_one_more_of_the_same_changes_it(conn: Connection, change: str) -> None:
    conn.execute(KEYLESS.encode())
    before = samples(conn)
    conn.execute(change.encode())
    after = samples(conn)
    assert {name for name in before if before[name] != after[name]} == {"public.alike"}


@pytest.mark.slow
def test_a_copy_with_other_content_of_a_table_without_a_key_is_not_proved(settings: Settings, conn: Connection) -> None:
    conn.execute(KEYLESS.encode())
    true = back_up(settings)
    proof = drill(settings, true)
    assert proof.ok
    assert proof.unsampled == ()
    conn.execute("UPDATE public.alike SET v = '{1e9}' WHERE v[1] = 50")
    other = back_up(settings)
    forged = Backup(manifest=other.manifest.model_copy(update={"samples": true.manifest.samples}).sealed())
    open_store(settings).put(forged.key(MANIFEST), [forged.manifest.to_json()])
    with pytest.raises(DrillFailed, match=r"sampled content of public\.alike"):
        drill(settings, forged)
