"""Settings of the application's side: its section of the TOML, and what its variables may be."""

from __future__ import annotations

import re
from datetime import timedelta

from pydantic import BaseModel, ConfigDict, Field

from tasks.core.errors import SettingsError


class ApplicationSettings(BaseModel):
    """The application's side, where it is to be asked. What is not set here is skipped, with its reason."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    health_url: str = Field("", pattern=r"^(https?://.+)?$", description="Answers 200 when the application is well")
    embedding_url: str = Field("", pattern=r"^(https?://.+)?$", description="Embeddings, in the form of OpenAI's API")
    embedding_model: str = Field("text-embedding-3-small", description="Of the API that OPENAI_API_KEY opens")
    unnamed_embedder: str = Field("", description="Whose the vectors of rows are that name no embedder")
    embedding_price: float | None = Field(None, ge=0, description="USD a million tokens; None: as it is known to us")
    embedding_timeout: timedelta = Field(timedelta(minutes=1), description="How long one call of the API may take")
    embedding_attempts: int = Field(6, ge=1, description="How often a call is tried that fails for a passing reason")
    search_probe: str = Field("", description="A text that a search should find something for")
    health_status: int = Field(200, ge=100, le=599, description="... or answers this")
    health_timeout: timedelta = Field(timedelta(seconds=5), description="How long each of these may take to answer")
    health_attempts: int = Field(3, ge=1, description="How often verify asks health_url before it is ill")
    index_command: tuple[str, ...] = Field((), description="Run by kg index without a PATH and by rollback's reset")
    integration_command: tuple[str, ...] = Field((), description="Run after verify")
    command_folder: str = Field("", description="Where these two run; relative to the checkout")
    command_timeout: timedelta = Field(timedelta(minutes=30), description="How long each of them may take")


def base_url(value: str) -> str:
    """OPENAI_BASE_URL: without user, query or fragment; empty where there is none. Raises SettingsError."""
    if value and not re.fullmatch(r"https?://[^/@?#\s]+(/[^@?#\s]*)?", value):
        raise SettingsError("OPENAI_BASE_URL is not an API's address", hint="put https://host/v1 in it, and no key")
    return value


def daily_cost(value: str | None) -> float | None:
    """OPENAI_MAX_DAILY_COST: USD a day; None for no limit. Raises SettingsError."""
    if value is None:
        return None
    if not re.fullmatch(r"\d{1,9}(\.\d{1,9})?", value):
        raise SettingsError("OPENAI_MAX_DAILY_COST is not an amount", hint="put US dollars a day in it, like 5.0")
    return float(value)
