"""Which embedder a run uses: an API's where OPENAI_API_KEY is set, else the offline one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tasks.core.application.budget import Budget, price_of
from tasks.core.application.cache import NoCache, RedisCache, opened_cache
from tasks.core.application.embedding_api import MOST_TOKENS, EmbeddingApi, TextTooLong, opened_api
from tasks.core.application.embeddings import DIMENSIONS, Embedder, OfflineEmbedder
from tasks.core.application.session import application_session
from tasks.core.errors import OpsError
from tasks.core.settings import Settings

if TYPE_CHECKING:
    from tasks.core.application.embeddings import Vectors

# Texts of a call: so many of the longest are 262,000 tokens, and 300,000 are the API's limit.
_TEXTS = 32
_BYTES_A_TOKEN = 3  # of source, at least, mostly: what is cut by this guess and still too long is cut to the limit


class ApiEmbedder:
    """A model behind an API, with the cache before it. A file goes there as its path and its beginning."""

    dimensions = DIMENSIONS
    batch = _TEXTS

    def __init__(self, model: str, api: EmbeddingApi, cache: NoCache | RedisCache, budget: Budget) -> None:
        self.name, self._api, self._cache, self._budget = model, api, cache, budget

    def embed(self, texts: Sequence[str], paths: Sequence[str] | None = None) -> Vectors:
        import numpy as np

        sent = [_cut(text, MOST_TOKENS * _BYTES_A_TOKEN) for text in _titled(texts, paths)]
        found = self._cache.find(sent)
        missing = [row for row, vector in enumerate(found) if vector is None]
        if self._cache.enabled:
            self._budget.count_cached(len(sent) - len(missing), len(missing))
        for start in range(0, len(missing), _TEXTS):
            rows = missing[start : start + _TEXTS]
            asked = [sent[row] for row in rows]
            vectors = [each.tobytes() for each in self._unit(self._ask(asked))]
            self._cache.keep(asked, vectors)
            for row, vector in zip(rows, vectors, strict=True):
                found[row] = vector
        joined = b"".join(each for each in found if each is not None)
        return np.frombuffer(joined, dtype="<f4").reshape(len(sent), DIMENSIONS)

    def count(self, text: str) -> int:
        """About: the API says only what a whole call had."""
        return (len(text.encode("utf-8", "replace")) + 3) // 4

    def _ask(self, texts: Sequence[str]) -> list[list[float]]:
        try:
            return self._api.ask(texts)
        except TextTooLong:
            return self._api.ask([_cut(text, MOST_TOKENS) for text in texts])

    def _unit(self, rows: list[list[float]]) -> Vectors:
        """As float32 of length one. Raises OpsError for vectors that the tables cannot hold or no search would find."""
        import numpy as np

        sizes = {len(row) for row in rows}
        if sizes != {DIMENSIONS}:
            raise OpsError(
                f"{self.name} gives {min(sizes)} numbers a text, the tables hold {DIMENSIONS}",
                hint="name a model of that size as embedding_model, like text-embedding-3-small",
            )
        vectors = np.array(rows, dtype=np.float64)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not np.all(np.isfinite(lengths) & (lengths > 0)):
            raise OpsError(
                f"{self.name} gave a vector of zeros, or of no numbers: nothing of this call was stored",
                hint="a cosine index leaves such vectors out; look at the model's server",
            )
        unit: Vectors = (vectors / lengths).astype("<f4")
        return unit


@contextmanager
def chosen_embedder(settings: Settings) -> Iterator[Embedder]:
    """Raises SettingsError where the API's library or its price is missing, and as application_session does."""
    if settings.openai_key is None:
        yield OfflineEmbedder()
        return
    model, price = settings.application.embedding_model, price_of(settings)
    with application_session(settings, "embedding budget") as (conn, _):
        budget = Budget(conn, price, settings.openai_max_daily_cost)
        with opened_api(settings, budget) as api, opened_cache(settings, model, DIMENSIONS) as cache:
            yield ApiEmbedder(model, api, cache, budget)


def _titled(texts: Sequence[str], paths: Sequence[str] | None) -> list[str]:
    """What stands for each text: a file's begins with its path, so none is empty."""
    if paths is None:
        return list(texts)
    return [f"{path}\n\n{text}" for path, text in zip(paths, texts, strict=True)]


def _cut(text: str, most_bytes: int) -> str:
    """At most so many bytes of UTF-8, no character halved, no lone surrogate."""
    return text.encode("utf-8", "replace")[:most_bytes].decode("utf-8", "ignore")
