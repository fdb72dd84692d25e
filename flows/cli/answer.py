"""Running one verb: its log, its progress, its answer on standard output, and its exit status."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from flows.cli.display import showing
from flows.cli.errors import (
    DONE,
    FAILED,
    REFUSED,
    USAGE,
    Failure,
    failure_of,
    print_failure,
    print_traceback,
)
from flows.cli.options import Output
from flows.cli.signals import INTERRUPTED, end_soon

if TYPE_CHECKING:
    from tasks.core.documents import DeployDocument, Document, RollbackDocument

# A deploy and a rollback may have begun to change something.
_AFTER_INTERRUPTION = (
    "kg status {0} says where the database stands; what was begun is settled by kg recover {0}, or by the next deploy"
)

Answer = TypeVar("Answer", bound="Document | Sequence[Document]")


def answer(
    output: Output,
    work: Callable[[], Answer],
    show: Callable[[Answer], None],
    *,
    partial: Callable[[], DeployDocument | RollbackDocument] | None = None,
) -> int:
    """Do the `work` of a verb and `show` what it returns, or print it as JSON. Returns the exit status.

    `partial` makes the document of a failure that brings none of its own. Whatever prints meanwhile, ours or a
    library's, goes to the error stream: standard output holds the answer and nothing else.
    """
    set_up_logs(output)
    try:
        with showing(output), redirect_stdout(sys.stderr):
            result = work()
    except (Exception, KeyboardInterrupt) as error:
        return fail(error, json=output.json, verbose=output.verbose, partial=partial)
    try:
        if output.json:
            from tasks.core.documents import to_json

            print(to_json(result))  # noqa: T201
        else:
            show(result)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader (`| head`) has what it wanted. Python would complain when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status_of(result)


def fail(
    error: BaseException,
    *,
    json: bool,
    verbose: bool,
    partial: Callable[[], DeployDocument | RollbackDocument] | None = None,
) -> int:
    """Say what went wrong, in both forms when `json`. Returns the exit status."""
    failure = failure_of(error)
    if failure.status == INTERRUPTED and partial:
        failure = replace(failure, hint=_AFTER_INTERRUPTION.format(partial().environment))
    if verbose:
        print_traceback(error)
    print_failure(failure)
    if json:
        _print_failure_document(error, failure, partial)
    if failure.status == INTERRUPTED:
        end_soon()
    return failure.status


def _print_failure_document(
    error: BaseException, failure: Failure, partial: Callable[[], DeployDocument | RollbackDocument] | None
) -> None:
    from tasks.core.documents import ErrorDetail, FailureDocument, attached, to_json

    detail = ErrorDetail(code=failure.code, message=failure.message, hint=failure.hint)
    # Before the environment and its settings are known there is nothing to say about a database.
    document = attached(error) or (partial() if partial and failure.status != USAGE else None)
    if document is None:
        document = FailureDocument(state=failure.state, error=detail)
    else:
        document = document.model_copy(update={"state": failure.state, "error": detail})
    try:
        print(to_json(document), flush=True)  # noqa: T201
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def status_of(result: Document | Sequence[Document]) -> int:
    """The exit status that a document stands for."""
    if getattr(result, "ok", True) is False or getattr(result, "safe", True) is False:
        return FAILED
    return {"failed": FAILED, "refused": REFUSED, "held": REFUSED}.get(str(getattr(result, "state", "")), DONE)


class ToStandardError(logging.Handler):
    """Log lines on whatever sys.stderr is at the time: a live display puts them above its bars."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(self.format(record), file=sys.stderr)  # noqa: T201
        except Exception:  # a log line that cannot be formatted or written must not end the work
            self.handleError(record)


def set_up_logs(output: Output) -> None:
    """Our warnings on the error stream; with --verbose everything, others' too.

    For the rest of the process: Prefect has things to say while it ends, and without a handler Python would print them.
    """
    handler = ToStandardError()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S"))
    if not output.verbose:
        handler.setLevel(logging.WARNING)
        handler.addFilter(lambda record: record.name.partition(".")[0] in ("tasks", "flows"))
        if not sys.warnoptions:
            warnings.simplefilter("ignore")
    # Core's lines of level INFO reach the flow run's log, whatever is shown here.
    for name in ("tasks", "flows"):
        logging.getLogger(name).setLevel(logging.DEBUG if output.verbose else logging.INFO)
    root = logging.getLogger()
    root.handlers = [*(each for each in root.handlers if not isinstance(each, ToStandardError)), handler]
    if output.verbose:
        root.setLevel(logging.INFO)
        logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for each call of Prefect's API
