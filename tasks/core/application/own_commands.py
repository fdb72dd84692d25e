"""An environment's own commands, `index_command` and `integration_command`: argv, working folder, time limit. They find
the database by libpq's variables, whatever they print is logged line by line, and their failure is the step's.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic

from tasks.core import commands
from tasks.core.errors import SettingsError
from tasks.core.postgres.connections import target
from tasks.core.progress import say
from tasks.core.settings import CHECKOUT, Settings

log = logging.getLogger(__name__)

_INSIDE = "KG_INDEX_COMMAND_RUNS"


@dataclass(frozen=True)
class CommandRun:
    """What ran, and how long it took."""

    command: tuple[str, ...]
    seconds: float


def run_index_command(settings: Settings, tell: Callable[[str], object] = log.info) -> CommandRun:
    """Raises SettingsError where the environment names none, or where that command calls itself; as `run_command`."""
    command = settings.application.index_command
    if not command or os.environ.get(_INSIDE):
        said = "calls itself: give its kg index a PATH" if command else "is not set"
        raise SettingsError(
            f"index_command of {settings.environment} {said}",
            hint=f"name the source tree: kg index {settings.environment} PATH",
        )
    return run_command(settings, command, tell)


def run_command(settings: Settings, command: Sequence[str], tell: Callable[[str], object] = log.info) -> CommandRun:
    """Run `command` to its end; `tell` gets each line it prints, without secrets. What it started ends with it.

    Raises CommandFailed with the last thing it said where it fails, or where it takes longer than command_timeout;
    CommandMissing; SettingsError where its folder is not there.
    """
    application = settings.application
    # Relative to the checkout: a worker stands elsewhere than a terminal.
    folder = CHECKOUT / application.command_folder
    if not folder.is_dir():
        raise SettingsError(f"command_folder {folder} does not exist", hint="name it in [application], or make it")
    env = {**target(settings).environment(), "KG_ENVIRONMENT": settings.environment, _INSIDE: "1"}
    started, full = monotonic(), commands.environment(env)
    limit = application.command_timeout.total_seconds()
    with commands.stream(command, env=env, timeout=limit, cwd=folder, family=True) as child:
        for raw in child.stdout:
            if line := commands.redact(raw.decode(errors="replace").rstrip(), full):
                child.stderr.append(line)
                tell(line)
    say(child.stderr[-1] if child.stderr else "")
    return CommandRun(tuple(command), monotonic() - started)
