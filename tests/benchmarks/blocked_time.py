"""The longest stall that eight clients see: during deploy, revert and swap of ours, and the guide's commands by hand.

    python -m tests.benchmarks.blocked_time --rows 20000

Four writers and four readers of code_embeddings go on without a pause; a stall is the time from one statement's turn to
its success, reconnections included. `nothing` is what they see when nobody deploys: the machine's own noise.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from psycopg.sql import SQL, Identifier

from tasks.core.addresses import Address
from tasks.core.backup.drill import drill
from tasks.core.backup.dump import back_up
from tasks.core.operations.rollback import Request
from tasks.core.postgres import embedded
from tasks.core.postgres.connections import connect, describe
from tasks.core.postgres.tools import Tools, tools_for
from tasks.core.settings import CHECKOUT, Settings, load_settings
from tests.faults.runs import deploy, rollback
from tests.faults.workload import Workload

# A change as applications make them: a column, and an index on a table that is written to.
UP = (
    "ALTER TABLE code_embeddings ADD COLUMN reviewed boolean NOT NULL DEFAULT false;",
    "-- migrate: no-transaction\n"
    "CREATE INDEX CONCURRENTLY IF NOT EXISTS code_embeddings_reviewed_idx ON code_embeddings (reviewed, file_path);",
)
DOWN = (
    "ALTER TABLE code_embeddings DROP COLUMN reviewed;",
    "-- migrate: no-transaction\nDROP INDEX CONCURRENTLY IF EXISTS code_embeddings_reviewed_idx;",
)
BY_HAND = "".join(text.replace("CONCURRENTLY ", "") for text in UP)


class Bench:
    def __init__(self, folder: Path, rows: int) -> None:
        self.folder = folder
        self.server = embedded.ensure(folder / "server")
        self.migrations = Path(shutil.copytree(CHECKOUT / "sql" / "migrations", folder / "migrations"))
        with connect(self.server.database("postgres"), purpose="benchmark") as conn:
            conn.execute("CREATE DATABASE base")
        deploy(self.settings("base"), drilled=False)
        self._fill(rows)
        for number, (up, down) in enumerate(zip(UP, DOWN, strict=True), start=2):
            (self.migrations / f"{number:03d}_review_files.up.sql").write_text(up)
            (self.migrations / f"{number:03d}_review_files.down.sql").write_text(down)

    def settings(self, name: str) -> Settings:
        loaded = load_settings("dev", {"KG_HOME": str(self.folder / "home")})
        found = {"address": self.server.database(name), "store_url": (self.folder / "store").as_uri()}
        return loaded.model_copy(update={**found, "migrations": self.migrations})

    def measure(self, title: str, work: Callable[[Settings], object], before: Callable[[Settings], object]) -> None:
        """One line: how long it took, what eight clients saw of it."""
        with self._database("bench"):
            settings = self.settings("bench")
            before(settings)
            assert settings.address is not None
            address: Address = settings.address
            with Workload(lambda: address, writers=4, readers=4, pause=0.0) as workload:
                time.sleep(1.0)
                workload.stall = 0.0
                started = time.monotonic()
                work(settings)
                took = time.monotonic() - started
                time.sleep(0.5)
        print(f"{title:34s} {took:7.1f} s   {workload.stall * 1000:9.0f} ms   {workload.errors:6d}", flush=True)

    def tools(self) -> Tools:
        with connect(self.server.database("base"), purpose="benchmark") as conn:
            return tools_for(describe(conn).major, self.folder / "home")

    def _fill(self, rows: int) -> None:
        with connect(self.server.database("base"), purpose="benchmark") as conn:
            conn.execute("SET maintenance_work_mem = '512MB'")
            conn.execute("DROP INDEX code_embeddings_embedding_idx")
            conn.execute(
                "INSERT INTO code_embeddings (file_path, file_hash, embedding) SELECT 'src/' || n, md5(n::text),"
                " (SELECT array_agg(random() + 0 * n * k) FROM generate_series(1, 1536) AS k)::vector"
                f" FROM generate_series(1, {rows}) AS n".encode()
            )
            conn.execute(
                "CREATE INDEX code_embeddings_embedding_idx ON code_embeddings USING hnsw (embedding vector_cosine_ops)"
                " WITH (m = 16, ef_construction = 64)"
            )

    @contextmanager
    def _database(self, name: str) -> Iterator[None]:
        with connect(self.server.database("postgres"), purpose="benchmark") as conn:
            conn.execute(SQL("CREATE DATABASE {} TEMPLATE base").format(Identifier(name)))
            try:
                yield
            finally:
                conn.execute(SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(name)))


def by_hand(settings: Settings) -> None:
    """The guide's appendix: the migration's SQL, as it is, in one session."""
    assert settings.address is not None
    with connect(settings.address, purpose="hand") as conn:
        conn.execute(BY_HAND.encode())


def restore_by_hand(bench: Bench, settings: Settings) -> None:
    """The guide's rollback: drop the database, create it, pg_restore; here with FORCE, since it is in use."""
    assert settings.address is not None
    name = Identifier(settings.address.dbname)
    with connect(bench.server.database("postgres"), purpose="hand") as conn:
        conn.execute(SQL("DROP DATABASE {} WITH (FORCE)").format(name))
        conn.execute(SQL("CREATE DATABASE {}").format(name))
    _pg_restore(bench, settings)


