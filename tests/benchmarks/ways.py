"""The ways to back up and to restore that tests.benchmarks.vectors compares, each in a process of its own.

    python -m tests.benchmarks.ways WHAT [--index] [--rows N]

is such a process of ours: WHAT is backup, restore (into a scratch server) or restore here (into the same server); or
fill, apart so that what it takes in memory is not seen as another's.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.core.backup.archive import restore_archive
from tasks.core.backup.dump import back_up
from tasks.core.backup.library import find
from tasks.core.postgres.connections import connect, describe
from tasks.core.postgres.scratch import Scratch, scratch_database
from tasks.core.postgres.tools import Tools, tools_for
from tasks.core.settings import CHECKOUT, Settings, load_settings
from tasks.core.store.base import open_store

OURS, LIMIT = "ours", "COPY BINARY to nowhere"
SAME = "ours, same server"


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


def filled(bench: Bench, rows: int) -> int:
    """Fill the database with that many vectors; bytes of its tables."""
    argv, env = _child(bench, "fill")
    return int(measured([*argv, f"--rows={rows}"], env)["bytes"])


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
        return measured(*_child(bench, "restore here" if way == SAME else "restore", index=index))
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
    argv = [sys.executable, "-m", "tests.benchmarks.ways", what, *(["--index"] if index else [])]
    assert bench.settings.address
    address = bench.settings.address
    assert address.password
    url = f"postgresql://{address.user}@{address.host}:{address.port}/{address.dbname}"
    ours = {"KG_HOME": str(bench.folder / "home"), "KG_STORE_URL": (bench.folder / "store").as_uri()}
    ours |= {"SUPABASE_URL": url, "SUPABASE_DB_PASSWORD": address.password.get_secret_value()}
    return argv, {**os.environ, **ours}


def child(what: str, *, index: bool, rows: int) -> None:
    """In a process of its own: `seconds` without the start of Python, which the caller's clock has seen."""
    settings = load_settings("dev")
    if what == "fill":
        from tests.benchmarks.backup import fill

        print(json.dumps({"bytes": fill(settings, rows, 0)}))
        return
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("backup", "restore", "restore here", "fill"))
    parser.add_argument("--rows", type=int, default=0)
    parser.add_argument("--index", action="store_true")
    words = parser.parse_args()
    child(words.what, index=words.index, rows=words.rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
