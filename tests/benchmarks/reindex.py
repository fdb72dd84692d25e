"""Re-indexing by this project beside the guide's DROP INDEX + CREATE INDEX with the server's defaults, in one run.

    uv run python -m tests.benchmarks.reindex --rows 50000

Clustered vectors of 1536 in a durable server of its own with PostgreSQL's default memory and workers. Both ways build
the same parameters over the same rows, with somebody searching and somebody writing meanwhile. Prints a table, then
one JSON document.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from psycopg.sql import SQL, Identifier

from tasks.core.addresses import Address
from tasks.core.operations.operation import operation
from tasks.core.postgres import embedded
from tasks.core.postgres.connections import Connection, connect, describe, vector_extension
from tasks.core.settings import Settings
from tasks.core.vectors.indexes import target_named, targets
from tasks.core.vectors.measure import measure
from tasks.core.vectors.probes import take_probes
from tasks.core.vectors.recall import Figures
from tasks.core.vectors.reindex import rebuild
from tests.integration.reindex_fixtures import INDEX, deployed
from tests.integration.vector_data import fill
from tests.processes import server_of

DEFAULTS = {"maintenance_work_mem": "64MB", "max_parallel_maintenance_workers": "2"}
LOOK_SECONDS = 0.02


@dataclass
class Meanwhile:
    """What others saw while it was built, in seconds. `cpu` is what the server's processes used, all together: on a
    machine that does other things as well it tells more than the clock.
    """

    cpu: float = 0.0
    without_index: float = 0.0
    longest_write: float = 0.0
    looks: int = 0


@dataclass(frozen=True)
class Way:
    """One way to re-index: `total` is all of it, the gate and the probes too."""

    name: str
    build_seconds: float
    total_seconds: float
    meanwhile: Meanwhile
    before: Figures
    after: Figures
    detail: dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--m", type=int, default=32, help="as in the guide's example")
    parser.add_argument("--ef-construction", type=int, default=128)
    chosen = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    with tempfile.TemporaryDirectory(prefix="kg-benchmark-") as folder:
        home = Path(folder)
        home.chmod(0o755)
        report(run(home, chosen.rows, chosen.m, chosen.ef_construction))


def run(home: Path, rows: int, m: int, ef_construction: int) -> dict[str, Any]:
    settings = deployed(embedded.ensure(home), home, 0)
    assert settings.address is not None
    with connect(settings.address, purpose="benchmark") as conn:
        prepare(conn, rows)
        ours = by_this_project(settings, conn, m, ef_construction)
        guide = by_the_guide(settings, conn, m, ef_construction)
        server, vector = describe(conn), vector_extension(conn)
    return {
        "rows": rows,
        "m": m,
        "ef_construction": ef_construction,
        "cpus": os.cpu_count(),
        "server": f"PostgreSQL {server.version}, pgvector {vector.installed}",
        "ways": [asdict(ours), asdict(guide)],
    }


def prepare(conn: Connection, rows: int) -> None:
    """The rows, and an index with the migration's parameters to begin with; the server's defaults for whoever comes."""
    for name, value in DEFAULTS.items():
        conn.execute(SQL("ALTER DATABASE {} SET {} = {}").format(Identifier(conn.info.dbname), Identifier(name), value))
    conn.execute(SQL("DROP INDEX {}").format(Identifier(INDEX)))
    say(f"writing {rows:,} vectors")
    fill(conn, rows)
    conn.execute("SET maintenance_work_mem = '2GB'; SET min_parallel_table_scan_size = 0")
    say("building the index to begin with")
    conn.execute(
        SQL(
            "CREATE INDEX {} ON code_embeddings USING hnsw (embedding vector_cosine_ops)"
            " WITH (m = 16, ef_construction = 64)"
        ).format(Identifier(INDEX))
    )
    conn.execute("VACUUM ANALYZE code_embeddings")


def by_this_project(settings: Settings, conn: Connection, m: int, ef_construction: int) -> Way:
    say("re-index by this project")
    before = figures(settings, conn)
    began = time.monotonic()
    with watched(settings.address, settings.home / "postgres") as meanwhile, operation(settings, "reindex") as held:
        done = rebuild(held, INDEX, m, ef_construction)
    total = time.monotonic() - began
    detail = {
        "expected_seconds": done.plan.expected_seconds,
        "maintenance_work_mem_mb": done.plan.maintenance_work_mem // 2**20,
        "workers": done.built.workers,
        "outgrown": done.built.outgrown,
    }
    return Way("this project", done.built.seconds, total, meanwhile, before, figures(settings, conn), detail)


def by_the_guide(settings: Settings, conn: Connection, m: int, ef_construction: int) -> Way:
    """In a session of its own, with what the server has by default."""
    say("re-index by the guide")
    before = figures(settings, conn)
    notices: list[str] = []
    assert settings.address is not None
    began = time.monotonic()
    with (
        watched(settings.address, settings.home / "postgres") as meanwhile,
        connect(settings.address, purpose="guide") as session,
    ):
        session.add_notice_handler(lambda notice: notices.append(notice.message_primary or ""))
        session.execute(SQL("DROP INDEX IF EXISTS {}").format(Identifier(INDEX)))
        session.execute(
            SQL(
                "CREATE INDEX {} ON code_embeddings USING hnsw (embedding vector_cosine_ops)"
                " WITH (m = {}, ef_construction = {})"
            ).format(Identifier(INDEX), m, ef_construction)
        )
    total = time.monotonic() - began
    return Way("the guide", total, total, meanwhile, before, figures(settings, conn), {"notices": notices})


def figures(settings: Settings, conn: Connection) -> Figures:
    column = target_named(targets(conn, settings), INDEX).column
    found = measure(conn, column, INDEX, take_probes(conn, column, settings.reindex), settings.reindex)
    assert found
    return found


@contextmanager
def watched(address: Address | None, place: Path) -> Iterator[Meanwhile]:
    """Somebody who looks whether a search has an index, and somebody who writes, beside the block."""
    assert address is not None
    seen, done = Meanwhile(), threading.Event()

    def look(conn: Connection) -> None:
        conn.execute("SET enable_seqscan = off; SET enable_sort = off")  # whether there is one, not whether it is liked
        row = conn.execute(
            "EXPLAIN (FORMAT JSON) SELECT id FROM code_embeddings"
            " ORDER BY embedding <=> array_fill(1::real, ARRAY[1536])::vector LIMIT 10"
        ).fetchone()
        assert row
        seen.looks += 1
        if "Order By" not in json.dumps(row[0]):
            seen.without_index += time.monotonic() - looked[0]
        looked[0] = time.monotonic()

    def write(conn: Connection) -> None:
        began = time.monotonic()
        with conn.transaction(force_rollback=True):
            conn.execute("LOCK TABLE code_embeddings IN ROW EXCLUSIVE MODE")
        seen.longest_write = max(seen.longest_write, time.monotonic() - began)

    def count(conn: Connection) -> None:
        for pid, used in cpu_seconds(server).items():
            spent[pid] = used - spent_before.get(pid, 0.0)

    looked, spent = [time.monotonic()], dict[int, float]()
    server = server_of(place)
    spent_before = cpu_seconds(server)
    threads = [threading.Thread(target=repeat, args=(address, each, done)) for each in (look, write, count)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        done.set()
        for thread in threads:
            thread.join()
        seen.cpu = sum(spent.values())


def cpu_seconds(server: int) -> dict[int, float]:
    """Of each process of the server with that pid, so far."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            words = path.read_text().rpartition(")")[2].split()
            if int(words[1]) == server:
                found[int(path.parent.name)] = (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
    return found


def repeat(address: Address, work: Callable[[Connection], None], done: threading.Event) -> None:
    with connect(address, purpose="meanwhile") as conn:
        while not done.wait(LOOK_SECONDS):
            work(conn)


def report(found: dict[str, Any]) -> None:
    ours, guide = found["ways"]
    print(
        f"\n{found['rows']:,} clustered vectors of 1536, m={found['m']}, ef_construction={found['ef_construction']}, "
        f"{found['server']}, {found['cpus']} processors\n"
    )
    lines = [("", "this project", "the guide")]
    for words, pick in (
        ("build, s", lambda way: f"{way['build_seconds']:.1f}"),
        ("CPU of the server, s", lambda way: f"{way['meanwhile']['cpu']:.1f}"),
        ("all of it, s", lambda way: f"{way['total_seconds']:.1f}"),
        ("searches without an index, s", lambda way: f"{way['meanwhile']['without_index']:.1f}"),
        ("longest wait of a write, s", lambda way: f"{way['meanwhile']['longest_write']:.1f}"),
        ("recall@10 before", lambda way: recall(way["before"])),
        ("recall@10 after", lambda way: recall(way["after"])),
        ("planner takes it before/after", lambda way: f"{by_default(way['before'])} / {by_default(way['after'])}"),
        ("P95 before, ms", lambda way: f"{way['before']['p95_ms']:.2f}"),
        ("P95 after, ms", lambda way: f"{way['after']['p95_ms']:.2f}"),
    ):
        lines.append((words, pick(ours), pick(guide)))
    for words, one, other in lines:
        print(f"{words:32}{one:>24}{other:>24}")
    print(f"\nbuild {guide['build_seconds'] / ours['build_seconds']:.1f} times as fast\n")
    print(json.dumps(found, indent=2))


def recall(found: dict[str, Any]) -> str:
    one = found["recall"]
    return f"{one['mean']:.3f} (worst {one['minimum']:.2f})"


def by_default(found: dict[str, Any]) -> str:
    return "yes" if found["by_default"] else "no"


def say(text: str) -> None:
    logging.getLogger("benchmark").info("%s", text)


if __name__ == "__main__":
    main()
