"""The application's side of a verification: its health endpoint, embeddings, search, Redis. Each only where it is
configured; what is not is skipped, with the setting's name.
"""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from tasks.core.application.own_commands import run_command
from tasks.core.application.redis import ping
from tasks.core.errors import OpsError
from tasks.core.schema.report import CheckResult, failed, ok, run_check, skipped
from tasks.core.settings import Settings

HEALTH, EMBEDDINGS, SEARCH, REDIS = "application health", "application embeddings", "application search", "redis"
INTEGRATION = "integration command"
_DIMENSIONS = 1536
_LONGEST_PAUSE = 5  # seconds between two questions for its health
_LONGEST_ANSWER = 4 << 20  # bytes


def check_application(settings: Settings) -> tuple[CheckResult, ...]:
    """Asks the running application; changes nothing."""
    wanted: tuple[tuple[str, object, str, Callable[[Settings], CheckResult]], ...] = (
        (HEALTH, settings.application.health_url, "health_url", _health_in_time),
        (EMBEDDINGS, settings.application.embedding_url, "embedding_url", _embeddings),
        (SEARCH, settings.application.search_probe, "search_probe", _search),
        (REDIS, settings.redis_url, "REDIS_URL", _redis),
    )
    return tuple(_if_configured(settings, *each) for each in wanted)


def run_integration(settings: Settings) -> CheckResult:
    """The environment's own tests against the deployed database, where it names a command for them."""
    command = settings.application.integration_command
    if not command:
        return skipped(INTEGRATION, "integration_command is not set")

    def run() -> CheckResult:
        done = run_command(settings, command)
        return ok(INTEGRATION, f"{command[0]} ended well after {done.seconds:.1f} s")

    return run_check(INTEGRATION, run)


def check_health(settings: Settings) -> CheckResult:
    """Asks once. Raises OpsError where nobody answers."""
    url, wanted = settings.application.health_url, settings.application.health_status
    status, _ = _ask(settings, urllib.request.Request(url))  # noqa: S310 - settings.py takes http and https only
    if status != wanted:
        return failed(HEALTH, f"{_shown(url)} answers {status}, not {wanted}", "look at the application's log")
    return ok(HEALTH, f"{_shown(url)} answers {wanted}")


def _health_in_time(settings: Settings) -> CheckResult:
    """Asks up to health_attempts times: an application that is just starting is not ill yet."""
    attempts = settings.application.health_attempts
    for attempt in range(1, attempts):
        if (found := run_check(HEALTH, lambda: check_health(settings))).status == "ok":
            return found
        time.sleep(min(attempt, _LONGEST_PAUSE))
    return check_health(settings)


def _if_configured(
    settings: Settings, name: str, setting: object, named: str, look: Callable[[Settings], CheckResult]
) -> CheckResult:
    if not setting:
        return skipped(name, f"{named} is not set")
    return run_check(name, lambda: look(settings))


def _embeddings(settings: Settings) -> CheckResult:
    """In the form of OpenAI's API, which others speak too."""
    application = settings.application
    headers = {"Content-Type": "application/json"}
    if settings.openai_key:
        headers["Authorization"] = f"Bearer {settings.openai_key.get_secret_value()}"
    question = json.dumps({"model": application.embedding_model, "input": "parse a json document"}).encode()
    request = urllib.request.Request(application.embedding_url, question, headers)  # noqa: S310
    status, answer = _ask(settings, request)
    place = _shown(application.embedding_url)
    if status != http.client.OK:
        return failed(EMBEDDINGS, f"{place} answers {status}, not 200", "check OPENAI_API_KEY and embedding_url")
    size = _size(answer)
    if size != _DIMENSIONS:
        return failed(EMBEDDINGS, f"{place} gives {size} numbers, the tables hold {_DIMENSIONS}: another model?")
    return ok(EMBEDDINGS, f"{place} gives {size} numbers")


def _size(answer: bytes) -> int:
    try:
        found: Any = json.loads(answer)
        return len(found["data"][0]["embedding"])
    except (ValueError, LookupError, TypeError):
        return 0


def _search(settings: Settings) -> CheckResult:
    from tasks.core.application.search import search  # with it comes numpy

    probe = settings.application.search_probe
    hits = search(settings, probe, limit=3)
    if not hits:
        return skipped(SEARCH, "nothing is indexed yet")
    return ok(SEARCH, f"{probe!r} finds {hits[0].file_path} (similarity {hits[0].similarity:.2f})")


def _redis(settings: Settings) -> CheckResult:
    assert settings.redis_url is not None
    place = ping(settings.redis_url.get_secret_value(), timeout=settings.application.health_timeout.total_seconds())
    return ok(REDIS, f"{place} answers PONG")


def _ask(settings: Settings, request: urllib.request.Request) -> tuple[int, bytes]:
    """Status and body, whatever the status. Raises OpsError where nobody answers."""
    seconds = settings.application.health_timeout.total_seconds()
    try:
        with urllib.request.urlopen(request, timeout=seconds) as response:  # noqa: S310
            return response.status, response.read(_LONGEST_ANSWER)
    except urllib.error.HTTPError as error:
        return error.code, b""
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise OpsError(f"{_shown(request.full_url)} does not answer: {reason}", hint="is it running?") from error


def _shown(url: str) -> str:
    """Without user, password and query, any of which may be a secret."""
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}{parts.path}"
