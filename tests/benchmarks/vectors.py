"""Backups and restores of vectors, beside what an operator would use instead: one database, one run, medians.

    uv run python -m tests.benchmarks.vectors --rows 100000 --rounds 3 --out vectors.json

At a tenth, three tenths and all of the rows: vector(1536) with text beside it, in a durable server of its own with
PostgreSQL's default settings. Prints a table, writes JSON and beside it a plot (SVG). Each way is a process of its own;
CPU seconds and peak memory are those of the client's side, not the server's, and a peak below this process's own 70 MB
is shown as that. `ours` is all of a backup: locks, snapshot, counts, fingerprint, pg_dump, streams, checksums, fsync,
manifest (`work_s`: without the start of Python); or all of a restore, every checksum compared.
Restores: `rows` is until the rows are there to be searched exactly, `index` until the HNSW index is there too.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.core.backup.archive import restore_archive
from tasks.core.backup.dump import back_up
from tasks.core.backup.library import find
from tasks.core.postgres import embedded
from tasks.core.postgres.connections import connect, describe
from tasks.core.postgres.scratch import Scratch, scratch_database
from tasks.core.postgres.tools import Tools, tools_for
from tasks.core.settings import CHECKOUT, Settings, load_settings
from tasks.core.store.base import open_store
from tests.benchmarks.backup import fill
from tests.benchmarks.engine_cost import engine_cost
from tests.benchmarks.plot import plot
from tests.processes import server_of

OURS, LIMIT = "ours", "COPY BINARY to nowhere"
HNSW = "CREATE INDEX code_embeddings_embedding_idx ON code_embeddings USING hnsw (embedding vector_cosine_ops)"
COLUMNS = ("seconds", "cpu_s", "peak_mb", "stored_mb", "mb_s")


@dataclass
class Bench:
    """The server and the folder that all ways share."""

    settings: Settings
    folder: Path
    tools: Tools

    def words(self, program: str) -> str:
        return str(self.tools.pg_dump.parent / program)

    def env(self) -> dict[str, str]:
        assert self.settings.address
        return {**os.environ, **self.settings.address.environment(), "BIN": str(self.tools.pg_dump.parent)}


BACKUPS = {
    "pg_dump -Fc": '"$BIN"/pg_dump -Fc -f "$OUT/a"',
    "pg_dump -Fc --compress=1": '"$BIN"/pg_dump -Fc --compress=1 -f "$OUT/a"',
    "pg_dump -Fd -j2": '"$BIN"/pg_dump -Fd -j2 -f "$OUT/a"',
    "pg_dump -Fd -j2 --compress=1": '"$BIN"/pg_dump -Fd -j2 --compress=1 -f "$OUT/a"',
    "pg_dump | zstd -1 -T2": '"$BIN"/pg_dump -Fc -Z0 | zstd -1 -T2 -q -o "$OUT/a"',
    "pg_basebackup": '"$BIN"/pg_basebackup -D "$OUT/a" -X stream -c fast',
    LIMIT: '"$BIN"/psql -Xqc "COPY code_embeddings TO STDOUT (FORMAT binary)" > /dev/null',
}
RESTORE = '"$BIN"/pg_restore --no-owner --exit-on-error {words} -d "$TO" "$FROM"'
ROWS = " --section=pre-data --section=data"


def measured(argv: list[str], env: dict[str, str]) -> dict[str, float]:
    """Wall and CPU seconds and peak memory (MB) of a process with its children. Raises when it fails."""
    began = time.monotonic()
    child = subprocess.Popen(argv, env=env, cwd=CHECKOUT, stdout=subprocess.PIPE)
    said = child.stdout.read() if child.stdout else b""
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.monotonic() - began
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, argv)
    figures = {"seconds": seconds, "cpu_s": usage.ru_utime + usage.ru_stime, "peak_mb": usage.ru_maxrss / 1024}
    return {**figures, **(json.loads(said) if said.startswith(b"{") else {})}


def size_mb(path: Path) -> float:
    return sum(each.stat().st_size for each in path.rglob("*") if each.is_file()) / 1e6


def back_up_once(bench: Bench, way: str) -> dict[str, float]:
    out = bench.folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    if way == OURS:
        store = bench.folder / "store"
        shutil.rmtree(store, ignore_errors=True)
        figures = measured(*_child(bench, "backup"))
        return {**figures, "stored_mb": size_mb(store)}
    env = {**bench.env(), "OUT": str(out)}
    figures = measured(["bash", "-euo", "pipefail", "-c", BACKUPS[way]], env)
    figures["stored_mb"] = size_mb(out)
    if way in ("pg_dump -Fc", "pg_dump -Fd -j2"):
        shutil.rmtree(bench.folder / f"kept {way}", ignore_errors=True)
        out.rename(bench.folder / f"kept {way}")
    return figures


def restore_once(bench: Bench, way: str, *, index: bool) -> dict[str, float]:
    """`seconds` until the rows are there, `index_s` until the index is."""
    if way.startswith(OURS):
        return measured(*_child(bench, "restore here" if way.endswith("same server") else "restore", index=index))
    assert bench.settings.address
    name = "restored"
    kept = bench.folder / ("kept pg_dump -Fd -j2" if "-j2" in way else "kept pg_dump -Fc") / "a"
    env = {**bench.env(), "FROM": str(kept), "TO": name}
    jobs = " -j2" if "-j2" in way else ""
    with connect(bench.settings.address, purpose="benchmark") as conn:
        conn.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)".encode())
        conn.execute(f"CREATE DATABASE {name} TEMPLATE template0".encode())
    found = measured(["bash", "-euc", RESTORE.format(words=ROWS + jobs)], env)
    if index:
        after = measured(["bash", "-euc", RESTORE.format(words=" --section=post-data" + jobs)], env)
        found |= {"index_s": found["seconds"] + after["seconds"]}
    return found


def _child(bench: Bench, what: str, *, index: bool = False) -> tuple[list[str], dict[str, str]]:
    argv = [sys.executable, "-m", "tests.benchmarks.vectors", "--child", what, *(["--index"] if index else [])]
    assert bench.settings.address
    address = bench.settings.address
    assert address.password
    url = f"postgresql://{address.user}@{address.host}:{address.port}/{address.dbname}"
    ours = {"KG_HOME": str(bench.folder / "home"), "KG_STORE_URL": (bench.folder / "store").as_uri()}
    ours |= {"SUPABASE_URL": url, "SUPABASE_DB_PASSWORD": address.password.get_secret_value()}
    return argv, {**os.environ, **ours}


def child(what: str, *, index: bool) -> None:
    """In a process of its own: `seconds` without the start of Python, which the caller's clock has seen."""
    settings = load_settings("dev")
    if what == "backup":
        began = time.monotonic()
        made = back_up(settings)
        print(json.dumps({"work_s": time.monotonic() - began, "held_s": made.manifest.snapshot_held_seconds}))
        return
    backup = find(open_store(settings), "dev", proved=False)
    assert settings.address
    with connect(settings.address, purpose="benchmark") as conn:
        server = describe(conn)
        if what == "restore here":
            conn.execute("DROP DATABASE IF EXISTS restored WITH (FORCE)")
            conn.execute("CREATE DATABASE restored TEMPLATE template0")
    if what == "restore here":
        place = settings.address.database("restored")
        tools = tools_for(server.major, settings.home)
        _restore(settings, backup, Scratch(place, tools, server, backup.manifest.server.pgvector, own=False), index)
        return
    with scratch_database(settings, like=server) as scratch:
        _restore(settings, backup, scratch, index)


