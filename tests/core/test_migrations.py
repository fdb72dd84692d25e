"""Migration files: which names, pairs and directives are accepted, and what is pending."""

from __future__ import annotations

import dataclasses
import hashlib
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tasks.core.errors import MigrationFailed, OpsError, Refused
from tasks.core.schema.ledger import Entry, pending
from tasks.core.schema.migrations import Migration, load_migrations
from tasks.core.settings import CHECKOUT


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, "001_first")
    write(tmp_path, "002_second")
    return tmp_path


def write(folder: Path, label: str, up: str = "SELECT 1;\n", down: str | None = "SELECT 2;\n") -> None:
    (folder / f"{label}.up.sql").write_text(up)
    if down is not None:
        (folder / f"{label}.down.sql").write_text(down)


def entry(migration: Migration, **changes: object) -> Entry:
    plain = Entry(
        revision=migration.revision,
        name=migration.name,
        checksum=migration.checksum,
        down_checksum=migration.down_checksum,
        kind="applied",
        state="applied",
        operation=None,
        backup=None,
        tolerated=(),
        fingerprint=None,
        applied_at=datetime.now(UTC),
        verified_at=None,
        ended_at=None,
        ended_by=None,
    )
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


def test_the_project_s_own_migrations_load() -> None:
    first = load_migrations(CHECKOUT / "sql" / "migrations")[0]
    assert (first.revision, first.name) == ("001", "create_knowledge_graph_tables")
    assert first.transactional
    assert not first.irreversible
    assert first.checksum == hashlib.sha256(first.up.read_bytes()).hexdigest()
    assert first.sql == first.up.read_text()


def test_they_are_ordered_by_number(folder: Path) -> None:
    write(folder, "1000_thousandth")
    write(folder, "010_tenth")
    (folder / "README.md").write_text("not a migration")
    assert [migration.revision for migration in load_migrations(folder)] == ["001", "002", "010", "1000"]


@pytest.mark.parametrize(
    "name", ["3_short.up.sql", "003-dash.up.sql", "003_Upper.up.sql", "003_way.sql", "003_.up.sql"]
)
def test_a_misnamed_file_is_refused(folder: Path, name: str) -> None:
    (folder / name).write_text("SELECT 1")
    with pytest.raises(OpsError, match=f"{name} is not named like a migration"):
        load_migrations(folder)


def test_a_number_used_twice_is_refused(folder: Path) -> None:
    write(folder, "0002_again")
    with pytest.raises(OpsError, match="two migrations have the number 2: 0002_again and 002_second"):
        load_migrations(folder)


def test_a_pair_must_be_whole(folder: Path) -> None:
    write(folder, "003_up_only", down=None)
    with pytest.raises(OpsError, match=r"003_up_only\.up\.sql has no down script"):
        load_migrations(folder)
    (folder / "003_up_only.up.sql").rename(folder / "003_up_only.down.sql")
    with pytest.raises(OpsError, match=r"003_up_only\.down\.sql has no up script"):
        load_migrations(folder)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(OpsError, match="is not a folder of migrations"):
        load_migrations(tmp_path / "nowhere")


def test_directives_stand_in_the_leading_comment_lines(folder: Path) -> None:
    write(
        folder,
        "003_index",
        "-- Why.\n\n-- migrate: no-transaction\n--migrate: irreversible\nDROP INDEX CONCURRENTLY a;",
        down=None,
    )
    third = load_migrations(folder)[2]
    assert not third.transactional
    assert third.irreversible
    assert third.down is None


@pytest.mark.parametrize(
    "lead",
    [
        "\ufeff-- migrate: ",
        "  -- migrate: ",
        "\t--migrate:",
        "-- Migrate: ",
        "-- MIGRATE : ",
        "\ufeff-- a\n -- migrate:",
    ],
)
def test_a_directive_counts_however_it_is_typed(folder: Path, lead: str) -> None:
    write(folder, "003_index", f"{lead}No-Transaction\nDROP INDEX CONCURRENTLY a;")
    third = load_migrations(folder)[2]
    assert not third.transactional
    assert third.checksum == hashlib.sha256((folder / "003_index.up.sql").read_bytes()).hexdigest()
    assert third.sql.lstrip().startswith("--")


