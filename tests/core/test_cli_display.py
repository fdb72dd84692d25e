"""What a person sees: figures, lines in a log, bars and questions on a real terminal."""

from __future__ import annotations

import os
import re
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flows.cli import render
from flows.cli.confirm import confirm
from flows.cli.display import SHORT_SECONDS, Plain, amount, duration, moment, showing
from flows.cli.options import Output
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
from tasks.core.errors import NotConfirmed
from tasks.core.progress import note, reporting, size, track
from tasks.core.schema.report import Report, noted, ok
from tests.terminal import on_a_terminal


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (12_345_678, "12.3 MB"), (5e12, "5.0 TB")]
)
def test_sizes(count: float, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (59.9, "59.9 s"), (61, "1 min 1 s"), (3600, "1 h 0 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((1e6, 4e6, "bytes"), "1.0 MB of 4.0 MB"),
        ((1e6, None, "bytes"), "1.0 MB"),
        ((1200, 5000, "rows"), "1,200 of 5,000 rows"),
        ((3, None, ""), "3"),
    ],
)
def test_amounts(arguments: tuple[float, float | None, str], text: str) -> None:
    assert amount(*arguments) == text


def test_steps_and_notes_are_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with reporting(Plain()):
        with track("s1", "[1/2] Check"), track("quick", "Too quick to mention"):
            note("three tables found")
        with track("s2", "[2/2] Back up") as work, track("dump", "Dump", total=10, unit="bytes") as dump:
            dump.reach(10)
            dump.say("10 B")
            time.sleep(SHORT_SECONDS)
            work.say("done well")
    said = capsys.readouterr()
    assert said.out == ""
    assert re.sub(r"\d+\.\d s", "N s", said.err).splitlines() == [  # a busy machine takes its time
        "[1/2] Check",
        "  three tables found",
        "  ✓ done (N s)",
        "[2/2] Back up",
        "  Dump: done in N s - 10 B",
        "  ✓ done well (N s)",
    ]


def test_a_failed_step_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="no"), reporting(Plain()), track("s1", "[1/2] Check"):
        raise ValueError("no")
    assert capsys.readouterr().err.splitlines()[-1] == "  ✗ failed (0.0 s)"


@pytest.mark.parametrize(("verbose", "lines"), [(False, 0), (True, 2)])
def test_beside_json_nothing_is_shown_unless_verbose(
    verbose: bool, lines: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with showing(Output(json=True, verbose=verbose)), track("s1", "[1/1] Check"):
        pass
    assert len(capsys.readouterr().err.splitlines()) == lines


def test_without_a_terminal_nobody_confirms(monkeypatch: pytest.MonkeyPatch) -> None:
    with Path(os.devnull).open() as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        with pytest.raises(NotConfirmed) as caught:
            confirm("the deploy to dev")
    assert "--yes" in (caught.value.hint or "")


ASK = """
import sys
from flows.cli.answer import fail
from flows.cli.confirm import confirm
try:
    confirm("it")
except Exception as error:
    sys.exit(fail(error, json=False, verbose=False))
print("went on")
"""


@pytest.mark.parametrize(
    ("typed", "status", "said"),
    [
        ("yes\n", 0, "went on"),
        ("Y\n", 0, "went on"),
        ("no\n", 3, "kg: it was not confirmed"),
        ("perhaps\nno\n", 3, "Please answer yes or no."),
        ("\x04", 3, "kg: it was not confirmed"),
    ],
)
def test_a_person_is_asked(typed: str, status: int, said: str) -> None:
    found, shown = on_a_terminal(ASK, typed=typed)
    assert found == status
    assert "Continue? (yes/no): " in shown
    assert said in shown


BETWEEN = """
from flows.cli.confirm import confirm
from flows.cli.display import showing
from flows.cli.options import Output
from tasks.core.progress import track
with showing(Output(json=False, verbose=False)):
    with track("s", "[1/2] Plan"):
        pass
    confirm("it")
    with track("t", "[2/2] Migrate"):
        pass
"""


def test_a_question_between_two_steps_is_seen() -> None:
    status, shown = on_a_terminal(BETWEEN, typed="yes\n")
    assert status == 0
    assert shown.index("[1/2] Plan  0.") < shown.index("Continue? (yes/no): ") < shown.index("[2/2] Migrate  0.")


BARS = """
import time
from flows.cli.display import showing
from flows.cli.options import Output
from tasks.core.progress import note, track
with showing(Output(json=False, verbose=False)):
    with track("s", "[1/9] Back up") as step:
        with track("d", "Dump [x]", total=4_000_000, unit="bytes") as dump:
            for _ in range(4):
                dump.advance(1_000_000)
                time.sleep(0.15)
            note("a note")
        step.say("4.0 MB")
"""


def test_a_terminal_shows_bars_and_keeps_what_is_done() -> None:
    status, shown = on_a_terminal(BARS)
    assert status == 0
    assert "1.0 MB of 4.0 MB" in shown
    assert "✓ [1/9] Back up  0." in shown
    assert "Dump [x]" in shown
    assert "a note" in shown
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l"), "the cursor is visible again"


def test_no_color_is_honoured() -> None:
    coloured = on_a_terminal(BARS)[1]
    plain = on_a_terminal(BARS, NO_COLOR="1")[1]
    assert "\x1b[32m" in coloured
    assert "\x1b[32m" not in plain


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


@pytest.mark.parametrize(
    ("now", "then", "said"),
    [
        ((2026, 5, 2, 9, 0), (2026, 5, 2, 2, 41), "02:41 last night"),
        ((2026, 5, 2, 9, 0), (2026, 5, 1, 23, 5), "23:05 last night"),
        ((2026, 5, 2, 3, 0), (2026, 5, 2, 2, 41), "02:41 today"),
        ((2026, 5, 2, 9, 0), (2026, 5, 1, 11, 5), "11:05 yesterday"),
        ((2026, 5, 2, 9, 0), (2026, 4, 1, 2, 41), "02:41 on 2026-04-01"),
    ],
)
def test_moments_are_said_as_people_do(now: tuple[int, ...], then: tuple[int, ...], said: str) -> None:
    def local(parts: tuple[int, ...]) -> datetime:
        year, month, day, hour, minute = parts
        return datetime(year, month, day, hour, minute).astimezone()

    assert moment(local(then), local(now)) == said


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
