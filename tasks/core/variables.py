"""The names of our environment variables, so that one which nobody reads is noticed: a backup that went elsewhere is
found when it is needed.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

KNOWN = frozenset(
    {
        "KG_ENVIRONMENT",
        "KG_ENVIRONMENTS",
        "KG_HEARTBEAT_URL",
        "KG_HOME",
        "KG_INDEX_COMMAND_RUNS",
        "KG_MIGRATIONS",
        "KG_NAME",
        "KG_NOTIFY_URLS",
        "KG_OWN_ENGINE",
        "KG_SCRATCH_IMAGE",
        "KG_SCRATCH_PASSWORD",
        "KG_SCRATCH_URL",
        "KG_SILENCE_SECONDS",
        "KG_STORE_ADDRESSING",
        "KG_STORE_BUCKET_OWNER",
        "KG_STORE_IDENTITY",
        "KG_STORE_KEY",
        "KG_STORE_LOCK",
        "KG_STORE_SSE",
        "KG_STORE_STORAGE_CLASS",
        "KG_STORE_URL",
    }
)
_TESTS = ("KG_TEST_", "KG_REQUIRE_", "KG_SCREENSHOTS")


def unread(names: Iterable[str]) -> tuple[str, ...]:
    """Of `names` those that look like ours and are not, each with the one that may have been meant."""
    strange = sorted(name for name in names if name.startswith("KG_") and name not in KNOWN)
    meant = {name: get_close_matches(name, KNOWN, n=1) for name in strange if not name.startswith(_TESTS)}
    return tuple(f"{name} (or is it {found[0]}?)" if found else name for name, found in meant.items())
