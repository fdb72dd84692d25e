"""Backups and restores of vectors, beside what an operator would use instead: one database, one run, medians.

    uv run python -m tests.benchmarks.vectors --rows 100000 --rounds 3 --out vectors.json

With --resume it goes on behind the last size that was done. At a tenth, three tenths and all of the rows: vector(1536)
of unit length with a preview of source code beside each, in a durable server of its own with PostgreSQL's default
settings. Prints each trial as it ends and a table for each size, writes JSON and beside it a plot (SVG). Each way is a
process of its own; CPU seconds and peak memory are those of the client's side, not the server's, and a peak below this
process's own 70 MB is shown as that. `ours` is all of a backup: locks, snapshot, counts, fingerprint, pg_dump, streams,
checksums, fsync, manifest (`work_s`: without the start of Python); or all of a restore, every checksum compared.
Restores: `rows` is until the rows are there to be searched exactly, `index` until the HNSW index is there too.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tasks.core.postgres import embedded
from tasks.core.postgres.connections import connect
from tasks.core.postgres.tools import tools_for
from tasks.core.settings import load_settings
from tests.benchmarks.engine_cost import engine_cost
from tests.benchmarks.plot import plot
from tests.benchmarks.ways import BACKUPS, LIMIT, OURS, SAME, Bench, back_up_once, filled, restore_once
from tests.processes import server_of

HNSW = "CREATE INDEX code_embeddings_embedding_idx ON code_embeddings USING hnsw (embedding vector_cosine_ops)"
COLUMNS = ("seconds", "cpu_s", "peak_mb", "stored_mb", "mb_s")


def median_of(runs: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def in_turn(ways: list[str], rounds: int, once: Callable[[str], dict[str, float]]) -> dict[str, dict[str, float]]:
    """Each way once a round, told as it goes; what cannot be had here is left out with a word."""
    runs: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for number in range(1, rounds + 1):
        for way in ways:
            try:
                found = once(way)
            except subprocess.CalledProcessError as error:
                print(f"  round {number}: {way} failed with status {error.returncode}", file=sys.stderr, flush=True)
                continue
            runs[way].append(found)
            said = ", ".join(f"{name} {value:.2f}" for name, value in found.items())
            print(f"  round {number}: {way}: {said}", file=sys.stderr, flush=True)
    return {way: median_of(found) for way, found in runs.items() if len(found) == rounds}


def table(title: str, found: dict[str, dict[str, float]], columns: tuple[str, ...]) -> None:
    print(f"\n{title:<34}" + "".join(f"{name:>11}" for name in columns))
    for way, figures in found.items():
        cells = (f"{figures[name]:>11.2f}" if name in figures else f"{'-':>11}" for name in columns)
        print(f"{way:<34}" + "".join(cells), flush=True)


def one_size(bench: Bench, rows: int, rounds: int, index_rounds: int) -> dict[str, Any]:
    plain = filled(bench, rows) / 1e6
    assert bench.settings.address
    with connect(bench.settings.address, purpose="benchmark") as conn:
        conn.execute("SET maintenance_work_mem = '1GB'")
        conn.execute(HNSW.encode())
        conn.execute("ANALYZE; CHECKPOINT")
    backups = in_turn([OURS, *BACKUPS], rounds, lambda way: back_up_once(bench, way))
    for figures in backups.values():
        figures["mb_s"] = plain / figures["seconds"]
    table(f"{rows:,} rows, {plain:,.0f} MB: backup", backups, (*COLUMNS, "work_s", "held_s"))
    ways = [OURS, SAME, "pg_restore", "pg_restore -j2"]
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
    usual = restore["pg_restore"]
    ratios = {
        "times as fast as pg_dump -Fc (>= 35)": plain["seconds"] / ours["work_s"],
        "times as fast as the fastest pg_dump (>= 3)": min(others) / ours["work_s"],
        "of COPY BINARY to nowhere (<= 1.4)": ours["work_s"] / backup[LIMIT]["seconds"],
        "smaller than pg_dump -Fc, per cent (>= 20)": 100 * (1 - ours["stored_mb"] / plain["stored_mb"]),
        "rows restored, times pg_restore (>= 4)": usual["seconds"] / restore[OURS]["seconds"],
        "rows restored into the same server, times pg_restore": usual["seconds"] / restore[SAME]["seconds"],
    }
    for way, name in ((OURS, "index ready"), (SAME, "index ready in the same server")):
        if "index_s" in restore[way]:
            ratios[f"{name}, times pg_restore (>= 4)"] = usual["index_s"] / restore[way]["index_s"]
    return ratios


def growth(sizes: Sequence[dict[str, Any]]) -> dict[str, float]:
    """How many times as long ten times the rows take, from the smallest size to the largest: 10 is linear."""
    small, large = sizes[0], sizes[-1]
    tenfolds = math.log10(large["rows"] / small["rows"])
    found = {}
    for kind, way, name in (
        ("backup", OURS, "work_s"),
        ("backup", OURS, "stored_mb"),
        ("restore", OURS, "seconds"),
        ("restore", OURS, "index_s"),
        ("restore", "pg_restore", "index_s"),
    ):
        if name in small[kind][way] and name in large[kind][way]:
            factor = (large[kind][way][name] / small[kind][way][name]) ** (1 / tenfolds)
            found[f"growth for ten times the rows: {kind} {name}, {way}"] = factor
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--index-rounds", type=int, default=1, help="0: no index is built in the restores")
    parser.add_argument("--out", type=Path, default=Path("vectors.json"))
    parser.add_argument("--resume", action="store_true", help="keep the sizes that --out has already")
    parser.add_argument("--no-engine", action="store_true", help="leave out what the flow engine costs")
    words = parser.parse_args()
    kept = json.loads(words.out.read_text())["sizes"] if words.resume and words.out.exists() else []
    results = {each["rows"]: each for each in kept}
    for rows in (words.rows // 10, words.rows * 3 // 10, words.rows):
        if rows not in results:
            results[rows] = on_a_server(
                lambda bench, rows=rows: one_size(bench, rows, words.rounds, words.index_rounds)
            )
            # After each size: whoever has to end this loses one.
            words.out.write_text(json.dumps({"sizes": list(results.values())}, indent=1) + "\n")
    sizes = [results[rows] for rows in sorted(results)]
    document = {"sizes": sizes, "verdicts": verdicts(sizes[-1]), "growth": growth(sizes)}
    if not words.no_engine:
        document["engine"] = engine_cost()
    for name, value in {**document["verdicts"], **document["growth"], **document.get("engine", {})}.items():
        print(f"{value:10.2f}  {name}")
    words.out.write_text(json.dumps(document, indent=1) + "\n")
    words.out.with_suffix(".svg").write_text(plot(sizes))
    return 0


def on_a_server(use: Callable[[Bench], dict[str, Any]]) -> dict[str, Any]:
    """With a durable server of its own, on an empty database."""
    with tempfile.TemporaryDirectory(prefix="kg-benchmark-") as place:
        folder = Path(place)
        folder.chmod(0o755)
        try:
            address = embedded.ensure(folder / "home")
            settings = load_settings("dev", {"KG_HOME": str(folder / "home")}).model_copy(update={"address": address})
            return use(Bench(settings, folder, tools_for(18, settings.home)))
        finally:
            stop(folder / "home")


def stop(home: Path) -> None:
    """End the server of a home."""
    for _ in range(100):
        found = server_of(home / "postgres")
        if not found:
            return
        with suppress(ProcessLookupError):
            os.kill(found, signal.SIGINT)
        time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
