"""What embeddings may cost a day, held across processes: one row a day of embedding_cache_stats.

A call is paid for before it is made: the most that it can cost is added to the day's sum where the sum stays within
the limit (one statement, under the row's lock), and corrected by what the API counted. What a killed process, a cut
connection or a timeout leaves behind stays counted in full, since the API may have charged for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta

from sql import query
from tasks.core.errors import OpsError, SettingsError
from tasks.core.postgres.connections import Connection, database_errors
from tasks.core.settings import Settings

# USD a million tokens: https://platform.openai.com/docs/pricing (Embeddings). `embedding_price` overrules it.
PRICES = {"text-embedding-3-small": 0.02, "text-embedding-3-large": 0.13, "text-embedding-ada-002": 0.10}


@dataclass
class Bill:
    """Of one call. `tokens`: what it was charged for, 0 for nothing; None: nobody knows."""

    tokens: int | None = None


def price_of(settings: Settings) -> float | None:
    """USD a million tokens; None where it is not known. Raises SettingsError where a limit needs it."""
    application = settings.application
    known = application.embedding_price
    price = PRICES.get(application.embedding_model) if known is None else known
    if price is None and settings.openai_max_daily_cost is not None:
        raise SettingsError(
            f"OPENAI_MAX_DAILY_COST is set, but what {application.embedding_model} costs is not known",
            hint="set embedding_price (USD a million tokens) in the environment's [application]",
        )
    return price


class Budget:
    """`conn` sees the application's tables and commits each statement; `limit` in USD a day (UTC), None for none."""

    def __init__(self, conn: Connection, price: float | None, limit: float | None) -> None:
        self._conn, self._price, self._limit = conn, (price or 0.0) / 1e6, limit

    @contextmanager
    def spending(self, most_tokens: int) -> Iterator[Bill]:
        """The block makes one call of at most so many tokens, and says in the bill what it was charged for.

        Raises OpsError, and the block does not run, where the call could exceed the limit.
        """
        reserved = most_tokens * self._price
        day = self._reserve(reserved)
        bill = Bill()
        try:
            yield bill
        finally:
            tokens = most_tokens if bill.tokens is None else bill.tokens
            with database_errors("counting what embeddings cost"):
                correction = tokens * self._price - reserved
                given = {"day": day, "correction": correction, "tokens": tokens, "calls": int(bill.tokens != 0)}
                self._conn.execute(query("settle_spending"), given)

    def count_cached(self, hits: int, misses: int) -> None:
        """How many embeddings were found in the cache, and how many were not."""
        with database_errors("counting what embeddings cost"):
            self._conn.execute(query("count_cached_embeddings"), {"hits": hits, "misses": misses})

    def _reserve(self, cost: float) -> date:
        with database_errors("counting what embeddings cost"):
            row = self._conn.execute(query("reserve_spending"), {"cost": cost, "limit": self._limit}).fetchone()
            if row is not None:
                day: date = row[0]
                return day
            spent, left = self._conn.execute(query("spent_today")).fetchone() or (0.0, timedelta())
        raise OpsError(
            f"OPENAI_MAX_DAILY_COST of {_usd(self._limit or 0)} would be exceeded: {_usd(spent)} is spent today, and "
            f"the next call may cost {_usd(cost)}",
            hint=f"it begins anew at 00:00 UTC, in {_hours(left)}; run the same command then, or raise it",
        )


def _usd(amount: float) -> str:
    """Cents at least; more places where they matter."""
    whole, _, places = f"{amount:.7f}".partition(".")
    return f"${whole}.{places.rstrip('0'):0<2}"


def _hours(left: timedelta) -> str:
    minutes = max(1, round(left.total_seconds() / 60))
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