def test_a_comment_in_a_body_that_only_looks_like_a_directive_is_a_comment(folder: Path) -> None:
    write(folder, "003_x", "DO $$\nBEGIN\n    -- Migrate: old rows first\n    NULL;\nEND $$;")
    assert load_migrations(folder)[2].transactional


@pytest.mark.parametrize(
    ("up", "message"),
    [
        (
            "-- a\n-- migrate: no-transactions\nSELECT 1",
            "003_x.up.sql:2: `-- migrate: no-transactions` is not known here",
        ),
        ("-- migrate:\nSELECT 1", "003_x.up.sql:1: `-- migrate: ` is not known here"),
        ("SELECT 1;\n-- migrate: irreversible", "003_x.up.sql:2: `-- migrate:` stands below the first statement"),
        ("SELECT 1;\n  -- Migrate: irreversible", "003_x.up.sql:2: `-- migrate:` stands below the first statement"),
        (" -- Migrate: no-transactions", "003_x.up.sql:1: `-- migrate: no-transactions` is not known here"),
        ("SELECT 1;\nBEGIN;", "003_x.up.sql:2:1: BEGIN in a migration"),
        ("-- migrate: no-transaction\nCOMMIT;", "003_x.up.sql:2:1: COMMIT in a migration"),
        ("SELECT 1;\n\\set a 1", "003_x.up.sql:2:1: a psql meta-command: it works in psql only"),
    ],
)
def test_what_cannot_be_a_migration_is_refused_with_file_and_line(folder: Path, up: str, message: str) -> None:
    write(folder, "003_x", up)
    with pytest.raises(MigrationFailed) as caught:
        load_migrations(folder)
    assert caught.value.message == message
    assert caught.value.hint


def test_a_down_script_is_never_irreversible_and_contradictions_are_refused(folder: Path) -> None:
    write(folder, "003_x", down="-- migrate: irreversible\n")
    with pytest.raises(MigrationFailed, match=r"003_x\.down\.sql:1: .* is not known here"):
        load_migrations(folder)
    write(folder, "003_x", up="-- migrate: irreversible\n")
    with pytest.raises(OpsError, match=r"003_x\.up\.sql says irreversible, but 003_x\.down\.sql is there"):
        load_migrations(folder)


def test_what_cannot_be_read_is_named(folder: Path) -> None:
    (folder / "002_second.up.sql").unlink()
    for make in (Path.mkdir, lambda place: place.symlink_to("/nowhere")):
        make(folder / "002_second.up.sql")
        with pytest.raises(MigrationFailed, match=r"002_second\.up\.sql cannot be read: ") as caught:
            load_migrations(folder)
        assert caught.value.hint
        if (folder / "002_second.up.sql").is_dir():
            (folder / "002_second.up.sql").rmdir()


def test_a_file_that_is_not_utf8_is_named(folder: Path) -> None:
    (folder / "002_second.up.sql").write_bytes(b"SELECT '\xe9'")
    with pytest.raises(MigrationFailed, match=r"002_second\.up\.sql is not UTF-8 \(byte 8\)"):
        load_migrations(folder)


def test_pending_is_what_the_ledger_does_not_have(folder: Path) -> None:
    first, second = load_migrations(folder)
    assert pending((first, second), ()) == (first, second)
    assert pending((first, second), (entry(first),)) == (second,)
    assert pending((first, second), (entry(first), entry(second))) == ()


def test_pending_refuses_an_applied_file_that_changed(folder: Path) -> None:
    first, second = load_migrations(folder)
    with pytest.raises(Refused) as caught:
        pending((first, second), (entry(first, checksum="0123456789abcdef"),))
    assert "001_first.up.sql has changed since it was applied" in caught.value.message
    assert "0123456789ab" in caught.value.message
    assert first.checksum[:12] in caught.value.message


def test_pending_refuses_a_file_below_an_applied_revision_unless_allowed(folder: Path) -> None:
    first, second = load_migrations(folder)
    with pytest.raises(Refused, match="001_first would be applied after revision 002, out of order"):
        pending((first, second), (entry(second),))
    assert pending((first, second), (entry(second),), out_of_order=True) == (first,)


def test_pending_refuses_an_applied_revision_without_a_file(folder: Path) -> None:
    first, second = load_migrations(folder)
    with pytest.raises(Refused, match="revision 002_second is applied to the database, but has no file"):
        pending((first,), (entry(first), entry(second)))
