"""What a person sees while work goes on: subscribers of tasks.core.progress, all on the error stream.

A title that begins with "[3/9] " is a step of the flow: it gets a line of its own with a tick and its duration.
"""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from flows.cli.options import Output
from tasks.core.progress import Reporter, Silent, reporting, size

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_STEP = re.compile(r"\[\d+/\d+\] ")
PLAIN_SECONDS = 10.0  # how often a long piece of work says how far it is where no bar can
SHORT_SECONDS = 0.5  # what took less gets no line of its own, unless it failed


@contextmanager
def showing(output: Output) -> Iterator[None]:
    """Show progress for the length of the block: bars on a terminal, lines elsewhere, nothing beside JSON."""
    if output.json and not output.verbose:
        reporter: Reporter = Silent()
        with reporting(reporter):
            yield
    elif sys.stderr.isatty():
        live = Live()
        try:
            with reporting(live):
                yield
        finally:
            live.bars.stop()
    else:
        with reporting(Plain()):
            yield


@dataclass
class Work:
    """A piece of work under way. Times in seconds of the monotonic clock."""

    title: str
    total: float | None
    unit: str
    begun: float = field(default_factory=time.monotonic)
    said: float = field(default_factory=time.monotonic)

    @property
    def step(self) -> bool:
        return bool(_STEP.match(self.title))

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.begun


class Plain:
    """Lines for a log file or a pipe."""

    def __init__(self) -> None:
        self._under_way: dict[str, Work] = {}
        self._lock = threading.Lock()

    def started(self, key: str, title: str, total: float | None, unit: str) -> None:
        work = Work(title, total, unit)
        with self._lock:
            self._under_way[key] = work
            if work.step:
                _line(title)

    def advanced(self, key: str, done: float, total: float | None) -> None:
        with self._lock:
            work = self._under_way.get(key)
            if work and time.monotonic() - work.said >= PLAIN_SECONDS:
                work.said = time.monotonic()
                _line(f"  {work.title}: {amount(done, total, work.unit)}")

    def finished(self, key: str, detail: str, ok: bool) -> None:
        with self._lock:
            work = self._under_way.pop(key, None)
            if work and work.step:
                _line(step_ending(work, detail, ok))
            elif work and worth_a_line(work, ok):
                _line(ending(work, detail, ok))

    def noted(self, text: str) -> None:
        with self._lock:
            _line(f"  {text}")


class Live:
    """Bars on a terminal; what has ended stays as a line above them.

    They are drawn only while something is under way: in between the terminal is free for a question.
    """

    def __init__(self) -> None:
        self.bars = _bars()
        self._under_way: dict[str, tuple[Work, TaskID]] = {}
        self._lock = threading.Lock()

    def started(self, key: str, title: str, total: float | None, unit: str) -> None:
        work = Work(title, total, unit)
        indent = "" if work.step else "  "
        with self._lock:
            task = self.bars.add_task(indent + title, total=total, amount="")
            self._under_way[key] = (work, task)
            self.bars.start()

    def advanced(self, key: str, done: float, total: float | None) -> None:
        if found := self._under_way.get(key):
            work, task = found
            self.bars.update(task, completed=done, total=total, amount=amount(done, total, work.unit))

    def finished(self, key: str, detail: str, ok: bool) -> None:
        with self._lock:
            if not (found := self._under_way.pop(key, None)):
                return
            work, task = found
            self.bars.remove_task(task)
            if not self._under_way:
                self.bars.stop()
        if worth_a_line(work, ok):
            self._print(ending(work, detail, ok, mark="✓ " if ok else "✗ "), "green" if ok else "bold red")

    def noted(self, text: str) -> None:
        self._print(f"  {text}", "dim")

    def _print(self, text: str, style: str) -> None:
        self.bars.console.print(text, style=style, markup=False, highlight=False)


def worth_a_line(work: Work, ok: bool) -> bool:
    return work.step or not ok or work.seconds >= SHORT_SECONDS


def ending(work: Work, detail: str, ok: bool, mark: str = "") -> str:
    """The line that stays when `work` has ended."""
    indent = "" if work.step else "  "
    verdict = "" if mark else (": done in " if ok else ": failed after ")
    said = f" - {detail}" if detail else ""
    return f"{indent}{mark}{work.title}{verdict or '  '}{duration(work.seconds)}{said}"


def step_ending(work: Work, detail: str, ok: bool) -> str:
    """The line under a step's title, as the guide's script has it."""
    said = f"{detail or 'done'} " if ok or detail else ""
    return f"  {'✓' if ok else '✗ failed'} {said}({duration(work.seconds)})"


def amount(done: float, total: float | None, unit: str) -> str:
    """'12.0 of 48.0 MB', '1,200 rows', '3 of 9 files'."""
    if unit == "bytes":
        return f"{size(done)} of {size(total)}" if total else size(done)
    counted = f"{done:,.0f} of {total:,.0f}" if total else f"{done:,.0f}"
    return f"{counted} {unit}".strip()


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def age(span: timedelta) -> str:
    """How old, in the one unit that says enough."""
    minutes = max(0, int(span.total_seconds() // 60))
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h" if minutes < 48 * 60 else f"{minutes // 60 // 24} days"


def moment(time: datetime, now: datetime) -> str:
    """A time gone by, by the operator's own clock: "02:41 last night", "11:05 today", "11:05 on 2026-01-31"."""
    local, today = time.astimezone(), now.astimezone().date()
    days = (today - local.date()).days
    if days == 0 and now - time > timedelta(hours=3) and local.hour < 6:
        word = "last night"
    elif days == 0:
        word = "today"
    elif days == 1:
        word = "last night" if local.hour >= 18 else "yesterday"
    else:
        word = f"on {local:%Y-%m-%d}"
    return f"{local:%H:%M} {word}"


def _bars() -> Progress:
    from rich.console import Console, RenderableType
    from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn, TimeElapsedColumn

    class KnownTotal(ProgressColumn):
        """A bar where the total is known; else the spinner's movement says enough."""

        bar = BarColumn(bar_width=30)

        def render(self, task: Task) -> RenderableType:
            return self.bar.render(task) if task.total else ""

    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        KnownTotal(),
        TextColumn("{task.fields[amount]}", markup=False),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )


def _line(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201
