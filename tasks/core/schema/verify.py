"""Is the database what its ledger says? Compared with what the migrations make on its own server, and tried out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from psycopg.sql import Identifier

from sql import query
from tasks.core.postgres.connections import Connection, connect, target, vector_extension
from tasks.core.schema import ledger
from tasks.core.schema.adoption import without_tolerated
from tasks.core.schema.catalog import Catalog, fingerprint, read_catalog
from tasks.core.schema.chosen import as_expected
from tasks.core.schema.compare import compare, failures
from tasks.core.schema.expected import expected_catalogs
from tasks.core.schema.extension import has_hnsw, known_bugs
from tasks.core.schema.known import readable
from tasks.core.schema.migrations import Migration
from tasks.core.schema.probes import run_probes, skipped_probes
from tasks.core.schema.report import CheckResult, Report, failed, ok, run_check
from tasks.core.schema.vector_checks import check_vector_indexes
from tasks.core.settings import Settings

__all__ = ["CheckResult", "Report", "check_extension", "check_schema", "expectation", "verify", "verify_on"]


@dataclass(frozen=True)
class Expectation:
    """The newest applied revision, the catalog it should have, and the names that are ours in any revision."""

    revision: str
    catalog: Catalog
    scope: frozenset[str]
    tolerated: tuple[str, ...]

    @property
    def tables(self) -> tuple[str, ...]:
        documents = self.catalog["objects"].values()
        return tuple(sorted(document["name"] for document in documents if document["kind"] == "table"))


def verify(settings: Settings, *, probes: bool = True) -> Report:
    """The whole verification, on a session of its own. With `probes` false nothing is written, not even to be rolled
    back. Raises ConnectionFailed.
    """
    with connect(target(settings), purpose="verify", database=settings.database) as conn:
        return verify_on(conn, settings, probes=probes)


def verify_on(conn: Connection, settings: Settings, *, probes: bool = True) -> Report:
    """Likewise, in the database of `conn` (a restored copy, say). `conn` is in autocommit mode, or idle."""
    entries = ledger.entries(conn)
    if not entries:
        hint = f"deploy it: kg deploy {settings.environment}"
        return Report((failed("revision", f"no revision is applied ({hint})"), check_extension(conn)))
    migrations, refused = readable(settings.migrations, entries)
    checks = [run_check("revision", partial(_revision, migrations, entries, refused)), check_extension(conn)]
    applied = [migration for migration in migrations if migration.revision in {entry.revision for entry in entries}]
    if len(applied) < len(entries):
        return Report(tuple(checks))  # the first of them failed, and says which file is missing
    schema = settings.database.schema_name
    made = expectation(conn, settings, migrations, entries)
    present = _present(conn, schema, made.tables)
    checks.append(_tables(made, present))
    checks.append(run_check("schema", partial(check_schema, conn, schema, made)))
    checks += check_vector_indexes(conn, schema, made.catalog, present)
    checks.append(run_check("sequences", partial(_sequences, conn, schema, present)))
    checks += run_probes(conn, schema, present) if probes else skipped_probes("probes were left out on request")
    return Report(tuple(checks))


def expectation(
    conn: Connection, settings: Settings, migrations: Sequence[Migration], entries: Sequence[ledger.Entry]
) -> Expectation:
    """What the applied revisions should look like on the server of `conn`. Raises what expected_catalogs raises."""
    schema, cache = settings.database.schema_name, settings.home / "cache"
    applied = [migration for migration in migrations if migration.revision in {entry.revision for entry in entries}]
    newest = applied[-1].revision
    # Without what is only pending: a half-written file must not keep anybody from looking.
    expected = expected_catalogs(conn, applied, schema, cache=cache)
    catalog = expected.catalogs[newest]
    tolerated = tuple(key for entry in entries for key in entry.tolerated)
    return Expectation(newest, catalog, expected.scope, tolerated)


# A column that was dropped and put back stands last, and no statement moves it.
_MOVED = (
    "a column's place cannot be altered: `kg rollback ENV --strategy restore` puts the tables back as the newest "
    "proved backup has them, and first says what that would lose"
)


def check_schema(conn: Connection, schema: str, expected: Expectation) -> CheckResult:
    """Every object of ours and what hangs on it, compared with what the revision should have."""
    actual = read_catalog(conn, schema, expected.scope)
    found = as_expected(conn, expected.catalog, actual)
    differences = without_tolerated(compare(expected.catalog, found), expected.tolerated)
    failing = failures(differences)
    if failing:
        moved = any(difference.aspect == "position" for difference in failing)
        return failed("schema", "; ".join(str(difference) for difference in failing), _MOVED if moved else "")
    said = [f"as revision {expected.revision} makes it ({fingerprint(actual)[:14]})"]
    if expected.tolerated:
        said.append(f"{len(expected.tolerated)} differences were accepted when it was adopted")
    said += [f"besides, {difference}" for difference in differences]
    return ok("schema", "; ".join(said))


def check_extension(conn: Connection) -> CheckResult:
    """pgvector's version, with what is known to be wrong with it."""
    vector = vector_extension(conn)
    if vector.installed is None:
        return failed("pgvector", "the extension vector is not installed in this database")
    if not has_hnsw(vector.installed):
        return failed("pgvector", f"{vector.installed} has no HNSW: 0.5.0 is the first that has")
    bugs = "".join(f"; known bug: {bug}" for bug in known_bugs(vector.installed))
    return ok("pgvector", f"{vector.installed} in schema {vector.schema}{bugs}")


def _revision(migrations: Sequence[Migration], entries: Sequence[ledger.Entry], refused: str) -> CheckResult:
    pending = ledger.pending(migrations, entries, out_of_order=True)
    waiting = f"; pending: {', '.join(one.label for one in pending)}" if pending else ""
    waiting += f"; refused, and left out here: {refused}" if refused else ""
    newest = entries[-1]
    how = f"{newest.kind} {newest.applied_at:%Y-%m-%d %H:%M} UTC"
    return ok("revision", f"{newest.revision}_{newest.name}, {how}; the files are those that were applied{waiting}")


def _present(conn: Connection, schema: str, tables: Sequence[str]) -> list[str]:
    rows = conn.execute(query("tables_present"), {"schema": schema, "tables": list(tables)}).fetchall()
    return sorted(str(row[0]) for row in rows)


def _tables(expected: Expectation, present: Sequence[str]) -> CheckResult:
    missing = sorted(set(expected.tables) - set(present))
    if missing:
        return failed("tables", f"missing: {', '.join(missing)}")
    return ok("tables", ", ".join(present))


def _sequences(conn: Connection, schema: str, tables: list[str]) -> CheckResult:
    rows = conn.execute(query("numbering_sequences"), {"schema": schema, "tables": tables}).fetchall()
    behind = [said for row in rows for said in _behind(conn, schema, *row)]
    return failed("sequences", "; ".join(behind)) if behind else ok("sequences", f"none of {len(rows)} is behind")


def _behind(conn: Connection, schema: str, table: str, column: str, name: str) -> Iterator[str]:
    """A sequence behind its column hands out numbers that are taken: inserts fail one after the other."""
    statement = query("sequence_and_maximum").format(
        column=Identifier(column), table=Identifier(schema, table), sequence=Identifier(schema, name)
    )
    row = conn.execute(statement).fetchone()
    assert row is not None
    last, maximum = row
    if maximum is not None and maximum > (last or 0):
        yield (
            f"{name} is at {last or 0}, {table}.{column} goes to {maximum}: SELECT setval('{schema}.{name}', {maximum})"
        )
