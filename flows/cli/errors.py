"""The only place where an error becomes text and an exit status.

0    done
1    failed
2    the command line or a setting is wrong
3    refused: nothing was done, a gate is closed or nobody confirmed
130  interrupted by SIGINT, SIGTERM or SIGHUP
"""

from __future__ import annotations

import sys
import traceback
from dataclasses import dataclass

from flows.cli.signals import INTERRUPTED
from tasks.core.errors import DatabaseError, EngineFailed, OpsError, Refused, UsageError

DONE, FAILED, USAGE, REFUSED = 0, 1, 2, 3
_WHO_ARE_YOU = (401, 403)


@dataclass(frozen=True)
class Failure:
    """An error as a user meets it: `state` is failed or refused, `status` the exit status."""

    state: str
    code: str
    message: str
    hint: str | None
    status: int


def failure_of(error: BaseException) -> Failure:
    """What to tell about `error`, whatever raised it."""
    if isinstance(error, KeyboardInterrupt):
        return Failure("failed", "interrupted", "interrupted", None, INTERRUPTED)
    known = _known(error)
    if known is None:
        message = f"internal error: {type(error).__name__}: {one_line(str(error))}".rstrip(": ")
        return Failure("failed", "internal", message, "--verbose shows where", FAILED)
    state = "refused" if isinstance(known, Refused) else "failed"
    hint = one_line(known.hint) if known.hint else None
    return Failure(state, known.code, one_line(known.message), hint, known.exit_status)


def _known(error: BaseException) -> OpsError | None:
    """`error` as one of ours, where it is a kind whose cause lies outside of the program; else None."""
    if isinstance(error, OpsError):
        return error
    if callable(text := getattr(error, "format_message", None)):
        # Typer's usage errors: click's own classes in its older releases, copies of them in newer ones.
        return UsageError(str(text()), hint="`kg --help` lists the verbs, `kg VERB --help` the options of one")
    if isinstance(error, OSError) and error.strerror:
        where = f": {error.filename}" if error.filename else ""
        return OpsError(f"{error.strerror}{where}")
    package = type(error).__module__.partition(".")[0]
    if package == "psycopg":
        code = getattr(error, "sqlstate", None)
        return DatabaseError(f"the database said: {first_line(str(error))}" + (f" ({code})" if code else ""))
    if package in ("prefect", "httpx", "httpcore"):
        if (answer := getattr(error, "response", None)) is not None and answer.status_code in _WHO_ARE_YOU:
            return EngineFailed(
                f"the Prefect server at {answer.url.scheme}://{answer.url.netloc.decode()} asks who we are "
                f"({answer.status_code})",
                hint="set PREFECT_API_AUTH_STRING=user:password, as its PREFECT_SERVER_API_AUTH_STRING says "
                "(on Prefect Cloud PREFECT_API_KEY)",
            )
        said = first_line(str(error)) or type(error).__name__
        return EngineFailed(f"the flow engine failed: {said}", hint="--verbose shows where; try again")
    return None


def print_failure(failure: Failure) -> None:
    """One line and its hint on the error stream."""
    print(f"kg: {failure.message}", file=sys.stderr)  # noqa: T201
    if failure.hint:
        print(f"hint: {failure.hint}", file=sys.stderr)  # noqa: T201


def print_traceback(error: BaseException) -> None:
    traceback.print_exception(error, file=sys.stderr)


def one_line(text: str) -> str:
    return " ".join(text.split())


def first_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0] if lines else ""
