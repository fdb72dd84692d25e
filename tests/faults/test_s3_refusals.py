"""S3 that refuses whoever asks: no rights, no bucket, a wrong clock, wrong keys, another region. Each is one line that
says what to do, with no secret in it, and leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest

from flows.cli.app import run
from flows.cli.errors import failure_of
from tasks.core.backup.drill import drill
from tasks.core.backup.dump import back_up
from tasks.core.backup.library import check_exists, read_library
from tasks.core.backup.retention import prune
from tasks.core.errors import StoreError, StoreUnavailable
from tasks.core.settings import Settings
from tasks.core.store.base import open_store
from tests.faults.bed import OPERATIONS, SECRET, Bed, bed, is_clear
from tests.faults.proxy import Answer, Call

DENIED = Answer("403 Forbidden", "AccessDenied")
REDIRECT = Answer("301 Moved Permanently", "PermanentRedirect")
LOOK = 3  # which of every_way is a HEAD
REFUSALS = {
    DENIED: ("access is denied", "s3:ListBucket"),
    Answer("404 Not Found", "NoSuchBucket"): ("there is no bucket", "kg creates none"),
    Answer("403 Forbidden", "RequestTimeTooSkewed"): ("clock is too far from the store's", "set the clock"),
    Answer("403 Forbidden", "InvalidAccessKeyId"): ("access key is unknown", "check AWS_ACCESS_KEY_ID"),
    Answer("403 Forbidden", "SignatureDoesNotMatch"): ("secret key does not fit", "AWS_SECRET_ACCESS_KEY"),
    Answer("400 Bad Request", "ExpiredToken"): ("session token has expired", "AWS_SESSION_TOKEN"),
    REDIRECT: ("in another region", "set AWS_REGION"),
    Answer("400 Bad Request", "AuthorizationHeaderMalformed"): ("in another region", "set AWS_REGION"),
    Answer("400 Bad Request", "InvalidBucketName"): ("takes no bucket of that name", "correct KG_STORE_URL"),
}


@pytest.fixture
def on_bed(settings: Settings) -> Iterator[Bed]:
    with bed(settings) as found:
        yield found


def refused(work: Callable[[], object]) -> StoreError:
    with pytest.raises(StoreError) as caught:
        work()
    error = caught.value
    assert is_clear(error)
    assert failure_of(error).status == 1
    assert not isinstance(error, StoreUnavailable), "no use in trying it again"
    return error


def nothing_was_left(found: Bed) -> bool:
    store = found.store
    return not list(store.list("")) and not list(store.unfinished("", datetime.now(UTC) + timedelta(days=1)))


def every_way(found: Bed) -> tuple[Callable[[], object], ...]:
    """All that asks something of the store."""
    through = found.through
    return (
        lambda: back_up(through),
        lambda: read_library(open_store(through), "dev"),
        lambda: check_exists(open_store(through), "dev", found.template.id),
        lambda: open_store(through).exists(found.template.dump_key),
        lambda: drill(through, found.template),
        lambda: prune(through, apply=True),
    )


@pytest.mark.slow
def test_each_refusal_is_said_and_leaves_nothing(on_bed: Bed, caplog: pytest.LogCaptureFixture) -> None:
    for answer, (what, remedy) in REFUSALS.items():
        on_bed.fresh()
        on_bed.proxy.reset(lambda _, answer=answer: answer)  # type: ignore[misc]
        for number, work in enumerate(every_way(on_bed)):
            if number == LOOK and answer != REDIRECT:
                continue  # the answer to a HEAD has no body, and so no code
            error = refused(work)
            assert what in error.message, answer
            assert remedy in (error.hint or ""), answer
        assert nothing_was_left(on_bed), answer
    assert SECRET not in caplog.text
    assert "may be left behind" not in caplog.text, "what was refused is not there"


@pytest.mark.parametrize("method", ["PUT", "GET"])
def test_rights_to_half_of_it(on_bed: Bed, method: str, caplog: pytest.LogCaptureFixture) -> None:
    """Who may not list, or not write, is told before anything is there; multipart uploads begin with a POST."""
    on_bed.fresh()

    def decide(call: Call) -> Answer | None:
        writes = call.what.startswith(("PUT", "POST"))
        return DENIED if writes == (method == "PUT") else None

    on_bed.proxy.reset(decide)
    error = refused(lambda: back_up(on_bed.through))
    assert "access is denied" in error.message
    assert (" list " in error.message) is (method == "GET")
    assert nothing_was_left(on_bed)
    assert not any(call.what.startswith(("PUT", "POST")) for call in on_bed.proxy.calls) or method == "PUT"
    assert "may be left behind" not in caplog.text


@pytest.mark.parametrize(
    "answer",
    [
        Answer("200 OK", body=""),
        Answer("200 OK", body="<?xml version='1.0'?><html><body>Welcome</body></html>"),
        Answer("404 Not Found", body="<html><body>no such page</body></html>"),
        Answer("404 Not Found", body=""),
    ],
    ids=["nothing", "a-page", "no-page", "nothing-there"],
)
def test_a_web_server_is_no_empty_bucket(on_bed: Bed, answer: Answer) -> None:
    on_bed.fresh()
    on_bed.proxy.reset(lambda _: answer)
    through = on_bed.through
    for work in (
        lambda: back_up(through),
        lambda: read_library(open_store(through), "dev"),
        lambda: list(open_store(through).unfinished("dev/", datetime.now(UTC))),
        lambda: check_exists(open_store(through), "dev", on_bed.template.id),
        lambda: prune(through, apply=True),
    ):
        error = refused(work)
        assert "answers as no S3 server does" in error.message
        assert "AWS_ENDPOINT_URL_S3" in (error.hint or "")
    assert nothing_was_left(on_bed)


def test_the_verbs_that_read_say_it(
    on_bed: Bed, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    on_bed.fresh()
    OPERATIONS["read back"].prepare(on_bed)
    on_bed.proxy.reset(lambda _: Answer("403 Forbidden", "RequestTimeTooSkewed"))
    settings, address = on_bed.through, on_bed.settings.address
    assert address
    assert address.password
    monkeypatch.setenv("KG_STORE_URL", settings.store_url)
    monkeypatch.setenv("KG_HOME", str(settings.home))
    monkeypatch.setenv("SUPABASE_URL", f"postgresql://{address.user}@{address.host}:{address.port}/{address.dbname}")
    monkeypatch.setenv("SUPABASE_DB_PASSWORD", address.password.get_secret_value())
    for words in (
        ["backups", "dev"],
        ["backups", "dev", "--verify"],
        ["backups", "dev", "--keep", on_bed.template.id],
        ["restore-drill", "dev", "--backup", on_bed.template.id],
        ["rollback", "dev", "--strategy", "restore", "--backup", on_bed.template.id, "--yes"],
        ["prune", "dev"],
    ):
        assert run(words) == 1, words
        said = capsys.readouterr()
        first, second = said.err.strip().splitlines()[-2:]
        assert first.startswith("kg: could not list s3://"), words
        assert first.endswith("this machine's clock is too far from the store's")
        assert second == "hint: set the clock"
        assert "Traceback" not in said.err
        assert not said.out
