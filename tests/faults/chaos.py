"""kill -9 at every step boundary and at random moments, of our process and of PostgreSQL, under a running workload.

    python -m tests.faults.chaos --minutes 10 --seed 7

After each kill `recover` runs (and is itself killed now and then); then the fingerprint is the old or the new one, no
committed row is lost, and no scratch database, staging schema, invalid index, lock or session remains (proofs.py). A
restore keeps the replaced tables or database: a row counts as lost when it is in neither.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
from psycopg.sql import SQL, Identifier

from tasks.core.errors import OpsError
from tasks.core.operations.migrate import our_fingerprint
from tasks.core.operations.plan import expected_of
from tasks.core.postgres import embedded
from tasks.core.postgres.connections import Connection, connect
from tasks.core.settings import CHECKOUT, Settings, load_settings
from tests.faults.proofs import beside, leftovers, lost
from tests.faults.runs import deploy, recovered, variables
from tests.faults.strikes import VICTIMS, Kill, Tally, Victim, What
from tests.faults.workload import Workload

ROWS = 200
OLD, NEW = "chaos_old", "chaos_new"
DEEDS: tuple[What, ...] = ("deploy", "revert", "restore", "reset", "whole database")
FORWARD = ("deploy", "kg deploy")  # they begin at the old revision, the others at the new one
WHOLE = (3.0, 20.0)  # seconds into `kg deploy`: from the engine's start to past its end
SIGNALS = {"server -9": signal.SIGKILL, "server immediate": signal.SIGQUIT}
MIGRATIONS = {
    "002_review_patterns.up.sql": "ALTER TABLE code_patterns ADD COLUMN reviewed boolean NOT NULL DEFAULT false;\n"
    "CREATE INDEX code_patterns_reviewed_idx ON code_patterns (reviewed);",
    "002_review_patterns.down.sql": "ALTER TABLE code_patterns DROP COLUMN reviewed;",
    "003_index_hashes.up.sql": "-- migrate: no-transaction\n"
    "CREATE INDEX CONCURRENTLY IF NOT EXISTS code_embeddings_tokens_idx ON code_embeddings (tokens_count);\n"
    "CREATE INDEX CONCURRENTLY IF NOT EXISTS code_embeddings_both_idx ON code_embeddings (language, file_hash);",
    "003_index_hashes.down.sql": "-- migrate: no-transaction\n"
    "DROP INDEX CONCURRENTLY IF EXISTS code_embeddings_both_idx;\n"
    "DROP INDEX CONCURRENTLY IF EXISTS code_embeddings_tokens_idx;",
}


class Chaos:
    """A durable server of its own in `folder`, with a database at the old and one at the new revision to clone."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.tally, self.number = folder, Tally(), 0
        self.migrations = Path(shutil.copytree(CHECKOUT / "sql" / "migrations", folder / "migrations"))
        self.server = embedded.ensure(folder / "server")
        self._template(OLD)
        for name, text in MIGRATIONS.items():
            (self.migrations / name).write_text(text)
        with self._maintenance() as conn:
            conn.execute(f"CREATE DATABASE {NEW} TEMPLATE {OLD}")
        deploy(self.settings(NEW))
        self.fingerprints = {self._fingerprint(OLD): "old", self._fingerprint(NEW): "new"}
        assert len(self.fingerprints) == 2
        self.events: dict[What, tuple[int, float]] = {what: self._count(what) for what in DEEDS}

    def settings(self, database: str) -> Settings:
        loaded = load_settings("dev", {"KG_HOME": str(self.folder / "home")})
        return loaded.model_copy(
            update={
                "address": self.server.database(database),
                "scratch": self.server.database("postgres"),
                "store_url": (self.folder / "store").as_uri(),
                "migrations": self.migrations,
            }
        )

    def strike(self, kill: Kill) -> None:
        """One kill, the recovery, and the proof of the state."""
        self.server = embedded.ensure(self.folder / "server")
        self.number += 1
        name = f"chaos_{self.number}"
        wrong: list[str] = []
        with self._database(name, OLD if kill.what in FORWARD else NEW):
            with Workload(lambda: self.server.database(name)) as workload:
                self._kill(kill, name)
                try:
                    self._recover(kill, name)
                except OpsError as error:
                    wrong.append(f"recover: {error}")
                time.sleep(0.05)
            wrong += self._wrong(kill.what, name, workload)
        self.tally.wrong += [f"{kill}: {each}" for each in wrong]

    def _kill(self, kill: Kill, name: str) -> None:
        target = "self" if kill.victim == "kg" else f"{self._postmaster()}:{int(SIGNALS[kill.victim])}"
        child = self._command(name) if kill.what == "kg deploy" else self._victim(name, kill.what, kill.event, target)
        rival = self._victim(name, "deploy", 0, "self") if kill.rival else None
        if not kill.event:
            with suppress(subprocess.TimeoutExpired):
                child.wait(timeout=kill.after)
            ended = child.poll() is not None
            if kill.victim == "kg":
                child.kill()
            else:
                os.kill(self._postmaster(), SIGNALS[kill.victim])
            self.tally.missed += ended
        child.communicate(timeout=120)
        if rival:
            _, said = rival.communicate(timeout=120)
            self.tally.rivals["won" if rival.returncode == 0 else said.partition(":")[0]] += 1
        self.tally.kills += 1
        self.tally.victims[f"{kill.victim} at a boundary" if kill.event else f"{kill.victim} at a moment"] += 1
        self.server = embedded.ensure(self.folder / "server")

    def _recover(self, kill: Kill, name: str) -> None:
        if kill.again:
            self._victim(name, "recover", kill.again, "self").communicate(timeout=120)
        started = time.monotonic()
        done = recovered(self.settings(name))
        self.tally.slowest = max(self.tally.slowest, time.monotonic() - started)
        self.tally.recoveries += 1
        self.tally.actions.update(action.what for action in done.actions)

    def _wrong(self, what: What, name: str, workload: Workload) -> list[str]:
        found = self.fingerprints.get(self._fingerprint(name))
        wrong = [] if found else ["the fingerprint is neither the old nor the new one"]
        self.tally.ends[found or "neither"] += 1
        with connect(self.server.database(name), purpose="chaos") as conn:
            gone = lost(workload.committed, conn, self.server.database, reset=what == "reset")
            self.tally.lost += len(gone)
            self.tally.rows += len(workload.committed)
            if gone:
                wrong.append(f"lost {len(gone)} committed rows")
            deadline = time.monotonic() + 3  # a session may be told to go, and need a moment
            while (left := leftovers(conn)) and time.monotonic() < deadline:
                time.sleep(0.1)
        return wrong + left

    def _victim(self, name: str, what: str, event: int, target: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.faults.victim", what, str(event), target],
            env=variables(self.settings(name)),
            cwd=CHECKOUT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _command(self, name: str) -> subprocess.Popen[str]:
        """`kg deploy dev --yes`, with a Prefect server of its own that outlives no kill: it ends with its client."""
        own = {"PREFECT_HOME": str(self.folder / "prefect"), "DO_NOT_TRACK": "1"}
        return subprocess.Popen(
            [sys.executable, "-c", "from flows.cli import main; main()", "deploy", "dev", "--yes"],
            env=variables(self.settings(name)) | own,
            cwd=CHECKOUT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def _count(self, what: What) -> tuple[int, float]:
        """How many events it has, and how long it takes, undisturbed."""
        with self._database("chaos_count", OLD if what in FORWARD else NEW):
            started = time.monotonic()
            said, error = self._victim("chaos_count", what, 0, "self").communicate(timeout=120)
            assert said, error
            return int(said), time.monotonic() - started

    def _template(self, name: str) -> None:
        with self._maintenance() as conn:
            conn.execute(SQL("CREATE DATABASE {}").format(Identifier(name)))
        deploy(self.settings(name), drilled=False)
        with connect(self.server.database(name), purpose="chaos") as conn:
            conn.execute(
                "INSERT INTO code_embeddings (file_path, file_hash, embedding) SELECT 'src/' || n, md5(n::text),"
                " (SELECT array_agg(sin(n * k)) FROM generate_series(1, 1536) AS k)::vector"
                f" FROM generate_series(1, {ROWS}) AS n".encode()
            )

    def _fingerprint(self, name: str) -> str:
        settings = self.settings(name)
        with connect(self.server.database(name), purpose="chaos") as conn:
            return our_fingerprint(conn, "public", expected_of(conn, settings))

    def _postmaster(self) -> int:
        with self._maintenance() as conn:
            backend = conn.info.backend_pid
            return int(Path(f"/proc/{backend}/stat").read_text().rpartition(")")[2].split()[1])

    def _maintenance(self) -> Connection:
        return connect(self.server.database("postgres"), purpose="chaos")

    @contextmanager
    def _database(self, name: str, template: str) -> Iterator[None]:
        with self._maintenance() as conn:
            conn.execute(SQL("CREATE DATABASE {} TEMPLATE {}").format(Identifier(name), Identifier(template)))
        try:
            yield
        finally:
            with self._maintenance() as conn:
                for each in (name, *beside(conn)):
                    conn.execute(SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(each)))


def plan(chaos: Chaos, chance: random.Random, *, whole: bool) -> Iterator[Kill]:
    """For ever: kills at boundaries and at random moments, of each victim, in an order that the seed decides; `whole`:
    of the whole command too, which is slow to start.
    """
    while True:
        boundaries = [
            (what, event, victim)
            for what, (count, _) in chaos.events.items()
            for event in range(1, count + 1)
            for victim in VICTIMS
        ]
        chance.shuffle(boundaries)
        for what, event, victim in boundaries:
            again = chance.randint(1, 12) if chance.random() < 0.25 else 0
            yield Kill(what, victim, event=event, again=again)
            if chance.random() < 0.4:
                moment = chance.choice(DEEDS)
                after = chance.uniform(0.3, chaos.events[moment][1])
                yield Kill(moment, _victim_of(chance), after=after, again=again)
            if chance.random() < 0.2:
                yield Kill("deploy", _victim_of(chance), event=chance.randint(1, chaos.events["deploy"][0]), rival=True)
            if whole and chance.random() < 0.2:
                yield Kill("kg deploy", _victim_of(chance), after=chance.uniform(*WHOLE))


def _victim_of(chance: random.Random) -> Victim:
    return chance.choices(VICTIMS, [6, 1, 1])[0]


def rage(seconds: float, seed: int, *, verbose: bool = False, whole: bool = False) -> Tally:
    """Kill for about so many seconds; the tally has what went wrong."""
    folder = Path(tempfile.mkdtemp(prefix="kg-chaos-"))
    folder.chmod(0o755)
    chaos = None
    try:
        chaos = Chaos(folder)
        deadline = time.monotonic() + seconds  # what has been made ready may have taken a busy machine longer
        for kill in plan(chaos, random.Random(seed), whole=whole):
            if time.monotonic() > deadline:
                return chaos.tally
            try:
                chaos.strike(kill)
            except (OpsError, psycopg.Error, subprocess.TimeoutExpired) as error:
                chaos.tally.wrong.append(f"{kill}: no proof could be made: {error}")
            if verbose:
                print(f"{chaos.tally.kills:4d}  {kill}", *chaos.tally.wrong[-1:], sep="  ", flush=True)
        raise AssertionError("the plan has no end")
    except BaseException:
        if chaos and verbose:
            print(chaos.tally, *chaos.tally.wrong, sep="\n")
        raise
    finally:
        for name in ("home", "store") if chaos and chaos.tally.wrong else ("",):  # what else is there tells how it came
            shutil.rmtree(folder / name, ignore_errors=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    chosen = parser.parse_args()
    print(f"seed {chosen.seed}")
    outcome = rage(chosen.minutes * 60, chosen.seed, verbose=True, whole=True)
    print(outcome, *outcome.wrong, sep="\n")
    sys.exit(bool(outcome.wrong or outcome.lost))
