"""What each revision should look like, found out by making it: on the target's own server, in a schema that never
comes to be.

So there is no second, hand-kept list of what should exist, and what the server's version, roles and defaults do to a
migration they do to the expectation as well.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sql import query
from tasks.core.postgres.connections import Connection, database_errors
from tasks.core.schema import ledger
from tasks.core.schema.catalog import EMPTY, Catalog, read_catalog
from tasks.core.schema.matching import RELATIONS
from tasks.core.schema.migrations import Migration
from tasks.core.schema.named import refuse_named
from tasks.core.schema.scratch_schema import run_in_scratch, scratch_schema

log = logging.getLogger(__name__)

# Whatever shapes a catalog: after a change in one of these, what an older version cached is not looked at.
_HERE = Path(__file__).resolve().parent
_CODE = (
    *(_HERE / name for name in ("catalog.py", "expected.py", "normalise.py", "objects.py", "scratch_schema.py")),
    _HERE.parents[2] / "sql" / "queries" / "catalog.sql",
)


@dataclass(frozen=True)
class Expected:
    """The catalog by revision, lowest first; "" is before the first."""

    catalogs: Mapping[str, Catalog]

    @property
    def scope(self) -> frozenset[str]:
        """Names of the tables, views, functions and free sequences that any revision has: what is ours in a schema."""
        return frozenset[str]().union(*(scope_of(catalog) for catalog in self.catalogs.values()))


def scope_of(catalog: Catalog) -> frozenset[str]:
    """The names by which `read_catalog` finds what is in `catalog`."""
    named = (*RELATIONS, "function")
    return frozenset(
        document["name"]
        for document in catalog["objects"].values()
        if document["kind"] in named or (document["kind"] == "sequence" and not document["table"])
    )


def expected_catalogs(
    conn: Connection, migrations: Sequence[Migration], schema: str, cache: Path | None = None
) -> Expected:
    """What the migrations make of `schema` on the server of `conn`, after each of them. Nothing of it remains.

    `cache` is a folder for the answers, each named after all that it depends on; one that cannot be read is made anew.
    Raises PrivilegeMissing (the hint is the statement for the administrator) where the role may create no schema or
    extension, MigrationFailed where a migration fails, and DatabaseError.
    """
    file = cache / f"expected-{_key(conn, migrations, schema)}.json" if cache else None
    catalogs = _load(file) if file else None
    if catalogs is None:
        catalogs = _make(conn, migrations, schema)
        if file:
            _save(file, catalogs)
    return Expected(catalogs)


def _make(conn: Connection, migrations: Sequence[Migration], schema: str) -> dict[str, Catalog]:
    catalogs = {"": EMPTY}
    # What is in the ledger has been run: a rule that came later must not bar verify and the ways back.
    known = {row.revision for row in ledger.history(conn)}
    with scratch_schema(conn, schema) as scratch:
        for migration in migrations:
            if migration.revision not in known:
                refuse_named(conn, migration.up_script.statements, migration.up.name, scratch)
            run_in_scratch(conn, migration, scratch)
            catalogs[migration.revision] = read_catalog(conn, scratch)
    return catalogs


def _key(conn: Connection, migrations: Sequence[Migration], schema: str) -> str:
    with database_errors("reading what the expected tables depend on"):
        row = conn.execute(query("expected_environment")).fetchone()
    assert row is not None
    code = [hashlib.sha256(path.read_bytes()).hexdigest() for path in _CODE]
    files = [[migration.revision, migration.checksum] for migration in migrations]
    return _sha256(json.dumps([code, files, schema, row[0]]))[:32]


def _load(file: Path) -> dict[str, Catalog] | None:
    """None for a file that is not there, or not as it was written."""
    try:
        checksum, text = file.read_text(encoding="utf-8").split("\n", 1)
    except (OSError, ValueError):
        return None
    if checksum != _sha256(text):
        log.info("%s is damaged, and is made anew", file)
        return None
    catalogs: dict[str, Catalog] = json.loads(text)
    return catalogs


def _save(file: Path, catalogs: Mapping[str, Catalog]) -> None:
    """Whole or not at all; a cache that cannot be written costs time, and nothing else."""
    text = json.dumps(catalogs)
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial.write_text(f"{_sha256(text)}\n{text}", encoding="utf-8")
        partial.replace(file)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        log.info("the expected catalog is not cached: %s", error)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
