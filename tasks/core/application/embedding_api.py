"""One call of an embeddings API in OpenAI's form, through the official library: tried again for passing reasons, paid
for before each try, and every failure in one line that holds no key.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from itertools import count
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tasks.core.application.budget import Bill, Budget
from tasks.core.errors import OpsError, SettingsError
from tasks.core.progress import note
from tasks.core.settings import Settings

if TYPE_CHECKING:
    from openai import APIStatusError, OpenAI

MOST_TOKENS = 8191  # of one text; every token is a byte at least. https://platform.openai.com/docs/guides/embeddings
_PASSING = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, HTTPStatus.TOO_MANY_REQUESTS)
_FIRST_WAIT, _LONGEST_WAIT, _PATIENCE = 0.5, 30.0, 120.0  # seconds; the last: what the API may ask us to wait
_ADA_DIMENSIONS = 1536


class TextTooLong(OpsError):
    """A text has more tokens than the model takes."""


@dataclass(frozen=True)
class Setback:
    """Why a try failed that may be worth another. `wait`: seconds that the API asked for, None where it did not."""

    reason: str
    wait: float | None = None


class EmbeddingApi:
    """`ask` gives the vectors of some texts, as they came."""

    def __init__(self, client: OpenAI, settings: Settings, budget: Budget) -> None:
        self._client, self._budget = client, budget
        self._model, self._attempts = settings.application.embedding_model, settings.application.embedding_attempts
        self._key = settings.openai_key.get_secret_value() if settings.openai_key else ""
        self._place = urlsplit(str(client.base_url)).netloc
        # Its own size is 3,072; the others' is ours already, and not every server knows the parameter.
        self._extra = {"dimensions": _ADA_DIMENSIONS} if self._model == "text-embedding-3-large" else {}

    def ask(self, texts: Sequence[str]) -> list[list[float]]:
        """One vector a text, in their order. Raises TextTooLong, SettingsError for a key or model that is refused,
        OpsError for all else.
        """
        most = sum(min(len(text.encode()), MOST_TOKENS) for text in texts)
        for attempt in count(1):
            with self._budget.spending(most) as bill:
                answer = self._try(texts, bill)
            if not isinstance(answer, Setback):
                return answer
            if attempt == self._attempts or (answer.wait or 0) > _PATIENCE:
                raise self._given_up(answer, attempt)
            self._wait(answer, attempt)
        raise AssertionError("count has no end")

    def _given_up(self, setback: Setback, attempts: int) -> OpsError:
        asked = f", and asks to wait {setback.wait:.0f} s" if (setback.wait or 0) >= 1 else ""
        return OpsError(
            f"the embeddings API at {self._place} {setback.reason}{asked} (tries: {attempts})",
            hint="run the same command again later: it goes on where this one stopped",
        )

    def _try(self, texts: Sequence[str], bill: Bill) -> list[list[float]] | Setback:
        import openai

        try:
            answer = self._client.embeddings.create(model=self._model, input=list(texts), **self._extra)  # type: ignore[arg-type]
            found = sorted(answer.data, key=lambda each: each.index)
            bill.tokens = answer.usage.total_tokens
        except openai.APIStatusError as error:
            bill.tokens = 0  # what was refused is not charged
            return self._setback(error)
        except openai.APITimeoutError:
            return Setback("does not answer in time")
        except openai.APIConnectionError as error:
            return Setback(f"cannot be reached: {self._said(error.__cause__ or error)}")
        except (openai.APIError, ValueError, TypeError, AttributeError) as error:
            raise OpsError(
                f"the embeddings API at {self._place} answers in another form than OpenAI's: {self._said(error)}",
                hint="check OPENAI_BASE_URL: it mostly ends in /v1",
            ) from error
        if len(found) != len(texts):
            raise OpsError(f"the embeddings API at {self._place} gave {len(found)} vectors for {len(texts)} texts")
        return [each.embedding for each in found]

    def _setback(self, error: APIStatusError) -> Setback:
        """Of a refusal that may pass. Raises what says why it will not."""
        status, said = error.status_code, self._said(error.message)
        where = f"the embeddings API at {self._place}"
        if status == HTTPStatus.UNAUTHORIZED or status == HTTPStatus.FORBIDDEN:
            raise SettingsError(f"{where} refuses the key ({status})", hint="check OPENAI_API_KEY") from error
        if status == HTTPStatus.NOT_FOUND:
            hint = "check embedding_model and OPENAI_BASE_URL (it mostly ends in /v1)"
            raise SettingsError(f"{where} has no model {self._model} (404): {said}", hint=hint) from error
        if status == HTTPStatus.BAD_REQUEST and "maximum context length" in said:
            raise TextTooLong(f"{where} refuses a text as too long: {said}") from error
        if error.code == "insufficient_quota":
            raise OpsError(f"{where} says that the account's quota is used up", hint="look at its billing") from error
        if status in _PASSING or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return Setback(f"answers {status}", _asked_wait(error.response.headers))
        raise OpsError(f"{where} refuses the question ({status}): {said}") from error

    def _wait(self, setback: Setback, attempt: int) -> None:
        usual = min(_FIRST_WAIT * 2 ** (attempt - 1), _LONGEST_WAIT) * random.uniform(0.75, 1)  # noqa: S311 - no secret
        seconds = usual if setback.wait is None else setback.wait
        if seconds >= 1:
            note(f"the embeddings API at {self._place} {setback.reason}: next try in {seconds:.0f} s")
        time.sleep(seconds)

    def _said(self, error: object) -> str:
        """One line without the key."""
        text = " ".join(str(error).split()) or type(error).__name__
        return (text.replace(self._key, "***") if self._key else text)[:300]


def _asked_wait(headers: Mapping[str, str]) -> float | None:
    """Seconds of Retry-After (a number or a date), or of its form in milliseconds."""
    try:
        if milliseconds := headers.get("retry-after-ms"):
            return max(0.0, float(milliseconds) / 1000)
        if not (text := headers.get("retry-after")):
            return None
        if text.strip().isdecimal():
            return float(text)
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


@contextmanager
def opened_api(settings: Settings, budget: Budget) -> Iterator[EmbeddingApi]:
    """The API that OPENAI_API_KEY and OPENAI_BASE_URL name. Raises SettingsError where the library is missing."""
    try:
        import openai
    except ImportError as error:
        raise SettingsError(
            "OPENAI_API_KEY is set, but the library openai is not installed",
            hint="uv sync --extra openai; without the key the offline embedder is used",
        ) from error
    assert settings.openai_key is not None
    client = openai.OpenAI(
        api_key=settings.openai_key.get_secret_value(),
        base_url=settings.openai_base_url or "https://api.openai.com/v1",
        timeout=settings.application.embedding_timeout.total_seconds(),
        max_retries=0,  # ours: each try is paid for by itself, and waits are said
    )
    with client:
        yield EmbeddingApi(client, settings, budget)
