"""What becomes of an error: its line, its document, its exit status."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable

import httpx
import psycopg
import pytest

from flows.cli.answer import answer, status_of
from flows.cli.errors import failure_of
from flows.cli.options import Output
from tasks.core.documents import (
    DeployDocument,
    DeployState,
    Document,
    ErrorDetail,
    FailureDocument,
    ReportDocument,
    attach,
)
from tasks.core.errors import AdoptionRefused, DatabaseError, MigrationFailed, NotConfirmed, OpsError, SettingsError

TEXT = Output(json=False, verbose=False)
JSON = Output(json=True, verbose=False)


def raising(error: BaseException) -> Callable[[], Document]:
    def work() -> Document:
        raise error

    return work


def show(document: Document) -> None:
    print("shown")


@pytest.mark.parametrize(
    ("error", "status", "state", "code"),
    [
        (OpsError("x"), 1, "failed", "failed"),
        (DatabaseError("x"), 1, "failed", "database"),
        (SettingsError("x"), 2, "failed", "settings"),
        (NotConfirmed("x"), 3, "refused", "not-confirmed"),
        (AdoptionRefused("x"), 3, "refused", "adoption-refused"),
        (psycopg.OperationalError("the connection\nis lost"), 1, "failed", "database"),
        (psycopg.errors.DiskFull("no space"), 1, "failed", "database"),
        (FileNotFoundError(2, "No such file or directory", "/x"), 1, "failed", "failed"),
        (ZeroDivisionError("x"), 1, "failed", "internal"),
        (KeyboardInterrupt("SIGINT"), 130, "failed", "interrupted"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_each_kind_has_its_status_and_code(error: BaseException, status: int, state: str, code: str) -> None:
    failure = failure_of(error)
    assert (failure.status, failure.state, failure.code) == (status, state, code)
    assert "\n" not in failure.message


def test_the_text_is_one_line_and_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    error = OpsError("it failed\n  on several\nlines", hint="look\nhere")
    assert answer(TEXT, raising(error), show) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "kg: it failed on several lines\nhint: look here\n"


def test_an_unexpected_error_is_one_line_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(TEXT, raising(KeyError("place")), show) == 1
    assert capsys.readouterr().err == "kg: internal error: KeyError: 'place'\nhint: --verbose shows where\n"


def test_verbose_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(Output(json=False, verbose=True), raising(KeyError("place")), show) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_database_error_that_got_through_names_its_code() -> None:
    assert failure_of(psycopg.errors.DiskFull("no space left")).message == "the database said: no space left (53100)"


def test_a_failure_with_json_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(JSON, raising(NotConfirmed("no", hint="--yes")), show) == 3
    found = json.loads(capsys.readouterr().out)
    assert found == {
        "schema": 1,
        "state": "refused",
        "error": {"code": "not-confirmed", "message": "no", "hint": "--yes"},
    }


def test_a_failed_deploy_says_how_far_it_came(capsys: pytest.CaptureFixture[str]) -> None:
    error = MigrationFailed("002 failed")
    attach(error, DeployDocument(state="failed", environment="dev", backup="b", rolled_back=True))
    assert answer(JSON, raising(error), show) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["state"], found["backup"], found["rolled_back"]) == ("failed", "b", True)
    assert found["error"]["message"] == "002 failed"
    DeployDocument.model_validate(found)


def test_a_verb_s_own_document_stands_in_for_one_that_failed_early(capsys: pytest.CaptureFixture[str]) -> None:
    status = answer(
        JSON,
        raising(NotConfirmed("no")),
        show,
        partial=lambda: DeployDocument(state="failed", environment="dev"),
    )
    found = json.loads(capsys.readouterr().out)
    assert (status, found["state"], found["revision"]) == (3, "refused", None)


def test_what_prints_meanwhile_does_not_reach_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> Document:
        print("a library chatters")
        logging.getLogger("somebody.else").warning("and warns")
        logging.getLogger("tasks.core.example").warning("we warn")
        return FailureDocument(state="failed", error=ErrorDetail(code="x", message="y"))

    assert answer(JSON, work, show) == 1
    said = capsys.readouterr()
    assert json.loads(said.out)["error"]["code"] == "x"
    assert "a library chatters" in said.err
    assert "we warn" in said.err
    assert "and warns" not in said.err


def test_a_list_is_printed_as_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(JSON, list[Document], print) == 0
    assert json.loads(capsys.readouterr().out) == []


@pytest.mark.parametrize(
    ("state", "status"),
    [("deployed", 0), ("nothing-pending", 0), ("scheduled", 0), ("failed", 1), ("refused", 3), ("held", 3)],
)
def test_a_deploy_s_state_is_its_status(state: DeployState, status: int) -> None:
    assert status_of(DeployDocument(state=state, environment="dev")) == status


@pytest.mark.parametrize(("ok", "status"), [(True, 0), (False, 1)])
def test_a_report_s_verdict_is_its_status(ok: bool, status: int) -> None:
    assert status_of(ReportDocument(ok=ok, environment="dev", checks=())) == status


def test_standard_output_is_given_back() -> None:
    before = sys.stdout
    answer(TEXT, raising(OpsError("x")), show)
    assert sys.stdout is before


@pytest.mark.parametrize("status", [401, 403])
def test_a_server_that_asks_for_a_password_is_told_from_one_that_fails(status: int) -> None:
    request = httpx.Request("GET", "http://127.0.0.1:4200/api/deployments/name/deploy/dev")
    answer = httpx.Response(status, request=request)
    found = failure_of(httpx.HTTPStatusError("Client error", request=request, response=answer))
    assert found.message == f"the Prefect server at http://127.0.0.1:4200 asks who we are ({status})"
    assert "PREFECT_API_AUTH_STRING=user:password" in (found.hint or "")
