"""What a person sees: figures, lines in a log, bars and questions on a real terminal."""

from __future__ import annotations

import os
import re
import sys
import time
from datetime import datetime
from pathlib import Path

import pytest

from flows.cli.confirm import confirm
from flows.cli.display import SHORT_SECONDS, Plain, amount, duration, moment, showing
from flows.cli.options import Output
from tasks.core.errors import NotConfirmed
from tasks.core.progress import note, reporting, size, track
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