def _restore(settings: Settings, backup: Any, scratch: Scratch, index: bool) -> None:
    from tasks.core.backup import archive

    if not index:
        archive.SECTIONS = ("pre-data", "data")  # type: ignore[assignment]
    began = time.monotonic()
    seconds = restore_archive(settings, backup, scratch)
    total = time.monotonic() - began
    rows = total - seconds.get("post-data", 0.0)
    print(json.dumps({"seconds": rows, **({"index_s": total} if index else {})}))


def median_of(runs: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def in_turn(ways: list[str], rounds: int, once: Callable[[str], dict[str, float]]) -> dict[str, dict[str, float]]:
    """Each way once a round; what cannot be had here is left out with a word."""
    runs: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way in ways:
            with suppress(subprocess.CalledProcessError):
                runs[way].append(once(way))
    return {way: median_of(found) for way, found in runs.items() if len(found) == rounds}


def table(title: str, found: dict[str, dict[str, float]], columns: tuple[str, ...]) -> None:
    print(f"\n{title:<34}" + "".join(f"{name:>11}" for name in columns))
    for way, figures in found.items():
        cells = (f"{figures[name]:>11.2f}" if name in figures else f"{'-':>11}" for name in columns)
        print(f"{way:<34}" + "".join(cells), flush=True)


def one_size(bench: Bench, rows: int, rounds: int, index_rounds: int) -> dict[str, Any]:
    plain = fill(bench.settings, rows, 0) / 1e6
    assert bench.settings.address
    with connect(bench.settings.address, purpose="benchmark") as conn:
        conn.execute("SET maintenance_work_mem = '1GB'")
        conn.execute(HNSW.encode())
        conn.execute("ANALYZE; CHECKPOINT")
    backups = in_turn([OURS, *BACKUPS], rounds, lambda way: back_up_once(bench, way))
    for figures in backups.values():
        figures["mb_s"] = plain / figures["seconds"]
    table(f"{rows:,} rows, {plain:,.0f} MB: backup", backups, (*COLUMNS, "work_s", "held_s"))
    ways = [OURS, f"{OURS}, same server", "pg_restore", "pg_restore -j2"]
    restores = in_turn(ways, rounds, lambda way: restore_once(bench, way, index=False))
    indexed = in_turn(ways, index_rounds, lambda way: restore_once(bench, way, index=True)) if index_rounds else {}
    for way, figures in restores.items():
        figures["mb_s"] = plain / figures["seconds"]
        figures |= {"index_s": indexed[way]["index_s"]} if way in indexed else {}
    table(f"{rows:,} rows: restore", restores, ("seconds", "index_s", "cpu_s", "peak_mb", "mb_s"))
    return {"rows": rows, "table_mb": plain, "backup": backups, "restore": restores}


def verdicts(found: dict[str, Any]) -> dict[str, float]:
    """The ratios that are asked for, each the better the larger, but for the third (at most 1.4)."""
    backup, restore = found["backup"], found["restore"]
    ours, plain = backup[OURS], backup["pg_dump -Fc"]
    others = [figures["seconds"] for way, figures in backup.items() if way.startswith("pg_dump")]
    best = restore[OURS]
    ratios = {
        "times as fast as pg_dump -Fc (>= 35)": plain["seconds"] / ours["work_s"],
        "times as fast as the fastest pg_dump (>= 3)": min(others) / ours["work_s"],
        "of COPY BINARY to nowhere (<= 1.4)": ours["work_s"] / backup[LIMIT]["seconds"],
        "smaller than pg_dump -Fc, per cent (>= 20)": 100 * (1 - ours["stored_mb"] / plain["stored_mb"]),
        "rows restored, times pg_restore (>= 4)": restore["pg_restore"]["seconds"] / best["seconds"],
    }
    if "index_s" in best:
        ratios["index ready, times pg_restore (>= 4)"] = restore["pg_restore"]["index_s"] / best["index_s"]
    return ratios


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--index-rounds", type=int, default=1, help="0: no index is built in the restores")
    parser.add_argument("--out", type=Path, default=Path("vectors.json"))
    parser.add_argument("--no-engine", action="store_true", help="leave out what the flow engine costs")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--index", action="store_true", help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.child:
        child(words.child, index=words.index)
        return 0
    results = []
    for rows in (words.rows // 10, words.rows * 3 // 10, words.rows):
        with tempfile.TemporaryDirectory(prefix="kg-benchmark-") as place:
            folder = Path(place)
            folder.chmod(0o755)
            try:
                address = embedded.ensure(folder / "home")
                settings = load_settings("dev", {"KG_HOME": str(folder / "home")}).model_copy(
                    update={"address": address}
                )
                results.append(
                    one_size(
                        Bench(settings, folder, tools_for(18, settings.home)), rows, words.rounds, words.index_rounds
                    )
                )
            finally:
                stop(folder / "home")
    document = {"sizes": results, "verdicts": verdicts(results[-1])}
    if not words.no_engine:
        document["engine"] = engine_cost()
    for name, value in {**document["verdicts"], **document.get("engine", {})}.items():
        print(f"{value:10.2f}  {name}")
    words.out.write_text(json.dumps(document, indent=1) + "\n")
    words.out.with_suffix(".svg").write_text(plot(results))
    return 0


def stop(home: Path) -> None:
    """End the server of a home."""
    import signal

    for _ in range(100):
        found = server_of(home / "postgres")
        if not found:
            return
        with suppress(ProcessLookupError):
            os.kill(found, signal.SIGINT)
        time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
