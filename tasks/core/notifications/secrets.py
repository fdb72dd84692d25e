"""No message, page or ledger carries a secret: what the environment variables hold is taken out of any text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from urllib.parse import quote, unquote

_SECRET_NAME = re.compile(r"PASSWORD|SECRET|TOKEN|API_KEY|ACCESS_KEY|IDENTITY|AUTH_STRING", re.IGNORECASE)
_WHOLE_URL = ("KG_NOTIFY_URLS", "KG_HEARTBEAT_URL")  # a webhook's path is its password
# To the last @ of the word: a password that was not encoded may hold one, or a slash.
_USER_INFO = re.compile(r"//[^/\s@:]*:(?P<password>[^\s'\"<>]+)@")
_KEYWORD = re.compile(r"(?i)\b((?:ssl)?password|passwd|pwd)(\s*=\s*)('(?:\\.|[^'\\])*'|[^\s'\"&]+)")
_LEAST_IN_PATH = 8  # tokens are longer than words
_LEAST = 3  # shorter ones would take single letters out of words


def scrub(text: str, variables: Mapping[str, str]) -> str:
    """`text` with each secret in `variables` replaced by ***: passwords, keys, addresses of webhooks; also encoded,
    and the password of any address or connection string in it.
    """
    for secret in sorted(set(_secrets(variables)), key=len, reverse=True):
        text = text.replace(secret, "***")
    text = _KEYWORD.sub(r"\1\2***", text)
    return _USER_INFO.sub(lambda found: found.group().replace(found["password"], "***"), text)


def _secrets(variables: Mapping[str, str]) -> Iterator[str]:
    for name, value in variables.items():
        for secret in _of(name, value):
            if len(secret) >= _LEAST:
                yield from (secret, quote(secret, safe=""), unquote(secret))


def _of(name: str, value: str) -> Iterator[str]:
    if name in _WHOLE_URL:
        for url in re.split(r"[\s,]+", value):
            where = url.partition("://")[2]
            yield from (url, where, where.rpartition("@")[2])
            yield from (part for part in re.split(r"[/?&=:@]", where.partition("/")[2]) if len(part) >= _LEAST_IN_PATH)
    elif _SECRET_NAME.search(name):
        yield value.strip()
    elif "://" in value:
        yield from (found["password"] for found in _USER_INFO.finditer(value))
