"""Embeddings kept in Redis, so that a text seen before is not paid for again. A cache only: losing it costs money, no
data, and a server that fails or hangs is left alone for the rest of the run, after one word about it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tasks.core.progress import note
from tasks.core.settings import Settings

if TYPE_CHECKING:
    from redis import Redis

_TIMEOUT = 1.0  # seconds, to connect and for each answer
_KEPT = 90 * 24 * 3600  # seconds


class NoCache:
    """Where REDIS_URL is not set."""

    enabled = False

    def find(self, texts: Sequence[str]) -> list[bytes | None]:
        return [None] * len(texts)

    def keep(self, texts: Sequence[str], vectors: Sequence[bytes]) -> None: ...


class RedisCache:
    """Vectors as little-endian float32, `size` bytes each, by model and SHA-256 of the text."""

    def __init__(self, client: Redis, model: str, size: int) -> None:
        self._client, self._model, self._size, self.enabled = client, model, size, True

    def find(self, texts: Sequence[str]) -> list[bytes | None]:
        """What is known of each text; None for the others, and for what is no vector of ours."""
        found: list[object] = []
        if self.enabled and texts:
            with self._or_without():
                found = list(self._client.mget([self._key(text) for text in texts]))
        sound = [each if isinstance(each, bytes) and len(each) == self._size else None for each in found]
        return sound or [None] * len(texts)

    def keep(self, texts: Sequence[str], vectors: Sequence[bytes]) -> None:
        if self.enabled and texts:
            with self._or_without(), self._client.pipeline(transaction=False) as pipeline:
                for text, vector in zip(texts, vectors, strict=True):
                    pipeline.set(self._key(text), vector, ex=_KEPT)
                pipeline.execute()

    def _key(self, text: str) -> str:
        return f"kg:embedding:{self._model}:{self._size // 4}:{hashlib.sha256(text.encode()).hexdigest()}"

    @contextmanager
    def _or_without(self) -> Iterator[None]:
        from redis import RedisError

        try:
            yield
        except (RedisError, OSError) as error:
            self.enabled = False
            said = " ".join(str(error).split()) or type(error).__name__
            note(f"the cache of embeddings (REDIS_URL) is left out of this run: {said}")


@contextmanager
def opened_cache(settings: Settings, model: str, dimensions: int) -> Iterator[NoCache | RedisCache]:
    """The cache that REDIS_URL names. What stands in its way is said once, and stops nothing."""
    if settings.redis_url is None:
        yield NoCache()
        return
    try:
        import redis
    except ImportError:
        note("REDIS_URL is set, but no embedding is cached: the library redis is missing (uv sync --extra redis)")
        yield NoCache()
        return
    try:
        client = redis.Redis.from_url(
            settings.redis_url.get_secret_value(),
            socket_timeout=_TIMEOUT,
            socket_connect_timeout=_TIMEOUT,
            retry=None,
            decode_responses=False,
        )
    except ValueError:  # its message may hold the address, with the password
        note("REDIS_URL is not a Redis address, like redis://host:6379/0: no embedding is cached")
        yield NoCache()
        return
    with client:
        yield RedisCache(client, model, 4 * dimensions)
