"""What OPENAI_BASE_URL and OPENAI_MAX_DAILY_COST may be. Raises SettingsError, which repeats neither."""

from __future__ import annotations

import re

from tasks.core.errors import SettingsError


def base_url(value: str) -> str:
    """An http(s) address without user, query or fragment; empty where there is none."""
    if value and not re.fullmatch(r"https?://[^/@?#\s]+(/[^@?#\s]*)?", value):
        raise SettingsError("OPENAI_BASE_URL is not an API's address", hint="put https://host/v1 in it, and no key")
    return value


def daily_cost(value: str | None) -> float | None:
    """USD a day; None for no limit."""
    if value is None:
        return None
    if not re.fullmatch(r"\d{1,9}(\.\d{1,9})?", value):
        raise SettingsError("OPENAI_MAX_DAILY_COST is not an amount", hint="put US dollars a day in it, like 5.0")
    return float(value)
