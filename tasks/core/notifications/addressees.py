"""Who is to be told, and where: read apart from the rest, since also a missing setting is something to tell of."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from tasks.core.errors import SettingsError
from tasks.core.notifications.events import NotificationSettings
from tasks.core.settings import environment_file, environment_named, variables_of_ours


class Addressees(BaseModel):
    """Holds secrets: it crosses no task boundary and is never printed."""

    model_config = ConfigDict(frozen=True)

    settings: NotificationSettings
    urls: tuple[SecretStr, ...] = Field(description="KG_NOTIFY_URLS: Apprise's addresses, by spaces or commas")
    heartbeat: SecretStr | None = Field(description="KG_HEARTBEAT_URL: called after each good nightly")

    @property
    def beat(self) -> str:
        """Where the heartbeat goes; empty for nowhere. Raises SettingsError for what is no web address."""
        found = self.heartbeat.get_secret_value() if self.heartbeat else ""
        if found and not found.startswith(("http://", "https://")):
            raise SettingsError("KG_HEARTBEAT_URL is not an http address", hint="put http://... or https://... in it")
        return found


def load_addressees(environment: str, variables: Mapping[str, str] | None = None) -> Addressees:
    """Raises as `load_settings` does, but asks for no address of a database."""
    env = variables_of_ours(os.environ if variables is None else variables)
    heartbeat = env.get("KG_HEARTBEAT_URL", "")
    urls = re.split(r"[\s,]+(?=[a-z0-9+.-]+://)", env.get("KG_NOTIFY_URLS", "").strip(" ,\n\t"))
    return Addressees(
        settings=environment_file(environment_named(environment), env).notifications,
        urls=tuple(SecretStr(url) for url in urls if url),
        heartbeat=SecretStr(heartbeat) if heartbeat else None,
    )