def restore_at_once(bench: Bench, settings: Settings) -> None:
    """A careful operator's: pg_restore replaces what is there in one transaction."""
    _pg_restore(bench, settings, "--clean", "--if-exists", "--single-transaction")


def _pg_restore(bench: Bench, settings: Settings, *options: str) -> None:
    """It says so if it has not come to its end: what is written meanwhile may be in its way."""
    assert settings.address is not None
    words = [
        bench.tools().pg_restore,
        *options,
        f"--dbname={settings.address.dbname}",
        str(bench.folder / "by_hand.dump"),
    ]
    done = subprocess.run(words, env=settings.address.environment(), check=False, capture_output=True, text=True)
    if done.returncode:
        print(f"pg_restore ended with {done.returncode}: {done.stderr.strip()}", flush=True)


def dump_by_hand(bench: Bench, settings: Settings) -> None:
    assert settings.address is not None
    words = [bench.tools().pg_dump, "--format=custom", f"--file={bench.folder / 'by_hand.dump'}"]
    subprocess.run(words, env=settings.address.environment(), check=True)
    by_hand(settings)


def main(rows: int) -> None:
    folder = Path(tempfile.mkdtemp(prefix="kg-blocked-"))
    folder.chmod(0o755)
    bench = Bench(folder, rows)
    print(f"{rows:,} rows of vector(1536), 4 writers and 4 readers")
    print(f"{'':34s} {'took':>9s}   {'longest stall':>12s}   errors")

    def nothing(settings: Settings) -> None: ...

    def quick(settings: Settings) -> None:
        deploy(settings, drilled=False)

    def backed_up(settings: Settings) -> None:
        backup = back_up(settings)  # of this very database: another's is refused
        drill(settings, backup)
        proved.append(backup.id)
        quick(settings)

    def swap(settings: Settings) -> None:
        rollback(settings, Request("restore", proved[-1], yes=True))

    proved: list[str] = []

    bench.measure("nothing", lambda _: time.sleep(5), nothing)
    bench.measure("kg deploy (backup, drill, migrate)", deploy, nothing)
    bench.measure("kg rollback by revert", lambda each: rollback(each, Request("revert", yes=True)), quick)
    bench.measure("kg rollback by restore (swap)", swap, backed_up)
    bench.measure("by hand: the SQL in psql", by_hand, nothing)
    for title, restore in (
        ("by hand: dropdb, pg_restore", restore_by_hand),
        ("by hand: pg_restore -1 --clean", restore_at_once),
    ):
        bench.measure(title, lambda each, way=restore: way(bench, each), lambda each: dump_by_hand(bench, each))  # type: ignore[misc]
    shutil.rmtree(folder / "home", ignore_errors=True)
    shutil.rmtree(folder / "store", ignore_errors=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000)
    main(parser.parse_args().rows)
