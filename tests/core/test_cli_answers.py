"""What a verb answers, as people see it: tables, and the last lines of each document."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest

from flows.cli import render
from flows.cli.display import moment
from flows.cli.tables import say, table
from tasks.core.documents import (
    BackupDocument,
    CheckItem,
    IndexDocument,
    PruneDocument,
    PruneItem,
    ReportDocument,
    RollbackDocument,
    SearchHit,
    SkippedFile,
)
from tasks.core.schema.report import Report, noted, ok
from tests.terminal import on_a_terminal


def backups() -> list[BackupDocument]:
    return [
        BackupDocument(
            id=f"20260101T02000{n}Z-0123abcd",
            environment="dev",
            created=datetime(2026, 1, 1, 2, 0, n, tzinfo=UTC),
            revision="001",
            stored_bytes=10 ** (3 * n),
            tables={"public.a": 1000, "public.b": 1},
            proved=bool(n),
            grade="restorable" if n else None,
        )
        for n in (0, 1)
    ]


def test_backups_are_aligned_columns_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    first, second = backups()
    proved_at = datetime.now(UTC) - timedelta(minutes=1)
    second = second.model_copy(
        update={"plain_bytes": 2500, "kept": True, "proved_at": proved_at, "restore_seconds": 190.2}
    )
    render.backups([first, second])
    days = (datetime.now(UTC) - first.created).days
    *lines, last = capsys.readouterr().out.splitlines()
    assert [re.sub(r"  +", "  ", line) for line in lines] == [
        "backup  created (UTC)  age  size  ratio  revision  proved",
        f"20260101T020000Z-0123abcd  2026-01-01 02:00  {days} days  1 B  -  001  not proved",
        f"20260101T020001Z-0123abcd  2026-01-01 02:00  {days} days  1.0 kB  2.5  001  proved (restorable), kept",
    ]
    assert len({line.index("2026-01-01") for line in lines[1:]}) == 1
    assert last == f"last proved {moment(proved_at, datetime.now(UTC))}, restore takes 3 min 10 s"


def test_a_report_names_what_failed(capsys: pytest.CaptureFixture[str]) -> None:
    checks = (
        CheckItem(name="server", status="ok", detail="18.6"),
        CheckItem(name="store", status="failed", detail="no"),
    )
    render.report(ReportDocument(ok=False, environment="dev", checks=checks))
    assert capsys.readouterr().out.splitlines()[-2:] == ["✗  store   no", "dev: failed: store"]


def test_a_dry_run_says_what_would_do_it(capsys: pytest.CaptureFixture[str]) -> None:
    items = (PruneItem(id="b", reason="older than 7 days", stored_bytes=5),)
    render.prune(PruneDocument(environment="dev", applied=False, keep=(), delete=items))
    said = capsys.readouterr().out
    assert "would delete  b     5 B     older than 7 days" in said
    assert said.endswith("\na dry run, nothing was deleted: kg prune dev --apply deletes 1 (0 kept)\n")


@pytest.mark.parametrize(
    ("applied", "last"),
    [(False, "a dry run: kg prune dev --apply would delete nothing (1 kept)"), (True, "0 deleted, 1 kept")],
)
def test_a_prune_says_whether_it_was_one(applied: bool, last: str, capsys: pytest.CaptureFixture[str]) -> None:
    items = (PruneItem(id="a", reason="the newest", stored_bytes=5),)
    render.prune(PruneDocument(environment="dev", applied=applied, keep=items, delete=()))
    assert capsys.readouterr().out.splitlines()[-1] == last


def test_an_index_s_counts_add_up(capsys: pytest.CaptureFixture[str]) -> None:
    skipped = [("a.bin", "no text"), ("b.bin", "no text"), ("site-packages/", "installed packages")]
    parts = tuple(SkippedFile(path=path, reason=reason) for path, reason in skipped)
    found = {"environment": "dev", "root": "/", "embedder": "e", "unchanged": 0, "removed": 0, "relationships": 0}
    render.index(IndexDocument(**found, files=12, indexed=10, skipped=parts, seconds=1.0))  # type: ignore[arg-type]
    said = capsys.readouterr().out
    assert "indexed 10 of 12 files" in said
    assert said.splitlines()[1:] == ["  2 files left out: no text", "  1 folder left out: installed packages"]


@pytest.mark.parametrize(
    ("replaced", "said"),
    [("kg_replaced_20260101", "schema kg_replaced_20260101"), ("database kg_replaced_1", "database kg_replaced_1")],
)
def test_where_what_was_replaced_is(replaced: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    render.rollback(
        RollbackDocument(state="rolled-back", environment="dev", strategy="restore", revision="001", replaced=replaced)
    )
    assert f"  replaced tables: {said}\n" in capsys.readouterr().out


def test_a_report_in_a_line_names_its_notes() -> None:
    one = Report((ok("server", "18"), noted("archiving", "off"), noted("store", "a folder")))
    assert one.counted == "1 check is fine, 2 notes (archiving, store)"


TABLE = """
from flows.cli.tables import table
table(("", "check", "found"), [("✓", "server", "word " * 40)])
"""


def test_a_pipe_is_as_wide_as_columns_says(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    words = " ".join(f"word{n}" for n in range(60))
    remedy = " ".join(f"remedy{n}" for n in range(20))
    monkeypatch.setenv("COLUMNS", "80")
    table(("", "check", "found", "remedy"), [("✓", "server", words, remedy), ("-", "store", "short", "")])
    say(f"  ! line 1: {words}")
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 80
    assert all(said.split().count(f"word{n}") == 2 for n in range(60)), "nothing is cut"
    assert "-  store   short" in said
    monkeypatch.delenv("COLUMNS")
    table(("", "check", "found"), [("✓", "server", words)])
    say(f"  ! line 1: {words}")
    assert capsys.readouterr().out.splitlines()[1:] == [f"✓  server  {words}", f"  ! line 1: {words}"]


def test_a_table_fits_its_terminal() -> None:
    _, shown = on_a_terminal(TABLE)
    lines = re.sub(r"\x1b\[[0-9;?]*[a-z]", "", shown).splitlines()
    assert max(map(len, lines)) <= 70
    assert shown.count("word") == 40


def test_backups_of_several_databases_name_theirs(capsys: pytest.CaptureFixture[str]) -> None:
    first, second = (each.model_copy(update={"database": "graph"}) for each in backups())
    render.backups([first, second])
    assert "graph" not in capsys.readouterr().out
    render.backups([first, second.model_copy(update={"database": "other"})])
    heading, *rows = capsys.readouterr().out.splitlines()
    assert heading.split()[:2] == ["backup", "database"]
    assert [row.split()[1] for row in rows[:2]] == ["graph", "other"]


def test_search_shows_how_a_file_begins_within_the_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    preview = '#!/usr/bin/env python\n"""Parse \x1b[31mJSON documents,\tand say what is wrong with them."""\n'
    hit = SearchHit(file_path="json/decoder.py", similarity=0.4741, language="python", preview=preview)
    monkeypatch.setenv("COLUMNS", "80")
    render.search([hit, SearchHit(file_path="a.txt", similarity=0.1)])
    first, second, third = capsys.readouterr().out.splitlines()
    assert first == "similarity  file             language  preview"
    assert second == "0.474       json/decoder.py  python    Parse [31mJSON documents, and say what…"
    assert len(second) <= 80
    assert third == "0.100       a.txt"
    render.search([])
    assert capsys.readouterr().out == "nothing found\n"
